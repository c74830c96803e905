"""The Neural GPU against its equations in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rivals.neuralgpu import NeuralGPU
from tests.experiments.rivals import common
from tests.experiments.rivals.oracles.neuralgpu import neuralgpu

M, LENGTHS = 5, np.array([common.STEPS, 3])


def weights(params, num_layers):
    """The weights of the layers as the oracle takes them, whose constant in the gates is part of our biases."""
    found = []
    for index in range(num_layers):
        gates, candidate = params["step"][f"gates_{index}"], params["step"][f"candidate_{index}"]
        layer = {"u": gates["kernel"][..., :M], "r": gates["kernel"][..., M:], "c": candidate["kernel"]}
        layer |= {"bu": gates["bias"][:M] - 1, "br": gates["bias"][M:] - 1, "bc": candidate["bias"]}
        found.append(layer)
    return found


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("improved", [False, True])
def test_the_equations(improved):
    """Also with padding, which must not change what comes before it."""
    layer = NeuralGPU(M, rows=3, improved=improved, param_dtype=np.float64)
    xs = common.inputs()
    variables = common.randomized(layer, xs, scale=0.3)
    ys = jax.jit(lambda v, x: layer.apply(v, x, seq_lengths=LENGTHS))(variables, xs)
    params = variables["params"]
    for row, length in enumerate(LENGTHS):
        expected = neuralgpu(xs[row, :length], params["embedding"]["kernel"], weights(params, 2), 3, improved)
        np.testing.assert_allclose(ys[row, :length], expected, rtol=1e-10, atol=1e-13)
        assert np.std(expected) > 0.01


@pytest.mark.usefixtures("x64")
def test_saturated_gates_leave_the_state_alone():
    layer = NeuralGPU(M, num_layers=1, param_dtype=np.float64)
    xs = common.inputs()
    variables = common.randomized(layer, xs, scale=0.1)
    variables["params"]["step"]["gates_0"]["bias"][:] = 10
    ys = jax.jit(layer.apply)(variables, xs)
    np.testing.assert_allclose(ys, xs @ variables["params"]["embedding"]["kernel"], rtol=1e-12)


def test_initial_values_and_counts():
    layer = NeuralGPU(8, num_layers=1)
    step = jax.jit(layer.init)(jax.random.key(0), jnp.ones((1, 2, 3)))["params"]["step"]
    np.testing.assert_array_equal(step["gates_0"]["bias"], 1)
    assert not np.any(step["candidate_0"]["bias"])
    assert common.num_params(layer, 3) == 3 * (9 * 8**2 + 8)
    assert common.num_params(NeuralGPU(24), 12) == 3 * 2 * (9 * 24**2 + 24)


def test_what_it_does_not_do():
    xs = np.zeros((1, 2, 3))
    for arguments in ({"return_carry": True}, {"initial_carry": np.zeros(1)}):
        with pytest.raises(ValueError, match="NeuralGPU has no carry"):
            NeuralGPU(4).init(jax.random.key(0), xs, **arguments)
    with pytest.raises(ValueError, match="rows must be at least 1, got 0"):
        NeuralGPU(4, rows=0)
