"""The MI-LSTM against its equations in numpy and the LSTM that it contains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rivals.lstm import LSTM
from experiments.rivals.milstm import MILSTM
from tests.experiments.rivals import common, widths
from tests.experiments.rivals.oracles.milstm import milstm

M = common.FEATURES
NAMES = {"al": "alpha", "b1": "beta_hidden", "b2": "beta_input", "b": "bias"}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_equations(layer_norm):
    layer = MILSTM(M, param_dtype=np.float64, num_layers=2, layer_norm=layer_norm)
    xs = common.inputs()
    variables = common.randomized(layer, xs)
    carries, ys = common.apply(layer, variables, xs)
    for row in range(common.BATCH):
        found = xs[row]
        for index in range(2):
            cell = variables["params"][f"rnn_{index}"]["cell"]
            weights = {name: cell[ours] for name, ours in NAMES.items()}
            weights |= {"W": cell["input"]["kernel"], "U": cell["hidden"]["kernel"]}
            if layer_norm:
                weights |= {"gain": cell["LayerNorm_0"]["scale"], "shift": cell["LayerNorm_0"]["bias"]}
            found, c, h = milstm(found, weights, np.zeros(M), np.zeros(M))
            np.testing.assert_allclose(carries[index][0][row], c, rtol=1e-10)
            np.testing.assert_allclose(carries[index][1][row], h, rtol=1e-10)
        np.testing.assert_allclose(ys[row], found, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_an_lstm_is_one_of_them():
    layers = [each(M, param_dtype=np.float64) for each in (LSTM, MILSTM)]
    xs = common.inputs()
    lstm = common.randomized(layers[0], xs)
    cell = lstm["params"]["rnn_0"]["cell"]
    cell = {name: {"kernel": cell[name]["kernel"]} for name in ("input", "hidden")} | {"bias": cell["input"]["bias"]}
    cell |= {"alpha": np.zeros(4 * M), "beta_hidden": np.ones(4 * M), "beta_input": np.ones(4 * M)}
    expected, found = (
        common.apply(layer, variables, xs)
        for layer, variables in zip(layers, (lstm, {"params": {"rnn_0": {"cell": cell}}}), strict=True)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)


def test_the_numbers_of_parameters():
    widths.check(MILSTM, [172, 301, 271, 1196, 1480, 3436])
    normed = common.num_params(MILSTM(M, layer_norm=True), 3)
    assert normed - common.num_params(MILSTM(M), 3) == 8 * M


@pytest.mark.parametrize("layer_norm", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_beginning(layer_norm):
    layer = MILSTM(M, layer_norm=layer_norm, alpha=2.0, beta_hidden=0.5, beta_input=0.25)
    cell = layer.init(jax.random.key(0), jnp.ones((1, 2, 3)))["params"]["rnn_0"]["cell"]
    for name, value in {"alpha": 2, "beta_hidden": 0.5, "beta_input": 0.25}.items():
        np.testing.assert_array_equal(cell[name], np.full(4 * M, value))
    bias = np.repeat([0, 1, 0, 0], M)
    np.testing.assert_array_equal(cell["bias"], 0 * bias if layer_norm else bias)
    if layer_norm:
        np.testing.assert_array_equal(cell["LayerNorm_0"]["bias"], bias)
