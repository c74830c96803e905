"""The hierarchical multiscale LSTM against its equations in numpy, its gradient, its cases, and its counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rivals.hmlstm import HMLSTM, boundary
from tests.experiments.rivals import common
from tests.experiments.rivals.oracles.hmlstm import embedding, hmlstm
from tests.experiments.rivals.oracles.lstm import lstm

M, STEPS = common.FEATURES, 8


def weights(params, num_layers):
    """The weights of the layers as the oracle takes them."""
    cell, found = params["rnn"]["cell"], []
    for index in range(num_layers):
        layer = {"U": cell[f"hidden_{index}"]["kernel"], "b": cell[f"hidden_{index}"]["bias"]}
        layer["W"] = cell[f"below_{index}"]["kernel"]
        if index < num_layers - 1:
            layer["V"] = cell[f"above_{index}"]["kernel"]
        if f"gate_norm_{index}" in cell:
            gate, memory = cell[f"gate_norm_{index}"], cell[f"memory_norm_{index}"]
            layer |= {"gain": gate["scale"], "bias": gate["bias"]}
            layer |= {"gain_c": memory["scale"], "bias_c": memory["bias"]}
        found.append(layer)
    return found


def example(num_layers=3, scale=1.0, **options):
    layer = HMLSTM(M, num_layers=num_layers, param_dtype=np.float64, **options)
    xs = common.inputs(common.BATCH, STEPS, common.INPUTS)
    return layer, xs, common.randomized(layer, xs, scale=scale)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("layer_norm", [True, False])
def test_the_equations(layer_norm):
    layer, xs, variables = example(layer_norm=layer_norm, slope=1.5)
    carry, ys = common.apply(layer, variables, xs)
    params, boundaries = variables["params"], []
    for row in range(common.BATCH):
        hs, states, detected = hmlstm(xs[row], weights(params, 3), 1.5)
        expected = embedding(hs, params["output_gates"]["kernel"], params["output"]["kernel"], M)
        np.testing.assert_allclose(ys[row], expected, rtol=1e-10, atol=1e-13)
        for ours, theirs in zip(carry, states, strict=True):
            for leaf, state in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(leaf[row], np.atleast_1d(state), rtol=1e-10)
        boundaries.extend(z for z, _ in detected)
    assert 0.2 < np.mean(boundaries) < 0.8  # all three cases occur


@pytest.mark.usefixtures("x64")
def test_the_gradient_is_that_of_the_straight_through_estimate():
    layer, xs, variables = example(layer_norm=False)
    params = variables["params"]
    output = params["output_gates"]["kernel"], params["output"]["kernel"]
    gradients = jax.jit(jax.grad(lambda v: (layer.apply(v, xs[:1]) ** 2).sum()))(variables)["params"]
    _, _, fixed = hmlstm(xs[0], weights(params, 3))

    def loss(name, leaf, index, change):
        moved = jax.tree.map(np.copy, params)
        moved["rnn"]["cell"][name][leaf][index] += change
        hs, _, _ = hmlstm(xs[0], weights(moved, 3), fixed=fixed)
        return (embedding(hs, *output, M) ** 2).sum()

    detector = 4 * M
    for name, leaf, index in (
        ("hidden_0", "bias", detector),
        ("hidden_1", "kernel", (1, detector)),
        ("below_0", "kernel", (2, detector)),
        ("above_0", "kernel", (0, detector)),
        ("below_1", "kernel", (1, 3)),
        ("below_0", "kernel", (0, M + 1)),
    ):
        slope = (loss(name, leaf, index, 1e-6) - loss(name, leaf, index, -1e-6)) / 2e-6
        assert abs(slope) > 1e-5
        np.testing.assert_allclose(gradients["rnn"]["cell"][name][leaf][index], slope, rtol=1e-5, atol=1e-9)


def test_boundary():
    zt = jnp.array([-3.0, -0.1, 0.0, 0.1, 3.0])
    np.testing.assert_array_equal(boundary(zt, 2.0), [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(jax.vmap(jax.grad(boundary), (0, None))(zt, 2.0), [0, 1, 1, 1, 0])


@pytest.mark.usefixtures("x64")
def test_copy_leaves_the_state_alone():
    layer, xs, variables = example()
    cell = variables["params"]["rnn"]["cell"]
    cell["hidden_0"]["bias"][-1] = cell["hidden_1"]["bias"][-1] = -1e3
    start = [(common.inputs(common.BATCH, M, seed=k), common.inputs(common.BATCH, M, seed=k)) for k in range(3)]
    start = tuple((*state, np.zeros((common.BATCH, 1))) for state in start)
    carry, _ = common.apply(layer, variables, xs, initial_carry=start)
    jax.tree.map(np.testing.assert_array_equal, carry[1:], start[1:])
    assert not np.any(carry[0][0] == start[0][0])


@pytest.mark.usefixtures("x64")
def test_one_layer_is_an_lstm():
    layer, xs, variables = example(1, layer_norm=False, gated_output=False)
    _, ys = common.apply(layer, variables, xs)
    (w,) = weights(variables["params"], 1)
    expected, _, _ = lstm(xs[0], {"Wx": w["W"], "Wh": w["U"], "b": w["b"]}, np.zeros(M), np.zeros(M))
    np.testing.assert_allclose(ys[0], expected, rtol=1e-10)


@pytest.mark.slow
def test_initial_values():
    layer = HMLSTM(8, num_layers=2, time_scale=20.0)
    cell = jax.jit(layer.init)(jax.random.key(0), jnp.ones((1, 1, 2)))["params"]["rnn"]["cell"]
    for index in range(2):
        i, f, g, o = cell[f"gate_norm_{index}"]["bias"]
        np.testing.assert_allclose(i, -f)
        assert np.all((f > 0) & (f < np.log(40)))
        assert not np.any(jnp.concatenate([g, o, cell[f"hidden_{index}"]["bias"]]))
        block = np.asarray(cell[f"hidden_{index}"]["kernel"])[:, 8:16]
        np.testing.assert_allclose(block @ block.T, np.eye(8), atol=1e-5)


def count(m, r, layer_norm=False):
    """The formula of the core parameter count of three layers."""
    lower = sum((4 * m + 1) * (inputs + 2 * m) + 4 * m + 1 for inputs in (r, m))
    return lower + 8 * m**2 + 4 * m + layer_norm * 30 * m


def test_parameter_counts():
    for layer_norm in (False, True):
        assert common.num_params(HMLSTM(65, layer_norm=layer_norm), 1) == count(65, 1, layer_norm)
    for budget, inputs, features in (
        (121_303, 1, 65),
        (368_509, 1, 114),
        (368_509, 65, 110),
        (5_794_009, 12, 454),
        (10_000_000, 205, 583),
        (50_100_000, 205, 1323),
    ):
        off = [abs(count(m, inputs) - budget) for m in (features - 1, features, features + 1)]
        assert min(off) == off[1]
    embedded, gates = 205 * 128, 3 * 3 * 1024
    total = embedded + count(1024, 128) + gates + 3 * 1024 * 2048 + 205 * 2049
    assert total == 36_648_911  # 36.65M; published 35M


def test_the_output_module_is_outside_the_core():
    assert set(HMLSTM.outside_core) == {"output_gates", "output"}
    assert common.num_params(HMLSTM(8), 2) == common.num_params(HMLSTM(8, gated_output=False), 2)


def test_options_are_checked():
    with pytest.raises(ValueError, match=r"slope must be positive, got 0\.0"):
        HMLSTM(4, slope=0.0)
