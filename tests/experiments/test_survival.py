"""Robustness of runs of every task: SIGKILL at random times, random damage, several processes (slow)."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.running import workdir as wd
from experiments.running.checkpoints import Checkpoints
from tests.experiments.small_runs import assert_same_run, metrics

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
KILLS = 20
CORRUPTIONS = 60
SMALL = ["--features", "3", "--tensor-shape", "2", "--checkpoint-seconds", "0"]
RUNS = {
    "mnist": ["--data", "digits", "--batch-size", "200", "--epochs", "3"],
    "memorization": ["--length", "2", "--samples", "450", "--check-every", "150"],
    "addition": ["--digits", "1", "--samples", "450", "--check-every", "150"],
    "language": ["--data", "enwik8", "--batch-size", "20", "--steps", "20", "--epochs", "3"],
}


@pytest.fixture
def arguments(tmp_path, task):
    """The options of the task, except for the workdir."""
    if task != "language":
        return [*SMALL, *RUNS[task]]
    text = tmp_path / "text"
    text.write_bytes(b"<mediawiki" + random.Random(0).randbytes(9990))
    return [*SMALL, *RUNS[task], "--data-file", str(text), "--prepared-dir", str(tmp_path / "prepared")]


def start(task, *arguments, devices=1):
    """Starts the command in a process."""
    flags = f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{task}", *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors


@pytest.mark.parametrize("task", RUNS)
def test_killed_at_random_moments_it_is_the_unbroken_run(tmp_path, task, arguments):
    """During start-up, training, evaluation and saving; the run resumes after each kill."""
    unbroken = tmp_path / "unbroken"
    begin = time.monotonic()
    finish(start(task, *arguments, "--workdir", str(unbroken)))
    longest = time.monotonic() - begin
    rng = random.Random(task)
    kills, workdirs = 0, 0
    while kills < KILLS:
        workdir = tmp_path / f"broken{workdirs}"
        while kills < KILLS:
            process = start(task, *arguments, "--workdir", str(workdir))
            try:
                process.communicate(timeout=rng.uniform(0.2, 1) * longest)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                kills += 1
            else:
                assert process.returncode == 0
                break
        finish(start(task, *arguments, "--workdir", str(workdir)))
        assert_same_run(unbroken, workdir)
        workdirs += 1


def test_random_damage_to_the_last_checkpoint_is_noticed_or_harmless(tmp_path):
    rng = random.Random(0)
    older, newer = ({"w": np.arange(300.0) + n, "b": np.arange(5)} for n in (0, 1))
    with Checkpoints(tmp_path / "whole") as checkpoints:
        checkpoints.save(1, {"state": older, "best": older}, {"history": [1]})
        checkpoints.save(2, {"state": newer, "best": newer}, {"history": [1, 2]})
    noticed = 0
    for trial in range(CORRUPTIONS):
        folder = Path(shutil.copytree(tmp_path / "whole", tmp_path / str(trial)))
        files = sorted(path for path in (folder / "2").rglob("*") if path.is_file() and path.stat().st_size)
        path = rng.choice(files)
        contents = bytearray(path.read_bytes())
        at = rng.randrange(len(contents))
        if trial % 2:
            contents[at] ^= 1 << rng.randrange(8)
        path.write_bytes(contents if trial % 2 else contents[:at])
        reported = []
        with Checkpoints(folder) as checkpoints:
            trees, meta = checkpoints.restore({"state": newer, "best": newer}, reported.append)
        expected = older if reported else newer
        assert meta["history"] == ([1] if reported else [1, 2])
        for name in ("state", "best"):
            np.testing.assert_equal({key: np.asarray(z) for key, z in trees[name].items()}, expected)
        noticed += len(reported)
    assert noticed > CORRUPTIONS // 10  # the rest hit bytes that are not read


@pytest.mark.parametrize("task", ["mnist", "language"])
def test_two_processes_with_two_devices_each_are_one_with_four(tmp_path, task, arguments):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    together = ["--distributed", "--coordinator", f"localhost:{port}", "--num-processes", "2"]
    processes = [
        start(task, *arguments, *together, "--process-id", str(i), "--workdir", str(tmp_path / "two"), devices=2)
        for i in range(2)
    ]
    for process in processes:
        finish(process)
    finish(start(task, *arguments, "--workdir", str(tmp_path / "one"), devices=4))
    losses = [[record["train_loss"] for record in metrics(tmp_path / name)] for name in ("one", "two")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    one, two = (json.loads((tmp_path / name / wd.CONFIG).read_text()) for name in ("one", "two"))
    assert one == two
    finish(start(task, *arguments, "--workdir", str(tmp_path / "two"), devices=4))  # resumes the other's
