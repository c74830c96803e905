"""The 2D tLSTM with K=2 and neither memory convolution nor norm is a stack of LSTM layers that share one kernel.

Layer p at time t is location p at timestep t + p - 1. Before its first input arrives, location p runs
p - 1 timesteps from zero states, which only the biases change; a layer does not. So the layers of the
stack start from the states after those timesteps, which are run here with Flax's own cell as well. With
all biases zero these states are zero, and the plain stack from zero states gives the same results.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tlstm_jax as tl
from tlstm_jax import stacked

M, R, T = 4, 3, 9
pytestmark = pytest.mark.usefixtures("x64")


def flax_params(hidden):
    """The kernel (2, M, 4M) over offsets -1 (from below) and 0 (recurrent) as parameters of Flax's cell."""
    below, own = jnp.split(hidden["kernel"], 2)
    gates = {}
    for gate, a, b, bias in zip(
        "gifo",
        jnp.split(below[0], 4, axis=1),
        jnp.split(own[0], 4, axis=1),
        jnp.split(hidden["bias"], 4),
        strict=True,
    ):
        gates[f"i{gate}"] = {"kernel": a}
        gates[f"h{gate}"] = {"kernel": b, "bias": bias}
    return gates


def skewed_stack(params, xs, depth):
    """Outputs of ``depth`` layers of Flax's cell, each run over the whole sequence by ``nn.RNN``."""
    cell = nn.OptimizedLSTMCell(M, param_dtype=jnp.float64, parent=None)
    variables = {"params": flax_params(params["hidden"])}
    zero = (jnp.zeros((len(xs), M)),) * 2
    states, initial = [zero] * depth, [zero]
    for s in range(1, depth):  # timestep s of the locations that no input has reached
        moved = {p: cell.apply(variables, states[p], states[p - 1][1])[0] for p in range(s, depth)}
        states = [moved.get(p) for p in range(depth)]
        initial.append(states[s])
    layer = nn.RNN(cell)
    ys = xs @ params["input"]["kernel"] + params["input"]["bias"]
    for carry in initial:
        ys = layer.apply({"params": {"cell": variables["params"]}}, ys, initial_carry=carry)
    return ys


def setup(depth, bias):
    cfg = tl.TLSTMConfig(M, (depth,), 2, memory_conv=False, norm=None, param_dtype=jnp.float64)
    assert cfg.depth == depth
    params = tl.init_params(jax.random.key(0), R, cfg)
    noise = bias * jax.random.normal(jax.random.key(1), params["hidden"]["bias"].shape)
    params["hidden"]["bias"] = (params["hidden"]["bias"] + noise) * (bias > 0)
    return cfg, params, jax.random.normal(jax.random.key(2), (2, T, R))


@pytest.mark.parametrize("bias", [pytest.param(0.0, marks=pytest.mark.slow), 0.7])
@pytest.mark.parametrize("depth", [1, 2, pytest.param(5, marks=pytest.mark.slow)])
def test_outputs_and_gradients(depth, bias):
    cfg, params, xs = setup(depth, bias)
    weights = jax.random.normal(jax.random.key(3), (2, T, M))

    def value_and_grad(unroll):
        return jax.value_and_grad(lambda params, xs: (unroll(params, xs) * weights).sum(), argnums=(0, 1))(params, xs)

    ours = value_and_grad(lambda params, xs: tl.unroll(params, xs, cfg)[1])
    theirs = value_and_grad(lambda params, xs: skewed_stack(params, xs, depth))
    np.testing.assert_allclose(tl.unroll(params, xs, cfg)[1], skewed_stack(params, xs, depth), rtol=1e-10, atol=1e-13)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("depth", [1, 4])
def test_without_biases_it_is_our_stack_from_zero_states(depth):
    cfg, params, xs = setup(depth, 0.0)
    baseline = stacked.StackedLSTMConfig(M, depth, param_dtype=jnp.float64)
    shared = {"input": params["input"], "layers": {"layer_0": flax_params(params["hidden"])}}
    _, expected = stacked.unroll(shared, xs, baseline)
    np.testing.assert_allclose(tl.unroll(params, xs, cfg)[1], expected, rtol=1e-10, atol=1e-13)


def test_each_location_is_a_layer_late():
    """Location p at timestep t + p - 1 against layer p at time t, all layers, not only the output."""
    depth = 4
    cfg, params, xs = setup(depth, 0.7)
    state, history = tl.init_state(cfg, (2,)), []
    for t in range(T):
        state, _ = tl.step(params, state, xs[:, t], cfg)
        history.append(state.h)
    for p in range(1, depth + 1):
        layers = skewed_stack(params, xs, p)
        for t in range(T - p + 1):
            np.testing.assert_allclose(history[t + p - 1][:, p - 1], layers[:, t], rtol=1e-10, atol=1e-13)
