"""minGRU and minLSTM against their equations in numpy, with large numbers, and how they start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rivals.mingru import MinGRU
from tests.experiments.rivals import common
from tests.experiments.rivals.oracles import mingru as oracle

M = common.FEATURES


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("positive", [False, True])
def test_the_equations(cell, positive):
    layer = MinGRU(M, param_dtype=np.float64, num_layers=2, cell=cell, positive=positive)
    xs = common.inputs()
    variables = common.randomized(layer, xs)
    carries, ys = common.apply(layer, variables, xs)
    params, candidate = variables["params"], oracle.positive if positive else lambda a: a
    for row in range(common.BATCH):
        found = xs[row]
        for index in range(2):
            gates, written = (params[f"{name}_{index}"] for name in ("gates", "candidate"))
            weights = {"Wh": written["kernel"], "bh": written["bias"]}
            if cell == "gru":
                weights |= {"Wz": gates["kernel"], "bz": gates["bias"]}
                found, h = oracle.mingru(found, weights, np.zeros(M), candidate)
            else:
                for kind, name in (("W", "kernel"), ("b", "bias")):
                    weights[f"{kind}f"], weights[f"{kind}i"] = np.split(gates[name], 2, axis=-1)
                found, h = oracle.minlstm(found, weights, np.zeros(M), candidate)
            np.testing.assert_allclose(carries[index][row], h, rtol=1e-10)
        np.testing.assert_allclose(ys[row], found, rtol=1e-10)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_gradients_are_finite_where_gates_are_shut(cell):
    layer = MinGRU(M, num_layers=1, cell=cell)
    xs = 100 * jnp.asarray(common.inputs(1, 50, 1), jnp.float32)  # gates that are 0 or 1 in float32
    variables = jax.tree.map(jnp.float32, common.randomized(layer, xs))
    found = jax.jit(jax.value_and_grad(lambda v: layer.apply(v, xs).sum()))(variables)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_memory_lasts_for_the_time_scale(cell):
    layer = MinGRU(50, num_layers=1, cell=cell, time_scale=100.0)
    xs = jnp.zeros((1, 2, 3))
    variables = layer.init(jax.random.key(0), xs)
    ys = layer.apply(variables, xs, initial_carry=(jnp.ones((1, 50)),))
    kept = ys[0, 0]  # u / (u + 1), u in 1..200
    assert kept.min() >= 0.5
    assert kept.max() <= 200 / 201 + 1e-6
    assert (kept > 100 / 101).mean() > 0.25
    np.testing.assert_allclose(ys[0, 1], kept**2, rtol=1e-5)


def test_the_numbers_of_parameters():
    assert common.num_params(MinGRU(5, num_layers=1), 3) == 2 * 5 * (3 + 1)
    assert common.num_params(MinGRU(5, num_layers=1, cell="lstm"), 3) == 3 * 5 * (3 + 1)


def test_what_is_wrong_with_the_cell():
    with pytest.raises(ValueError, match="cell is 'rnn': give 'gru' or 'lstm'"):
        MinGRU(M, cell="rnn")
