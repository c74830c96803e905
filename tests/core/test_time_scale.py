"""Initial biases from a time scale: gates of all time constants up to it, and memory that arrives when it is needed."""

import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tlstm_jax as tl
from tests.core.variants import abstract, lively
from tlstm_jax import stacked
from tlstm_jax.biases import TRANSPORT, default_bias_init, transport_time

KEY, R, M = jax.random.key(0), 3, 400
NUM_STEPS = 400


def bias(cfg):
    zeros = jax.nn.initializers.zeros
    return np.asarray(tl.init_params(KEY, R, cfg, kernel_init=zeros, recurrent_kernel_init=zeros)["hidden"]["bias"])


def test_gates_have_all_time_constants_up_to_twice_the_time_scale():
    cfg = tl.TLSTMConfig(M, (3,), time_scale=30)
    g, i, f, o, _ = np.split(bias(cfg), [M, 2 * M, 3 * M, 4 * M])
    np.testing.assert_array_equal(i, -f)
    u = np.sort(np.exp(f))
    assert 1 <= u[0] < 2 < 58 < u[-1] <= 60
    np.testing.assert_allclose(u, np.linspace(1, 60, M), atol=6)  # uniform
    assert len(np.unique(f)) > 0.9 * M  # a draw for each channel
    plain = bias(dataclasses.replace(cfg, time_scale=None))
    np.testing.assert_array_equal(g, plain[:M])
    np.testing.assert_array_equal(o, 0)


def mean_arrival(cfg):
    """Mean timestep in which memory arrives at the output's corner, if it is put into the input's corner in timestep 1.

    Forget gates are open, input gates are closed, and the kernel is zero, so only the initial biases of q move memory.
    Both corners keep their memory, since the memory convolution replicates the boundary: the memory that arrives in a
    timestep is the increase from the timestep before.
    """
    params = jax.tree.map(np.zeros_like, lively(abstract(tl.init_params, KEY, R, cfg)))
    m = cfg.features
    gates = np.repeat(np.array([0.0, -40.0, 40.0, 0.0], np.float32), m)
    params["hidden"]["bias"] = np.concatenate([gates, bias(cfg)[4 * m :]])
    c, h = (np.zeros((*cfg.tensor_shape, m), np.float32) for _ in range(2))
    c[(0,) * len(cfg.tensor_shape)] = 1
    # the biases are set already: without the time scale, one program serves all cases
    found = memory_of_the_last_corner(params, tl.TLSTMState(c, h), dataclasses.replace(cfg, time_scale=None))
    arriving = np.diff(np.asarray(found, np.float64), prepend=0)
    return (arriving * np.arange(1, NUM_STEPS + 1)).sum() / arriving.sum()


@functools.partial(jax.jit, static_argnames="cfg")
def memory_of_the_last_corner(params, state, cfg):
    """The memory at the output's corner before each of ``NUM_STEPS`` timesteps without input."""

    def step(state, _):
        return tl.step(params, state, jnp.zeros(R), cfg)[0], state.c[(-1,) * len(cfg.tensor_shape)].mean()

    return jax.lax.scan(step, state, length=NUM_STEPS)[1]


@pytest.mark.parametrize("kernel_size", [2, 3, 5])
@pytest.mark.parametrize("tensor_shape", [(6,), (4, 4)])
def test_memory_arrives_when_it_is_needed(tensor_shape, kernel_size):
    depth = tl.TLSTMConfig(1, tensor_shape, kernel_size, norm=None).depth
    for time in (depth, 1.5 * depth, 2 * depth, 4 * depth):
        scale = max(1.0, time / TRANSPORT)
        cfg = tl.TLSTMConfig(1, tensor_shape, kernel_size, norm=None, time_scale=scale)
        least = 1 + math.ceil((tensor_shape[0] - 1) / (kernel_size // 2))
        assert transport_time(cfg) == pytest.approx(max(time, least))
        assert mean_arrival(cfg) == pytest.approx(transport_time(cfg), rel=0.2)


def test_with_a_very_long_time_scale_the_spread_carries_memory_across():
    cfg = tl.TLSTMConfig(1, (3,), 3, norm=None, time_scale=784)
    assert mean_arrival(cfg) == pytest.approx(75, rel=0.1)  # as documented
    assert mean_arrival(cfg) < 0.2 * transport_time(cfg)


def test_dimensions_of_different_sizes_arrive_together():
    cfg = tl.TLSTMConfig(1, (4, 8), (3, 5), norm=None, time_scale=12)
    assert mean_arrival(cfg) == pytest.approx(transport_time(cfg), rel=0.2)


@pytest.mark.parametrize("tensor_shape", [(1,), (3,), (1, 1), (3, 3)])
@pytest.mark.parametrize("kernel_size", [2, 3, 4, 5])
def test_much_longer_than_the_tensor_is_memory_that_stays(tensor_shape, kernel_size):
    cfg = tl.TLSTMConfig(2, tensor_shape, kernel_size, time_scale=1e6)
    logits = bias(cfg)[4 * cfg.features :]
    kernel = np.exp(logits - logits.max())
    kernel /= kernel.sum()
    assert kernel[cfg.offsets.index((0,) * len(tensor_shape))] > 0.92
    assert kernel.min() > 0


def test_without_memory_convolution_gates_alone():
    cfg = tl.TLSTMConfig(M, (3,), memory_conv=False, time_scale=30)
    with_convolution = dataclasses.replace(cfg, memory_conv=True)
    np.testing.assert_array_equal(bias(cfg), bias(with_convolution)[: 4 * M])


@pytest.mark.parametrize("shared", [True, False])
def test_the_stack_has_the_same_gates(shared):
    m = 40  # Flax's orthogonal initialization takes long for large layers
    cfg = stacked.StackedLSTMConfig(m, 2, shared, time_scale=30)
    layers = stacked.init_params(KEY, R, cfg)["layers"]
    plain = stacked.init_params(KEY, R, dataclasses.replace(cfg, time_scale=None))["layers"]
    for name, params in layers.items():
        f, i = params["hf"].pop("bias"), params["hi"].pop("bias")
        plain[name]["hf"].pop("bias"), plain[name]["hi"].pop("bias")
        np.testing.assert_array_equal(f, -i)
        np.testing.assert_allclose(np.sort(np.exp(f)), np.linspace(1, 60, m), atol=15)
    chex.assert_trees_all_equal(layers, plain)


def test_low_precision_parameters():
    cfg = tl.TLSTMConfig(M, (3,), time_scale=784, param_dtype=jnp.bfloat16)
    assert tl.init_params(KEY, R, cfg)["hidden"]["bias"].dtype == jnp.bfloat16
    gates = slice(M, 3 * M)
    exact = bias(dataclasses.replace(cfg, param_dtype=jnp.float32))[gates]
    np.testing.assert_allclose(bias(cfg)[gates].astype(float), exact, atol=0.03)


def test_layers_take_it():
    cfg = tl.TLSTMConfig(4, (2, 2), time_scale=20)
    xs = jnp.ones((1, 2, R))
    layer = tl.linen.TLSTM(features=4, tensor_shape=(2, 2), time_scale=20)
    chex.assert_trees_all_equal(layer.init(KEY, xs), tl.linen.TLSTM(cfg).init(KEY, xs))
    wrapped = tl.linen.TLSTM(dataclasses.replace(cfg, time_scale=None), bias_init=default_bias_init(cfg))
    chex.assert_trees_all_equal(wrapped.init(KEY, xs), tl.linen.TLSTM(cfg).init(KEY, xs))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_scale": 0.5}, "time_scale must be None or a number of timesteps, at least 1, got 0.5"),
        ({"time_scale": True}, "got True"),
        ({"time_scale": math.inf}, "got inf"),
        ({"time_scale": 9, "forget_bias": 4.0}, "time_scale sets forget_bias, got both time_scale=9"),
        ({"time_scale": 9, "conveyor_bias": 3.0}, "time_scale sets conveyor_bias, got both"),
        ({"time_scale": 9, "cell": "rnn"}, "the tRNN has none"),
    ],
)
def test_what_it_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        tl.TLSTMConfig(4, (3,), **options)
    with pytest.raises(ValueError, match=message):
        tl.linen.TLSTM(features=4, tensor_shape=(3,), **options)


def test_a_given_default_is_refused_too():
    for name, value in (("forget_bias", 1.0), ("conveyor_bias", 0.0)):
        with pytest.raises(ValueError, match=f"time_scale sets {name}"):
            tl.linen.TLSTM(features=4, tensor_shape=(3,), time_scale=9, **{name: value})
    with pytest.raises(ValueError, match="time_scale sets forget_bias"):
        stacked.StackedLSTMConfig(4, 2, forget_bias=2.0, time_scale=9)
