"""What the tests against the equations are worth: for every model, a mistake in its code that its test must notice."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest

from experiments.rivals import RIVALS

pytestmark = pytest.mark.usefixtures("x64")


class Mistake(NamedTuple):
    """A change of the code of a model, and the test that must fail with it."""

    what: str
    module: str
    """The module of the model in its package; its tests are in the module with ``test_`` before that name."""
    old: str
    """What is in the source of the module once."""
    new: str
    """What replaces it. It leaves all parameters and shapes alone: nothing but the numbers may tell."""
    test: Callable[[ModuleType], None]
    """Calls the test, of a copy of the module of tests that has imported the changed model."""


MISTAKES: dict[str, Mistake] = {
    "slstm": Mistake(
        "a layer reads the one below a timestep late",
        "stacked",
        "            x = h.astype(dtype)\n            layers.append(TLSTMState(c, x))\n",
        "            x = layer.h\n            layers.append(TLSTMState(c, h.astype(dtype)))\n",
        lambda tests: tests.test_outputs_state_and_gradients_are_those_of_flax(
            tests.stacked.StackedLSTMConfig(tests.M, tests.L, param_dtype=np.float64)
        ),
    ),
    "lstm": Mistake(
        "the order of the gates",
        "lstm",
        "c, h = lstm_gates(a, c)",
        "c, h = lstm_gates(jnp.roll(a, self.features, axis=-1), c)",
        lambda tests: tests.test_the_equations(False),
    ),
    "lstm of table 3": Mistake(
        "the output gate reads the old memory cell",
        "lstm",
        "nn.initializers.glorot_uniform())(\n                c\n            )",
        "nn.initializers.glorot_uniform())(\n                carry[0]\n            )",
        lambda tests: tests.test_the_equations(True),
    ),
    "grid": Mistake(
        "no priority of the depth",
        "grid",
        "h_read = h_new if self.priority else h_time",
        "h_read = h_time",
        lambda tests: tests.test_the_equations(True, True, False),
    ),
    "milstm": Mistake(
        "no b1.(h_ U), as in ports of the model",
        "milstm",
        '* wx * uh + scale("beta_hidden", self.beta_hidden) * uh',
        '* wx * uh + 0 * scale("beta_hidden", self.beta_hidden)',
        lambda tests: tests.test_the_equations(False),
    ),
    "mlstm": Mistake(
        "h reaches the gates by itself instead of through m",
        "multiplicative",
        '"factor", use_bias=False, kernel_init=gates)(m)',
        '"factor", use_bias=False, kernel_init=gates)(h)',
        lambda tests: tests.test_the_mlstm({}),
    ),
    "mrnn": Mistake(
        "factors that are added",
        "multiplicative",
        'f = f * self.dense(factors, "factor_hidden"',
        'f = f + self.dense(factors, "factor_hidden"',
        lambda tests: tests.test_the_mrnn({}),
    ),
    "hyperlstm": Mistake(
        "the scales of the input and of the state exchanged",
        "hyperlstm",
        "scale_x, scale_h = jnp.split",
        "scale_h, scale_x = jnp.split",
        lambda tests: tests.test_the_equations(False, 1),
    ),
    "hmlstm": Mistake(
        "the boundary of the layer below a timestep late",
        "hmlstm",
        "_, below, below_z = state",
        "(_, below, _), below_z = state, carry[index][2]",
        lambda tests: tests.test_the_equations(False),
    ),
    "hmlstm in training": Mistake(
        "no gradient through the detectors",
        "hmlstm",
        "astype(zt.dtype) + (ztilde - jax.lax.stop_gradient(ztilde))",
        "astype(zt.dtype)",
        lambda tests: tests.test_the_gradient_is_that_of_the_straight_through_estimate(),
    ),
    "rhn": Mistake(
        "the coupled gates exchanged",
        "rhn",
        "s = s + nn.sigmoid(t) * (jnp.tanh(h) - s)",
        "s = jnp.tanh(h) + nn.sigmoid(t) * (s - jnp.tanh(h))",
        lambda tests: tests.test_the_equations(),
    ),
    "fslstm": Mistake(
        "zoneout's rate taken for the part that is updated",
        "fslstm",
        "old + (1 - rate) * (new - old)",
        "old + rate * (new - old)",
        lambda tests: tests.test_the_equations(),
    ),
    "irnn": Mistake(
        "the activation that Flax's cell has by default",
        "irnn",
        "            activation_fn=relu,\n",
        "",
        lambda tests: tests.test_the_equation(),
    ),
    "urnn": Mistake(
        "no conjugate in the reflections, as in another JAX version",
        "unitary",
        "along[..., None] * over(v.conj(), h)",
        "along[..., None] * over(v, h)",
        lambda tests: tests.test_the_equations(tests.RIVALS[0]),
    ),
    "full-urnn": Mistake(
        "the complex conjugate of W",
        "unitary",
        "jnp.block([[re, im], [-im, re]])",
        "jnp.block([[re, -im], [im, re]])",
        lambda tests: tests.test_the_equations(tests.RIVALS[1]),
    ),
    "full-urnn in training": Mistake(
        "G* W instead of G W* in the update",
        "unitary",
        'jnp.matmul(g, w.conj().T, precision="highest")',
        'jnp.matmul(g.conj().T, w, precision="highest")',
        lambda tests: tests.test_the_update(False),
    ),
    "stanh": Mistake(
        "one matrix for both states",
        "stanh",
        "jnp.tanh(a + product(h, u))",
        "jnp.tanh(a + product(h, v))",
        lambda tests: tests.test_the_equations(False),
    ),
    "bnlstm": Mistake(
        "the estimates of the next timestep",
        "bnlstm",
        "jnp.minimum(t, population[name][0].shape[0] - 1)",
        "jnp.minimum(t + 1, population[name][0].shape[0] - 1)",
        lambda tests: tests.test_evaluation(),
    ),
    "bnlstm in training": Mistake(
        "statistics that include the sequences that have ended",
        "bnlstm",
        "jnp.broadcast_to(valid[..., None], a.shape).astype(a.dtype)",
        "jnp.ones_like(a)",
        lambda tests: tests.test_training(),
    ),
    "dilated-rnn": Mistake(
        "time folded into blocks, not modulo the dilation",
        "dilated",
        "jnp.swapaxes(xs.reshape(*batch, steps, rows, features), -2, -3)",
        "xs.reshape(*batch, rows, steps, features)",
        lambda tests: tests.test_the_equations("rnn"),
    ),
    "dilated-gru": Mistake(
        "the reset gate after the matrix, as in Flax",
        "dilated",
        "kernel_init=square)(r * carry)",
        "kernel_init=square)(carry) * r",
        lambda tests: tests.test_the_equations("gru"),
    ),
    "dilated-lstm": Mistake(
        "states that go on after the end of a sequence",
        "dilated",
        "jnp.where(keep, a, b), new, carry)",
        "a, new, carry)",
        lambda tests: tests.test_the_equations("lstm"),
    ),
    "dilated-cnn": Mistake(
        "dilations 1, 2, 3",
        "convolutional",
        "self.kernel_size, 2**layer, kernel_init=he",
        "self.kernel_size, 1 + layer, kernel_init=he",
        lambda tests: tests.test_the_equations("plain"),
    ),
    "dilated-cnn with gates": Mistake(
        "the gate of the candidate",
        "convolutional",
        "z = jnp.tanh(a) * nn.sigmoid(gate)",
        "z = jnp.tanh(gate) * nn.sigmoid(a)",
        lambda tests: tests.test_the_equations("gated"),
    ),
    "tcn": Mistake(
        "no rectifier after the residual connection",
        "convolutional",
        "us = nn.relu(us + f)",
        "us = us + f",
        lambda tests: tests.test_the_equations("tcn"),
    ),
    "qrnn": Mistake(
        "f taken for the update, as it is in the authors' code",
        "linear",
        "update = nn.sigmoid(-f)",
        "update = nn.sigmoid(f)",
        lambda tests: tests.test_the_equations_of_the_qrnn(1, 0.0),
    ),
    "sru": Mistake(
        "the highway reads the new memory cell",
        "linear",
        "r = r + vr[..., None, :] * before",
        "r = r + vr[..., None, :] * cs",
        lambda tests: tests.test_the_equations_of_the_sru(True, False),
    ),
    "tt-lstm": Mistake(
        "gates that alternate instead of one after the other",
        "tt_rnn",
        "y.reshape(*x.shape[:-1], gates, y.shape[-1] // gates)[..., : self.features]",
        "y.reshape(*x.shape[:-1], y.shape[-1] // gates, gates).swapaxes(-1, -2)[..., : self.features]",
        lambda tests: tests.test_the_equations(tests.TTLSTM, "tjandra"),
    ),
    "tt-gru": Mistake(
        "the reset gate in place of z, as in another version",
        "tt_rnn",
        "z = nn.sigmoid(xz + hz)",
        "z = nn.sigmoid(xr + hr)",
        lambda tests: tests.test_the_equations(tests.TTGRU, "tjandra"),
    ),
    "hot-rnn": Mistake(
        "the order of the gates",
        "hot_rnn",
        "i, j, f, o = jnp.split(pre + v, 4, axis=-1)",
        "i, f, j, o = jnp.split(pre + v, 4, axis=-1)",
        lambda tests: tests.test_the_equations({}),
    ),
    "gflstm": Mistake(
        "a layer's own state for the others', as in a public version",
        "gflstm",
        "g = g + gate * each[..., j * m : (j + 1) * m]",
        "g = g + gate * feedback[j][..., j * m : (j + 1) * m]",
        lambda tests: tests.test_the_equations("scalar"),
    ),
    "neuralgpu": Mistake(
        "the gates exchanged",
        "neuralgpu",
        "u, r = jnp.split",
        "r, u = jnp.split",
        lambda tests: tests.test_the_equations(False),
    ),
    "mingru": Mistake(
        "z keeps the state",
        "mingru",
        "f, i = nn.sigmoid(-z), nn.sigmoid(z)",
        "f, i = nn.sigmoid(z), nn.sigmoid(-z)",
        lambda tests: tests.test_the_equations("gru", False),
    ),
}
"""By the name of the model, which may be followed by the part of it that is wrong."""


def executed(name, old="", new=""):
    """A copy of a module, from its source with a replacement; the module that others have imported remains."""
    spec = importlib.util.find_spec(name)
    source = Path(spec.origin).read_text()
    if old:
        assert source.count(old) == 1
        source = source.replace(old, new)
    module = importlib.util.module_from_spec(spec)
    exec(compile(source, f"copy of {name}", "exec"), module.__dict__)
    return module


def run(model, monkeypatch, change):
    """Runs the test of a model whose module is executed anew, with or without its mistake."""
    mistake = MISTAKES[model]
    package, tests = ("tlstm_jax", "tests.core") if mistake.module == "stacked" else ("experiments.rivals", __package__)
    name = f"{package}.{mistake.module}"
    copy = executed(name, mistake.old, mistake.new if change else mistake.old)
    # The tests import the model from its module, or the module from its package.
    monkeypatch.setitem(sys.modules, name, copy)
    monkeypatch.setattr(sys.modules[package], mistake.module, copy)
    mistake.test(executed(f"{tests}.test_{mistake.module}"))


@pytest.mark.parametrize("model", [pytest.param(model, id=f"{model}: {m.what}") for model, m in MISTAKES.items()])
def test_mistakes_are_noticed(model, monkeypatch):
    """Numbers differ: a test that a mistake makes stop with any other error has not compared them."""
    with pytest.raises(AssertionError, match="Mismatched elements"):
        run(model, monkeypatch, change=True)


@pytest.mark.parametrize("model", MISTAKES)
def test_without_a_mistake_nothing_is_noticed(model, monkeypatch):
    """The same with the copy as it is, so that it is the mistake that the test has noticed, and not the copy."""
    run(model, monkeypatch, change=False)


def test_every_model_has_a_mistake():
    assert {name.split()[0] for name in MISTAKES} == {"slstm", *RIVALS}
