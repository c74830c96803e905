"""The tanh network with a skip in time against its equations in numpy and a dilated layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rivals.dilated import DilatedRNN
from experiments.rivals.stanh import STanh
from tests.experiments.rivals import common, widths
from tests.experiments.rivals.oracles.stanh import stanh

SKIP, STEPS, LENGTHS = 3, 7, np.array([7, 2])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shared", [False, True])
def test_the_equations(shared):
    layer = STanh(common.FEATURES, param_dtype=np.float64, skip=SKIP, shared=shared)
    xs = common.inputs(2, STEPS, common.INPUTS)
    variables = common.randomized(layer, xs)
    carry, ys = common.apply(layer, variables, xs, seq_lengths=LENGTHS)
    params = variables["params"]
    weights = {"W": params["input"]["kernel"], "b": params["input"]["bias"], "U": params["hidden"]}
    weights["V"] = params["hidden" if shared else "skipped"]
    for row, length in enumerate(LENGTHS):
        expected = stanh(xs[row, :length], weights, SKIP)
        np.testing.assert_allclose(ys[row, :length], expected, rtol=1e-10)
        states = np.concatenate([np.zeros((SKIP, common.FEATURES)), expected])
        np.testing.assert_allclose(carry[row], states[-SKIP:], rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_without_u_it_is_a_dilated_layer():
    options = {"param_dtype": np.float64}
    layer = STanh(common.FEATURES, skip=SKIP, **options)
    dilated = DilatedRNN(common.FEATURES, num_layers=2, dilations=(1, SKIP), **options)
    xs = common.inputs(2, STEPS, common.FEATURES)
    params = common.randomized(layer, xs)["params"]
    params["hidden"] = np.zeros_like(params["hidden"])
    level = {"i": params["input"], "h": {"kernel": params["skipped"]}}
    plain = {"i": {"kernel": np.eye(common.FEATURES), "bias": np.zeros(common.FEATURES)}}
    plain["h"] = {"kernel": np.zeros((common.FEATURES, common.FEATURES))}  # the first level is only tanh
    expected = common.apply(dilated, {"params": {"cell_0": plain, "cell_1": level}}, xs)[1]
    np.testing.assert_allclose(common.apply(layer, {"params": params}, np.tanh(xs))[1], expected, rtol=1e-10)


def test_the_parameters():
    r, m = 3, 4
    assert common.num_params(STanh(m), r) == r * m + 2 * m**2 + m
    assert common.num_params(STanh(m, shared=True), r) == r * m + m**2 + m


def test_equal_widths():
    widths.check(STanh, (246, 429, 413, 1699, 2185, 4954))


def test_what_it_starts_with():
    xs = jnp.ones((1, 784, 1))

    @jax.jit
    def start(key):
        layer = STanh(4)
        variables = layer.init(key, xs)
        return variables, jax.grad(lambda v: layer.apply(v, xs)[:, -1].sum())(variables)

    variables, grads = start(jax.random.key(0))
    for name in ("hidden", "skipped"):
        u = variables["params"][name]
        np.testing.assert_allclose(u.T @ u, np.eye(4) / 2, atol=1e-6)
    assert all(np.isfinite(leaf).all() and np.any(leaf != 0) for leaf in jax.tree.leaves(grads))


def test_the_skip_must_differ_from_1():
    with pytest.raises(ValueError, match="skip=1"):
        STanh(3, skip=1).init(jax.random.key(0), jnp.ones((1, 2, 3)))
