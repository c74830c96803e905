"""The dilated CNN and the TCN against their equations in numpy, PyTorch's TCN, and the counts of the literature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rivals.convolutional import TCN, DilatedCNN
from tests.experiments.rivals import common, widths
from tests.experiments.rivals.oracles import convolutional as oracle

STEPS, LENGTHS = 9, np.array([9, 4])


def pair(part):
    return part["kernel"], part["bias"]


def blocks_of(params, levels):
    """The parameters of a TCN as the oracle has them."""
    blocks = []
    for level in range(levels):
        block = {"res": pair(params[f"res_{level}"])} if f"res_{level}" in params else {}
        for name in ("first", "second"):
            part = params[f"{name}_{level}"]
            block[name] = (part["kernel"], part["scale"], part["bias"])
        blocks.append(block)
    return blocks


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["plain", "gated", "tcn"])
def test_the_equations(kind):
    """Outputs, and the inputs of the first convolution that the carry holds for sequences of two lengths."""
    layer = {
        "plain": DilatedCNN(common.FEATURES, param_dtype=np.float64, num_layers=3, kernel_size=3),
        "gated": DilatedCNN(common.FEATURES, param_dtype=np.float64, num_layers=2, gated=True),
        "tcn": TCN(common.FEATURES, param_dtype=np.float64, num_layers=2, kernel_size=3),
    }[kind]
    xs = common.inputs(2, STEPS, common.INPUTS)
    variables = common.randomized(layer, xs)
    carry, ys = common.apply(layer, variables, xs, seq_lengths=LENGTHS)
    params = variables["params"]
    for row, length in enumerate(LENGTHS):
        if kind == "plain":
            expected = oracle.plain(xs[row], [pair(params[f"conv_{level}"]) for level in range(3)])
        elif kind == "gated":
            weights = {"into": pair(params["into"]), "out": pair(params["out"]), "levels": []}
            for level in range(2):
                skip = pair(params[f"skip_{level}"])
                res = pair(params["res_0"])  # the last one has no influence
                weights["levels"].append({"conv": pair(params[f"conv_{level}"]), "skip": skip, "res": res})
            expected = oracle.gated(xs[row], weights)
        else:
            expected = oracle.tcn(xs[row], blocks_of(params, 2))
        np.testing.assert_allclose(ys[row, :length], expected[:length], rtol=1e-10, atol=1e-14)
        if kind != "gated":
            context = carry["conv_0" if kind == "plain" else "first_0"]
            np.testing.assert_array_equal(context[row], xs[row, length - 2 : length])


@pytest.mark.usefixtures("x64")
def test_the_tcn_of_pytorch():
    stored = common.fixture("tcn_torch")
    layer = TCN(4, param_dtype=np.float64, num_layers=2, kernel_size=3)
    params = {}
    for level in range(2):
        for name, conv in (("first", "conv1"), ("second", "conv2")):
            part = {part: stored[f"network.{level}.{conv}.{part}"] for part in ("bias", "weight_g", "weight_v")}
            kernel, scale = part["weight_v"].transpose(2, 1, 0), part["weight_g"][:, 0, 0]
            params[f"{name}_{level}"] = {"kernel": kernel, "scale": scale, "bias": part["bias"]}
    down = "network.0.downsample"
    params["res_0"] = {"kernel": stored[f"{down}.weight"][:, :, 0].T, "bias": stored[f"{down}.bias"]}
    _, ys = common.apply(layer, {"params": params}, stored["xs"])
    np.testing.assert_allclose(ys, stored["ys"], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("layer", "sees"), [(DilatedCNN(2, num_layers=3), 8), (TCN(2, num_layers=2, kernel_size=3), 13)]
)
def test_how_far_an_output_sees(layer, sees):
    """1 + (k - 1) (2^L - 1) inputs, twice as far back in the TCN."""
    xs = jnp.ones((16, 1))
    params = jax.tree.map(np.abs, common.randomized(layer, xs))  # positive weights: all rectifiers are open
    grads = jax.jit(jax.grad(lambda x: layer.apply(params, x)[-1].sum()))(xs)
    assert np.flatnonzero(grads[:, 0]).min() == 16 - sees


def test_the_parameters():
    assert common.num_params(DilatedCNN(50), 1) + 50 * 10 + 10 == 46_110
    assert common.num_params(TCN(25), 1) + 25 * 10 + 10 == 66_910
    r, m, layers = 3, 4, 10
    gated = r * m + m + layers * (4 * m**2 + 2 * m + 2 * (m**2 + m)) + m**2 + m - (m**2 + m)
    assert common.num_params(DilatedCNN(m, gated=True), r) == gated
    assert common.num_params(DilatedCNN(50, gated=True), 1) > 125_000


@pytest.mark.parametrize(
    ("layer", "nearest"), [(DilatedCNN, (82, 143, 139, 566, 734, 1657)), (TCN, (34, 59, 57, 234, 301, 683))]
)
def test_equal_widths(layer, nearest):
    widths.check(layer, nearest)


@pytest.mark.parametrize("initial_scale", [None, 0.01])
def test_what_the_tcn_starts_with(initial_scale):
    layer = TCN(50, num_layers=1, initial_scale=initial_scale)
    params = jax.jit(layer.init)(jax.random.key(0), jnp.ones((1, 2, 1)))["params"]
    kernel, scale = params["second_0"]["kernel"], params["second_0"]["scale"]
    np.testing.assert_allclose(scale, np.sqrt((kernel**2).sum((0, 1))), rtol=1e-6)
    deviation = initial_scale or (7 * 50) ** -0.5 / 3**0.5
    assert kernel.std() == pytest.approx(deviation, rel=0.05)
    assert np.abs(params["res_0"]["kernel"]).max() < 0.05


def test_dropout_differs_between_keys():
    layer, xs = TCN(common.FEATURES, num_layers=1, dropout=0.5), common.inputs().astype(np.float32)
    variables = common.randomized(layer, xs)
    one, other, none = (
        layer.apply(variables, xs, deterministic=key is None, rngs=key and {"dropout": jax.random.key(key)})
        for key in (1, 2, None)
    )
    assert not np.allclose(one, other)
    assert not np.allclose(one, none)


@pytest.mark.parametrize("rival", [DilatedCNN, TCN])
def test_taps_that_do_not_look_back(rival):
    layer = rival(3, kernel_size=1)
    with pytest.raises(ValueError, match="kernel_size must be at least 2, so that a layer looks back, got 1"):
        layer.init(jax.random.key(0), jnp.ones((1, 2, 3)))
