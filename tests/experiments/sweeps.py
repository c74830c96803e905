"""Runs for the tests of sweeps: files as runs leave them, and scripts in their place."""

import dataclasses
import json
import signal
import sys

from experiments import sweep
from experiments.common.files import write_json, write_lines
from experiments.running import workdir as wd
from experiments.running.models import ModelOptions
from experiments.sweeping.grid import Model, Run

TINY = ["--length", "1", "--num-symbols", "9", "--features", "3", "--samples", "30", "--check-every", "15"]
SAVED = 128 + signal.SIGTERM
"""The exit status of a run that saved a checkpoint after SIGTERM."""


def write_run(workdir, epochs=5, finished=True, **options):
    """Writes the files of a run of memorization, except for checkpoints."""
    model = ModelOptions(preset=options.pop("preset", "2d+CN"), depth=4).resolved(ModelOptions())
    config = {"task": "memorization", "length": 5, **dataclasses.asdict(model), "seed": 0, **options}
    history = [
        {"epoch": n, "samples": 100 * n, "test_accuracy": 0.1 * n + 1 / 3e7, "seconds": 1.5}
        for n in range(1, epochs + 1)
    ]
    workdir.mkdir(parents=True)
    write_json(workdir / wd.CONFIG, config)
    write_lines(workdir / wd.METRICS, history)
    if finished:
        found = {"headline": "solved", "parameters": 7, "samples": 100 * epochs, "solved": True, "test_accuracy": 0.995}
        write_json(workdir / wd.SUMMARY, {"title": f"memorization n=5, {model.title}", **found})
    return workdir


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def of_scripts(monkeypatch, folder, *scripts):
    """Replaces the runs of a sweep by these scripts, one per seed."""
    runs = [
        Run(Model("2d", 4), seed, folder / str(seed), [sys.executable, "-c", script, str(folder / str(seed))])
        for seed, script in enumerate(scripts)
    ]
    monkeypatch.setattr(sweep, "grid", lambda options, rest: runs)
    monkeypatch.setattr(sweep, "check_first", lambda options, todo: None)  # the scripts are no commands of a task
    return ["memorization", "--folder", str(folder), "--results", str(folder / "lines.jsonl")]


def leaving(tmp_path, status, **run):
    """A script that writes the files of a run."""
    source = write_run(tmp_path / f"source{len(list(tmp_path.iterdir()))}", **run)
    return f"import shutil, sys; shutil.copytree({str(source)!r}, sys.argv[1]); sys.exit({status})"
