"""The Grid LSTM against its equations in numpy, torch's LSTM cells, and what the literature counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rivals.grid import GridLSTM
from tests.experiments.rivals import common, widths
from tests.experiments.rivals.oracles.grid import grid_lstm

LAYERS = 3


def weights_of(params, tied):
    """The parameters of a layer as the oracle has them."""
    cell = params["rnn"]["cell"]
    weights = {"Wh": cell["state"]["kernel"]}
    if "memory" in cell:
        weights["Wm"] = cell["memory"]["kernel"]
    for name in ("time", "depth"):
        kernel, bias = cell["layers"][name]["kernel"], cell["layers"][name]["bias"]
        weights[name] = [
            {"W": kernel if tied else kernel[layer], "b": bias if tied else bias[layer]} for layer in range(LAYERS)
        ]
    return weights


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("tied", "priority", "initial_memory"), [(True, True, False), (False, False, True)])
def test_the_equations(tied, priority, initial_memory):
    layer = GridLSTM(
        common.FEATURES,
        param_dtype=np.float64,
        num_layers=LAYERS,
        tied=tied,
        priority=priority,
        initial_memory=initial_memory,
        read_memory=True,
    )
    xs = common.inputs()
    variables = common.randomized(layer, xs)
    (h_time, m_time), ys = common.apply(layer, variables, xs)
    weights = weights_of(variables["params"], tied)
    for row in range(common.BATCH):
        tops, memories, h, m = grid_lstm(xs[row], weights, LAYERS, priority=priority)
        np.testing.assert_allclose(ys[row], np.concatenate([tops, memories], 1), rtol=1e-10)
        np.testing.assert_allclose(h_time[row], h, rtol=1e-10)
        np.testing.assert_allclose(m_time[row], m, rtol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("priority", [True, False])
def test_two_lstm_cells_of_torch(priority):
    stored = common.fixture("grid_torch")
    layer = GridLSTM(4, param_dtype=np.float64, num_layers=2, priority=priority)
    cell = {"state": {"kernel": stored["Wh"]}, "memory": {"kernel": stored["Wm"]}, "layers": {}}
    for name in ("time", "depth"):
        kernel = np.concatenate([stored[f"{name}_weight_ih"].T, stored[f"{name}_weight_hh"].T])
        bias = stored[f"{name}_bias_ih"] + stored[f"{name}_bias_hh"]
        cell["layers"][name] = {"kernel": kernel, "bias": bias}
    (h, m), ys = common.apply(layer, {"params": {"rnn": {"cell": cell}}}, stored["xs"])
    found = {"ys": ys, "h": h, "m": m}
    for name, value in found.items():
        np.testing.assert_allclose(value, stored[f"{name}_{'priority' if priority else 'none'}"], rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_the_memory_along_depth_passes_open_gates_and_priority_needs_the_time():
    """An open forget gate and a closed input gate along depth: mD^L = mD_0. No weights on hT: priority is the same."""
    xs = common.inputs()
    layers = [
        GridLSTM(common.FEATURES, param_dtype=np.float64, priority=priority, read_memory=True)
        for priority in (True, False)
    ]
    variables = common.randomized(layers[0], xs)
    cell = variables["params"]["rnn"]["cell"]
    m = common.FEATURES
    cell["layers"]["depth"]["kernel"] = np.concatenate([cell["layers"]["depth"]["kernel"][:m], np.zeros((m, 4 * m))])
    with_priority, without = (common.apply(layer, variables, xs)[1] for layer in layers)
    np.testing.assert_allclose(with_priority, without, rtol=1e-12)
    cell["layers"]["depth"]["bias"] = np.repeat([-1e3, 1e3, 0.0, 0.0], m)
    ys = common.apply(layers[0], variables, xs)[1]
    np.testing.assert_allclose(ys[..., m:], xs @ cell["memory"]["kernel"], rtol=1e-12)


def test_the_parameters():
    r, m = 3, 4
    assert common.num_params(GridLSTM(m), r) == 2 * r * m + 16 * m**2 + 8 * m
    assert common.num_params(GridLSTM(m, tied=False), r) == 2 * r * m + 6 * (16 * m**2 + 8 * m)
    # enwik8, 6 layers of 1000, with the head of 205 on the state, and on the state and the memory
    core = common.num_params(GridLSTM(1000), 205)
    assert core + 1000 * 205 + 205 == pytest.approx(16.62e6, rel=3e-4)
    assert core + 2000 * 205 + 205 == pytest.approx(16.83e6, rel=3e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tied", "nearest"), [(True, (87, 151, 148, 601, 778, 1757)), (False, (35, 62, 61, 245, 320, 720))]
)
def test_equal_widths(tied, nearest):
    widths.check(lambda m: GridLSTM(m, tied=tied), nearest)


@pytest.mark.slow
def test_what_it_starts_with():
    xs = jnp.ones((1, 784, 1))
    layer = GridLSTM(3, num_layers=2, time_scale=100.0)

    @jax.jit
    def start(key):
        variables = layer.init(key, xs)
        return variables, jax.grad(lambda v: layer.apply(v, xs)[:, -1].sum())(variables)

    variables, grads = start(jax.random.key(0))
    time, depth = (variables["params"]["rnn"]["cell"]["layers"][name]["bias"] for name in ("time", "depth"))
    np.testing.assert_array_equal(depth, np.repeat([0.0, 1.0, 0.0, 0.0], 3))
    np.testing.assert_allclose(time[:3], -time[3:6])
    assert (time[3:6] >= 0).all()
    assert (time[3:6] <= np.log(200.0)).all()
    assert all(np.isfinite(leaf).all() and np.any(leaf != 0) for leaf in jax.tree.leaves(grads))


def test_depth_must_be_positive():
    with pytest.raises(ValueError, match="num_layers must be at least 1, got 0"):
        GridLSTM(3, num_layers=0).init(jax.random.key(0), jnp.ones((1, 2, 3)))
