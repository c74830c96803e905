"""`python -m experiments.language`: every character is predicted once, the state is carried, text is generated."""

import hashlib
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import language, wikipedia
from experiments.common.files import write_json
from experiments.running import devices, generation, runs, steps
from experiments.running import workdir as wd
from experiments.running.checkpoints import Checkpoints
from experiments.running.models import ModelOptions
from experiments.running.networks import SymbolLabeler
from experiments.running.options import EpochOptions
from tests.experiments.small_runs import TEXT, assert_same_run, killed_at, metrics, replace_texts

TINY = ["--features", "4", "--tensor-shape", "2", "--batch-size", "4", "--steps", "7", "--epochs", "2"]


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.fixture(autouse=True)
def corpus(monkeypatch):
    """A very small one."""
    return replace_texts(monkeypatch)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        replace_texts(monkeypatch)
        assert language.main([*TINY, "--workdir", str(workdir)]) == 0
    return workdir


@pytest.mark.parametrize(
    ("count", "rows", "steps", "delay"), [(100, 4, 7, 0), (101, 7, 5, 3), (8, 7, 3, 2), (10, 7, 3, 1), (50, 1, 50, 4)]
)
def test_every_character_but_the_first_is_predicted_once(count, rows, steps, delay):
    text = np.arange(1, count + 1, dtype=np.int32)
    inputs, targets = language.streams(text, rows, steps, delay, "test")
    assert inputs.shape == targets.shape
    assert (inputs.shape[0], inputs.shape[1] % steps) == (rows, 0)
    predicted = targets[targets != language.UNSCORED]
    assert sorted(predicted) == list(range(2, count + 1))
    row, timestep = np.nonzero(targets != language.UNSCORED)
    np.testing.assert_array_equal(inputs[row, timestep - delay], targets[row, timestep] - 1)


@pytest.mark.parametrize(
    "model",
    [ModelOptions(tensor_shape=(3,)), slow(ModelOptions(tensor_shape=(2, 2))), slow(ModelOptions(model="slstm"))],
)
def test_the_state_is_carried_exactly_from_one_batch_to_the_next(corpus, model):
    """Batches of 7 timesteps give the loss of one pass over each stream."""
    model = ModelOptions(**{**vars(model), "features": 5})
    labeler = SymbolLabeler(model.layer(), len(corpus.vocabulary))
    params = labeler.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    options = language.Options(steps=7, train=EpochOptions(batch_size=3))
    task = language.language_modeling(labeler, model.delay, corpus, options)
    carry, total, count = task.carry(3), 0.0, 0.0
    for step in range(task.steps_per_epoch):
        sums, carry, _ = jax.jit(task.objective.sums)(params, {**task.batch(step), "weights": np.ones(3)}, carry, None)
        total, count = total + sums["loss"][0], count + sums["loss"][1]
    symbols = np.searchsorted(corpus.vocabulary, corpus.train)
    length = -(-(len(symbols) - 1) // 3)
    expected = 0.0
    for row in range(3):
        part = symbols[row * length : (row + 1) * length + 1]
        _, logits = labeler.apply({"params": params}, part[None, :-1])
        expected -= jax.nn.log_softmax(logits[0])[np.arange(len(part) - 1), part[1:]].sum()
    assert count == len(symbols) - 1 == task.samples_per_epoch
    assert float(total) == pytest.approx(float(expected), rel=1e-5)


def test_a_run_reports_bits_and_records_its_text(trained, capsys):
    config = json.loads((trained / wd.CONFIG).read_text())
    assert bytes(config["vocabulary"]) == bytes(sorted(set(TEXT.tobytes())))
    assert config["sha256"] == hashlib.sha256(TEXT.tobytes()).hexdigest()
    records = metrics(trained)
    assert records[-1]["samples"] == 2 * (len(TEXT) * 9 // 10 - 1)
    for record in records:
        assert record["validation_bits"] == pytest.approx(record["validation_loss"] / np.log(2))
    assert records[-1]["validation_bits"] < np.log2(len(config["vocabulary"]))
    assert language.main([*TINY, "--workdir", str(trained)]) == 0
    assert "bits per character" in capsys.readouterr().out


@pytest.mark.parametrize("moment", [5, slow(30)])
def test_killed_and_resumed_is_the_unbroken_run(trained, tmp_path, monkeypatch, moment):
    """In the middle of an epoch, with the carried state in the checkpoint."""
    arguments = [*TINY, "--workdir", str(tmp_path), "--checkpoint-seconds", "0"]
    with killed_at(moment, monkeypatch):
        language.main(arguments)
    assert language.main(arguments) == 0
    assert_same_run(trained, tmp_path)


@pytest.mark.parametrize("model", [["--model", "trnn", "--norm", "none"], ["--preset", "slstm", "--depth", "2"]])
@pytest.mark.slow
def test_other_models(tmp_path, model):
    arguments = ["--features", "4", "--batch-size", "4", "--epochs", "1", "--workdir", str(tmp_path)]
    assert language.main([*arguments, *model]) == 0


@pytest.mark.slow
def test_four_devices_do_what_one_does(tmp_path):
    losses = []
    for count in (1, 4):
        workdir = tmp_path / str(count)
        arguments = [*TINY, "--batch-size", "6", "--epochs", "1", "--devices", str(count), "--workdir", str(workdir)]
        assert language.main(arguments) == 0
        losses.append([record["train_loss"] for record in metrics(workdir)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


@pytest.mark.parametrize("model", [ModelOptions(tensor_shape=(3,)), slow(ModelOptions(model="slstm"))])
def test_generated_text_is_what_the_model_finds_likeliest(model):
    """Generation, L timesteps per character, gives the characters of one pass over the whole text."""
    model = ModelOptions(**{**vars(model), "features": 6})
    labeler = SymbolLabeler(model.layer(), 9)
    params = labeler.init(jax.random.key(3), jnp.zeros((1, 1), jnp.int32))["params"]
    params = jax.tree.map(lambda z: 4 * z, params)  # otherwise one symbol is the most likely everywhere
    prompt = np.array([1, 5, 2], np.int32)
    written = generation.generated(params, prompt, jax.random.key(0), labeler, 12, 0.0)
    everything = np.concatenate([prompt, written])
    _, logits = labeler.apply({"params": params}, everything[None])
    np.testing.assert_array_equal(written, logits[0, 2:-1].argmax(-1))
    assert len(set(written.tolist())) > 1
    drawn = [generation.generated(params, prompt, jax.random.key(seed), labeler, 12, 1.0) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()


def test_text_from_a_run(trained, capsys):
    assert language.main([*TINY, "--workdir", str(trained), "--generate", "40", "--prompt", "the "]) == 0
    text = capsys.readouterr().out
    assert text.startswith("the ")
    assert len(text) == 4 + 40 + 1
    assert set(text[:-1]) <= set(TEXT.tobytes().decode())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "1"], "steps must be at least the depth, 2"),
        (
            ["--batch-size", "600"],
            "batch_size must be at most 517, the number of characters to predict in the train part",
        ),
        (
            ["--generate", "9", "--prompt", "Zürich"],
            "prompt has characters that the corpus does not have, 'Z', 'byte 0xbc', 'byte 0xc3', 'i', 'r'",
        ),
        (["--generate", "9", "--prompt", ""], "prompt must have at least one character"),
        (["--generate", "0"], "generate must be at least 1, got 0"),
        (["--generate", "9", "--prompt", "the", "--temperature", "-1"], "temperature must be 0 or a positive number"),
        (["--generate", "9", "--prompt", "the"], "holds no checkpoints yet: train first"),
        (["--generate", "9", "--prompt", os.fsdecode(b"the \xff")], "that the corpus does not have, 'byte 0xff'"),
        (["--generate", "9", "--prompt", "\ud800"], r"prompt must be text that UTF-8 can encode, got '\ud800'"),
        (["--steps", "1000000000000"], "steps must be at most 1000000"),
    ],
)
def test_bad_options_exit_with_2_and_one_line(tmp_path, capsys, arguments, message):
    assert language.main([*TINY, *arguments, "--workdir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_before_the_first_evaluation_text_comes_from_the_current_parameters(trained, tmp_path, capsys, monkeypatch):
    """The sampling has a seed of its own."""
    arguments = [*TINY, "--workdir", str(tmp_path / "run"), "--checkpoint-seconds", "0"]
    with killed_at(9, monkeypatch):  # of 19 steps in an epoch
        language.main(arguments)
    with Checkpoints(tmp_path / "run" / wd.CHECKPOINTS, read_only=True) as checkpoints:
        step = checkpoints.latest_step
    assert 0 < step < 19
    with monkeypatch.context() as context:
        context.setattr(generation, "generated", lambda params, *_: used.append(params) or np.zeros(1, np.int32))
        used = []
        for seed in ("0", "1"):
            assert language.main([*arguments, "--generate", "1", "--prompt", "the", "--sampling-seed", seed]) == 0
    assert f"not evaluated yet: the parameters after step {step}" in capsys.readouterr().err
    initial = language.build(language.parse(arguments)).params
    moved = jax.tree.map(lambda now, then: np.abs(now - then).max(), used[0], initial)
    assert min(jax.tree.leaves(moved)) > 0
    assert language.main([*arguments, "--generate", "1", "--prompt", "the", "--seed", "1"]) == 2
    assert "--sampling-seed changes the text" in capsys.readouterr().err


def test_bits_per_character_do_not_depend_on_the_batch_size(corpus):
    """Nor on the length of the batches: the same parameters get the same result."""
    found = []
    for batch, timesteps in ((2, 7), (5, 9)):
        arguments = [*TINY, "--batch-size", str(batch), "--steps", str(timesteps)]
        experiment = language.build(language.parse(arguments), corpus)
        mesh = devices.data_mesh(1)
        params = experiment.params
        found += steps.evaluate("test", experiment.task.objective, steps.stack([params]), [experiment.task], (), mesh)
        assert experiment.config["evaluation_streams"] == 1
    assert found[0]["test_bits"] == pytest.approx(found[1]["test_bits"], rel=1e-5)
    assert [language.evaluation_streams(n) for n in (1, 1999, 5_000, 5_000_000)] == [1, 1, 5, 100]


def test_a_run_that_was_evaluated_in_as_many_streams_as_its_batch_remains_so(trained, corpus):
    """As those of earlier versions, whose configuration does not have the number; here the batch has 4 streams."""
    there = json.loads((trained / wd.CONFIG).read_text())
    assert there.pop("evaluation_streams") == 1
    experiment = language.build(language.parse(TINY), corpus)
    former = experiment.as_recorded(experiment, there)
    assert "evaluation_streams" not in former.config
    assert {len(batch["inputs"]) for batches in former.task.evaluated.values() for batch in batches} == {4}


def test_text_from_another_configurations_run_is_refused(trained, capsys):
    arguments = [*TINY, "--workdir", str(trained), "--generate", "40", "--prompt", "the ", "--features", "5"]
    assert language.main(arguments) == 2
    assert "features 4 there and 5 here" in capsys.readouterr().err


def test_the_alias_trains_on_enwik8_by_default(monkeypatch):
    parsed, parse = [], language.parse
    monkeypatch.setattr(language, "parse", lambda arguments: parsed.append(parse(arguments)) or parsed[-1])
    monkeypatch.setattr(runs, "run", lambda build, options: 0)
    for main, arguments in (
        (wikipedia.main, []),
        (wikipedia.main, ["--data", "stdlib"]),
        (language.main, []),
        (wikipedia.main, ["--paper"]),
    ):
        assert main(arguments) == 0
    assert [options.data for options in parsed] == ["enwik8", "stdlib", "stdlib", "enwik8"]
    assert [options.train.epochs for options in parsed] == [50, 3, 3, 50]
    assert parsed[-1] == language.PAPER


@pytest.mark.slow
def test_a_workdir_of_the_former_task_name_is_this_runs(trained, tmp_path, capsys):
    """Earlier versions recorded the task as wikipedia."""
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    config = wd.read_config(workdir)
    assert config["task"] == "language"
    write_json(workdir / wd.CONFIG, {**config, "task": "wikipedia"})
    assert language.main([*TINY, "--workdir", str(workdir)]) == 0
    assert "finished; --overwrite runs it again" in capsys.readouterr().out
    assert language.main([*TINY, "--workdir", str(workdir), "--generate", "3", "--prompt", "the"]) == 0
    start = ["--start-from", str(workdir), "--tensor-shape", "3", "--epochs", "1"]
    assert language.main([*TINY, *start, "--workdir", str(tmp_path / "grown")]) == 0
    assert language.main([*TINY, "--features", "5", "--workdir", str(workdir)]) == 2
    error = capsys.readouterr().err
    assert "features 4 there and 5 here" in error
    assert "wikipedia" not in error
