"""The variants of the model that tests run over, each small, with parameters, inputs and a state."""

import functools

import chex
import jax
import pytest

import tlstm_jax as tl

R, T = 3, 7
MODELS = {
    "2d": {"tensor_shape": (3,)},
    "2d-F": {"tensor_shape": (3,), "kernel_size": 2},
    "2d-M": {"tensor_shape": (3,), "memory_conv": False, "norm": None},
    "3d": {"tensor_shape": (2, 2), "norm": None},
    "3d+CN": {"tensor_shape": (3, 3)},
    "3d mixed": {"tensor_shape": (2, 4), "kernel_size": (3, 5)},
    "3d+LN": {"tensor_shape": (2, 2), "norm": "layer"},
    "trnn": {"tensor_shape": (3,), "cell": "rnn", "norm": None},
    "depth 1": {"tensor_shape": (1,)},
}
SEPARABLE = [name for name in MODELS if "LN" not in name]


def some(names, *fast):
    """All the names, those that are not among the fast ones as slow tests."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


def model(name, **overrides):
    return tl.TLSTMConfig(**{"features": 4, **MODELS[name], **overrides})


@functools.cache
def setup(name, batch_shape=(2,), dtype="float64"):
    cfg = model(name, param_dtype=dtype)
    params = tl.init_params(jax.random.key(0), R, cfg)
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape, x.dtype), params)
    xs = jax.random.normal(jax.random.key(1), (*batch_shape, T, R), dtype)
    state = jax.tree.map(
        lambda z: 0.5 * jax.random.normal(jax.random.key(2), z.shape, z.dtype), tl.init_state(cfg, batch_shape)
    )
    return cfg, params, xs, state


def close(actual, expected, **kwargs):
    chex.assert_trees_all_close(actual, expected, **{"rtol": 1e-9, "atol": 1e-11, **kwargs})
