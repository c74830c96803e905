"""A run's folder: claiming it for one run, the names of its files, and overwriting it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from experiments.common.errors import CommandError
from experiments.common.files import NEW, FileError, check_name, read_json, write_json
from experiments.running import environment
from experiments.running.models import SET_BY_TIME_SCALE
from experiments.running.options import LATER

CONFIG, METRICS, SUMMARY, CURVES = "config.json", "metrics.jsonl", "summary.json", "learning_curves.png"
CHECKPOINTS, TENSORBOARD, PROFILE, INSIDE = "checkpoints", "tensorboard", "profile", "inspect"  # folders
DIVERGED = "diverged.json"  # of a run whose loss became infinite while others were trained with it
LOCK = ".lock"  # held by the process that runs there
WRITTEN = {
    CHECKPOINTS: r"\d+(\.replaced|\.damaged\d*|\.orbax-checkpoint-tmp.*)?",
    TENSORBOARD: r"events\.out\.tfevents\..*",
    PROFILE: "plugins",
    INSIDE: rf"(memory\.png|reach\.png|data\.npz)(\..*\{NEW})?",
}
"""By folder of a run, the names of what is written there."""
EVERY_RUN = {"task", "features", "tensor_shape", "memory_conv", "norm_epsilon", "batch_size", "learning_rate", "seed"}
"""Keys of the configuration of every run, by which it is recognized, also one of an earlier version. The names of the
tasks are not compared: a run of a task that was removed or renamed is still a run."""
FORMER_TASKS = {"wikipedia": "language"}
"""Tasks that were renamed: the name that earlier versions recorded, and today's."""
EVALUATION_STREAMS = "evaluation_streams"
"""An option of language modeling: the number of parallel streams into which the validation and test texts are split. It
is recorded if it differs from the batch size, which earlier versions used."""
ELSEWHERE = "give --workdir another folder"


class WorkdirError(CommandError):
    """A workdir that cannot be used; the message says why and how to fix it."""


@contextlib.contextmanager
def claimed(workdir: Path, config: dict[str, Any], *, overwrite: bool, any_environment: bool = False) -> Iterator[None]:
    """Locks ``workdir`` for this process, for a new run or to resume the run with the same configuration.

    Args:
        workdir: the folder; created if it does not exist.
        config: everything that determines the run's results, as JSON.
        overwrite: first delete the files of an earlier run, only those that runs write; the others are named. A folder
            that is not a workdir is never changed.
        any_environment: also resume a run that was begun in an environment of another precision.

    Raises:
        WorkdirError: the folder holds a run of another configuration or environment, or files that no run wrote,
            cannot be written, or another process is running there.
        FileError: its configuration cannot be read, or its path is not UTF-8.
    """
    check_name(workdir)
    with contextlib.ExitStack() as held:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            _recorded(workdir)  # before writing anything, since the folder may not be a workdir
            held.enter_context(filelock.FileLock(workdir / LOCK, timeout=0))
            _claim(workdir, config, overwrite, any_environment)
        except filelock.Timeout as error:
            raise WorkdirError(
                f"another process is running in {workdir}: wait until it has ended or stop it, or {ELSEWHERE}"
            ) from error
        except OSError as error:
            raise WorkdirError(
                f"cannot write to the workdir {workdir} ({error.strerror or error}): "
                "give --workdir a folder that can be written"
            ) from error
        yield


def _recorded(workdir: Path) -> Any:
    """The configuration of the run in the folder; None if the folder is empty."""
    recorded = read_json(workdir / CONFIG)
    if recorded is None and any(path.suffix != NEW and path.name != LOCK for path in workdir.iterdir()):
        raise WorkdirError(f"{workdir} holds files but no {CONFIG}, so it is not a workdir: {ELSEWHERE}")
    if recorded is not None and not is_of_run(recorded):
        raise WorkdirError(f"{workdir / CONFIG} is not of a run: {ELSEWHERE}")
    return recorded


def is_of_run(recorded: Any) -> bool:
    """Whether the contents of a config.json are the configuration of a run, and not of another project."""
    return isinstance(recorded, dict) and isinstance(recorded.get("task"), str) and recorded.keys() >= EVERY_RUN


def _claim(workdir: Path, config: dict[str, Any], overwrite: bool, any_environment: bool) -> None:
    recorded = _recorded(workdir)
    if recorded is not None and overwrite:
        _discard(workdir)
        recorded = None
    here = environment.current()
    if recorded is None:
        write_json(workdir / CONFIG, {**config, environment.RECORDED: [here]})
        return
    check_same(workdir, config)
    known = recorded.get(environment.RECORDED)  # earlier versions did not record it
    if not known or (workdir / SUMMARY).exists():
        return
    begun = any((workdir / CHECKPOINTS).glob("[0-9]*"))
    changes = environment.changes(known[-1], here) if begun else {}
    differences = ", ".join(changes.values())
    if changes.keys() - {*environment.ROUNDING} and not any_environment:
        raise WorkdirError(
            f"the run in {workdir} was trained in another environment ({differences}), which changes its numbers: "
            f"restore it, or give --any-environment to resume the run nevertheless, or {ELSEWHERE}"
        )
    if changes:
        print(f"WARNING: resuming in another environment ({differences})", file=sys.stderr)
    if known[-1] != here:
        write_json(workdir / CONFIG, {**recorded, environment.RECORDED: [*(known if begun else []), here]})


def recorded_here(workdir: Path) -> dict[str, Any] | None:
    """The configuration of the run in a folder; None if there is no folder, no run or a damaged configuration."""
    try:
        config = read_json(workdir / CONFIG)
    except FileError:
        return None  # reported when the workdir is claimed
    return config if is_of_run(config) else None


def renamed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with today's name of the task, see :data:`FORMER_TASKS`, and without environments."""
    return without_environments({**config, "task": FORMER_TASKS.get(config["task"], config["task"])})


def without_environments(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that identifies a run: all of it except for the environments."""
    return {name: value for name, value in config.items() if name != environment.RECORDED}


def check_same(workdir: Path, config: dict[str, Any]) -> None:
    """Raises a WorkdirError if the folder holds a run of another configuration. An empty folder is accepted."""
    recorded = read_json(workdir / CONFIG)
    if recorded is None:
        return
    if not is_of_run(recorded):
        raise WorkdirError(f"{workdir / CONFIG} is not of a run: {ELSEWHERE}")
    there, here = renamed(recorded), renamed(json.loads(json.dumps(config)))  # tuples become lists, as when read back
    if there != here:
        there, here = ({**LATER, EVALUATION_STREAMS: each.get("batch_size"), **each} for each in (there, here))
        differing = [key for key in sorted({*there, *here}) if there.get(key) != here.get(key)]
        if "time_scale" in differing and not there["time_scale"] and {*differing} <= {"time_scale", *SET_BY_TIME_SCALE}:
            biases = " and ".join(f"{name} {there.get(name)}" for name in SET_BY_TIME_SCALE)
            raise WorkdirError(
                f"the run in {workdir} was started without a time scale, with {biases}: add --time-scale 0 to resume "
                f"it, {ELSEWHERE}, or --overwrite to discard it"
            )
        differences = ", ".join(
            f"{key} {_shown(there.get(key))} there and {_shown(here.get(key))} here" for key in differing
        )
        raise WorkdirError(
            f"{workdir} belongs to a run of another configuration ({differences}): {ELSEWHERE}, "
            "the same options to resume that run, or --overwrite to discard it"
        )


def _discard(workdir: Path) -> None:
    """Deletes what a run writes, the configuration last: until then the folder is recognized as a workdir.

    Everything else is kept and named on stderr. If a folder is a symbolic link, only the link is deleted, since its
    target may hold other files.
    """
    for name, written in WRITTEN.items():
        folder = workdir / name
        if folder.is_symlink():
            print(f"{folder} was a link to {folder.resolve()}, where the files are kept", file=sys.stderr)
            folder.unlink()
        elif folder.is_dir():
            _discard_matching(folder, written)
    for name in (METRICS, SUMMARY, CURVES, DIVERGED, CONFIG):
        for unfinished in workdir.glob(f"{name}.*{NEW}"):  # by a process that was killed
            unfinished.unlink()
        (workdir / name).unlink(missing_ok=True)
    if kept := _names_in(workdir):
        print(f"kept in {workdir}, since no run writes such files: {', '.join(kept)}", file=sys.stderr)


def _discard_matching(folder: Path, pattern: str) -> None:
    """Deletes what is in a folder under a name that matches, then the folder if it is empty."""
    for path in [path for path in folder.iterdir() if re.fullmatch(pattern, path.name)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def _names_in(workdir: Path) -> list[str]:
    """The names in a workdir except for the lock; of a run's folders, the names in these."""
    every = [path for path in workdir.iterdir() if path.name != LOCK]
    inside = [within for path in every if path.name in WRITTEN and path.is_dir() for within in path.iterdir()]
    others = [path for path in every if not (path.name in WRITTEN and path.is_dir())]
    return sorted(path.relative_to(workdir).as_posix() for path in (*others, *inside))


def read_config(workdir: Path) -> dict[str, Any]:
    """Reads the configuration of a run, without the environments in which it was trained.

    Raises:
        WorkdirError: there is no configuration, or it is not that of a run.
        FileError: the configuration cannot be read.
    """
    config = read_json(workdir / CONFIG)
    if not (isinstance(config, dict) and "task" in config):
        raise WorkdirError(f"{workdir} is not the workdir of a run: there is no {CONFIG} of a run")
    return without_environments(config)


def read_devices(workdir: Path) -> list[str]:
    """The kinds of devices on which a run was trained, one after the other; empty if they were not recorded."""
    config = read_json(workdir / CONFIG)
    environments = config.get(environment.RECORDED, []) if isinstance(config, dict) else []
    return list(dict.fromkeys(each["device"] for each in environments))


def read_summary(workdir: Path) -> dict[str, Any] | None:
    """Reads the summary of a finished run; returns None if the run is not finished.

    Raises:
        WorkdirError: the summary is damaged.
        FileError: the summary cannot be read.
    """
    summary = read_json(workdir / SUMMARY)
    if summary is not None and not (isinstance(summary, dict) and "headline" in summary):
        raise WorkdirError(f"{workdir / SUMMARY} is damaged: delete it, and the run will write it again")
    return summary


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:36]}.."
