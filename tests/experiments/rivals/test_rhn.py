"""The recurrent highway network against its equations in numpy, labml's, and the counts of the literature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rivals.rhn import RHN
from tests.experiments.rivals import common, widths
from tests.experiments.rivals.oracles.rhn import rhn


def weights_of(params, num_layers):
    """The parameters of a layer as the oracle has them."""
    cell, weights = params["rnn"]["cell"], {}
    weights["Wh"], weights["Wt"] = np.split(np.asarray(cell["input"]["kernel"]), 2, axis=1)
    hidden = np.stack([cell[f"hidden_{d}"]["kernel"] for d in range(num_layers)])
    weights["Rh"], weights["Rt"] = np.split(hidden, 2, axis=2)
    weights["bh"], weights["bt"] = np.split(np.asarray(cell["bias"]), 2, axis=1)
    return weights


@pytest.mark.usefixtures("x64")
def test_the_equations():
    layer = RHN(common.FEATURES, param_dtype=np.float64, num_layers=3)
    xs, h = common.inputs(), common.inputs(common.BATCH, common.FEATURES, seed=2)
    variables = common.randomized(layer, xs)
    carry, ys = common.apply(layer, variables, xs, initial_carry=h)
    for row in range(common.BATCH):
        expected = rhn(xs[row], weights_of(variables["params"], 3), h[row])
        np.testing.assert_allclose(ys[row], expected, rtol=1e-10)
        np.testing.assert_allclose(carry[row], expected[-1], rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_the_masks_are_fixed_over_a_sequence():
    """The masks are found by their effects, 0 or 1 / (1 - rate), and the oracle repeats the outputs with them."""
    options = {"param_dtype": np.float64, "num_layers": 2}
    layer = RHN(common.FEATURES, input_dropout=0.5, state_dropout=0.5, output_dropout=0.5, **options)
    xs = common.inputs()
    variables = common.randomized(layer, xs)
    _, ys = common.apply(layer, variables, xs, deterministic=False, rngs={"dropout": jax.random.key(3)})
    weights, rows = weights_of(variables["params"], 2), []
    for row in range(common.BATCH):
        kept = ys[row, 0] != 0
        assert ((ys[row] != 0) == kept).all()
        rows.append((kept.tobytes(), *masks_that_give(xs[row], ys[row], kept, weights)))
    (kept, input_mask, state_mask), other = rows
    assert (kept, input_mask, state_mask) != other  # each sequence has its own
    assert set(input_mask) | set(other[1]) == {0.0, 2.0} == set(state_mask) | set(other[2])


def masks_that_give(xs, ys, kept, weights):
    """The only masks of the inputs and of the state with which the oracle gives the outputs."""
    found = []
    for bits in range(2 ** (common.INPUTS + common.FEATURES)):
        mask = 2.0 * np.array([bits >> n & 1 for n in range(common.INPUTS + common.FEATURES)])
        masks = mask[: common.INPUTS], mask[common.INPUTS :]
        expected = 2.0 * rhn(xs, weights, np.zeros(common.FEATURES), *masks)
        if np.allclose(expected[:, kept], ys[:, kept], rtol=1e-10):
            found.append(tuple(map(tuple, masks)))
    (only,) = found
    return only


@pytest.mark.usefixtures("x64")
def test_the_network_of_labml():
    stored = common.fixture("rhn_labml")
    layer = RHN(4, param_dtype=np.float64, num_layers=3)
    cell = {"input": {"kernel": stored["cells.0.input_lin.weight"].T}}
    hidden = [f"cells.0.hidden_lin.{d}" for d in range(3)]
    cell |= {f"hidden_{d}": {"kernel": stored[f"{name}.weight"].T} for d, name in enumerate(hidden)}
    cell["bias"] = np.stack([stored[f"{name}.bias"] for name in hidden])
    end, ys = common.apply(layer, {"params": {"rnn": {"cell": cell}}}, stored["xs"])
    np.testing.assert_allclose(ys, stored["ys"], rtol=1e-10)
    np.testing.assert_allclose(end, stored["end"], rtol=1e-10)


def test_the_parameters():
    assert common.num_params(RHN(1500), 205) + 205 * 205 + 1500 * 205 + 205 == 45_994_730


@pytest.mark.parametrize(
    ("depth", "nearest"), [(5, (110, 191, 185, 759, 979, 2217)), (10, (77, 135, 132, 537, 696, 1572))]
)
def test_equal_widths(depth, nearest):
    widths.check(lambda m: RHN(m, num_layers=depth), nearest)


@pytest.mark.slow
def test_what_it_starts_with():
    """Transform biases of -4, or such that all layers of a timestep together keep 0.5..2T / (2T + 1) of the state."""
    xs = jnp.ones((1, 784, 1))

    @jax.jit
    def start(key):
        layer = RHN(3, num_layers=2, time_scale=100.0)
        variables = layer.init(key, xs)
        plain = RHN(3, num_layers=2).init(key, xs[:, :2])
        return variables, plain, jax.grad(lambda v: layer.apply(v, xs)[:, -1].sum())(variables)

    variables, plain, grads = start(jax.random.key(0))
    cell = plain["params"]["rnn"]["cell"]
    np.testing.assert_array_equal(cell["bias"][:, 3:], -4.0)
    for leaf in (cell["bias"][:, :3], cell["input"]["kernel"], cell["hidden_1"]["kernel"]):
        assert 0.01 < np.abs(leaf).max() <= 0.04
    transform = np.asarray(variables["params"]["rnn"]["cell"]["bias"][:, 3:], np.float64)
    keeps = np.prod(1 - 1 / (1 + np.exp(-transform)), axis=0)
    np.testing.assert_array_equal(transform[0], transform[1])
    assert (keeps >= 0.5).all()
    assert (keeps <= 200 / 201 + 1e-6).all()
    assert len(set(keeps)) == 3
    assert all(np.isfinite(leaf).all() and np.any(leaf != 0) for leaf in jax.tree.leaves(grads))


def test_depth_must_be_positive():
    with pytest.raises(ValueError, match="num_layers must be at least 1, got 0"):
        RHN(3, num_layers=0).init(jax.random.key(0), jnp.ones((1, 2, 3)))
