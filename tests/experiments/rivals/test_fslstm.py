"""The Fast-Slow LSTM against its equations in numpy, its dropout and zoneout, and how it starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rivals.fslstm import FSLSTM
from tests.experiments.rivals import common, widths
from tests.experiments.rivals.oracles.fslstm import fslstm

M, SLOW = common.FEATURES, 3


def oracle_weights(cell):
    """The oracle's weights of a cell."""
    return {
        "W": cell["gates"]["kernel"],
        "b": cell["gates"]["bias"],
        "gain": cell["norm"]["scale"],
        "bias": cell["norm"]["bias"],
        "gain_c": cell["norm_c"]["scale"],
        "bias_c": cell["norm_c"]["bias"],
    }


@pytest.mark.usefixtures("x64")
def test_the_equations():
    layer = FSLSTM(M, param_dtype=np.float64, num_layers=3, slow_features=SLOW, zoneout_h=0.05, zoneout_c=0.3)
    xs = common.inputs()
    variables = common.randomized(layer, xs)
    (fast, slow), ys = common.apply(layer, variables, xs)
    cells = variables["params"]["rnn"]["cell"]
    weights = [oracle_weights(cells[f"fast_{index}"]) for index in range(3)]
    for row in range(common.BATCH):
        found, *states = fslstm(
            xs[row],
            weights,
            oracle_weights(cells["slow"]),
            (np.zeros(M), np.zeros(M)),
            (np.zeros(SLOW), np.zeros(SLOW)),
            keep_h=0.95,
            keep_c=0.7,
        )
        np.testing.assert_allclose(ys[row], found, rtol=1e-10)
        for (c, h), (expected_h, expected_c) in zip((fast, slow), states, strict=True):
            np.testing.assert_allclose(c[row], expected_c, rtol=1e-10)
            np.testing.assert_allclose(h[row], expected_h, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_zoneout_in_training():
    size, rate = 300, 0.3
    layer = FSLSTM(size, param_dtype=np.float64, num_layers=2, zoneout_c=rate, zoneout_h=0.1)
    xs = np.zeros((1, 1, 1))
    variables = common.randomized(layer, xs, scale=0.05)
    c = np.random.default_rng(0).standard_normal((1, size))

    def after(key):
        options = {"initial_carry": ((c, c), (c, c)), "deterministic": False, "rngs": {"dropout": key}}
        return layer.apply(variables, xs, return_carry=True, **options)[0]

    _, slow = jax.jit(jax.vmap(after))(jax.random.split(jax.random.key(0), 2))  # it is updated once
    (c_0, c_1), (h_0, h_1) = (new != c for new in slow)
    assert np.isclose(c_0.mean(), 1 - rate, atol=0.08)
    assert np.isclose(h_0.mean(), 0.9, atol=0.06)
    assert (c_0 != c_1).any()
    assert (h_0 != h_1).any()


@pytest.mark.usefixtures("x64")
def test_dropout_is_new_in_each_timestep():
    layer = FSLSTM(64, param_dtype=np.float64, num_layers=2, dropout=0.25)
    xs = common.inputs(1, 6, 2)
    variables = common.randomized(layer, xs)
    options = {"deterministic": False, "rngs": {"dropout": jax.random.key(0)}}
    (fast, _), ys = common.apply(layer, variables, xs, **options)
    dropped = ys[0] == 0
    assert np.isclose(dropped.mean(), 0.25, atol=0.06)
    assert len({tuple(row) for row in dropped}) == 6
    assert (fast[1] != 0).all()  # the state is not dropped
    np.testing.assert_allclose(ys[0, -1][~dropped[-1]], fast[1][0][~dropped[-1]] / 0.75, rtol=1e-10)


@pytest.mark.slow
def test_the_numbers_of_parameters():
    widths.check(lambda m: FSLSTM(m, num_layers=2), [77, 135, 128, 536, 686, 1561])
    widths.check(FSLSTM, [64, 113, 109, 453, 582, 1322])
    core = common.num_params(FSLSTM(1200, slow_features=1500), 256)
    assert round(core / 1e6, 2) == 47.77
    assert round((core + 256 * 205 + 1201 * 205) / 1e6, 2) == 48.07


@pytest.mark.slow
def test_the_beginning():
    layer = FSLSTM(M, num_layers=2)
    cell = layer.init(jax.random.key(0), jnp.ones((1, 2, 3)))["params"]["rnn"]["cell"]["fast_0"]
    for rows in (cell["gates"]["kernel"][:3], cell["gates"]["kernel"][3:]):
        np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-5)
    np.testing.assert_array_equal(cell["norm"]["bias"], np.outer([0, 1, 0, 0], np.ones(M)))
    np.testing.assert_array_equal(cell["norm"]["scale"], np.ones((4, M)))
    np.testing.assert_array_equal(cell["gates"]["bias"], np.zeros(4 * M))


@pytest.mark.parametrize("options", [{"num_layers": 1}, {"slow_features": 0}, {"zoneout_c": 1.0}, {"dropout": -0.1}])
def test_what_is_wrong_with_options(options):
    with pytest.raises(ValueError, match=rf"{next(iter(options))} (is|must be) "):
        FSLSTM(M, **options)
