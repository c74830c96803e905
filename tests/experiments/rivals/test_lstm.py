"""The LSTM against its equations in numpy, Flax's cell, and the parameter counts of the literature."""

import numpy as np
import pytest

from experiments.rivals.lstm import LSTM
from tests.experiments.rivals import common
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
