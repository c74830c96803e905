"""QRNN and SRU against their equations in numpy, the authors' code, and the parameter counts of the literature."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.rivals.linear import QRNN, SRU
from tests.experiments.rivals import common
from tests.experiments.rivals.oracles import linear as oracle

FIXTURES = Path(__file__).parent / "fixtures"
CLOSE = {"rtol": 1e-10, "atol": 1e-13}
PUBLISHED = {"rtol": 1e-9, "atol": 1e-11}  # the fixtures have 12 decimals


def train(layer, variables, xs, **arguments):
    """The carry and the outputs in training."""
    arguments |= {"return_carry": True, "deterministic": False, "rngs": {"dropout": jax.random.key(0)}}
    return jax.tree.map(np.asarray, jax.jit(lambda v, x: layer.apply(v, x, **arguments))(variables, xs))


def one_row(tree, row):
    return jax.tree.map(lambda leaf: leaf[row], tree)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("width", "zoneout"), [(1, 0.0), (3, 0.25)])
def test_the_equations_of_the_qrnn(width, zoneout):
    layer = QRNN(common.FEATURES, param_dtype=np.float64, num_layers=2, width=width, zoneout=zoneout)
    xs = common.inputs()
    variables = common.randomized(layer, xs)
    start = tuple(
        (common.inputs(common.BATCH, common.FEATURES), common.inputs(common.BATCH, width - 1, size, seed=2))
        for size in (common.INPUTS, common.FEATURES)
    )
    ends, ys = common.apply(layer, variables, xs, initial_carry=start)
    for row in range(common.BATCH):
        found = xs[row]
        for index in range(2):
            conv = variables["params"][f"conv_{index}"]
            found, *end = oracle.qrnn(
                found, (conv["kernel"], conv["bias"]), *one_row(start[index], row), keep=1 - zoneout
            )
            for a, b in zip(ends[index], end, strict=True):
                np.testing.assert_allclose(a[row], b, **CLOSE)
        np.testing.assert_allclose(ys[row], found, **CLOSE)


@pytest.mark.usefixtures("x64")
def test_the_authors_qrnn():
    published = json.loads((FIXTURES / "qrnn_salesforce.json").read_text())
    params, start = {}, []
    xs = np.swapaxes(published["inputs"], 0, 1)
    for index, (weights, c) in enumerate(zip(published["layers"], published["start"], strict=True)):
        z, f, o = np.split(np.array(weights["weight"]).T, 3, axis=-1)
        now, before = np.split(np.concatenate([z, -f, o], axis=-1), 2)
        z, f, o = np.split(np.array(weights["bias"]), 3)  # their f is 1 - f here
        params[f"conv_{index}"] = {"kernel": np.stack([before, now]), "bias": np.concatenate([z, -f, o])}
        start.append((np.array(c), np.zeros((len(c), 1, len(now)))))
    layer = QRNN(4, param_dtype=np.float64, num_layers=2, zoneout=published["zoneout"])
    ends, ys = common.apply(layer, {"params": params}, xs, initial_carry=start)
    np.testing.assert_allclose(ys, np.swapaxes(published["outputs"], 0, 1), **PUBLISHED)
    np.testing.assert_allclose([c for c, _ in ends], published["end"], **PUBLISHED)


@pytest.mark.usefixtures("x64")
def test_zoneout_keeps_some_memory_cells():
    layer = QRNN(32, param_dtype=np.float64, num_layers=1, zoneout=0.5)
    xs = common.inputs(1, 1, 3)
    variables = common.randomized(layer, xs)
    start = ((common.inputs(1, 32), common.inputs(1, 1, 3)),)
    ((new, _),), _ = common.apply(layer.clone(zoneout=0.0), variables, xs, initial_carry=start)
    ((c, _),), _ = train(layer, variables, xs, initial_carry=start)
    kept, updated = np.isclose(c, start[0][0]), np.isclose(c, new)
    assert (kept ^ updated).all()
    assert 5 < kept.sum() < 27


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("peephole", "tanh"), [(True, False), (False, True)])
def test_the_equations_of_the_sru(peephole, tanh):
    layer = SRU(common.FEATURES, param_dtype=np.float64, num_layers=2, peephole=peephole, tanh=tanh, highway_bias=-1.0)
    xs = common.inputs()
    variables = common.randomized(layer, xs)
    start = tuple(common.inputs(common.BATCH, common.FEATURES, seed=seed) for seed in (2, 3))
    ends, ys = common.apply(layer, variables, xs, initial_carry=start)
    for row in range(common.BATCH):
        found = xs[row]
        for index in range(2):
            weights = sru_weights(variables["params"], index)
            phi = np.tanh if tanh else lambda c: c
            found, end = oracle.sru(found, weights, start[index][row], -1.0, phi)
            np.testing.assert_allclose(ends[index][row], end, **CLOSE)
        np.testing.assert_allclose(ys[row], found, **CLOSE)


def sru_weights(params, index):
    """A layer's parameters with the names that they have in the equations."""
    names = {"bf": "forget_bias", "br": "highway_bias", "vf": "forget_peephole", "vr": "highway_peephole"}
    found = {short: params[f"{name}_{index}"] for short, name in names.items() if f"{name}_{index}" in params}
    return found | {"W": params[f"dense_{index}"]["kernel"]}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", ["final", "first"])
def test_the_authors_sru(case):
    published = json.loads((FIXTURES / "sru_asapp.json").read_text())["cases"][case]
    params = {}
    for index, weights in enumerate(published["layers"]):
        kernel = np.array(weights["weight"])  # their parts are interleaved
        parts = kernel.reshape(len(kernel), 4, -1)
        params[f"dense_{index}"] = {"kernel": np.moveaxis(parts, 1, 2).reshape(kernel.shape)}
        for name, key in (("bias", "bias"), ("peephole", "weight_c")):
            for gate, values in zip(("forget", "highway"), np.split(np.array(weights[key]), 2), strict=True):
                if case == "final" or name == "bias":
                    params[f"{gate}_{name}_{index}"] = values
    layer = SRU(
        4, param_dtype=np.float64, num_layers=2, peephole=case == "final", tanh=case == "first", highway_bias=-1.5
    )
    xs = np.swapaxes(published["inputs"], 0, 1)
    ends, ys = common.apply(layer, {"params": params}, xs, initial_carry=list(np.array(published["start"])))
    np.testing.assert_allclose(ys, np.swapaxes(published["outputs"], 0, 1), **PUBLISHED)
    np.testing.assert_allclose(ends, published["end"], **PUBLISHED)


@pytest.mark.usefixtures("x64")
def test_one_mask_drops_the_same_units_of_the_sru_in_all_timesteps():
    layer = SRU(8, param_dtype=np.float64, num_layers=1, dropout=0.5)
    xs = common.inputs(2, 3, 8)
    variables = common.randomized(layer, xs)
    _, ys = train(layer, variables, xs)
    dropped = np.isclose(ys, np.sqrt(1 + 2 * np.exp(-3.0)) * xs)
    np.testing.assert_array_equal(dropped, np.broadcast_to(dropped[:, :1], dropped.shape))
    assert 2 < dropped[:, 0].sum() < 14
    for row in range(2):
        mask = np.where(dropped[row, 0], 0.0, 2.0)
        expected, _ = oracle.sru(xs[row], sru_weights(variables["params"], 0), np.zeros(8), -3.0, mask=mask)
        np.testing.assert_allclose(ys[row], expected, **CLOSE)


def test_initial_values():
    xs = np.ones((1, 1, 300))
    params = jax.jit(SRU(500, num_layers=1, time_scale=50.0).init)(jax.random.key(0), xs)["params"]
    u, f, r, skip = np.split(np.asarray(params["dense_0"]["kernel"]), 4, axis=-1)
    for part, variance in ((u, 1), (f, 0.5), (r, 0.5), (skip, 1 + 2 * np.exp(-3.0))):
        np.testing.assert_allclose(np.abs(part).max(), np.sqrt(3 * variance / 300), rtol=1e-2)
    np.testing.assert_allclose(np.abs(params["forget_peephole_0"]).max(), np.sqrt(1.5), rtol=2e-2)
    np.testing.assert_array_equal(params["highway_bias_0"], np.full(500, -3.0))
    gates = jax.jit(QRNN(500, num_layers=1, time_scale=50.0).init)(jax.random.key(0), xs)["params"]["conv_0"]["bias"]
    for bias in (params["forget_bias_0"], gates[500:1000]):
        assert np.min(bias) >= 0
        np.testing.assert_allclose(np.max(bias), np.log(100.0), rtol=1e-2)
    np.testing.assert_array_equal(gates[:500], np.zeros(500))


def qrnn_parameters(r, m, layers=4, width=2):
    return sum(3 * width * size * m + 3 * m for size in [r] + [m] * (layers - 1))


def sru_parameters(r, m, layers=6):
    return sum(3 * size * m + 4 * m + (size != m) * size * m for size in [r] + [m] * (layers - 1))


@pytest.mark.parametrize(
    ("rival", "count", "widths"),
    [
        (QRNN, qrnn_parameters, [82, 143, 132, 565, 712, 1634]),
        (SRU, sru_parameters, [89, 156, 148, 619, 789, 1800]),
    ],
)
def test_equal_parameters(rival, count, widths):
    for r, m in ((5, 7), (7, 7), (1, widths[0])):
        assert common.num_params(rival(m), r) == count(r, m)
    budgets = [(121303, 1), (368509, 1), (368509, 65), (5794009, 12), (10_000_000, 205), (50_100_000, 205)]
    for (budget, r), m in zip(budgets, widths, strict=True):
        distances = [abs(count(r, width) - budget) for width in (m - 1, m, m + 1)]
        assert distances[1] == min(distances), f"{distances} at {budget} with R={r}"


@pytest.mark.parametrize("wrong", [{"width": 0}, {"zoneout": 1.0}])
def test_wrong_options(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        QRNN(4, **wrong)
    with pytest.raises(ValueError, match="dropout"):
        SRU(4, dropout=-0.1)
