"""Every rival in the training loop of every task that it can do: wiring, budgets, options, resuming."""

import dataclasses
import functools
import hashlib
import math

import jax
import numpy as np
import pytest

from experiments import addition, language, memorization, mnist, tasks
from experiments.datasets import texts
from experiments.datasets.base import Dataset
from experiments.rivals import RIVALS, arguments
from experiments.rivals.bnlstm import BNLSTM
from experiments.rivals.lstm import LSTM
from experiments.rivals.unitary import URNN
from experiments.running import steps
from experiments.running import workdir as wd
from experiments.running.models import ModelOptions
from experiments.running.networks import LastStepClassifier, SymbolLabeler, count_parameters
from experiments.running.options import EpochOptions
from experiments.running.pretrained import best_so_far
from experiments.running.symbols import SampleOptions
from tests.experiments.rivals import widths
from tests.experiments.rivals.common import ALL, randomized
from tests.experiments.small_runs import TEXT, TINY, assert_same_run, killed_at, striped

EPOCHS = EpochOptions(batch_size=2, epochs=1)


def built(task, model):
    """A small experiment of a task, with zeros for the initial parameters, since compiling these takes long."""
    found = {}

    def build():
        if task == "memorization":
            options = memorization.Options(length=2, num_symbols=4, model=model, train=SampleOptions(batch_size=2))
            found["it"] = memorization.build(options)
        elif task == "addition":
            options = addition.Options(digits=1, model=model, train=SampleOptions(batch_size=2))
            found["it"] = addition.build(options)
        elif task == "language":
            corpus = texts.Corpus("stdlib", TEXT, hashlib.sha256(TEXT).hexdigest())
            found["it"] = language.build(language.Options(steps=5, model=model, train=EPOCHS), corpus)
        else:
            data = Dataset("digits", striped(4, 0), striped(2, 1), striped(2, 2), 3, 16)
            found["it"] = mnist.build(mnist.Options(data="digits", model=model, train=EPOCHS), data)
        return found["it"].params

    shapes = jax.eval_shape(build)
    return dataclasses.replace(found["it"], params=jax.tree.map(lambda z: np.zeros(z.shape, z.dtype), shapes))


@pytest.mark.parametrize("name", ALL)
def test_every_task(name):
    """A training step and an evaluation are traced; the state keeps its shapes and dtypes."""
    rival = RIVALS[name]
    assert rival.carries or "language" not in rival.tasks, "text is read in chunks"
    fewer = min(2, rival.num_layers) if "num_layers" in rival.__dataclass_fields__ else None
    for task_name, info in tasks.TASKS.items():
        model = dataclasses.replace(info.model, model=name, features=4, num_layers=fewer)
        if task_name not in rival.tasks:
            with pytest.raises(ValueError, match=f"model {name} cannot be trained on {task_name}, only on "):
                built(task_name, model)
            continue
        if task_name == "addition":
            continue  # which is memorization with other data
        experiment = built(task_name, model)
        task, options = experiment.task, EPOCHS
        state = steps.stack(steps.starting_states([task], [experiment.params], options, 2))
        batch = {key: z[None, :2] for key, z in task.batch(0).items()}
        batch["weights"] = np.ones((1, 2), np.float32)
        train_step = functools.partial(steps.train_steps, steps.Program.of(task, options, 1))
        batches = jax.tree.map(lambda z: z[:, None], batch)
        after, means = jax.eval_shape(train_step, state, batches, steps.settings([options]), task.data)
        assert means.shape == (1, 1, len(state.totals))
        assert jax.tree.map(lambda z: (z.shape, z.dtype), after) == jax.tree.map(lambda z: (z.shape, z.dtype), state)
        eval_step = functools.partial(steps.eval_step, task.objective, 1)
        totals, carry = jax.eval_shape(eval_step, state.params, batch, state.carry, task.data)
        assert totals.keys() == state.totals.keys()
        assert jax.tree.structure(carry) == jax.tree.structure(state.carry)


@pytest.mark.parametrize(
    ("options", "features"),
    [
        ({"model": "lstm"}, 272),
        ({"model": "lstm", "num_layers": 3}, 129),
        ({"model": "urnn", "params": "128703"}, 1838),  # M = 919 complex units, 2RM + 10M
        ({"model": "slstm"}, 210),
        ({"model": "tlstm", "tensor_shape": (4, 4), "norm": "channel"}, 100),
    ],
)
def test_the_core_is_what_a_budget_counts(options, features):
    """The widths of the literature's comparison (spec, section 1.2), for memorization."""
    budget = "368509" if options["model"] != "tlstm" else "378309"
    default = tasks.MEMORIZATION.model
    model = dataclasses.replace(default, **{"params": budget, **options}).resolved(default, inputs=65)
    assert model.features == features


@pytest.mark.parametrize(
    ("budget", "features"), [*zip(widths.BUDGETS, (123, 214, 210, 850, 1105, 2489), strict=True)], ids=str
)
def test_equal_widths_of_the_slstm(budget, features):
    """Whose layers share their parameters, so that it has one width for all depths (spec, section 1.2)."""
    (params, inputs), default = budget, tasks.MEMORIZATION.model
    for layers in (1, 6):
        model = dataclasses.replace(default, model="slstm", num_layers=layers, params=str(params))
        assert model.resolved(default, inputs=inputs).features == features


def test_the_counts_of_the_tlstm():
    """Its kernels are the first budgets (spec, section 1.2); its core, and all of table 1's and of table 3's models
    (sections 0.1 and 6), with their heads. Table 1's M is not known; with 1200 it would be 52.5M.
    """
    default, shapes = tasks.MEMORIZATION.model, {(121_303, 1): (4,), (368_509, 1): (4, 4), (5_794_009, 12): (4, 4)}
    for (budget, inputs), shape in shapes.items():
        model = dataclasses.replace(default, features=400 if inputs == 12 else 100, tensor_shape=shape)
        kernel, bias = (model.config.param_shapes(inputs)["hidden"][name] for name in ("kernel", "bias"))
        assert math.prod(kernel) + math.prod(bias) == budget
    assert dataclasses.replace(default, features=100, tensor_shape=(4,)).core_size(65) == 128_703
    for features, count in ((1172, 50_114_934), (1200, 52_521_814)):
        large = dataclasses.replace(tasks.LANGUAGE.model, features=features, tensor_shape=(6, 6))
        assert large.name == "3D tLSTM+CN"
        symbols = jax.ShapeDtypeStruct((1, 1), np.int32)
        initial = jax.eval_shape(SymbolLabeler(large.layer(), 205).init, jax.random.key(0), symbols)
        assert count_parameters(initial["params"]) == count
    for depth, count in ((3, 371_519), (5, 374_719)):
        images = ModelOptions(preset="3d+CN", depth=depth, features=100).resolved(tasks.MNIST.model)
        xs = jax.ShapeDtypeStruct((1, 784, 1), np.float32)
        initial = jax.eval_shape(LastStepClassifier(images.layer(), 10).init, jax.random.key(0), xs)
        assert count_parameters(initial["params"]) == count


def test_options():
    assert arguments.parse("lstm", LSTM, ["output-peephole=TRUE"]) == {"output_peephole": True}
    for word, message in {
        "gates=1": "rival_options of lstm must be name=value with one of output_peephole, got 'gates=1'",
        "output_peephole": "must be name=value",
        "output_peephole=2": "output_peephole of lstm must be true or false, got '2'",
    }.items():
        with pytest.raises(ValueError, match=message):
            ModelOptions(model="lstm", rival_options=(word,)).resolved(ModelOptions())
    with pytest.raises(ValueError, match="rival_options must have output_peephole once"):
        arguments.parse("lstm", LSTM, ["output_peephole=true"] * 2)
    with pytest.raises(ValueError, match="num_layers does not apply to urnn, got 2"):
        ModelOptions(model="urnn", num_layers=2).resolved(ModelOptions())
    with pytest.raises(
        ValueError, match=r"which hidden_modes of tt-gru fixes, got params 9K and hidden_modes \(5, 2\)"
    ):
        ModelOptions(model="tt-gru", params="9K", rival_options=("hidden_modes=5,2",)).resolved(ModelOptions())
    with pytest.raises(ValueError, match="rival_options does not apply to tlstm, got tied=false"):
        ModelOptions(rival_options=("tied=false",)).resolved(ModelOptions())
    assert arguments.value("1,2,4", tuple[int, ...] | None) == (1, 2, 4)
    assert arguments.value("none", float | None) is None
    assert {name for name in RIVALS if arguments.explanation(name, RIVALS[name])} == {*RIVALS}


def test_statistics_and_noise_are_resumed(tiny, tmp_path, monkeypatch):
    """Batch statistics, which are no parameters, and the noise of each step are those of a run that was not stopped."""
    command = [*TINY, "--model", "bnlstm", "--rival-options", "state_noise=0.1", "--epochs", "2", "--devices", "1"]
    command.remove("--tensor-shape")
    command.remove("2")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert mnist.main([*command, "--workdir", str(whole)]) == 0
    with killed_at(8, monkeypatch):
        mnist.main([*command, "--workdir", str(killed), "--checkpoint-seconds", "0"])
    assert mnist.main([*command, "--workdir", str(killed), "--checkpoint-seconds", "0"]) == 0
    assert_same_run(whole, killed)
    start = mnist.build(mnist.parse([*command, "--workdir", str(whole)])).params
    best, _ = best_so_far(whole, start)
    moved = jax.tree.map(lambda z, old: bool(np.any(z != old)), best["batch_stats"], start["batch_stats"])
    assert all(jax.tree.leaves(moved))
    assert wd.read_summary(whole)["parameters"] < 200


@pytest.mark.parametrize(
    "layer", [LSTM(3, output_peephole=True), URNN(4), BNLSTM(3, max_steps=4)], ids=["lstm", "urnn", "bnlstm"]
)
def test_a_learned_start_is_where_text_begins(layer):
    """The carry before the first characters is zeros for all models, whose initial states they learn."""
    labeler = SymbolLabeler(layer, 5)
    symbols = np.array([[0, 1, 2, 3], [4, 3, 2, 1]])

    @jax.jit
    def logits(variables):
        carry, first = labeler.apply(variables, symbols[:, :2], labeler.zero_carry(2))
        begun, _ = carry
        _, second = labeler.apply(variables, symbols[:, 2:], carry)
        return begun, labeler.apply(variables, symbols)[1], jax.numpy.concatenate([first, second], axis=1)

    begun, whole, chunks = logits(randomized(labeler, symbols))
    assert begun.all()
    np.testing.assert_allclose(chunks, whole, rtol=1e-5, atol=1e-6)


def test_only_parameters_are_counted():
    params = {"params": {"kernel": np.zeros((2, 3))}, "batch_stats": {"mean": np.zeros(5)}}
    assert count_parameters(params) == count_parameters(params["params"]) == 6
