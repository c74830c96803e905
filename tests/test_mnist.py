"""`python -m experiments.mnist` from command line to picture, on images small enough to train in seconds."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import datasets, mnist, runs, training
from experiments import workdir as wd
from experiments.checkpoints import Checkpoints

ROOT = Path(__file__).parent.parent
TINY = ["--data", "digits", "--features", "4", "--tensor-shape", "2", "--batch-size", "10", "--epochs", "3"]


def striped(count, seed):
    """Images whose class is the brightest row: learnable, and nobody's data."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count).astype(np.int32)
    images = rng.integers(0, 4, (count, 3, 2)).astype(np.uint8)
    images[np.arange(count), labels] = 16
    return datasets.Split(images, labels)


def replace_digits(monkeypatch):
    data = datasets.Dataset("digits", striped(45, 0), striped(20, 1), striped(30, 2), 3, 16)
    monkeypatch.setattr(datasets, "load", lambda name, **_: data)


@pytest.fixture
def tiny(monkeypatch):
    """The digits, replaced by 45 tiny images."""
    replace_digits(monkeypatch)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A run that nothing disturbed, for all tests to compare with."""
    workdir = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as monkeypatch:
        replace_digits(monkeypatch)
        assert mnist.main([*TINY, "--workdir", str(workdir)]) == 0
    return workdir


@pytest.fixture
def whole(tiny, unbroken, tmp_path):
    """A copy of that run, to do things to."""
    return Path(shutil.copytree(unbroken, tmp_path / "whole"))


def metrics(workdir):
    lines = (workdir / wd.METRICS).read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def saved(workdir):
    """Everything in the latest checkpoint, as stored."""
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager((workdir / wd.CHECKPOINTS).absolute()) as manager:
        restored = manager.restore(manager.latest_step(), args=ocp.args.Composite(state=ocp.args.StandardRestore()))
        return manager.latest_step(), [np.asarray(leaf) for leaf in jax.tree.leaves(restored.state)]


def assert_same_run(one, other):
    (step, leaves), (other_step, other_leaves) = saved(one), saved(other)
    assert step == other_step
    assert len(leaves) == len(other_leaves) > 10
    for a, b in zip(leaves, other_leaves, strict=True):
        np.testing.assert_array_equal(a, b)
    assert metrics(one) == metrics(other)


def test_a_run_leaves_what_it_says(whole, capfd):
    config = json.loads((whole / wd.CONFIG).read_text())
    assert config["features"] == 4
    assert config["learning_rate"] == 8e-3
    assert config["permutation"] is None
    records = metrics(whole)
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert records[-1]["step"] == 15  # 45 images in batches of 10: the last has 5
    summary = json.loads((whole / wd.SUMMARY).read_text())
    assert summary["validation_accuracy"] == max(record["validation_accuracy"] for record in records)
    picture = (whole / wd.CURVES).read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000


def test_same_seed_same_numbers_and_another_seed_others(whole, tmp_path):
    again, other = tmp_path / "again", tmp_path / "other"
    mnist.main([*TINY, "--workdir", str(again)])
    assert_same_run(whole, again)
    mnist.main([*TINY, "--workdir", str(other), "--seed", "1"])
    assert metrics(other) != metrics(whole)


def test_it_learns(tiny, tmp_path):
    arguments = [*TINY, "--features", "8", "--epochs", "25", "--learning-rate", "0.02", "--workdir", str(tmp_path)]
    assert mnist.main(arguments) == 0
    assert json.loads((tmp_path / wd.SUMMARY).read_text())["test_accuracy"] > 0.9


@pytest.mark.parametrize(
    "model",
    [
        ["--model", "trnn", "--tensor-shape", "2", "--norm", "none"],
        ["--model", "slstm", "--num-layers", "2", "--no-shared"],
    ],
)
def test_other_models(tiny, tmp_path, model, capsys):
    arguments = ["--data", "digits", "--features", "4", "--batch-size", "10", "--epochs", "1"]
    assert mnist.main([*arguments, *model, "--workdir", str(tmp_path)]) == 0
    assert ("tRNN" if "trnn" in model else "sLSTM (unshared)") in capsys.readouterr().out


def test_bfloat16_and_remat(tiny, tmp_path):
    arguments = [*TINY, "--precision", "bfloat16", "--remat", "3", "--epochs", "1", "--workdir", str(tmp_path)]
    assert mnist.main(arguments) == 0


def test_permuted_records_its_permutation(tiny, tmp_path):
    assert mnist.main([*TINY, "--permuted", "--epochs", "1", "--workdir", str(tmp_path)]) == 0
    recorded = json.loads((tmp_path / wd.CONFIG).read_text())["permutation"]
    assert recorded == np.random.RandomState(92916).permutation(6).tolist()


def test_the_permutation_of_the_literature():
    options = mnist.Options(permuted=True)
    order = mnist.pixel_order(options, 784)
    np.testing.assert_array_equal(order, np.random.RandomState(92916).permutation(784))
    assert sorted(order) == list(range(784))


def test_pixels_come_in_the_order_asked_for():
    class Spy:
        def apply(self, variables, xs):
            return xs

    images = np.arange(12, dtype=np.uint8).reshape(2, 3, 2)
    order = np.array([5, 0, 1, 2, 3, 4])
    xs = mnist.make_predict(Spy(), order, 10)({}, jax.numpy.asarray(images))
    np.testing.assert_allclose(xs[..., 0], images.reshape(2, 6)[:, order] / 5 - 1, rtol=1e-6)


def test_early_stopping_and_the_best_parameters():
    task = training.Task(None, None, 5, 45, 10, 2, {}, training.by_accuracy("validation"))
    history = []
    for epoch, accuracy in enumerate([0.5, 0.7, 0.7, 0.6, 0.6], 1):
        assert not training.is_over(history, task)
        history.append({"epoch": epoch, "validation_accuracy": accuracy, "validation_loss": 1 - epoch / 10})
    assert training.best_of(history, task)["epoch"] == 3  # of two equals, the lower loss
    assert training.is_over(history, task)


# Resuming


class Killed(BaseException):
    """Ends a run as kill -9 would: nothing gets to clean up or save."""


@pytest.mark.parametrize(("moment", "seconds"), [(1, "0"), (13, "0"), (13, "1000")])
def test_killed_and_resumed_is_the_unbroken_run(whole, tmp_path, monkeypatch, moment, seconds):
    """At any step, with a checkpoint after every step or only at the end of epochs."""
    workdir = tmp_path / "broken"
    arguments = [*TINY, "--workdir", str(workdir), "--checkpoint-seconds", seconds]
    original = training.show

    def show(bar, step, *arguments):
        if step == moment:
            raise Killed
        original(bar, step, *arguments)

    monkeypatch.setattr(training, "show", show)
    with pytest.raises(Killed):
        mnist.main(arguments)
    monkeypatch.setattr(training, "show", original)
    assert mnist.main(arguments) == 0
    assert_same_run(whole, workdir)


def test_killed_between_the_last_epoch_and_the_summary(whole, tmp_path, monkeypatch):
    workdir = tmp_path / "broken"

    def killed(*_):
        raise Killed

    with monkeypatch.context() as context:
        context.setattr(runs, "learning_curves", killed)
        with pytest.raises(Killed):
            mnist.main([*TINY, "--workdir", str(workdir)])
    assert not (workdir / wd.SUMMARY).exists()
    assert mnist.main([*TINY, "--workdir", str(workdir)]) == 0
    assert_same_run(whole, workdir)
    assert (workdir / wd.CURVES).read_bytes() == (whole / wd.CURVES).read_bytes()


def test_killed_while_claiming_the_workdir(tiny, tmp_path):
    (tmp_path / "config.json.new").write_text("{")
    assert mnist.main([*TINY, "--epochs", "1", "--workdir", str(tmp_path)]) == 0


REAL = ["--features", "3", "--tensor-shape", "1", "--norm", "none", "--batch-size", "200", "--epochs", "4"]


def start(workdir):
    """A process of its own, on the real digits, with a checkpoint after every step."""
    command = [sys.executable, "-m", "experiments.mnist", "--data", "digits", *REAL, "--checkpoint-seconds", "0"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # each compiles for itself, as it would for a user
    return subprocess.Popen(
        [*command, "--workdir", str(workdir)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The workdir of such a process that nobody stopped."""
    workdir = tmp_path_factory.mktemp("real") / "run"
    process = start(workdir)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "going on from step" not in errors
    return workdir


@pytest.mark.parametrize(
    "signals",
    [
        [signal.SIGINT, signal.SIGKILL],
        pytest.param([signal.SIGTERM], marks=pytest.mark.slow),
        pytest.param([signal.SIGKILL] * 4, marks=pytest.mark.slow),
    ],
)
def test_a_real_process_stopped_by_signals(real, tmp_path, signals):
    """Stopped in the second epoch or later, each time a little later, and in the end the same as never stopped."""
    workdir = tmp_path / "run"
    for n, signum in enumerate(signals):
        process = start(workdir)
        deadline = time.monotonic() + 120
        later = workdir / wd.CHECKPOINTS / str(9 + 3 * n)
        while process.poll() is None and time.monotonic() < deadline and not later.exists():
            time.sleep(0.005)
        process.send_signal(signum)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == (-signum if signum == signal.SIGKILL else 128 + signum), errors
        assert ("run the same command again" in errors) == (signum != signal.SIGKILL)
        assert ("going on from step" in errors) == (n > 0)
        assert not (workdir / wd.SUMMARY).exists()
    process = start(workdir)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "going on from step" in errors
    assert_same_run(real, workdir)


# Whose workdir it is


def test_a_finished_run_is_left_alone(whole, capsys):
    def times():
        return {path.name: path.stat().st_mtime_ns for path in whole.iterdir() if path.name != wd.LOCK}

    before = times()
    assert mnist.main([*TINY, "--workdir", str(whole)]) == 0
    assert "finished; --overwrite runs it again" in capsys.readouterr().out
    assert times() == before


def test_a_second_run_in_the_same_workdir_is_refused(tiny, tmp_path, capsys, monkeypatch):
    second = []
    original = training.show

    def show(bar, step, *arguments):
        if step == 7:  # while the first is running
            second.append(mnist.main([*TINY, "--workdir", str(tmp_path), "--overwrite"]))
        original(bar, step, *arguments)

    monkeypatch.setattr(training, "show", show)
    assert mnist.main([*TINY, "--workdir", str(tmp_path)]) == 0
    assert second == [2]
    assert f"another process is running in {tmp_path}" in capsys.readouterr().err


def test_another_configuration_is_refused(whole, capsys):
    before = saved(whole)
    assert mnist.main([*TINY, "--features", "5", "--workdir", str(whole)]) == 2
    assert "features 4 there and 5 here" in capsys.readouterr().err
    np.testing.assert_equal(saved(whole), before)


def test_overwrite_discards_the_run_and_nothing_else(whole):
    (whole / "notes.txt").write_text("mine")
    assert mnist.main([*TINY, "--features", "5", "--workdir", str(whole), "--overwrite"]) == 0
    assert json.loads((whole / wd.CONFIG).read_text())["features"] == 5
    assert (whole / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
@pytest.mark.parametrize("name", ["thesis.tex", "config.json", "checkpoints/mine", "summary.json"])
def test_a_folder_of_something_else_is_refused(tiny, tmp_path, capsys, name, overwrite):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"my": "project"}')
    assert mnist.main([*TINY, "--workdir", str(tmp_path), *overwrite]) == 2
    assert "give --workdir another folder" in capsys.readouterr().err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]
    assert (tmp_path / name).read_text() == '{"my": "project"}'


def test_a_workdir_that_cannot_be_written(tiny, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert mnist.main([*TINY, "--workdir", str(tmp_path / "file" / "run")]) == 2
    assert "cannot write to the workdir" in capsys.readouterr().err


def damage(path, how):
    """Truncates the file, or flips one bit in the middle of it."""
    contents = bytearray(path.read_bytes())
    if how == "truncated":
        contents = contents[: len(contents) // 2]
    else:
        contents[len(contents) // 2] ^= 16
    path.write_bytes(contents)


def damage_checkpoint(workdir, step, how):
    folder = workdir / wd.CHECKPOINTS / str(step)
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.unlink() if how == "deleted" else damage(largest, how)


@pytest.mark.parametrize("how", ["truncated", "flipped", "deleted"])
def test_a_corrupt_checkpoint_is_set_aside_for_the_one_before(whole, unbroken, capsys, how):
    (whole / wd.SUMMARY).unlink()
    damage_checkpoint(whole, 15, how)
    assert mnist.main([*TINY, "--workdir", str(whole)]) == 0
    error = capsys.readouterr().err
    assert f"the checkpoint {whole / wd.CHECKPOINTS / '15'} " in error
    assert "set aside as 15.damaged, going on from step 10" in error
    assert (whole / wd.CHECKPOINTS / "15.damaged").is_dir()
    assert_same_run(unbroken, whole)


def test_without_any_checkpoint_that_can_be_read_nothing_is_touched(whole, capsys):
    (whole / wd.SUMMARY).unlink()
    for step in (10, 15):
        damage_checkpoint(whole, step, "truncated")
    before = sorted((whole / wd.CHECKPOINTS).rglob("*"))
    assert mnist.main([*TINY, "--workdir", str(whole)]) == 2
    assert f"delete {whole / wd.CHECKPOINTS} to begin again" in capsys.readouterr().err
    assert sorted((whole / wd.CHECKPOINTS).rglob("*")) == before


def test_a_full_disk_leaves_the_checkpoint_before(whole, unbroken, capsys):
    """No file can grow beyond some bytes, from the second epoch on; then there is room again."""
    for name in (wd.SUMMARY, wd.METRICS):
        (whole / name).unlink()
    shutil.rmtree(whole / wd.CHECKPOINTS / "15")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
    try:
        assert mnist.main([*TINY, "--workdir", str(whole)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    error = capsys.readouterr().err
    assert re.search("error: cannot write the checkpoint .*again to go on from step 10", error), error
    assert mnist.main([*TINY, "--workdir", str(whole)]) == 0
    assert_same_run(unbroken, whole)


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        (wd.CONFIG, '{"task"', "cannot read .*config.json"),
        (wd.CONFIG, "[]", "config.json is not of a run"),
        (wd.SUMMARY, "{}", "summary.json is damaged: delete it"),
    ],
)
def test_damaged_files_of_a_run(whole, capsys, name, contents, message):
    (whole / name).write_text(contents)
    assert mnist.main([*TINY, "--workdir", str(whole)]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_file_where_the_checkpoints_should_be(whole, capsys):
    (whole / wd.SUMMARY).unlink()
    (whole / wd.CHECKPOINTS).rename(whole / "elsewhere")
    (whole / wd.CHECKPOINTS).write_text("")
    assert mnist.main([*TINY, "--workdir", str(whole)]) == 2
    assert "checkpoints is a file" in capsys.readouterr().err


def test_flipped_bits_of_a_checkpoint_are_noticed_or_harmless(tmp_path):
    """The checksum is ours, since not every format underneath has one."""
    state = {"w": np.arange(300.0), "b": np.arange(5)}
    with_damage = 0
    for trial in range(6):
        folder = tmp_path / str(trial)
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(1, state, {"history": []})
        files = sorted(
            path for path in (folder / "1" / "state").rglob("*") if path.is_file() and path.stat().st_size > 99
        )
        damage(files[trial % len(files)], "flipped")
        try:
            with Checkpoints(folder) as checkpoints:
                restored, _ = checkpoints.restore(state, print)
        except ValueError as error:
            with_damage += 1
            assert "to begin again" in str(error)  # noqa: PT017
        else:
            np.testing.assert_equal(jax.device_get(restored), state)
    assert with_damage > 0


# Devices


def test_four_devices_do_what_one_does(tiny, tmp_path):
    assert jax.device_count() == 4
    results = {}
    for devices in (1, 4):
        workdir = tmp_path / str(devices)
        assert mnist.main([*TINY, "--devices", str(devices), "--workdir", str(workdir)]) == 0
        results[devices] = saved(workdir)[1], metrics(workdir)
    for one, four in zip(results[1][0], results[4][0], strict=True):
        np.testing.assert_allclose(four, one, rtol=1e-3, atol=1e-5)
    losses = [[record["train_loss"] for record in results[n][1]] for n in (1, 4)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_a_batch_is_spread_over_all_devices():
    mesh = training.data_mesh(0)
    batch = training.to_devices(mnist.rows(striped(10, 0)), 10, mesh)
    assert batch["images"].shape == (12, 3, 2)
    assert batch["weights"].sum() == 10
    assert {len(batch["images"].sharding.device_set), mesh.size} == {4}


# The command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--features", "0"], "features must be at least 1, got 0"),
        (["--kernel-size", "1"], "kernel_size must be at least 2, got 1"),
        (["--tensor-shape", "3", "4"], "depths \\(3, 4\\)"),
        (["--tensor-shape", "3", "3", "--kernel-size", "3", "3", "3"], "one entry for each of the 2 dimensions"),
        (["--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["--learning-rate", "-1"], "learning_rate must be a positive number, got -1"),
        (["--devices", "9"], "devices must be 0..4"),
        (["--remat", "-1"], "remat must be 0 or a positive number"),
        (["--seed", "99999999999999999999"], "seed must be in 0..2"),
        (["--model", "slstm"], "tensor_shape means nothing to slstm"),
        (["--model", "trnn", "--no-memory-conv"], "memory_conv means nothing to trnn"),
        (["--num-layers", "2"], "num_layers means nothing to tlstm"),
        (["--permuted", "--permutation-seed", "-1"], "permutation_seed must be in"),
    ],
)
def test_bad_options_exit_with_2_and_one_line(tiny, tmp_path, capsys, arguments, message):
    assert mnist.main([*TINY, *arguments, "--workdir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert re.search(message, error)
    assert not (tmp_path / "run").exists()


def test_bad_options_without_a_workdir(tiny, tmp_path, capsys, monkeypatch):
    """The default folder is named for the model, so there is none for a model that cannot be."""
    monkeypatch.chdir(tmp_path)
    assert mnist.main([*TINY, "--kernel-size", "1"]) == 2
    assert "kernel_size" in capsys.readouterr().err
    assert mnist.main([*TINY, "--epochs", "1"]) == 0
    assert (tmp_path / "runs" / "digits-2D-tLSTM+CN-L2-P2-M4-seed0" / wd.SUMMARY).exists()


@pytest.mark.parametrize(
    "arguments", [["--data", "cifar"], ["--model", "gru"], ["--norm", "batch"], ["--epochs", "x"], ["--x"]]
)
def test_what_the_parser_refuses_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        mnist.main(arguments)
    assert stop.value.code == 2


def test_missing_data_exits_with_2(tmp_path, capsys):
    assert mnist.main(["--data-dir", str(tmp_path / "none"), "--workdir", str(tmp_path / "run")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_without_mnist_and_network_it_goes_on_with_digits(tmp_path, capsys, monkeypatch):
    from experiments.datasets.mnist import download

    monkeypatch.setattr(download, "probe", lambda: "no network in this test")
    arguments = ["--features", "2", "--tensor-shape", "1", "--batch-size", "500", "--epochs", "1"]
    prepared = ["--prepared-dir", str(tmp_path / "prepared"), "--workdir", str(tmp_path / "run")]
    assert mnist.main([*arguments, *prepared]) == 0
    (warning,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING"))
    assert "--data-dir" in warning
    assert "GOING ON WITH --data digits" in warning
    assert json.loads((tmp_path / "run" / wd.CONFIG).read_text())["data"] == "digits"


def test_a_loss_that_is_no_number_stops_the_run(tiny, tmp_path, capsys):
    arguments = [*TINY, "--learning-rate", "1e38", "--clip-norm", "0", "--norm", "none", "--workdir", str(tmp_path)]
    assert mnist.main(arguments) == 1
    assert "try a --learning-rate below" in capsys.readouterr().err


def test_defaults_are_those_of_the_dataset():
    assert mnist.parse([]).train == mnist.RECIPES["mnist"]
    assert mnist.parse(["--data", "digits"]).train == mnist.RECIPES["digits"]
    assert mnist.parse(["--data=digits", "--epochs", "3"]).train.learning_rate == mnist.RECIPES["digits"].learning_rate
    assert mnist.parse(["--epochs", "3"], instead="digits").train.epochs == 3


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        mnist.main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for name in ("data-dir", "permuted", "tensor-shape", "kernel-size", "forget-bias", "learning-rate", "workdir"):
        assert f"--{name}" in shown
