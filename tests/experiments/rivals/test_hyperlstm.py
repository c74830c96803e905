"""The HyperLSTM against its equations in numpy, a public implementation, and the counts of the literature."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rivals.hyperlstm import HyperLSTM
from tests.experiments.rivals import common
from tests.experiments.rivals.oracles.hyperlstm import hyperlstm

M, H, Z = 4, 3, 2
FIXTURE = pathlib.Path(__file__).parent / "fixtures" / "hyperlstm_labml.json"


def by_gate(leaf):
    return leaf.reshape(*leaf.shape[:-1], 4, -1)


def weights(cell, forget_bias):
    """The weights of a cell as the oracle takes them; its constant in the forget gate is part of our biases."""
    embed = np.moveaxis(cell["scale_embedding"]["kernel"].reshape(H, 2, 4, Z), 0, 2)
    embed_b = cell["scale_embedding"]["bias"].reshape(2, 4, Z)
    main = {"Wx": by_gate(cell["input"]["kernel"]), "Wh": by_gate(cell["hidden"]["kernel"]), "b": by_gate(cell["bias"])}
    main |= {"Ax": embed[0], "Ah": embed[1], "ax": embed_b[0], "ah": embed_b[1]}
    main["Ab"] = np.moveaxis(cell["bias_embedding"]["kernel"].reshape(H, 4, Z), 0, 1)
    main |= {"Dx": cell["scale"]["kernel"][0], "Dh": cell["scale"]["kernel"][1], "Db": cell["shift"]["kernel"]}
    small = {"W": by_gate(cell["hyper_input"]["kernel"]), "U": by_gate(cell["hyper_hidden"]["kernel"])}
    small["b"] = by_gate(cell["hyper_input"]["bias"])
    shift = forget_bias * np.array([[0.0], [1.0], [0.0], [0.0]])
    for found, name in ((main, "gates"), (small, "hyper_gates")):
        if name in cell:
            gate, memory = cell[name]["gate_norm"], cell[name]["memory_norm"]
            found |= {"gain": gate["scale"], "bias": gate["bias"] - shift}
            found |= {"gain_c": memory["scale"], "bias_c": memory["bias"]}
        else:
            found["b"] = found["b"] - shift
    return main, small


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("layer_norm", "num_layers"), [(True, 2), (False, 1)])
def test_the_equations(layer_norm, num_layers):
    layer = HyperLSTM(
        M,
        num_layers=num_layers,
        hyper_features=H,
        embedding=Z,
        layer_norm=layer_norm,
        forget_bias=0.5,
        param_dtype=np.float64,
    )
    xs = common.inputs()
    variables = common.randomized(layer, xs, scale=0.7)
    carries, ys = common.apply(layer, variables, xs)
    for row in range(common.BATCH):
        found = xs[row]
        for index in range(num_layers):
            main, small = weights(variables["params"][f"rnn_{index}"]["cell"], 0.5)
            found, state = hyperlstm(found, main, small, layer_norm, forget_bias=0.5)
            for ours, theirs in zip(carries[index], state, strict=True):
                np.testing.assert_allclose(ours[row], theirs, rtol=1e-10)
        np.testing.assert_allclose(ys[row], found, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_the_numbers_of_labml():
    found = json.loads(FIXTURE.read_text())
    w = {name: np.array(leaf) for name, leaf in found["weights"].items()}
    layer = HyperLSTM(M, hyper_features=H, embedding=Z, epsilon=1e-5, param_dtype=np.float64)

    def side_by_side(name):  # (n, m) for each gate becomes (m, 4n)
        return np.concatenate([w[f"{name}.{gate}"].T for gate in range(4)], axis=1)

    def by_gate(name, leaf):  # (4, n)
        return np.stack([w[f"{name}.{gate}.{leaf}"] for gate in range(4)])

    def norms(prefix):
        gate = {"scale": by_gate(f"{prefix}layer_norm", "weight"), "bias": by_gate(f"{prefix}layer_norm", "bias")}
        memory = {"scale": w[f"{prefix}layer_norm_c.weight"], "bias": w[f"{prefix}layer_norm_c.bias"]}
        return {"gate_norm": gate, "memory_norm": memory}

    def d(name):
        return by_gate(name, "weight").swapaxes(1, 2)

    inputs = w["hyper.input_lin.weight"].T
    cell = {
        # theirs reads [h, x]
        "hyper_input": {"kernel": np.concatenate([inputs[M:], inputs[:M]]), "bias": w["hyper.hidden_lin.bias"]},
        "hyper_hidden": {"kernel": w["hyper.hidden_lin.weight"].T},
        "hyper_gates": norms("hyper."),
        "scale_embedding": {
            "kernel": np.concatenate([w["z_x.weight"].T, w["z_h.weight"].T], axis=1),
            "bias": np.concatenate([w["z_x.bias"], w["z_h.bias"]]),
        },
        "bias_embedding": {"kernel": w["z_b.weight"].T},
        "scale": {"kernel": np.stack([d("d_x"), d("d_h")])},
        "shift": {"kernel": d("d_b")},
        "input": {"kernel": side_by_side("w_x")},
        "hidden": {"kernel": side_by_side("w_h")},
        "bias": by_gate("d_b", "bias").ravel(),
        "gates": norms(""),
    }
    xs = np.array(found["xs"])[None]
    ((c, h, cc, hh),), ys = common.apply(layer, {"params": {"rnn_0": {"cell": cell}}}, xs)
    np.testing.assert_allclose(ys[0], found["ys"], rtol=1e-10)
    for ours, name in ((c, "c"), (h, "h"), (cc, "c_hat"), (hh, "h_hat")):
        np.testing.assert_allclose(ours[0], found["state"][name], rtol=1e-10)


def test_initial_values():
    layer = HyperLSTM(8, hyper_features=4, embedding=2, time_scale=20.0)
    params = jax.jit(layer.init)(jax.random.key(0), jnp.ones((1, 1, 2)))
    cell = params["params"]["rnn_0"]["cell"]
    assert not np.any(cell["scale_embedding"]["kernel"])
    np.testing.assert_array_equal(cell["scale_embedding"]["bias"], 1.0)
    np.testing.assert_allclose(cell["scale"]["kernel"], 0.05)
    assert not np.any(cell["shift"]["kernel"])
    assert 0.001 < np.std(cell["bias_embedding"]["kernel"]) < 0.02
    for name, size in (("hidden", 8), ("hyper_hidden", 4)):
        for block in np.split(np.asarray(cell[name]["kernel"]), 4, axis=1):
            np.testing.assert_allclose(block @ block.T, np.eye(size), atol=1e-5)
    i, f, g, o = cell["gates"]["gate_norm"]["bias"]
    np.testing.assert_allclose(i, -f)
    assert np.all((f > 0) & (f < np.log(40)))
    assert not np.any(g)
    assert not np.any(o)
    np.testing.assert_array_equal(cell["hyper_gates"]["gate_norm"]["bias"], np.eye(4)[1][:, None] * np.ones(4))
    assert not np.any(cell["bias"])


def test_dropout_is_of_candidates_and_anew_at_each_timestep():
    layer = HyperLSTM(64, hyper_features=4, embedding=2, layer_norm=False, dropout=0.5)
    xs = np.ones((1, 2, 3))
    _, ys = common.apply(
        layer, common.randomized(layer, xs), xs, deterministic=False, rngs={"dropout": jax.random.key(1)}
    )
    dropped = ys[0] == 0  # a dropped candidate leaves the memory of the first timestep empty
    assert 16 < dropped[0].sum() < 48
    assert np.any(dropped[0] & ~dropped[1])


def count(m, r, h, z, layer_norm=True):
    """The formula of the parameter count."""
    lstms = 4 * m * (r + m) + 4 * m + 4 * h * (r + m + h) + 4 * h
    return lstms + 8 * (h * z + z) + 4 * h * z + 12 * z * m + layer_norm * 10 * (m + h)


def test_equal_widths():
    assert common.num_params(HyperLSTM(139), 1) == count(139, 1, 139 // 4, 139 // 16)
    assert common.num_params(HyperLSTM(1191), 205) == count(1191, 205, 1191 // 4, 1191 // 16)
    for budget, inputs, features in (
        (121_303, 1, 139),
        (368_509, 1, 243),
        (368_509, 65, 219),
        (5_794_009, 12, 962),
        (10_000_000, 205, 1191),
        (50_100_000, 205, 2764),
    ):
        off = [abs(count(m, inputs, m // 4, m // 16) - budget) for m in (features - 1, features, features + 1)]
        assert min(off) == off[1]


def test_published_counts():
    small = HyperLSTM(1800, hyper_features=256, embedding=64, layer_norm=False)
    assert common.num_params(small, 205) + 205 * 1801 == 18_708_213  # 18.71M
    large = HyperLSTM(2048, hyper_features=512, embedding=64)
    assert common.num_params(large, 205) + 205 * 2049 == 26_541_773  # 26.54M


def test_options_are_checked():
    with pytest.raises(ValueError, match="embedding must be at least 1, got 0"):
        HyperLSTM(4, embedding=0)
    with pytest.raises(ValueError, match="hyper_dropout must be a probability"):
        HyperLSTM(4, hyper_dropout=1.0)
