"""The dilated recurrent networks against their equations in numpy, torch's layers, and the counts of the literature."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rivals.dilated import DilatedGRU, DilatedLSTM, DilatedRNN
from tests.experiments.rivals import common, widths
from tests.experiments.rivals.oracles.dilated import dilated

LAYERS = {"rnn": DilatedRNN, "gru": DilatedGRU, "lstm": DilatedLSTM}


def weights_of(cell, kind):
    """The parameters of a level as the oracle has them."""
    if kind == "gru":
        w = {"W": cell["gates_input"]["kernel"], "b": cell["gates_input"]["bias"], "U": cell["gates_hidden"]["kernel"]}
        new = {"Wn": cell["new_input"]["kernel"], "bn": cell["new_input"]["bias"], "Un": cell["new_hidden"]["kernel"]}
        return w | new
    if kind == "lstm":
        return {"Wx": cell["input"]["kernel"], "Wh": cell["hidden"]["kernel"], "b": cell["input"]["bias"]}
    return {"W": cell["i"]["kernel"], "U": cell["h"]["kernel"], "b": cell["i"]["bias"]}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", LAYERS)
def test_the_equations(kind):
    """Outputs, the last states of sequences of different lengths, and the side by side outputs of a first dilation."""
    dilations, lengths = (2, 3, 8), np.array([7, 4])
    layer = LAYERS[kind](common.FEATURES, param_dtype=np.float64, num_layers=3, dilations=dilations)
    xs = common.inputs(2, 7, common.INPUTS)
    variables = common.randomized(layer, xs)
    carries, ys = common.apply(layer, variables, xs, seq_lengths=lengths)
    weights = [weights_of(variables["params"][f"cell_{level}"], kind) for level in range(3)]
    zeros = np.zeros(common.FEATURES)
    for row, length in enumerate(lengths):
        expected, levels = dilated(xs[row, :length], kind, common.FEATURES, weights, dilations)
        side_by_side = np.concatenate([np.concatenate([[zeros], expected[:-1]]), expected], axis=1)
        np.testing.assert_allclose(ys[row, :length], side_by_side, rtol=1e-10)
        for carry, states, dilation in zip(carries, levels, dilations, strict=True):
            last = ([(zeros,) * len(states[0])] * dilation + states)[-dilation:]
            parts = carry[::-1] if kind == "lstm" else [carry]
            for part, expected_part in zip(parts, zip(*last, strict=True), strict=True):
                np.testing.assert_allclose(part[row], np.array(expected_part), rtol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_layers_of_torch(kind):
    stored = common.fixture("dilated_torch")
    layer = LAYERS[kind](4, param_dtype=np.float64, num_layers=3)
    params = {}
    for level in range(3):
        w = {name: stored[f"{kind}{level}_{name}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        bias = w["bias_ih"] + w["bias_hh"]
        of_input, of_state = ("input", "hidden") if kind == "lstm" else ("i", "h")
        params[f"cell_{level}"] = {
            of_input: {"kernel": w["weight_ih"].T, "bias": bias},
            of_state: {"kernel": w["weight_hh"].T},
        }
    _, ys = common.apply(layer, {"params": params}, stored["xs"])
    np.testing.assert_allclose(ys, stored[f"{kind}_ys"], rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_a_dilation_of_1_is_the_plain_network_and_chunks_continue_the_side_by_side_outputs():

    xs = common.inputs(2, 7, common.INPUTS)
    layer = DilatedRNN(common.FEATURES, param_dtype=np.float64, num_layers=1)
    variables = common.randomized(layer, xs)
    plain = nn.RNN(nn.SimpleCell(common.FEATURES, param_dtype=np.float64))
    expected = plain.apply({"params": {"cell": variables["params"]["cell_0"]}}, xs)
    np.testing.assert_allclose(common.apply(layer, variables, xs)[1], expected, rtol=1e-12)

    layer = DilatedRNN(common.FEATURES, param_dtype=np.float64, num_layers=1, dilations=(3,))
    carry, first = common.apply(layer, variables, xs[:, :2])
    _, second = common.apply(layer, variables, xs[:, 2:], initial_carry=carry)
    _, whole = common.apply(layer, variables, xs)
    np.testing.assert_allclose(np.concatenate([first, second], 1), whole, rtol=1e-12)


def test_the_parameters():
    for layer, gates in ((DilatedRNN, 1), (DilatedGRU, 3), (DilatedLSTM, 4)):
        assert common.num_params(layer(4, num_layers=2), 3) == gates * (4 * (3 + 4) + 4 + 4 * (4 + 4) + 4)
    assert common.num_params(DilatedGRU(20), 1) == 21_000
    assert common.num_params(DilatedGRU(50), 1) == 129_000


@pytest.mark.slow
def test_equal_widths():
    widths.check(DilatedGRU, (48, 85, 83, 336, 437, 985))


@pytest.mark.slow
def test_what_it_starts_with():
    """A time scale of 64 is one of 16 for a dilation of 4; gradients are finite over 784 timesteps."""
    xs, layer = jnp.ones((1, 784, 1)), DilatedGRU(3, num_layers=2, dilations=(4, 256), time_scale=64.0)

    @jax.jit
    def start(key):
        variables = layer.init(key, xs)
        return variables, jax.grad(lambda v: layer.apply(v, xs)[:, -1].sum())(variables)

    variables, grads = start(jax.random.key(0))
    for level, longest in enumerate((2 * 64 / 4, 1.0)):
        bias = variables["params"][f"cell_{level}"]["gates_input"]["bias"]
        np.testing.assert_array_equal(bias[:3], 1.0)
        assert (bias[3:] >= 0).all()
        assert (bias[3:] <= np.log(longest)).all()
    assert bool(variables["params"]["cell_0"]["gates_input"]["bias"][3:].any())
    assert all(np.isfinite(leaf).all() and np.any(leaf != 0) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"num_layers": 2, "dilations": (1,)}, r"dilations=\(1,\) are not num_layers=2"),
        ({"num_layers": 2, "dilations": (0, 1)}, "positive"),
        ({"num_layers": 2, "dilations": (4, 2)}, "less than the first"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        DilatedRNN(3, **options).init(jax.random.key(0), jnp.ones((1, 2, 3)))
