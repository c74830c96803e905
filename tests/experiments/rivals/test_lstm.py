"""The LSTM against its equations in numpy, Flax's and torch's, and the parameter counts of the literature."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rivals.lstm import LSTM
from tests.experiments.rivals import common, fixtures, widths
from tests.experiments.rivals.oracles.lstm import lstm


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("output_peephole", [False, True])
def test_the_equations(output_peephole):
    layer = LSTM(common.FEATURES, param_dtype=np.float64, num_layers=2, output_peephole=output_peephole)
    xs = common.inputs()
    variables = common.randomized(layer, xs)
    carries, ys = common.apply(layer, variables, xs)
    params = variables["params"]
    for row in range(common.BATCH):
        found = xs[row]
        for index in range(2):
            cell = params[f"rnn_{index}"]["cell"]
            weights = {"Wx": cell["input"]["kernel"], "b": cell["input"]["bias"], "Wh": cell["hidden"]["kernel"]}
            c = h = np.zeros(common.FEATURES)
            if output_peephole:
                weights["Vo"] = cell["peephole"]["kernel"]
                c, h = params[f"c_{index}"], params[f"h_{index}"]
            found, c, h = lstm(found, weights, c, h)
            np.testing.assert_allclose(carries[index][0][row], c, rtol=1e-12)
            np.testing.assert_allclose(carries[index][1][row], h, rtol=1e-12)
        np.testing.assert_allclose(ys[row], found, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_lstm_of_flax():
    layer, xs = LSTM(common.FEATURES, param_dtype=np.float64), common.inputs()
    variables = common.randomized(layer, xs)
    cell = variables["params"]["rnn_0"]["cell"]
    theirs = {}
    for index, gate in enumerate("ifgo"):
        part = slice(index * common.FEATURES, (index + 1) * common.FEATURES)
        theirs[f"i{gate}"] = {"kernel": cell["input"]["kernel"][:, part]}
        theirs[f"h{gate}"] = {"kernel": cell["hidden"]["kernel"][:, part], "bias": cell["input"]["bias"][part]}
    flax = nn.RNN(nn.OptimizedLSTMCell(common.FEATURES, param_dtype=np.float64))
    (carry,), ys = common.apply(layer, variables, xs)
    expected_carry, expected = common.apply(flax, {"params": {"cell": theirs}}, xs)
    np.testing.assert_allclose(ys, expected, rtol=1e-12)
    np.testing.assert_allclose(carry, expected_carry, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_lstm_of_torch():
    found = fixtures.load("lstm_torch.json")
    weights, params = found["weights"], {}
    for index in range(2):  # i, f, g, o, with two biases that are added
        kernel = {name: weights[f"weight_{name}_l{index}"].T for name in ("ih", "hh")}
        bias = weights[f"bias_ih_l{index}"] + weights[f"bias_hh_l{index}"]
        cell = {"input": {"kernel": kernel["ih"], "bias": bias}, "hidden": {"kernel": kernel["hh"]}}
        params[f"rnn_{index}"] = {"cell": cell}
    layer = LSTM(3, param_dtype=np.float64, num_layers=2)
    carries, ys = common.apply(layer, {"params": params}, found["inputs"])
    np.testing.assert_allclose(ys, found["outputs"], rtol=1e-10)
    np.testing.assert_allclose(carries, np.stack([found["c"], found["h"]], axis=1), rtol=1e-10)


def test_the_numbers_of_parameters():
    widths.check(LSTM, [173, 303, 272, 1197, 1481, 3438])
    widths.check(lambda m: LSTM(m, num_layers=3), [77, 135, 129, 537, 687, 1562])
    head = 129 * 10
    plain, table_3 = (common.num_params(LSTM(128, output_peephole=each), 1) + head for each in (False, True))
    assert round(plain / 1e3, 1) == 67.8
    assert round(table_3 / 1e3, 1) == 84.5


@pytest.mark.slow
def test_the_beginning():
    starts = [
        LSTM(common.FEATURES, **options).init(jax.random.key(0), jnp.ones((1, 2, 3)))["params"]
        for options in ({}, {"output_peephole": True}, {"time_scale": 100.0})
    ]
    plain, table_3, chrono = (start["rnn_0"]["cell"] for start in starts)
    ones = np.ones(common.FEATURES)
    for cell in (plain, table_3):
        np.testing.assert_array_equal(cell["input"]["bias"], np.kron([0, 1, 0, 0], ones))
    for block in np.split(plain["hidden"]["kernel"], 4, axis=1):
        np.testing.assert_allclose(block @ block.T, np.eye(common.FEATURES), atol=1e-5)
    assert abs(table_3["hidden"]["kernel"]).max() <= (6 / (2 * common.FEATURES)) ** 0.5
    np.testing.assert_array_equal(starts[1]["c_0"], 0 * ones)
    i, f, g, o = np.split(chrono["input"]["bias"], 4)
    np.testing.assert_allclose(i, -f)
    assert ((f >= 0) & (f <= np.log(200))).all()
    np.testing.assert_array_equal([g, o], [0 * ones, 0 * ones])
