"""`--start-from`: a run initialized with the parameters of another, resized to its own tensor shape."""

import json
import re
import shutil

import jax
import numpy as np
import pytest

import tlstm_jax as tl
from experiments import datasets, language, mnist
from experiments.common.errors import UsageError
from experiments.common.files import write_json
from experiments.running import pretrained, training
from experiments.running import workdir as wd
from experiments.running.checkpoints import Checkpoints
from experiments.running.models import ModelOptions
from tests.experiments.small_runs import TINY, assert_same_run, killed_at, metrics, replace_digits, replace_texts, saved

TWO = ["--epochs", "2", "--tensor-shape", "4"]  # `whole` has half as many locations


def built(*arguments):
    """The experiment of a command line, and its options."""
    options = mnist.parse([*TINY, *arguments])
    return mnist.build(options, datasets.load("digits")), options.train


def started(folder, *arguments):
    """The experiment of a command line, started from the run in a folder."""
    return pretrained.started(*built(*arguments, "--start-from", str(folder)))


def run_in(folder, *arguments, classes=3, **config):
    """Writes the files of a run after its first evaluation, with slightly changed initial parameters."""
    experiment, options = built(*arguments)
    params = jax.tree.map(lambda z: np.asarray(z) + np.float32(0.25), experiment.params)
    params["head"] = {name: z[..., :classes] for name, z in params["head"].items()}
    record = {"epoch": 1, "samples": 45, "validation_accuracy": 0.5, "validation_loss": 1.0}
    folder.mkdir()
    write_json(folder / wd.CONFIG, {**experiment.recorded(options), **config})
    with Checkpoints(folder / wd.CHECKPOINTS) as checkpoints:
        checkpoints.save(5, {"best": params}, {"history": [record]})
    return params


def equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope="module")
def grown(unbroken, tmp_path_factory):
    """The workdir of a run started from the uninterrupted one, and the initial parameters passed to `fit`."""
    given, workdir, fit = [], tmp_path_factory.mktemp("grown"), training.fit
    with pytest.MonkeyPatch.context() as monkeypatch:
        replace_digits(monkeypatch)
        monkeypatch.setattr(
            training, "fit", lambda members, *rest: given.append(members[0].experiment.params) or fit(members, *rest)
        )
        assert mnist.main([*TINY, *TWO, "--start-from", str(unbroken), "--workdir", str(workdir)]) == 0
    return workdir, given[0]


def test_it_begins_with_the_best_of_the_other_resized(grown, unbroken):
    _, params = grown
    old = ModelOptions.recorded(wd.read_config(unbroken)).config
    new = ModelOptions.recorded(wd.read_config(grown[0])).config
    assert (old.tensor_shape, new.tensor_shape) == ((2,), (4,))
    leaves, structure = jax.tree.flatten(params)
    best = jax.tree.unflatten(structure, saved(unbroken)[1][-len(leaves) :])
    equal(params, {"head": best["head"], "layer": tl.resize(best["layer"], old, new)})
    np.testing.assert_array_equal(np.asarray(params["layer"]["norm"]["scale"])[[0, -1]], best["layer"]["norm"]["scale"])


def test_what_its_parameters_began_with_is_recorded(tiny, tmp_path):
    run_in(tmp_path / "old", "--tensor-shape", "2", "--time-scale", "0")
    model = started(tmp_path / "old", "--tensor-shape", "2", "2").model  # by default with a time scale
    assert (model.time_scale, model.forget_bias, model.conveyor_bias) == (0, 4, 0)


def test_the_initial_biases_of_its_parameters_are_recorded():
    biases = ModelOptions(time_scale=0.0, forget_bias=4.0, conveyor_bias=0.0)
    others = ModelOptions(tensor_shape=(2, 2), time_scale=0.0, forget_bias=6.0, conveyor_bias=3.0)
    scale = ModelOptions(time_scale=9.0)
    recorded = {"time_scale": 0, "forget_bias": 4, "conveyor_bias": 0}
    assert pretrained.initial_biases(biases, scale) == recorded
    assert pretrained.initial_biases(biases, others) == {**recorded, "forget_bias": 6}  # as earlier versions did
    for new in (biases, ModelOptions(time_scale=12.0)):
        assert pretrained.initial_biases(scale, new) == {"time_scale": 9, "forget_bias": None, "conveyor_bias": None}


def test_its_configuration_has_two_entries_more(grown, unbroken):
    config, there = wd.read_config(grown[0]), wd.read_config(unbroken)
    assert len(config.pop("start_sha256")) == 12
    assert config.pop("start_samples") == 45 * json.loads((unbroken / wd.SUMMARY).read_text())["best_epoch"]
    assert config == {**there, "epochs": 2, "tensor_shape": [4]}
    assert not any(name.startswith("start") for name in there)


def test_killed_and_resumed_from_the_same_elsewhere_is_the_unbroken_run(grown, whole, tmp_path, monkeypatch):
    arguments = [*TINY, *TWO, "--workdir", str(tmp_path / "run"), "--checkpoint-seconds", "0"]
    with killed_at(7, monkeypatch):
        mnist.main([*arguments, "--start-from", str(whole)])
    moved = whole.rename(tmp_path / "moved")
    assert mnist.main([*arguments, "--start-from", str(moved)]) == 0
    assert_same_run(grown[0], tmp_path / "run")
    assert metrics(tmp_path / "run")[0] != metrics(moved)[0]


def test_another_start_is_another_configuration(tiny, grown, tmp_path, capsys):
    run_in(tmp_path / "other", "--tensor-shape", "2")
    before = saved(grown[0])
    for start in (["--start-from", str(tmp_path / "other")], []):
        assert mnist.main([*TINY, *TWO, *start, "--workdir", str(grown[0])]) == 2
        assert "start_sha256" in capsys.readouterr().err
    np.testing.assert_equal(saved(grown[0]), before)


@pytest.mark.parametrize(
    "model", [[], pytest.param(["--model", "slstm", "--tensor-shape", "3"], marks=pytest.mark.slow)]
)
def test_of_the_same_shape_nothing_is_changed(tiny, tmp_path, model):
    params = run_in(tmp_path / "there", *model, start_samples=1000)
    experiment = started(tmp_path / "there", *model)
    equal(experiment.params, params)
    assert experiment.config["start_samples"] == 1045


@pytest.mark.slow
def test_from_2d_to_3d(tiny, tmp_path):
    params = run_in(tmp_path / "there", "--tensor-shape", "2")
    experiment = started(tmp_path / "there", "--tensor-shape", "3", "3")
    old, new = (tl.TLSTMConfig(4, shape, forget_bias=4.0) for shape in ((2,), (3, 3)))
    equal(experiment.params, {"head": params["head"], "layer": tl.resize(params["layer"], old, new)})


@pytest.mark.parametrize(
    ("there", "here", "message"),
    [
        ([], ["--kernel-size", "2"], r"kernel_size cannot change, got \(3,\) in cfg .* Give another --tensor-shape"),
        (["--tensor-shape", "2", "2"], [], "only a 2D model can get more dimensions"),
    ],
)
def test_a_tensor_that_cannot_become_this_one(tiny, tmp_path, there, here, message):
    run_in(tmp_path / "there", *there)
    with pytest.raises(UsageError, match=message):
        started(tmp_path / "there", *here)


@pytest.mark.parametrize(
    ("name", "there", "here"),
    [
        ("task", "addition", "memorization"),
        ("num_symbols", 65, 33),
        ("vocabulary", list(range(200)), list(range(1, 201))),
        ("features", 4, 5),
        ("norm", "channel", "none"),
        ("param_dtype", "bfloat16", "float32"),
        ("model", "slstm", "tlstm"),
    ],
)
def test_another_task_or_model(tmp_path, name, there, here):
    config = {"task": "memorization", "model": "tlstm", "num_layers": 2}
    pretrained.check_related(tmp_path, {**config, name: here}, {**config, name: here, "num_layers": 3})
    with pytest.raises(UsageError) as caught:
        pretrained.check_related(tmp_path, {**config, name: there}, {**config, name: here})
    wanted = f"start_from must be a run with {name} {str(here)[:40]}, got {str(there)[:40]} in {tmp_path}: take another"
    assert str(caught.value).startswith(wanted)


@pytest.mark.parametrize(("name", "there", "here"), [("num_layers", 2, 3), ("shared", True, False)])
def test_an_slstm_cannot_become_another(tmp_path, name, there, here):
    config = {"task": "memorization", "model": "slstm", "num_layers": 2}
    with pytest.raises(UsageError, match=f"must be a run with {name} {here}, got {there}"):
        pretrained.check_related(tmp_path, {**config, name: there}, {**config, name: here})


def test_other_classes(tiny, tmp_path):
    run_in(tmp_path / "there", classes=2)
    with pytest.raises(UsageError, match=r"with head/bias of shape \(3,\), got \(2,\) in .*: take one with as many"):
        started(tmp_path / "there")


def nothing(folder):
    folder.mkdir()


def no_checkpoints(folder):
    run_in(folder)
    shutil.rmtree(folder / wd.CHECKPOINTS)


def damaged(folder):
    run_in(folder)
    shutil.rmtree(folder / wd.CHECKPOINTS / "5" / "best")


def untested(folder):
    run_in(folder)
    with Checkpoints(folder / wd.CHECKPOINTS) as checkpoints:
        checkpoints.save(6, {"best": built()[0].params}, {"history": []})


@pytest.mark.parametrize(
    ("leave", "message"),
    [
        (nothing, "start_from must be the workdir of a run: .*there is no config.json"),
        (no_checkpoints, "holds no checkpoints yet: train first"),
        (damaged, "start_from must hold a checkpoint that can be read, got .*: take another run"),
        (untested, "start_from must be a run with at least one evaluation, got .*: let it train until then"),
    ],
)
def test_no_parameters_there(tiny, tmp_path, capfd, leave, message):
    leave(tmp_path / "there")
    assert mnist.main([*TINY, "--start-from", str(tmp_path / "there"), "--workdir", str(tmp_path / "run")]) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("WARNING:absl")]
    assert len(errors) == 1
    assert re.search(f"^error: .*{message}", errors[0]), errors
    assert not (tmp_path / "run").exists()


def test_not_from_itself(tiny, tmp_path, capsys):
    run_in(tmp_path / "run")
    assert (
        mnist.main([*TINY, "--start-from", str(tmp_path / "run"), "--workdir", str(tmp_path / "run"), "--overwrite"])
        == 2
    )
    assert "start_from must not be the workdir" in capsys.readouterr().err
    assert (tmp_path / "run" / wd.CHECKPOINTS / "5").is_dir()


@pytest.mark.slow
def test_a_grown_language_model_writes(tmp_path, monkeypatch, capsys):
    corpus = replace_texts(monkeypatch)
    small = ["--features", "4", "--tensor-shape", "2", "--batch-size", "4", "--steps", "7", "--epochs", "1"]
    assert language.main([*small, "--workdir", str(tmp_path / "small")]) == 0
    grown = [*small, "--tensor-shape", "3", "--workdir", str(tmp_path / "grown")]
    start = ["--start-from", str(tmp_path / "small")]
    assert language.main([*grown, *start]) == 0
    assert wd.read_config(tmp_path / "grown")["start_samples"] == len(corpus.train) - 1
    capsys.readouterr()
    assert language.main([*grown, *start, "--generate", "5", "--prompt", "the"]) == 0
    assert len(capsys.readouterr().out) == len("the") + 5 + len("\n")
    assert language.main([*grown, "--generate", "5", "--prompt", "the"]) == 2
    assert "start_sha256" in capsys.readouterr().err
