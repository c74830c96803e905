"""The gated-feedback LSTM against its equations in numpy and the stacked LSTM that it contains."""

import jax
import numpy as np
import pytest

from experiments.rivals.gflstm import GFLSTM
from experiments.rivals.lstm import LSTM
from tests.experiments.rivals import common, widths
from tests.experiments.rivals.oracles import lstm as lstm_oracle
from tests.experiments.rivals.oracles.gflstm import gflstm

M, LAYERS = common.FEATURES, 2


def oracle_weights(cell):
    """The oracle's weights of all layers."""
    layers = []
    for j in range(LAYERS):
        (wi, wf, wg, wo), (bi, bf, bg, bo) = (
            np.split(cell[f"input_{j}"][name], 4, axis=-1) for name in ("kernel", "bias")
        )
        layers.append(
            {
                "Wx": np.concatenate([wi, wf, wo], axis=1),
                "b": np.concatenate([bi, bf, bo]),
                "Wh": cell[f"hidden_{j}"]["kernel"],
                "Wg": wg,
                "bg": bg,
                "U": [np.split(cell[f"feedback_{source}"]["kernel"], LAYERS, axis=1)[j] for source in range(LAYERS)],
                "w": np.split(cell[f"gates_input_{j}"]["kernel"], LAYERS, axis=1),
                "v": np.split(np.split(cell["gates_hidden"]["kernel"], LAYERS, axis=1)[j], LAYERS, axis=1),
            }
        )
    return layers


def zeros():
    return [np.zeros(M) for _ in range(LAYERS)]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("gate", ["scalar", "vector"])
def test_the_equations(gate):
    layer = GFLSTM(M, param_dtype=np.float64, num_layers=LAYERS, gate=gate)
    xs = common.inputs()
    variables = common.randomized(layer, xs)
    carries, ys = common.apply(layer, variables, xs)
    layers = oracle_weights(variables["params"]["rnn"]["cell"])
    assert layers[0]["w"][0].shape == (common.INPUTS, 1 if gate == "scalar" else M)
    for row in range(common.BATCH):
        found, c, h = gflstm(xs[row], layers, zeros(), zeros())
        np.testing.assert_allclose(ys[row], found, rtol=1e-10)
        for index in range(LAYERS):
            np.testing.assert_allclose(carries[index][0][row], c[index], rtol=1e-10)
            np.testing.assert_allclose(carries[index][1][row], h[index], rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_a_stacked_lstm_is_one_of_them():
    layers = [each(M, param_dtype=np.float64, num_layers=LAYERS) for each in (LSTM, GFLSTM)]
    xs = common.inputs()
    variables = common.randomized(layers[1], xs)
    cell = variables["params"]["rnn"]["cell"]
    # Gates of 1/2 everywhere; no feedback from other layers.
    for name in ("gates_input_0", "gates_input_1", "gates_hidden"):
        cell[name]["kernel"] *= 0
    cell["feedback_0"]["kernel"][:, M:] = cell["feedback_1"]["kernel"][:, :M] = 0
    lstm = {}
    for j in range(LAYERS):
        i, f, o = np.split(cell[f"hidden_{j}"]["kernel"], 3, axis=1)
        own = cell[f"feedback_{j}"]["kernel"][:, j * M : (j + 1) * M] / 2
        hidden = {"kernel": np.concatenate([i, f, own, o], axis=1)}
        lstm[f"rnn_{j}"] = {"cell": {"input": cell[f"input_{j}"], "hidden": hidden}}
    expected, found = (
        common.apply(layer, given, xs) for layer, given in zip(layers, ({"params": lstm}, variables), strict=True)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)


def test_the_oracle_is_a_stacked_lstm_if_its_gates_are_the_identity():
    layer = GFLSTM(M, num_layers=LAYERS)
    xs = common.inputs()
    layers = oracle_weights(common.randomized(layer, xs)["params"]["rnn"]["cell"])
    found, _, _ = gflstm(xs[0], layers, zeros(), zeros(), gate=lambda i, j: float(i == j))
    expected = xs[0]
    for j, each in enumerate(layers):
        parts = {"Wx": ("Wx", "Wg"), "Wh": ("Wh", None), "b": ("b", "bg")}
        weights = {}
        for name, (gates, candidate) in parts.items():
            i, f, o = np.split(each[gates], 3, axis=-1)
            g = each["U"][j] if candidate is None else each[candidate]
            weights[name] = np.concatenate([i, f, g, o], axis=-1)
        expected, _, _ = lstm_oracle.lstm(expected, weights, np.zeros(M), np.zeros(M))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.slow
def test_the_numbers_of_parameters():
    widths.check(GFLSTM, [67, 118, 113, 470, 604, 1372])


def test_what_is_wrong_with_the_gate():
    with pytest.raises(ValueError, match="gate is 'matrix': give 'scalar' or 'vector'"):
        GFLSTM(M, gate="matrix")
