"""The iRNN against its equation in numpy, and how it starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rivals.irnn import IRNN
from tests.experiments.rivals import common, widths
from tests.experiments.rivals.oracles.irnn import irnn


@pytest.mark.usefixtures("x64")
def test_the_equation():
    layer = IRNN(common.FEATURES, param_dtype=np.float64, num_layers=2)
    xs = common.inputs()
    variables = common.randomized(layer, xs)
    carries, ys = common.apply(layer, variables, xs)
    for row in range(common.BATCH):
        found = xs[row]
        for index in range(2):
            cell = variables["params"][f"rnn_{index}"]["cell"]
            start = np.zeros(common.FEATURES)
            found, h = irnn(found, cell["i"]["kernel"], cell["h"]["kernel"], cell["i"]["bias"], start)
            np.testing.assert_allclose(carries[index][row], h, rtol=1e-10)
        np.testing.assert_allclose(ys[row], found, rtol=1e-10)


def test_the_numbers_of_parameters():
    widths.check(IRNN, [347, 606, 575, 2401, 3061, 6976])


def test_the_state_and_its_gradient_last_at_the_beginning():
    layer, xs, start = IRNN(4), jnp.zeros((1, 784, 1)), jnp.array([[0.5, 1.0, 1.5, 2.0]])

    @jax.jit
    def last_and_gradient(start):
        variables = layer.init(jax.random.key(0), xs)
        ys, pullback = jax.vjp(lambda h: layer.apply(variables, xs, initial_carry=(h,))[:, -1], start)
        return ys, *pullback(jnp.ones_like(ys))

    ys, gradient = last_and_gradient(start)
    np.testing.assert_array_equal(ys, start)
    np.testing.assert_array_equal(gradient, np.ones((1, 4)))


@pytest.mark.parametrize("input_std", [0.001, None])
def test_gradients_of_long_sequences_at_the_beginning(input_std):
    """Those of the parameters and of the first of 784 inputs are finite, and there are some."""
    layer, xs = IRNN(16, input_std=input_std), jnp.asarray(common.inputs(common.BATCH, 784, 1), jnp.float32)

    @jax.jit
    def start(key):
        variables = layer.init(key, xs)
        return jax.grad(lambda v, xs: layer.apply(v, xs)[:, -1].sum(), argnums=(0, 1))(variables, xs)

    gradients, first = start(jax.random.key(0))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients["params"]):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
        assert np.any(leaf != 0), jax.tree_util.keystr(path)
    assert np.isfinite(first).all()


def test_the_initial_input_weights():
    layers = [IRNN(100, input_std=std) for std in (0.001, None)]
    starts = jax.jit(lambda key: [layer.init(key, jnp.ones((1, 2, 50))) for layer in layers])(jax.random.key(0))
    found = [start["params"]["rnn_0"]["cell"]["i"]["kernel"] for start in starts]
    assert np.isclose(found[0].std(), 0.001, rtol=0.05)
    assert np.isclose(abs(found[1]).max(), (6 / 150) ** 0.5, rtol=0.01)
