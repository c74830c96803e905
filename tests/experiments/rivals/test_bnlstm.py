"""The batch-normalized LSTM against its equations in numpy, in evaluation and in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rivals.bnlstm import BNLSTM
from tests.experiments.rivals import common
from tests.experiments.rivals.oracles import bnlstm

M, STEPS, NAMES = common.FEATURES, 3, ("input", "hidden", "memory")


def weights(params):
    """The weights of a layer as the oracle takes them."""
    cell = params["cell"]
    found = {"Wx": cell["input"]["kernel"], "Wh": cell["hidden"]["kernel"], "b": cell["bias"]}
    found |= {"gx": cell["input_norm"]["scale"], "gh": cell["hidden_norm"]["scale"]}
    found |= {"gc": cell["memory_norm"]["scale"], "bc": cell["memory_norm"]["bias"]}
    return found | {"c0": params["c"], "h0": params["h"]}


@pytest.mark.usefixtures("x64")
def test_evaluation():
    layer = BNLSTM(M, num_layers=2, max_steps=STEPS, param_dtype=np.float64)
    xs = common.inputs()
    variables = common.randomized(layer, xs)
    carries, ys = common.apply(layer, variables, xs)
    for row in range(common.BATCH):
        found = xs[row]
        for index in range(2):
            stats = variables["batch_stats"][f"layer_{index}"]
            population = {name: (stats[f"{name}_mean"], stats[f"{name}_var"]) for name in NAMES}
            found, c, h = bnlstm.evaluate(found, weights(variables["params"][f"layer_{index}"]), population)
            np.testing.assert_allclose(carries[index][0][row], c, rtol=1e-10)
            np.testing.assert_allclose(carries[index][1][row], h, rtol=1e-10)
            assert carries[index][2][row] == common.STEPS
        np.testing.assert_allclose(ys[row], found, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_training():
    """The outputs and the population estimates, in two chunks; some sequences end early, and one is padding."""
    layer = BNLSTM(M, max_steps=STEPS, momentum=0.75, param_dtype=np.float64)
    xs, lengths = common.inputs(4, common.STEPS, common.INPUTS), np.array([5, 4, 0, 1])
    variables = common.randomized(layer, xs)
    params, stats = variables["params"], variables["batch_stats"]

    @jax.jit
    def run(variables, xs):
        options = {"return_carry": True, "deterministic": False, "mutable": ["batch_stats"]}
        (carry, first), updates = layer.apply(variables, xs[:, :2], seq_lengths=np.minimum(lengths, 2), **options)
        options |= {"initial_carry": carry, "seq_lengths": np.maximum(lengths - 2, 0)}
        (carry, second), updates = layer.apply({"params": params} | updates, xs[:, 2:], **options)
        return carry, jnp.concatenate([first, second], 1), updates["batch_stats"]

    ((_, h, t),), ys, updates = run(variables, xs)
    expected, found = bnlstm.train(xs, lengths, weights(params["layer_0"]))
    for (row, step), y in expected.items():
        np.testing.assert_allclose(ys[row, step], y, rtol=1e-10)
        if step == lengths[row] - 1:
            np.testing.assert_allclose(h[row], y, rtol=1e-10)
    np.testing.assert_array_equal(t, lengths)
    for name in NAMES:
        for index, leaf in enumerate(("mean", "var")):
            batch = np.stack([each[index] for each in found[name]])
            batch = np.stack([batch[0], batch[1], batch[2:].mean(0)])
            old, new = stats["layer_0"][f"{name}_{leaf}"], updates["layer_0"][f"{name}_{leaf}"]
            np.testing.assert_allclose(new, 0.75 * old + 0.25 * batch, rtol=1e-10, atol=1e-12)


def test_initial_values():
    layer = BNLSTM(8, time_scale=20.0)
    variables = jax.jit(layer.init)(jax.random.key(0), jnp.ones((2, 3, 4)))
    params, stats = variables["params"]["layer_0"], variables["batch_stats"]["layer_0"]
    cell = params["cell"]
    for name in NAMES:
        np.testing.assert_allclose(cell[f"{name}_norm"]["scale"], 0.1)
        assert not np.any(stats[f"{name}_mean"])
        np.testing.assert_array_equal(stats[f"{name}_var"], 1)
        assert len(stats[f"{name}_var"]) == 3
    assert not np.any(params["c"])
    assert not np.any(params["h"])
    assert not np.any(cell["memory_norm"]["bias"])
    i, f, g, o = np.split(np.asarray(cell["hidden"]["kernel"]), 4, axis=1)
    np.testing.assert_array_equal(g, np.eye(8))
    gates = np.concatenate([i, f, o], axis=1)
    np.testing.assert_allclose(gates @ gates.T, np.eye(8), atol=1e-5)
    kernel = np.asarray(cell["input"]["kernel"])
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(4), atol=1e-5)
    i, f, g, o = np.split(np.asarray(cell["bias"]), 4)
    np.testing.assert_allclose(i, -f)
    assert np.all((f > 0) & (f < np.log(40)))
    assert not np.any(np.concatenate([g, o]))


def test_noise_bounds_the_gradients_of_what_does_not_vary():
    """Without the noise the gradients are not finite here."""
    xs = np.zeros((8, 784, 1), np.float32)
    xs[:, 100:] = common.inputs(8, 684, 1)
    layer = BNLSTM(4, state_noise=0.1)

    @jax.jit
    def norm():
        variables = layer.init(jax.random.key(0), xs)

        def loss(params):
            options = {"deterministic": False, "mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(1)}}
            ys, _ = layer.apply(variables | {"params": params}, xs, **options)
            return (ys[:, -1] * np.arange(8.0, dtype=np.float32)[:, None]).sum()

        return sum((leaf**2).sum() for leaf in jax.tree.leaves(jax.grad(loss)(variables["params"]))) ** 0.5

    assert norm() < 1e3


def count(m, r):
    """The formula of the parameter count."""
    return 4 * m * (r + m) + 14 * m + 2 * m


def test_parameter_counts():
    assert common.num_params(BNLSTM(172), 1) == count(172, 1)
    for budget, inputs, features in (
        (121_303, 1, 172),
        (368_509, 1, 301),
        (368_509, 65, 271),
        (5_794_009, 12, 1196),
        (10_000_000, 205, 1480),
        (50_100_000, 205, 3436),
    ):
        off = [abs(count(m, inputs) - budget) for m in (features - 1, features, features + 1)]
        assert min(off) == off[1]


def test_options_are_checked():
    for options, message in (
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1"),
        ({"state_noise": -1.0}, "state_noise must not be negative"),
    ):
        with pytest.raises(ValueError, match=message):
            BNLSTM(4, **options)
