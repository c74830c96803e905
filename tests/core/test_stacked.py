"""The sLSTM baseline against Flax's own ``nn.RNN(OptimizedLSTMCell)``, one layer after another, in float64."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import tlstm_jax as tl
from tests.core import variants
from tests.core.variants import close_in_scale, lively
from tests.experiments.rivals.oracles.lstm import lstm
from tlstm_jax import stacked

pytestmark = pytest.mark.usefixtures("x64")
R, M, L, T = 2, 3, 3, 5
LENGTHS = (5, 0, 3)
RESET = np.array([[0, 0, 1, 0, 0], [1, 0, 0, 0, 0], [0, 1, 0, 0, 1]], bool)


@pytest.fixture(params=[True, False], ids=["shared", "unshared"])
def cfg(request):
    return stacked.StackedLSTMConfig(M, L, shared=request.param, param_dtype=jnp.float64)


normal = functools.partial(variants.normal, dtype=jnp.float64)


def make(cfg):
    return lively(stacked.init_params(jax.random.key(0), R, cfg))


def flax_stack(params, xs, state=None, shared=True):
    """``xs`` (*batch, T, R) through Flax's layers: the state as (c, h), each a list over layers, and outputs."""
    ys = nn.Dense(M).apply({"params": params["input"]}, xs)
    cs, hs = [], []
    for i in range(L):
        layer = params["layers"]["layer_0" if shared else f"layer_{i}"]
        carry = None if state is None else (state.c[..., i, :], state.h[..., i, :])
        rnn = nn.RNN(nn.OptimizedLSTMCell(M, param_dtype=jnp.float64), return_carry=True)
        (c, h), ys = rnn.apply({"params": {"cell": layer}}, ys, initial_carry=carry)
        cs.append(c)
        hs.append(h)
    return tl.TLSTMState(jnp.stack(cs, -2), jnp.stack(hs, -2)), ys


def loops(params, xs, gates="ifgo"):
    """One sequence, (T, R), layer by layer in numpy: C, H, each (L, M), and outputs."""
    params = jax.tree.map(np.asarray, params)
    ys, states = xs @ params["input"]["kernel"] + params["input"]["bias"], []
    for index in range(L):
        layer = params["layers"][f"layer_{index}" if len(params["layers"]) > 1 else "layer_0"]
        weights = {
            "Wx": np.concatenate([layer[f"i{gate}"]["kernel"] for gate in gates], axis=1),
            "Wh": np.concatenate([layer[f"h{gate}"]["kernel"] for gate in gates], axis=1),
            "b": np.concatenate([layer[f"h{gate}"]["bias"] for gate in gates]),
        }
        ys, *state = lstm(ys, weights, np.zeros(M), np.zeros(M))
        states.append(state)
    return *map(np.stack, zip(*states, strict=True)), ys


def test_outputs_and_state_are_those_of_plain_loops(cfg):
    """The oracle shares no code with Flax; with two gates exchanged it differs."""
    params, xs = make(cfg), np.asarray(normal(20, (T, R)))
    state, ys = stacked.unroll(params, xs, cfg)
    for actual, expected, wrong in zip((*state, ys), loops(params, xs), loops(params, xs, "figo"), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)
        assert np.abs(actual - wrong).max() > 1e-3


def weigh(state, ys):
    return (ys * normal(30, ys.shape)).sum() + (state.c * normal(31, state.c.shape)).sum() + (state.h**2).sum()


def test_outputs_state_and_gradients_are_those_of_flax(cfg):
    params, xs = make(cfg), normal(20, (2, T, R))
    initial = tl.TLSTMState(normal(21, (2, L, M)), normal(22, (2, L, M)))

    def ours(params, xs, initial):
        result = stacked.unroll(params, xs, cfg, initial_state=initial)
        return weigh(*result), result

    def flax(params, xs, initial):
        result = flax_stack(params, xs, initial, cfg.shared)
        return weigh(*result), result

    gradients, result = jax.grad(ours, (0, 1, 2), has_aux=True)(params, xs, initial)
    expected_gradients, expected = jax.jit(jax.grad(flax, (0, 1, 2), has_aux=True))(params, xs, initial)
    close_in_scale(result, expected)
    close_in_scale(gradients, expected_gradients)
    assert all(np.abs(g).max() > 1e-4 for g in jax.tree.leaves(gradients))


def test_parameter_sets(cfg):
    """``shared`` layers have one set of parameters; otherwise each layer has its own, with other values."""
    params = stacked.init_params(jax.random.key(0), R, cfg)
    layers = params["layers"]
    assert list(layers) == (["layer_0"] if cfg.shared else ["layer_0", "layer_1", "layer_2"])
    count = sum(p.size for p in jax.tree.leaves(params))
    assert count == R * M + M + (1 if cfg.shared else L) * (8 * M * M + 4 * M)
    if not cfg.shared:
        assert (layers["layer_0"]["hi"]["kernel"] != layers["layer_1"]["hi"]["kernel"]).all()
    xs = normal(20, (2, T, R))
    one_for_all = {**params, "layers": dict.fromkeys(layers, layers["layer_0"])}
    tied = stacked.StackedLSTMConfig(M, L, shared=True, param_dtype=jnp.float64)
    shared = stacked.unroll({"input": params["input"], "layers": {"layer_0": layers["layer_0"]}}, xs, tied)
    close_in_scale(stacked.unroll(one_for_all, xs, cfg), shared)


def test_a_layer_starts_as_flax_starts_it_but_for_the_forget_bias(cfg):
    layers = stacked.init_params(jax.random.key(0), R, cfg)["layers"]
    x = jnp.zeros((1, M))
    flax = nn.OptimizedLSTMCell(M, param_dtype=jnp.float64).init(jax.random.key(0), (x, x), x)["params"]
    for layer in layers.values():
        assert jax.tree.map(jnp.shape, layer) == jax.tree.map(jnp.shape, flax)
        np.testing.assert_array_equal(layer["hf"]["bias"], np.ones(M))
        for gate in "igo":
            np.testing.assert_array_equal(layer[f"h{gate}"]["bias"], np.zeros(M))
        recurrent = layer["hi"]["kernel"]  # Flax's recurrent kernels are orthogonal
        np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(M), atol=1e-6)


def test_forget_bias_reaches_the_forget_gate():
    """Without input, a bias of 60 keeps the memory unchanged and a bias of -60 erases it."""
    state = tl.TLSTMState(normal(1, (L, M)), jnp.zeros((L, M)))
    xs = jnp.zeros((1, R))
    for bias, kept in ((60.0, 1.0), (-60.0, 0.0)):
        cfg = stacked.StackedLSTMConfig(M, L, forget_bias=bias, param_dtype=jnp.float64)
        params = stacked.init_params(jax.random.key(0), R, cfg)
        after, _ = stacked.unroll(params, xs, cfg, initial_state=state)
        np.testing.assert_allclose(after.c[0], kept * state.c[0], atol=1e-12)  # the input of layer 0 is zero


def expected_rows(params, xs, initial, *, reset, reverse, keep_order, shared):
    """Each unpadded sequence of each row by itself, through Flax."""
    run = jax.jit(flax_stack, static_argnames="shared")
    states, outputs = [], []
    for b, length in enumerate(LENGTHS):
        starts = [t for t in range(length) if reset is not None and reset[b, t]]
        pieces = np.split(np.arange(length), starts)
        if reverse:
            pieces = [piece[::-1] for piece in reversed(pieces)]
        pieces = [(i == 0, piece) for i, piece in enumerate(pieces) if piece.size]
        state, ys, place = jax.tree.map(lambda s, b=b: s[b], initial), np.zeros((T, M)), 0
        for first, piece in pieces:
            state = state if first else jax.tree.map(jnp.zeros_like, state)
            state, y = run(params, xs[b, piece], state, shared=shared)
            ys[piece if keep_order else np.arange(place, place + len(piece))] = y
            place += len(piece)
        states.append(state)
        outputs.append(ys)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states), jnp.stack(outputs)


@pytest.mark.parametrize(
    ("use_reset", "reverse", "keep_order"),
    [(False, False, False), (True, False, False), (False, True, False), (True, True, True)],
    ids=["lengths", "reset", "reverse", "all"],
)
def test_lengths_resets_and_reversal(cfg, use_reset, reverse, keep_order):
    params, xs = make(cfg), normal(20, (3, T, R))
    initial = tl.TLSTMState(normal(21, (3, L, M)), normal(22, (3, L, M)))
    reset = RESET if use_reset else None
    state, ys = stacked.unroll(
        params,
        jnp.where((np.arange(T) < np.array(LENGTHS)[:, None])[..., None], xs, jnp.nan),
        cfg,
        initial_state=initial,
        seq_lengths=jnp.array(LENGTHS),
        reset=None if reset is None else jnp.asarray(reset),
        reverse=reverse,
        keep_order=keep_order,
    )
    expected = expected_rows(
        params, xs, initial, reset=reset, reverse=reverse, keep_order=reverse and keep_order, shared=cfg.shared
    )
    close_in_scale((state, ys), expected)


@pytest.mark.parametrize(
    "options",
    [{"aligned": False}, {"remat": 2}, {"remat": True, "unroll": 3}],
)
def test_options_that_change_nothing(cfg, options):
    params, xs = make(cfg), normal(20, (2, T, R))
    reset = jnp.asarray(RESET[:2])
    close_in_scale(
        stacked.unroll(params, xs, cfg, reset=reset, **options), stacked.unroll(params, xs, cfg, reset=reset)
    )


def test_batch_dimensions_and_time_major():
    cfg = stacked.StackedLSTMConfig(M, L, param_dtype=jnp.float64)
    params, xs = make(cfg), normal(20, (2, 2, T, R))
    lengths = jnp.array([[5, 0], [2, 4]])
    state, ys = stacked.unroll(params, jnp.moveaxis(xs, 2, 0), cfg, seq_lengths=lengths, time_major=True)
    flat_state, flat = stacked.unroll(params, xs.reshape(4, T, R), cfg, seq_lengths=lengths.reshape(4))
    close_in_scale(jnp.moveaxis(ys, 0, 2).reshape(4, T, M), flat)
    close_in_scale(jax.tree.map(lambda s: s.reshape(4, L, M), state), flat_state)
    alone_state, alone = stacked.unroll(params, xs[1, 0, :2], cfg)
    close_in_scale((jax.tree.map(lambda s: s[1, 0], state), ys[:2, 1, 0]), (alone_state, alone))


def test_chunks_chain(cfg):
    params, xs = make(cfg), normal(20, (2, T, R))
    middle, first = stacked.unroll(params, xs[:, :2], cfg)
    end, second = stacked.unroll(params, xs[:, 2:], cfg, initial_state=middle)
    close_in_scale((end, jnp.concatenate([first, second], 1)), stacked.unroll(params, xs, cfg))


@pytest.mark.parametrize("api", ["linen", "nnx"])
def test_modules(cfg, api):
    xs = normal(20, (2, T, R))
    options = {"shared": cfg.shared, "forget_bias": 2.0, "param_dtype": jnp.float64, "return_carry": True}
    if api == "linen":
        layer = tl.linen.StackedLSTM(M, L, **options)
        params = layer.init(jax.random.key(0), xs)["params"]
        result = layer.apply({"params": params}, xs, reverse=True)
    else:
        layer = tl.nnx.StackedLSTM(R, M, L, rngs=nnx.Rngs(0), **options)
        params = nnx.to_pure_dict(nnx.state(layer, nnx.Param))
        result = layer(xs, reverse=True)
    np.testing.assert_array_equal(params["layers"]["layer_0"]["hf"]["bias"], np.full(M, 2.0))
    state, ys = jax.jit(flax_stack, static_argnames="shared")(params, xs[:, ::-1], shared=cfg.shared)
    close_in_scale(result, (state, ys))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_parameters_of_half_precision(dtype):
    """They are drawn in float32: the QR decomposition of orthogonal kernels has no half precision."""
    options = {"time_scale": 9.0, "learn_carry": True}
    drawn = stacked.init_params(jax.random.key(0), R, stacked.StackedLSTMConfig(M, L, **options))["layers"]
    xs = normal(20, (2, T, R)).astype(dtype)
    layer = tl.linen.StackedLSTM(M, L, param_dtype=dtype, **options)
    ys, variables = layer.init_with_output(jax.random.key(0), xs)
    assert ys.dtype == dtype
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(dtype)}
    params = stacked.init_params(jax.random.key(0), R, stacked.StackedLSTMConfig(M, L, param_dtype=dtype, **options))
    variants.same(params["layers"], jax.tree.map(lambda leaf: leaf.astype(dtype), drawn))


def test_bfloat16():
    cfg = stacked.StackedLSTMConfig(M, L, dtype=jnp.bfloat16, param_dtype=jnp.float32)
    params = jax.tree.map(lambda p: p.astype(jnp.float32), make(cfg))
    xs = normal(20, (2, T, R)).astype(jnp.float32)
    state, ys = stacked.unroll(params, xs, cfg)
    assert (ys.dtype, state.h.dtype, state.c.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    exact = flax_stack(jax.tree.map(lambda p: p.astype(jnp.float64), params), xs.astype(jnp.float64))[1]
    assert 0 < np.abs(ys.astype(jnp.float64) - exact).max() < 0.1
