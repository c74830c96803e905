"""The variants of the model that the tests run over, and helpers that the package's tests share."""

import functools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import tlstm_jax as tl
from tlstm_jax.typing import TLSTMState

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
    """Parameters of a test: all names, with those that are not among the fast ones marked as slow."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


def model(name, **overrides):
    return tl.TLSTMConfig(**{"features": 4, **MODELS[name], **overrides})


@functools.cache
def setup(name, batch_shape=(2,), dtype="float64"):
    cfg = model(name, param_dtype=dtype)
    return cfg, *random_arguments(cfg, R, (*batch_shape, T))


def random_arguments(cfg, in_features, batch_and_time):
    """Parameters near their initial values, inputs and a state. From numpy: JAX would compile one program per shape."""
    rng = np.random.default_rng(0)

    def draw(scale, *shape):
        return (scale * rng.normal(size=shape)).astype(cfg.param_dtype)

    def parameter(group, name, shape):
        if name == "kernel":
            return draw(math.hypot(0.3, math.prod(shape[:-1]) ** -0.5), *shape)
        value = draw(0.3, *shape) + (name == "scale")
        if (group, name, cfg.cell) == ("hidden", "bias", "lstm"):
            value[2 * cfg.features : 3 * cfg.features] += cfg.forget_bias
        return value

    params = {
        group: {name: jnp.asarray(parameter(group, name, shape)) for name, shape in shapes.items()}
        for group, shapes in cfg.param_shapes(in_features).items()
    }
    c, h = (draw(0.5, *batch_and_time[:-1], *cfg.tensor_shape, cfg.features) for _ in range(2))
    return params, draw(1.0, *batch_and_time, in_features), TLSTMState(None if cfg.cell == "rnn" else c, h)


def abstract(init, *arguments):
    """The shapes and dtypes of what ``init`` returns, for :func:`lively`; nothing is compiled."""
    return jax.eval_shape(lambda: init(*arguments))


def normal(seed, shape, scale=1.0, dtype=jnp.float32):
    return jnp.asarray((np.random.RandomState(seed).normal(size=shape) * scale).astype(dtype))


def lively(params, seed=0, scale=0.7):
    """The same tree with every leaf random, so that every gate, gain and bias has an effect."""
    leaves, treedef = jax.tree.flatten(params)
    return treedef.unflatten([normal(seed + i, leaf.shape, scale, leaf.dtype) for i, leaf in enumerate(leaves)])


def results(cfg, params, xs, state, implementation, **options):
    """Outputs, state, and gradients with respect to everything, of a loss over all outputs and the final state."""

    def loss(params, xs, state):
        state, ys = tl.unroll(params, xs, cfg, initial_state=state, implementation=implementation, **options)
        dtype = params["hidden"]["bias"].dtype
        parts = [part.astype(dtype) for part in (ys, *jax.tree.leaves(state))]
        terms = (jnp.vdot(part, normal(i, part.shape, dtype=dtype)) for i, part in enumerate(parts))
        return sum(terms), (ys, state)

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    return jax.block_until_ready(run(params, xs, state))


def signature(tree):
    """The shape and the dtype of every leaf."""
    return jax.tree.map(lambda leaf: (leaf.shape, jnp.dtype(leaf.dtype).name), tree)


def same(actual, expected):
    """Asserts that structure, dtypes and values are equal bit for bit."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    assert signature(actual) == signature(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def close(actual, expected, **kwargs):
    """Asserts that the trees are close, with tolerances for float64."""
    chex.assert_trees_all_close(actual, expected, **{"rtol": 1e-9, "atol": 1e-11, **kwargs})


def nearly(actual, expected, atol=2e-6):
    """Asserts that the trees are close, with tolerances for float32."""
    close(actual, expected, rtol=1e-5, atol=atol)


def close_in_scale(actual, expected, tolerance=1e-10):
    """Asserts that the trees are close in float64, relative to the largest value of each leaf."""

    def check(x, y):
        assert x.dtype == y.dtype == np.float64
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * max(np.abs(y).max(initial=0), 1e-3))

    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(check, actual, expected)


def refused(given, expected):
    """Expects a ``ValueError`` of one line that matches both patterns. (Notes that JAX or Flax add are ignored.)"""

    def says_both(error):
        message = str(error)
        found = re.search(given, message) and re.search(expected, message)
        assert found, f"{message!r} should say both {given!r} and {expected!r}"
        return "\n" not in message and 20 < len(message) < 500

    return pytest.raises(ValueError, match=given, check=says_both)


def pure_dict(module):
    """The parameters of an nnx module as a plain nested dict."""
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


def load(module, params):
    """An nnx module with these parameters."""
    state = nnx.state(module, nnx.Param)
    nnx.replace_by_pure_dict(state, params)
    nnx.update(module, state)
    return module
