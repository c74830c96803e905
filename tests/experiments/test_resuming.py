"""Resuming a run after kills and signals, with damaged checkpoints, after a full disk."""

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

from experiments import mnist
from experiments.common.files import write_json
from experiments.reporting import lines
from experiments.running import curves, runs
from experiments.running import workdir as wd
from experiments.running.checkpoints import CheckpointError, Checkpoints
from tests.experiments.small_runs import TINY, Killed, assert_same_run, damage, killed_at

ROOT = Path(__file__).parents[2]


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
    assert "renamed to 15.damaged, resuming from step 10" in error
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


def test_a_full_disk_leaves_the_checkpoint_before(whole, unbroken, capsys, caplog):
    """Files cannot grow beyond a limit from the second epoch on; then the limit is lifted."""
    for name in (wd.SUMMARY, wd.METRICS):
        (whole / name).unlink()
    shutil.rmtree(whole / wd.CHECKPOINTS / "15")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Another test would read what is left of a compiled program that was stored meanwhile.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 3600.0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
    try:
        assert mnist.main([*TINY, "--workdir", str(whole)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    error = capsys.readouterr().err
    assert re.search(r"\nerror: cannot write the checkpoint .* \(File too large\): .* to resume from step 10", error), (
        error
    )
    assert not any(word in error + caplog.text for word in ("Traceback", "orbax", "ERROR"))
    assert mnist.main([*TINY, "--workdir", str(whole)]) == 0
    assert_same_run(unbroken, whole)


def test_another_environment_is_reported_or_refused(whole, unbroken, capsys):
    """A finished run is not resumed, and earlier versions did not record the environment."""
    config = json.loads((whole / wd.CONFIG).read_text())
    (now,) = config["environments"]
    assert (now["jax"], now["platform"], now["x64"]) == (jax.__version__, "cpu", False)
    former = {**now, "jax": "0.1", "platform": "gpu", "matmul_precision": "highest"}
    write_json(whole / wd.CONFIG, {**config, "environments": [former]})
    arguments = [*TINY, "--workdir", str(whole)]
    assert mnist.main(arguments) == 0
    (whole / wd.SUMMARY).unlink()
    assert mnist.main(arguments) == 2
    assert "platform gpu there and cpu here, matmul_precision highest there and None" in capsys.readouterr().err
    assert mnist.main([*arguments, "--any-environment"]) == 0
    assert f"resuming in another environment (jax 0.1 there and {jax.__version__} here" in capsys.readouterr().err
    assert json.loads((whole / wd.CONFIG).read_text())["environments"] == [former, now]
    assert lines.collect(whole).id == lines.collect(unbroken).id
    assert "environments" not in lines.collect(whole).options
    write_json(whole / wd.CONFIG, {**config, "environments": [{**now, "jax": "0.1", "device": "abacus"}]})
    (whole / wd.SUMMARY).unlink()
    assert mnist.main(arguments) == 0
    assert "device abacus there and cpu here" in capsys.readouterr().err
    assert_same_run(unbroken, whole)


def test_a_file_where_the_checkpoints_should_be(whole, capsys):
    (whole / wd.SUMMARY).unlink()
    (whole / wd.CHECKPOINTS).rename(whole / "elsewhere")
    (whole / wd.CHECKPOINTS).write_text("")
    assert mnist.main([*TINY, "--workdir", str(whole)]) == 2
    assert "checkpoints is a file" in capsys.readouterr().err


def test_flipped_bits_of_a_checkpoint_are_noticed_or_harmless(tmp_path):
    """By the checksum of the checkpoint, since not every file format underneath has one."""
    state = {"w": np.arange(300.0), "b": np.arange(5)}
    with_damage = 0
    for trial in range(6):
        folder = tmp_path / str(trial)
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(1, {"state": state}, {"history": []})
        files = sorted(
            path for path in (folder / "1" / "state").rglob("*") if path.is_file() and path.stat().st_size > 99
        )
        damage(files[trial % len(files)], "flipped")
        try:
            with Checkpoints(folder) as checkpoints:
                restored, _ = checkpoints.restore({"state": state}, print)
        except ValueError as error:
            with_damage += 1
            assert "to begin again" in str(error)  # noqa: PT017
        else:
            np.testing.assert_equal(jax.device_get(restored["state"]), state)
    assert with_damage > 0


@pytest.mark.parametrize(("moment", "seconds"), [(1, "0"), (13, "0"), (13, "1000")])
def test_killed_and_resumed_is_the_unbroken_run(whole, tmp_path, monkeypatch, moment, seconds):
    """At any step, with a checkpoint after every step or only at the end of epochs."""
    workdir = tmp_path / "broken"
    arguments = [*TINY, "--workdir", str(workdir), "--checkpoint-seconds", seconds]
    with killed_at(moment, monkeypatch):
        mnist.main(arguments)
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
    monkeypatch.setattr(runs, "learning_curves", curves.learning_curves)
    assert mnist.main([*TINY, "--workdir", str(workdir)]) == 0
    assert_same_run(whole, workdir)
    assert (workdir / wd.CURVES).read_bytes() == (whole / wd.CURVES).read_bytes()


REAL = ["--features", "3", "--tensor-shape", "1", "--norm", "none", "--batch-size", "200", "--epochs", "4"]


def start(workdir):
    """Starts a process that trains on the real digits, with a checkpoint after every step."""
    command = [sys.executable, "-m", "experiments.mnist", "--data", "digits", *REAL, "--checkpoint-seconds", "0"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # without the cache that the tests share
    return subprocess.Popen(
        [*command, "--workdir", str(workdir)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The workdir of such a process that was not interrupted."""
    workdir = tmp_path_factory.mktemp("real") / "run"
    process = start(workdir)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "resuming from step" not in errors
    return workdir


@pytest.mark.parametrize(
    "signals",
    [
        pytest.param([signal.SIGINT, signal.SIGKILL], marks=pytest.mark.slow),
        pytest.param([signal.SIGTERM], marks=pytest.mark.slow),
        pytest.param([signal.SIGKILL] * 4, marks=pytest.mark.slow),
    ],
)
def test_a_real_process_stopped_by_signals(real, tmp_path, signals):
    """Stopped from the second epoch on, each time a little later; the result is that of an uninterrupted run."""
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
        assert ("resuming from step" in errors) == (n > 0)
        assert not (workdir / wd.SUMMARY).exists()
    process = start(workdir)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "resuming from step" in errors
    assert_same_run(real, workdir)


@pytest.mark.parametrize("how", ["killed", "full disk"])
def test_saving_a_step_again_keeps_the_old_until_the_new_is_there(tmp_path, monkeypatch, how):
    state, newer = {"w": np.arange(3.0)}, {"w": np.arange(3.0) + 1}

    def save(*_, **__):
        raise Killed if how == "killed" else OSError("No space left on device")

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, {"state": state}, {"history": []})
        with monkeypatch.context() as context:
            context.setattr(checkpoints._manager, "save", save)
            with pytest.raises(Killed if how == "killed" else CheckpointError):
                checkpoints.save(7, {"state": newer}, {"history": [1]})
    with Checkpoints(tmp_path) as checkpoints:
        restored, meta = checkpoints.restore({"state": state}, print)
        np.testing.assert_array_equal(restored["state"]["w"], state["w"])
        assert meta == {"history": []}
        checkpoints.save(7, {"state": newer}, {"history": [1]})
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore({"state": state}, print)[1] == {"history": [1]}
    assert [path.name for path in tmp_path.iterdir()] == ["7"]


@pytest.mark.parametrize("name", [wd.METRICS, wd.SUMMARY, wd.CURVES])
def test_a_file_of_the_run_that_cannot_be_written(whole, unbroken, capsys, name):
    """Because a folder has its name; once that is removed, the run resumes and ends the same."""
    for file in (wd.METRICS, wd.SUMMARY, wd.CURVES):
        (whole / file).unlink()
    (whole / name).mkdir()
    (whole / name / "mine").touch()
    assert mnist.main([*TINY, "--workdir", str(whole)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(rf"^error: cannot (write|read) {whole / name} \(", error), error
    shutil.rmtree(whole / name)
    assert mnist.main([*TINY, "--workdir", str(whole)]) == 0
    assert_same_run(unbroken, whole)
