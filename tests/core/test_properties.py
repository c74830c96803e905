"""Properties that hold for any parameters of the model: separability, chunks, lengths, resets, reversal."""

import itertools

import chex
import jax
import numpy as np
import pytest

import tlstm_jax as tl
from tests.core.variants import MODELS, SEPARABLE, R, T, close, setup, some

pytestmark = pytest.mark.usefixtures("x64")


# Separability


@pytest.mark.parametrize("name", some(SEPARABLE, "2d-M", "3d+CN", "3d mixed", "trnn"))
def test_separable(name):
    """The derivative d y_t / d x_s is exactly 0 for s > t and not for s <= t."""
    cfg, params, xs, _ = setup(name, batch_shape=())
    jacobian = jax.jit(jax.jacobian(lambda xs: tl.unroll(params, xs, cfg)[1]))(xs)  # (t, m, s, r)
    seen = np.abs(jacobian).max((1, 3))
    for t, s in itertools.product(range(T), repeat=2):
        assert (seen[t, s] > 0) == (s <= t), (t, s)


@pytest.mark.parametrize("name", ["2d", "3d mixed", "depth 1"])
def test_an_input_reaches_its_output_in_exactly_depth_timesteps(name):
    cfg, params, xs, _ = setup(name, batch_shape=())
    jacobian = jax.jit(jax.jacobian(lambda xs: tl.unroll(params, xs, cfg, aligned=False)[1]))(xs)
    seen = np.abs(jacobian).max((1, 3))
    for t, s in itertools.product(range(T), repeat=2):
        assert (seen[t, s] > 0) == (s <= t - (cfg.depth - 1)), (t, s)


@pytest.mark.parametrize("name", some(SEPARABLE, "2d-F", "2d-M", "3d+CN", "trnn"))
def test_what_follows_cannot_change_an_output(name):
    cfg, params, xs, _ = setup(name)
    _, whole = tl.unroll(params, xs, cfg)
    _, first = tl.unroll(params, xs[:, :4], cfg)
    close(first, np.asarray(whole)[:, :4])


def test_layer_normalization_is_not_separable():
    """Its statistics span all locations, as documented; the paper prefers channel normalization for this reason."""
    cfg, params, xs, _ = setup("3d+LN", batch_shape=())
    jacobian = np.asarray(jax.jit(jax.jacobian(lambda xs: tl.unroll(params, xs, cfg)[1]))(xs))
    assert np.abs(jacobian[0, :, 1]).max() > 0


# Sequences


@pytest.mark.parametrize(
    ("batch_shape", "time_major", "steps"),
    [((), False, T), ((2, 3), False, 0), ((2, 3), False, 1), ((2, 3), True, T), ((0,), False, T)],
)
@pytest.mark.parametrize("name", ["3d mixed", "trnn"])
def test_unroll_is_step_by_step(name, batch_shape, time_major, steps):
    cfg, params, _, _ = setup(name)
    xs = np.random.default_rng(1).normal(size=(*batch_shape, steps, R))
    state, outputs = tl.init_state(cfg, batch_shape), []
    for t in range(steps + cfg.depth - 1):
        x = xs[..., t, :] if t < steps else np.zeros((*batch_shape, R))
        state, y = tl.step(params, state, x, cfg)
        outputs.append(y)
        if t == steps - 1:
            end = state
    if steps == 0:
        end = tl.init_state(cfg, batch_shape)
    for aligned, ys in ((True, outputs[cfg.depth - 1 :]), (False, outputs[:steps])):
        inputs = np.moveaxis(xs, -2, 0) if time_major else xs
        final, actual = tl.unroll(params, inputs, cfg, time_major=time_major, aligned=aligned)
        actual = np.moveaxis(np.asarray(actual), 0, -2) if time_major else actual
        expected = np.stack(ys, -2) if ys else np.zeros((*batch_shape, 0, 4))
        close(actual, expected)
        close(final, end)


@pytest.mark.parametrize("cut", [0, 2, T])
@pytest.mark.parametrize("name", some(MODELS, "2d", "3d+LN", "trnn"))
def test_chunks_chain(name, cut):
    """The state carries over exactly: unaligned outputs always, aligned ones where the model is separable."""
    cfg, params, xs, state = setup(name)
    for aligned in (False, True) if name in SEPARABLE else (False,):
        end, ys = tl.unroll(params, xs, cfg, initial_state=state, aligned=aligned)
        middle, first = tl.unroll(params, xs[:, :cut], cfg, initial_state=state, aligned=aligned)
        last, second = tl.unroll(params, xs[:, cut:], cfg, initial_state=middle, aligned=aligned)
        close(np.concatenate([first, second], 1), ys)
        close(last, end)


@pytest.mark.parametrize("aligned", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", some(MODELS, "2d-F", "3d+LN", "trnn"))
def test_lengths_are_each_row_alone(name, aligned):
    cfg, params, xs, state = setup(name, batch_shape=(2, 3))
    lengths = np.array([[0, 2, T], [T, 0, 2]])
    dirty = np.where(np.arange(T)[:, None] < lengths[..., None, None], xs, np.nan)  # padding must not matter
    final, ys = jax.device_get(tl.unroll(params, dirty, cfg, initial_state=state, seq_lengths=lengths, aligned=aligned))
    for at in np.ndindex(2, 3):
        n, row = int(lengths[at]), jax.tree.map(lambda z, at=at: z[at], state)
        alone, expected = tl.unroll(params, xs[at][:n], cfg, initial_state=row, aligned=aligned)
        close(ys[at][:n], expected)
        np.testing.assert_array_equal(ys[at][n:], 0)
        close(jax.tree.map(lambda z, at=at: z[at], final), alone)


@pytest.mark.parametrize("name", ["3d+CN", "3d+LN", "trnn"])
def test_gradients_do_not_see_padding(name):
    cfg, params, xs, _ = setup(name)
    lengths = np.array([2, 5])

    def loss(params, xs):
        state, ys = tl.unroll(params, xs, cfg, seq_lengths=lengths)
        return (ys**2).sum() + sum((leaf**2).sum() for leaf in jax.tree.leaves(state))

    clean = np.where(np.arange(T)[:, None] < lengths[:, None, None], xs, 0)
    dirty = np.where(np.arange(T)[:, None] < lengths[:, None, None], xs, np.nan)
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))
    expected, actual = jax.device_get((gradients(params, clean), gradients(params, dirty)))
    chex.assert_trees_all_equal(actual, expected)
    assert not np.any(actual[1][0, 2:])


@pytest.mark.parametrize("name", some(SEPARABLE, "2d-F", "3d mixed", "trnn", "depth 1"))
def test_reset_is_a_fresh_sequence(name):
    cfg, params, xs, state = setup(name)
    at = [[3, 6], [0]]  # resets of each row
    reset = np.zeros((2, T), bool)
    for row, times in enumerate(at):
        reset[row, times] = True
    final, ys = jax.device_get(tl.unroll(params, xs, cfg, initial_state=state, reset=reset))
    raw = np.asarray(tl.unroll(params, xs, cfg, initial_state=state, reset=reset, aligned=False)[1])
    for row, times in enumerate(at):
        edges = [0, *[t for t in times if t], T]
        for begin, end in itertools.pairwise(edges):
            start = None if reset[row, begin] else jax.tree.map(lambda z, row=row: z[row], state)
            alone, expected = tl.unroll(params, xs[row, begin:end], cfg, initial_state=start)
            arrived = end if end == T else max(end - (cfg.depth - 1), begin)  # the last answers are lost to the delay
            close(ys[row, begin:arrived], np.asarray(expected)[: arrived - begin])
            np.testing.assert_array_equal(ys[row, arrived:end], 0)
            _, corner = tl.unroll(params, xs[row, begin:end], cfg, initial_state=start, aligned=False)
            close(raw[row, begin:end], corner)
        close(jax.tree.map(lambda z, row=row: z[row], final), alone)


def test_resets_in_the_padding_do_nothing():
    cfg, params, xs, _ = setup("3d+CN")
    lengths = np.array([3, 5])
    reset = np.arange(T) >= np.array([[3], [5]])
    chex.assert_trees_all_equal(
        tl.unroll(params, xs, cfg, seq_lengths=lengths, reset=reset), tl.unroll(params, xs, cfg, seq_lengths=lengths)
    )


@pytest.mark.parametrize("keep_order", [False, True])
@pytest.mark.parametrize("lengths", [None, (T, 4)])
def test_reverse(lengths, keep_order):
    cfg, params, xs, _ = setup("2d")
    given = None if lengths is None else np.array(lengths)
    final, ys = jax.device_get(tl.unroll(params, xs, cfg, seq_lengths=given, reverse=True, keep_order=keep_order))
    for row, n in enumerate(lengths or (T, T)):
        alone, expected = tl.unroll(params, xs[row, :n][::-1], cfg)
        expected = np.asarray(expected)
        close(ys[row, :n], expected[::-1] if keep_order else expected)
        close(jax.tree.map(lambda z, row=row: z[row], final), alone)


def test_reverse_with_resets_runs_each_packed_sequence_backwards():
    cfg, params, xs, _ = setup("depth 1")
    reset = np.zeros((2, T), bool)
    reset[[0, 1, 0, 1], [0, 0, 3, 5]] = True
    ys = np.asarray(tl.unroll(params, xs, cfg, reset=reset, reverse=True, keep_order=True)[1])
    for row, cut in enumerate((3, 5)):
        for piece in (slice(0, cut), slice(cut, T)):
            _, expected = tl.unroll(params, xs[row, piece][::-1], cfg)
            close(ys[row, piece], np.asarray(expected)[::-1])
