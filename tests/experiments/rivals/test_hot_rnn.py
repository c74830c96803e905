"""HOT-RNN against its equations, with the whole outer product, and the LSTM that it is with one lag and one core."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rivals.hot_rnn import HOTRNN
from experiments.rivals.lstm import LSTM
from tests.experiments.rivals import common
from tests.experiments.rivals.oracles.tensor_train import hot_lstm

SIZE = common.FEATURES


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("options", [{}, {"lags": 3, "order": 3, "ranks": (2, 3)}])
def test_the_equations(options):
    layer = HOTRNN(SIZE, param_dtype=np.float64, **options)
    xs = common.inputs()
    variables = common.randomized(layer, xs)
    (carry,), ys = common.apply(layer, variables, xs)
    cell = variables["params"]["rnn_0"]["cell"]
    cores, rank = [], 1
    for k in range(layer.order):
        core = cell[f"core_{k}"]["kernel"]
        cores.append(core.reshape(rank, layer.lags * SIZE + 1, -1))
        rank = core.shape[-1]
    for row in range(common.BATCH):
        found, c, hs = hot_lstm(xs[row], cell["input"]["kernel"], cell["input"]["bias"], cores, layer.lags)
        np.testing.assert_allclose(ys[row], found, rtol=1e-10)
        np.testing.assert_allclose(carry[0][row], c, rtol=1e-10)
        np.testing.assert_allclose(carry[1][row], hs, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_one_core_and_one_lag_is_an_lstm():
    layer = HOTRNN(SIZE, param_dtype=np.float64, lags=1, order=1)
    xs = common.inputs()
    variables = common.randomized(layer, xs)
    cell = variables["params"]["rnn_0"]["cell"]

    def reordered(a):  # i, j, f, o -> i, f, g, o
        i, j, f, o = np.split(a, 4, axis=-1)
        return np.concatenate([i, f, j, o], axis=-1)

    core = reordered(cell["core_0"]["kernel"])
    bias = reordered(cell["input"]["bias"]) + core[-1]
    same = {"input": {"kernel": reordered(cell["input"]["kernel"]), "bias": bias}, "hidden": {"kernel": core[:-1]}}
    expected = common.apply(LSTM(SIZE, param_dtype=np.float64), {"params": {"rnn_0": {"cell": same}}}, xs)[1]
    np.testing.assert_allclose(common.apply(layer, variables, xs)[1], expected, rtol=1e-10)


def test_parameters():
    states = 3 * 20 + 1
    count = 4 * 5 * 20 + 80 + states * 2 + 2 * states * 3 + 3 * states * 80
    assert common.num_params(HOTRNN(20, lags=3, order=3, ranks=(2, 3)), 5) == count


def test_the_last_core_starts_with_the_variance_of_its_inputs():
    layer = HOTRNN(64, order=3, ranks=(4,))
    params = jax.jit(lambda: layer.init(jax.random.key(0), jnp.ones((1, 2, 3)))["params"])()["rnn_0"]["cell"]
    np.testing.assert_allclose(params["core_2"]["kernel"].std(), (4 * 129) ** -0.5, rtol=0.1)
    assert (params["input"]["bias"].reshape(4, 64) == np.array([[0], [0], [1], [0]])).all()


def test_what_is_impossible():
    def init(**options):
        jax.eval_shape(lambda: HOTRNN(4, **options).init(jax.random.key(0), jnp.ones((1, 2, 6))))

    with pytest.raises(ValueError, match="lags must be at least 1, got 0"):
        init(lags=0)
    with pytest.raises(ValueError, match="order must be at least 1, got 0"):
        init(order=0)
    with pytest.raises(ValueError, match=r"one for each of the 3 pairs of neighboring cores, got \(2, 2\) for order 4"):
        init(order=4, ranks=(2, 2))
