"""The multiplicative LSTM and RNN against their equations in numpy and another implementation; how they start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rivals.multiplicative import MultiplicativeLSTM, MultiplicativeRNN
from tests.experiments.rivals import common, fixtures, widths
from tests.experiments.rivals.oracles.multiplicative import mlstm, mrnn, weight_normed

M = common.FEATURES
NAMES = {"Wmx": "factor_input", "Wmh": "factor_hidden", "Wx": "input", "Wm": "factor"}


def mlstm_weights(cell):
    """The oracle's weights."""
    found = {name: cell[ours]["kernel"] for name, ours in NAMES.items()}
    if "gain" in cell["input"]:
        found = {name: weight_normed(kernel, cell[NAMES[name]]["gain"]) for name, kernel in found.items()}
    return found | {"b": cell["input"]["bias"]}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("options", [{}, {"weight_norm": True, "linear_candidate": True}])
def test_the_mlstm(options):
    layer = MultiplicativeLSTM(M, param_dtype=np.float64, num_layers=2, **options)
    xs = common.inputs()
    variables = common.randomized(layer, xs)
    carries, ys = common.apply(layer, variables, xs)
    for row in range(common.BATCH):
        found = xs[row]
        for index in range(2):
            weights, start = mlstm_weights(variables["params"][f"rnn_{index}"]["cell"]), np.zeros(M)
            found, c, h = mlstm(found, weights, start, start, linear=bool(options))
            np.testing.assert_allclose(carries[index][0][row], c, rtol=1e-10)
            np.testing.assert_allclose(carries[index][1][row], h, rtol=1e-10)
        np.testing.assert_allclose(ys[row], found, rtol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("options", [{}, {"factors": 3, "additive": True}])
def test_the_mrnn(options):
    layer = MultiplicativeRNN(M, param_dtype=np.float64, **options)
    xs = common.inputs()
    variables = common.randomized(layer, xs)
    (carry,), ys = common.apply(layer, variables, xs)
    cell = variables["params"]["rnn_0"]["cell"]
    names = {"A": "factor_input", "B": "factor_hidden", "C": "factor", "W": "input", "U": "hidden"}
    weights = {name: cell[ours]["kernel"] for name, ours in names.items() if ours in cell}
    assert ("U" in weights) == bool(options)
    for row in range(common.BATCH):
        found, h = mrnn(xs[row], weights | {"b": cell["input"]["bias"]}, np.zeros(M))
        np.testing.assert_allclose(carry[row], h, rtol=1e-10)
        np.testing.assert_allclose(ys[row], found, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_the_mlstm_of_torchrecurrent():
    found = fixtures.load("mlstm_torchrecurrent.json")
    weights = {name.removeprefix("cells.0."): leaf for name, leaf in found["weights"].items()}
    layer, units = MultiplicativeLSTM(3, param_dtype=np.float64), 3
    cell = {  # m, i, f, g, o
        "factor_input": {"kernel": weights["weight_ih"][:units].T},
        "factor_hidden": {"kernel": weights["weight_hh"].T},
        "input": {"kernel": weights["weight_ih"][units:].T, "bias": weights["bias_ih"][units:]},
        "factor": {"kernel": weights["weight_mh"].T},
    }
    (carry,), ys = common.apply(layer, {"params": {"rnn_0": {"cell": cell}}}, found["inputs"])
    np.testing.assert_allclose(ys, found["outputs"], rtol=1e-10)
    np.testing.assert_allclose(carry, [found["c"][0], found["h"][0]], rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_masks_are_the_same_in_all_timesteps():
    layer = MultiplicativeLSTM(M, param_dtype=np.float64, dropout=0.5, input_dropout=0.5)
    xs = np.ones((1, 5, 4))
    variables = common.randomized(layer, xs)
    options = {"deterministic": False, "rngs": {"dropout": jax.random.key(3)}}
    ys = common.apply(layer, variables, xs, **options)[1][0]
    kept = ys[0] != 0
    assert 0 < kept.sum() < M
    weights = mlstm_weights(variables["params"]["rnn_0"]["cell"])
    candidates = []  # of the inputs' mask
    for bits in np.ndindex(2, 2, 2, 2):
        masked = xs[0] * 2 * np.array(bits)
        candidates.append(mlstm(masked, weights, np.zeros(M), np.zeros(M), mask=2.0 * kept)[0])
    assert sum(np.allclose(ys, candidate, rtol=1e-10) for candidate in candidates) == 1


def test_the_numbers_of_parameters():
    widths.check(MultiplicativeLSTM, [155, 271, 241, 1070, 1315, 3064])
    widths.check(MultiplicativeRNN, [246, 428, 398, 1696, 2136, 4903])
    core = common.num_params(MultiplicativeLSTM(1900), 205)
    assert round(core / 1e6, 1) == 20.0
    assert round((core + 1901 * 205) / 1e6, 1) == 20.4
    normed = common.num_params(MultiplicativeLSTM(M, weight_norm=True), 3)
    assert normed - common.num_params(MultiplicativeLSTM(M), 3) == 10 * M


def test_the_mlstm_at_the_beginning():
    options = [{}, {"weight_norm": True}, {"time_scale": 100.0}]
    layers = [MultiplicativeLSTM(M, **each) for each in options]
    xs = jnp.ones((1, 2, M))
    starts = [layer.init_with_output(jax.random.key(0), xs) for layer in layers]
    np.testing.assert_allclose(starts[0][0], starts[1][0], rtol=1e-5)
    cell, normed, chrono = (start["params"]["rnn_0"]["cell"] for _, start in starts)
    np.testing.assert_array_equal(cell["input"]["bias"], np.repeat([0, 3, 0, 0], M))
    for block in [cell["factor_hidden"]["kernel"], *np.split(cell["factor"]["kernel"], 4, axis=1)]:
        np.testing.assert_allclose(block @ block.T, np.eye(M), atol=1e-5)
    np.testing.assert_allclose(normed["input"]["gain"], np.linalg.norm(cell["input"]["kernel"], axis=0), rtol=1e-5)
    i, f, *_ = np.split(chrono["input"]["bias"], 4)
    np.testing.assert_allclose(i, -f)
    assert (f >= 0).all()
    assert (f <= np.log(200)).all()


@pytest.mark.parametrize("make", [lambda: MultiplicativeLSTM(4, dropout=1.0), lambda: MultiplicativeRNN(4, factors=0)])
def test_what_is_wrong_with_options(make):
    with pytest.raises(ValueError, match=r"must be (a probability|at least 1)"):
        make()
