"""A run: its files, its workdir, and the number of devices."""

import contextlib
import json
import os
import re
import struct
import sys

import jax
import numpy as np
import pytest

from experiments import memorization, mnist
from experiments.running import devices, profiling, steps, training
from experiments.running import workdir as wd
from experiments.running.metrics import Estimate, Metrics, duration
from experiments.running.options import TrainOptions
from experiments.running.task import Task, best_of, by_accuracy, is_over
from tests.experiments.small_runs import TINY, assert_same_run, killed_at, metrics, saved, striped


def test_a_run_leaves_what_it_says(whole, capfd):
    config = json.loads((whole / wd.CONFIG).read_text())
    assert config["features"] == 4
    assert config["learning_rate"] == 6e-3
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


def test_equal_programs_are_compiled_once(tiny, tmp_path, monkeypatch):
    """A run traces nothing if one that differs in its seed and learning rate alone has run before in the process."""
    traced, sums = [], mnist.Classification.sums

    def counting(self, *arguments):
        traced.append(self)
        return sums(self, *arguments)

    monkeypatch.setattr(mnist.Classification, "sums", counting)
    steps.release()  # what other tests have left
    decay = ["--weight-decay", "0.25"]

    def traces(name, *options):
        traced.clear()
        workdir = ["--workdir", str(tmp_path / name)]
        assert mnist.main([*TINY, "--epochs", "1", "--schedule", "constant", *options, *workdir]) == 0
        return bool(traced)

    assert traces("first", *decay)
    assert not traces("equal", *decay, "--seed", "1", "--learning-rate", "0.01")
    assert traces("other", "--weight-decay", "0.125")
    steps.release()
    assert traces("released", *decay)


@pytest.mark.parametrize("data_on", ["host", "device"])
def test_equal_tasks_have_equal_objectives(data_on):
    def objective(length, data_on):
        arguments = ["--length", str(length), "--features", "3", "--data-on", data_on]
        return memorization.build(memorization.parse(arguments)).task.objective

    first = objective(2, data_on)
    assert first == objective(2, data_on)
    assert hash(first) == hash(objective(2, data_on))
    assert first != objective(2, "device" if data_on == "host" else "host")


def test_early_stopping_and_the_best_parameters():
    task = Task(None, None, 5, 45, 10, 2, {}, by_accuracy("validation"))
    history = []
    for epoch, accuracy in enumerate([0.5, 0.7, 0.7, 0.6, 0.6], 1):
        assert not is_over(history, task)
        history.append({"epoch": epoch, "validation_accuracy": accuracy, "validation_loss": 1 - epoch / 10})
    assert best_of(history, task)["epoch"] == 3  # of equal accuracies, the lower loss
    assert is_over(history, task)


def test_killed_while_claiming_the_workdir(tiny, tmp_path):
    (tmp_path / "config.json.new").write_text("{")
    assert mnist.main([*TINY, "--epochs", "1", "--workdir", str(tmp_path)]) == 0


def test_a_finished_run_is_left_alone(whole, capsys):
    def times():
        return {path.name: path.stat().st_mtime_ns for path in whole.iterdir() if path.name != wd.LOCK}

    before = times()
    assert mnist.main([*TINY, "--workdir", str(whole)]) == 0
    assert "finished; --overwrite runs it again" in capsys.readouterr().out
    assert times() == before


def test_a_second_run_in_the_same_workdir_is_refused(tiny, tmp_path, capsys, monkeypatch):
    second = []
    original = training.check_finite

    def check_finite(step, *arguments):
        if step == 7:  # while the first is running
            second.append(mnist.main([*TINY, "--workdir", str(tmp_path), "--overwrite"]))
        original(step, *arguments)

    monkeypatch.setattr(training, "check_finite", check_finite)
    assert mnist.main([*TINY, "--workdir", str(tmp_path)]) == 0
    assert second == [2]
    assert f"another process is running in {tmp_path}" in capsys.readouterr().err


def test_another_configuration_is_refused(whole, capsys):
    before = saved(whole)
    assert mnist.main([*TINY, "--features", "5", "--workdir", str(whole)]) == 2
    assert "features 4 there and 5 here" in capsys.readouterr().err
    assert "kernel_scale" not in json.loads((whole / wd.CONFIG).read_text())  # as in older runs
    assert mnist.main([*TINY, "--kernel-scale", "0.5", "--workdir", str(whole)]) == 2
    assert "(kernel_scale 1.0 there and 0.5 here)" in capsys.readouterr().err
    np.testing.assert_equal(saved(whole), before)


def test_overwrite_discards_the_run_and_nothing_else(whole, capsys):
    """Not even what lies in the folders of the run; all of it is named."""
    mine = ["checkpoints/best-of-3/data", "inspect/mine.png", "notes.txt", "profile/notes", "tensorboard/mine"]
    for name in mine:
        (whole / name).parent.mkdir(parents=True, exist_ok=True)
        (whole / name).write_text("mine")
    for name in ("checkpoints/12.damaged1/state", "tensorboard/events.out.tfevents.1", "inspect/reach.png"):
        (whole / name).parent.mkdir(parents=True, exist_ok=True)
        (whole / name).write_text("of the run")
    assert mnist.main([*TINY, "--features", "5", "--epochs", "1", "--workdir", str(whole), "--overwrite"]) == 0
    assert json.loads((whole / wd.CONFIG).read_text())["features"] == 5
    assert [name for name in mine if (whole / name).read_text() != "mine"] == []
    kept = "checkpoints/best-of-3, inspect/mine.png, notes.txt, profile/notes, tensorboard/mine"
    assert f"kept in {whole}, since no run writes such files: {kept}\n" in capsys.readouterr().err
    assert {path.name for path in (whole / wd.CHECKPOINTS).iterdir()} == {"5", "best-of-3"}
    assert {path.name for name in ("inspect", "tensorboard") for path in (whole / name).iterdir()} == {
        "mine.png",
        "mine",
    }


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
@pytest.mark.parametrize("name", ["thesis.tex", "config.json", "checkpoints/mine", "summary.json"])
def test_a_folder_of_something_else_is_refused(tiny, tmp_path, capsys, name, overwrite):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"task": "image-classification", "seed": 0, "batch_size": 9, "learning_rate": 0.1}')
    assert mnist.main([*TINY, "--workdir", str(tmp_path), *overwrite]) == 2
    assert "give --workdir another folder" in capsys.readouterr().err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]
    assert (tmp_path / name).read_text().startswith('{"task": "image-classification"')


def test_overwrite_keeps_what_a_link_leads_to(whole, tmp_path, capsys):
    """The checkpoints are on another disk, as it were."""
    (whole / wd.CHECKPOINTS).rename(tmp_path / "disk")
    (whole / wd.CHECKPOINTS).symlink_to(tmp_path / "disk")
    assert mnist.main([*TINY, "--epochs", "1", "--workdir", str(whole), "--overwrite"]) == 0
    assert f"checkpoints was a link to {tmp_path / 'disk'}, where the files are kept" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "disk").iterdir()} == {"10", "15"}
    assert {path.name for path in (whole / wd.CHECKPOINTS).iterdir()} == {"5"}


def test_a_workdir_whose_name_is_not_utf8(tiny, tmp_path, capsys):
    """The library that writes the checkpoints accepts no other."""
    workdir = tmp_path / os.fsdecode(b"\xff")
    assert mnist.main([*TINY, "--workdir", str(workdir)]) == 2
    assert re.fullmatch("error: .* has a name that is not UTF-8: give another path.*\n", capsys.readouterr().err)
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--batch-size", "1" + "0" * 12], 2, "batch_size must be at most 2147483647, got 1000000000000"),
        (["--params", "9" * 40], 2, "params must be at most 1000000M, got 999"),
        (["--features", "9" * 12], 2, "features must be at most 1000000, got 999"),
        (["--preset", "3d", "--depth", "9" * 12], 2, "depth must be at most 1000000, got 999"),
        (["--tensor-shape", "3", "9" * 12], 2, "tensor_shape must be at most 1000000, got 999"),
        (["--length", "9" * 12], 2, "length must be at most 1000000, got 999"),
        (["--num-symbols", "9" * 12], 2, "num_symbols must be at most 1000000, got 999"),
        (["--batch-size", "2000000000", "--length", "1000000"], 1, "not enough memory (Unable to allocate"),
    ],
)
def test_sizes_beyond_any_memory(tmp_path, capsys, arguments, status, message):
    assert memorization.main([*arguments, "--workdir", str(tmp_path / "run")]) == status
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert len(error.splitlines()) == 1


def test_a_workdir_that_cannot_be_written(tiny, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert mnist.main([*TINY, "--workdir", str(tmp_path / "file" / "run")]) == 2
    assert "cannot write to the workdir" in capsys.readouterr().err


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


def test_four_devices_do_what_one_does(tiny, tmp_path):
    assert jax.device_count() == 4
    results = {}
    for count in (1, 4):
        workdir = tmp_path / str(count)
        assert mnist.main([*TINY, "--devices", str(count), "--workdir", str(workdir)]) == 0
        results[count] = saved(workdir)[1], metrics(workdir)
    for one, four in zip(results[1][0], results[4][0], strict=True):
        np.testing.assert_allclose(four, one, rtol=1e-3, atol=1e-5)
    losses = [[record["train_loss"] for record in results[n][1]] for n in (1, 4)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


@pytest.mark.parametrize("count", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_steps_sent_together_do_what_they_do_one_by_one(tiny, tmp_path, monkeypatch, count):
    """A run that is killed within a dispatch resumes exactly, too."""
    arguments = [*TINY, "--devices", str(count), "--workdir"]
    workdirs = [tmp_path / name for name in ("single", "together", "broken")]
    more = ["--steps-per-dispatch", "7", "--checkpoint-seconds", "0"]  # 5 steps in an epoch
    assert mnist.main([*arguments, str(workdirs[0])]) == 0
    assert mnist.main([*arguments, str(workdirs[1]), *more]) == 0
    with killed_at(13, monkeypatch):
        mnist.main([*arguments, str(workdirs[2]), *more])
    assert mnist.main([*arguments, str(workdirs[2]), *more]) == 0
    assert_same_run(workdirs[1], workdirs[2])
    assert workdirs[1].joinpath(wd.CONFIG).read_text() == workdirs[0].joinpath(wd.CONFIG).read_text()
    single, together = ([saved(workdir)[1], metrics(workdir)] for workdir in workdirs[:2])
    for one, other in zip(single[0], together[0], strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-5)
    assert [record["step"] for record in together[1]] == [5, 10, 15]
    np.testing.assert_allclose(*([r["train_loss"] for r in records] for _, records in (single, together)), rtol=1e-5)


@pytest.mark.slow
def test_a_run_goes_on_with_other_numbers_of_steps_together(tiny, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert mnist.main([*TINY, "--workdir", str(whole)]) == 0
    with killed_at(8, monkeypatch):
        mnist.main([*TINY, "--workdir", str(broken), "--checkpoint-seconds", "0"])
    assert mnist.main([*TINY, "--workdir", str(broken), "--steps-per-dispatch", "5"]) == 0
    for one, other in zip(saved(whole)[1], saved(broken)[1], strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-5)
    assert [record["step"] for record in metrics(broken)] == [5, 10, 15]


@pytest.mark.parametrize(("steps", "at_most", "together"), [(5, 1, 1), (5, 7, 5), (100, 8, 5), (7, 6, 1), (12, 6, 6)])
def test_as_many_steps_go_together_as_divide_an_epoch(steps, at_most, together):
    assert training.largest_divisor(steps, at_most) == together


def test_a_batch_is_spread_over_all_devices():
    mesh = devices.data_mesh(0)
    batch = devices.shard_batches({"images": striped(10, 0).images}, 10, mesh)
    assert batch["images"].shape == (12, 3, 2)
    assert batch["weights"].sum() == 10
    assert {len(batch["images"].sharding.device_set), mesh.size} == {4}


def test_a_loss_that_is_no_number_stops_the_run(tiny, tmp_path, capsys):
    arguments = [*TINY, "--learning-rate", "1e38", "--clip-norm", "0", "--norm", "none", "--workdir", str(tmp_path)]
    assert mnist.main(arguments) == 1
    assert "try a --learning-rate below" in capsys.readouterr().err


def test_tensorboard_gets_every_record(tmp_path):
    options = TrainOptions(tensorboard=True)
    options.check()
    history = [{"step": 10 * n, "test_loss": 1 / n} for n in (1, 2, 3)]
    with Metrics(tmp_path, options) as metrics:
        metrics.write([], resumed=True)
        for n in (1, 2, 3):
            metrics.write(history[:n])
    assert len(list((tmp_path / wd.TENSORBOARD).iterdir())) == 1
    found = [
        (event.step, value.simple_value)
        for path in sorted((tmp_path / wd.TENSORBOARD).iterdir())
        for event in events(path.read_bytes())
        for value in event.summary.value
        if value.tag == "test_loss"
    ]
    assert found == [(10, 1), (20, 0.5), (30, pytest.approx(1 / 3))]


def test_a_long_run_says_at_the_beginning_how_long_it_takes(monkeypatch):
    """Once, measured without the first step, which compiles."""
    clock = iter([0.0, 4.0, 6.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    estimate = Estimate(50_003, 50)
    said = [estimate.after(1) for _ in range(5)]
    assert said == [None, None, "about 42 hours for at most 50 epochs, 3000 ms a step", None, None]
    assert [duration(n) for n in (5, 130, 54_000, 200_000)] == ["5 seconds", "2 minutes", "15 hours", "2 days"]


def events(data):
    """The events in a TensorBoard file: each is preceded by its length and a checksum, and followed by a checksum."""
    from tensorboardX.proto import event_pb2

    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield event_pb2.Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def test_without_tensorboardx_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert mnist.main([*TINY, "--tensorboard", "--workdir", str(tmp_path / "run")]) == 2
    assert "tensorboard needs tensorboardX: pip install" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_profiling_says_what_it_is_doing(tmp_path, monkeypatch):
    monkeypatch.setattr(profiling, "ROUND_SECONDS", 0)
    monkeypatch.setattr(jax.profiler, "trace", lambda _: contextlib.nullcontext())
    said = []
    steps = {"dispatch": lambda state, *_: state, "at_once": 1, "wait": lambda: None, "bare_steps": lambda state: state}
    line = profiling.profile(np.zeros(1), **steps, report=said.append, trace=tmp_path)
    assert "the loop adds" in line
    assert [words.split(": ")[1].split()[0] for words in said] == [
        "compiling",
        "15",
        "round",
        "round",
        "round",
        "writing",
    ]
