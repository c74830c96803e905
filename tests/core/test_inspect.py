"""`tlstm_jax.inspect`: records equal a run step by step, and outputs depend on the inputs that eq. 9 gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tlstm_jax as tl
from tests.core.variants import MODELS, R, T, close, model, setup, some

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("name", some(MODELS, "3d+CN", "trnn"))
def test_what_is_recorded_is_what_happens_step_by_step(name):
    cfg, params, xs, state = setup(name, (2, 1))
    kept = tl.inspect.record(params, xs, cfg, lambda now: now, initial_state=state)
    assert len(kept.h) == T + cfg.delay
    inputs = jnp.pad(xs, ((0, 0), (0, 0), (0, cfg.delay), (0, 0)))
    for t in range(T + cfg.delay):
        before = state
        state, _ = tl.step(params, state, inputs[:, :, t], cfg)
        now = jax.tree.map(lambda z, t=t: z[t], kept)
        close((now.c, now.h), tuple(state))
        if cfg.has_memory_kernel:
            close(now.q.sum(-1), jnp.ones(now.q.shape[:-1]))
        elif cfg.cell == "lstm":
            assert now.q is None
            close(now.c, now.g * now.i + before.c * now.f)
        else:
            assert now.g is None


def test_only_what_is_asked_for_is_kept():
    cfg, params, xs, _ = setup("3d+CN")
    kept = tl.inspect.record(params, xs, cfg, lambda now: (now.f[..., 0, 1, :].mean(), now.q[:, -1, -1]), flush=False)
    assert [leaf.shape for leaf in kept] == [(T,), (T, 2, 9)]
    jaxpr = jax.make_jaxpr(lambda xs: tl.inspect.record(params, xs, cfg, lambda now: now.h.mean()))(xs)
    (scan,) = (eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan")
    stacked = [out.aval.shape for out in scan.outvars if out.aval.shape[0] == T + cfg.delay]
    assert stacked == [(T + cfg.delay,)]


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("name", some(MODELS, "2d-F"))
def test_an_output_depends_on_the_inputs_that_eq_9_says(name, aligned):
    cfg, params, xs, _ = setup(name, ())
    timesteps = np.array([[0, 3], [1, T - 1]])
    norms = tl.inspect.sensitivity(lambda xs: tl.unroll(params, xs, cfg, aligned=aligned)[1], xs, timesteps)
    predicted = tl.inspect.receptive_field(cfg, T, timesteps, aligned=aligned)
    np.testing.assert_array_equal(norms > 0, predicted)
    np.testing.assert_array_equal(predicted[0, 1], tl.inspect.receptive_field(cfg, T, 3, aligned=aligned))


def test_sensitivity_is_the_norm_of_the_jacobian():
    weights = jax.random.normal(jax.random.key(0), (5, 3, 2))

    def layer(xs):
        return jnp.cumsum(jnp.einsum("tr,trm->tm", xs, weights), axis=0)

    norms = tl.inspect.sensitivity(layer, jnp.ones((5, 3)), 3)
    close(norms, np.array([*np.linalg.norm(weights[:4], axis=(1, 2)), 0]))


@pytest.mark.parametrize(
    ("tensor_shape", "kernel_size", "places"),
    [((4,), 3, [(0,), (1,), (2,), (3,)]), ((2, 2), 2, [(0, 0), (1, 1)]), ((2, 3), (3, 5), [(0, 1), (1, 2)])],
)
def test_the_diagonal_is_where_a_trace_is_first(tensor_shape, kernel_size, places):
    cfg = tl.TLSTMConfig(2, tensor_shape, kernel_size, norm=None)
    z = jax.random.normal(jax.random.key(0), (3, *tensor_shape, 2))
    np.testing.assert_array_equal(tl.inspect.diagonal(z, cfg), jnp.stack([z[:, *place] for place in places], 1))
    params = tl.init_params(jax.random.key(1), R, cfg)
    xs = jnp.zeros((cfg.depth, R)).at[0].set(1)
    reached = [tl.inspect.record(params, z, cfg, lambda now: now.h) for z in (xs, 0 * xs)]
    differs = jnp.abs(reached[0] - reached[1]).sum(-1) > 0
    for j, place in enumerate(places):
        assert differs[(j, *place)]
        assert not j or not differs[(j - 1, *place)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: tl.inspect.diagonal(jnp.ones((2, 3)), c), r"tensor_shape \(3,\), got \(2, 3\)"),
        (lambda c: tl.inspect.receptive_field(c, 5, 5), r"timestep must be in 0..4, got 5"),
        (lambda c: tl.inspect.sensitivity(lambda xs: xs, jnp.ones((5, 3)), [2, -1]), r"must be in 0..4, got -1"),
        (
            lambda c: tl.inspect.receptive_field(c, 5, 1.5),
            r"timestep must be an integer, or an array of integers, got 1.5",
        ),
        (
            lambda c: tl.inspect.sensitivity(lambda xs: xs, jnp.ones((2, 5, 3)), 0),
            r"one sequence, \(T, R\), got .*pass one row",
        ),
        (
            lambda c: tl.inspect.record(tl.init_params(jax.random.key(0), R, c), jnp.ones(R), c, id),
            r"\(\*batch, T, R\)",
        ),
        (
            lambda c: tl.inspect.record(tl.init_params(jax.random.key(0), R, c), jnp.ones((1, R)), c, id, flush="no"),
            "flush must be True or False, got 'no'",
        ),
        (lambda c: tl.inspect.receptive_field(None, 5, 2), "cfg must be a TLSTMConfig, got NoneType"),
        (lambda c: tl.inspect.receptive_field(c, -1, 0), "num_timesteps must be at least 1, got -1"),
        (lambda c: tl.inspect.receptive_field(c, 10.5, 0), "num_timesteps must be an integer .*, got 10.5"),
        (lambda c: tl.inspect.receptive_field(c, 5, 0, aligned="no"), "aligned must be True or False, got 'no'"),
        (lambda c: tl.inspect.diagonal(jnp.ones((3, 4)), None), "cfg must be a TLSTMConfig, got NoneType"),
        (lambda c: tl.inspect.diagonal("z", c), "z must be an array of numbers, got str"),
        (
            lambda c: tl.inspect.sensitivity(lambda xs: xs.sum(), jnp.ones((5, 3)), 2),
            r"outputs \(T, M\) with T = 5, .* got shape \(\)",
        ),
        (lambda c: tl.inspect.sensitivity(lambda xs: (xs, xs), jnp.ones((5, 3)), 2), "must return .* got a tuple"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(model("2d"))


def test_nested_lists_are_taken():
    cfg = model("2d")
    np.testing.assert_array_equal(tl.inspect.diagonal([[1.0], [2.0], [3.0]], cfg), [[1.0], [2.0], [3.0]])
    np.testing.assert_array_equal(tl.inspect.channel_means([[1.0, 3.0]]), [2.0])
