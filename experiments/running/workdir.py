"""A run's folder: who it belongs to, what is in it, and what may be overwritten."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from experiments.running.models import LATER

CONFIG, METRICS, SUMMARY, CURVES = "config.json", "metrics.jsonl", "summary.json", "learning_curves.png"
CHECKPOINTS, TENSORBOARD, PROFILE, INSIDE = "checkpoints", "tensorboard", "profile", "inspect"  # folders
NEW = ".new"  # of a file that is being written
LOCK = ".lock"  # held by the process that runs there
ELSEWHERE = "give --workdir another folder"


class WorkdirError(ValueError):
    """A workdir that cannot be used; one line that says why and what to do."""


@contextlib.contextmanager
def claimed(workdir: Path, config: dict[str, Any], *, overwrite: bool) -> Iterator[None]:
    """Makes ``workdir`` this run's, new or the same as before, and keeps every other process out while inside.

    Args:
        workdir: the folder; made where it does not exist.
        config: everything that decides the run's numbers, as JSON.
        overwrite: remove an earlier run's files first: those that a run writes, and no others. A folder
            that is no run's is never touched.

    Raises:
        WorkdirError: it holds another configuration's run or files that no run wrote, cannot be written, or
            another process is running there.
    """
    with contextlib.ExitStack() as held:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            _recorded(workdir)  # before anything is written into somebody else's folder
            held.enter_context(filelock.FileLock(workdir / LOCK, timeout=0))
            _claim(workdir, config, overwrite)
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
    """The configuration of the run that is there, or None."""
    recorded = read_json(workdir / CONFIG)
    if recorded is None and any(path.suffix != NEW and path.name != LOCK for path in workdir.iterdir()):
        raise WorkdirError(f"{workdir} holds files but no {CONFIG}, so it is no run's: {ELSEWHERE}")
    if recorded is not None and not (isinstance(recorded, dict) and "task" in recorded):
        raise WorkdirError(f"{workdir / CONFIG} is not of a run: {ELSEWHERE}")
    return recorded


def _claim(workdir: Path, config: dict[str, Any], overwrite: bool) -> None:
    recorded = _recorded(workdir)
    if recorded is not None and overwrite:
        _discard(workdir)
    if recorded is None or overwrite:
        write_json(workdir / CONFIG, config)
    check_same(workdir, config)


def check_same(workdir: Path, config: dict[str, Any]) -> None:
    """Raises a WorkdirError if the run there is another configuration's; none at all is not another."""
    config = json.loads(json.dumps(config))  # as it is read back
    recorded = read_json(workdir / CONFIG)
    if recorded is not None and recorded != config:
        there, here = ({**LATER, **each} for each in (recorded, config))
        differences = ", ".join(
            f"{key} {_shown(there.get(key))} there and {_shown(here.get(key))} here"
            for key in sorted({*there, *here})
            if there.get(key) != here.get(key)
        )
        raise WorkdirError(
            f"{workdir} belongs to a run of another configuration ({differences}): {ELSEWHERE}, "
            "the same options to go on with that run, or --overwrite to discard it"
        )


def _discard(workdir: Path) -> None:
    """Removes what a run wrote, the configuration last, so that what is left can still be told to be a run's."""
    for name in (CHECKPOINTS, TENSORBOARD, PROFILE, INSIDE):
        if (workdir / name).exists():
            shutil.rmtree(workdir / name)
    for name in (METRICS, SUMMARY, CURVES, CONFIG):
        (workdir / name).unlink(missing_ok=True)


def read_config(workdir: Path) -> dict[str, Any]:
    """The configuration of the run that is there.

    Raises:
        WorkdirError: there is none, or it is damaged.
    """
    config = read_json(workdir / CONFIG)
    if not (isinstance(config, dict) and "task" in config):
        raise WorkdirError(f"{workdir} is no run's workdir: there is no {CONFIG} of a run")
    return config


def read_summary(workdir: Path) -> dict[str, Any] | None:
    """The summary of a finished run, or None.

    Raises:
        WorkdirError: it is damaged.
    """
    summary = read_json(workdir / SUMMARY)
    if summary is not None and not (isinstance(summary, dict) and "headline" in summary):
        raise WorkdirError(f"{workdir / SUMMARY} is damaged: delete it, and the run will write it again")
    return summary


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:36]}.."


def read_json(path: Path) -> Any:
    """What a JSON file holds, or None where there is none.

    Raises:
        WorkdirError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise WorkdirError(f"cannot read {path} ({error}): restore it, or {ELSEWHERE}") from error


def write_json(path: Path, value: Any) -> None:
    """Writes JSON in one piece."""
    with writing(path) as beside:
        beside.write_text(json.dumps(value, indent=2) + "\n")


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Writes JSON lines, one a record, in one piece."""
    with writing(path) as beside:
        beside.write_text("".join(json.dumps(record) + "\n" for record in records))


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A path beside ``path``, of a file that takes its place when it is written.

    Raises:
        WorkdirError: it cannot be written.
    """
    beside = path.with_name(path.name + NEW)
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise WorkdirError(
            f"cannot write {path} ({error.strerror or error}): mend that, then run the same command again to go on"
        ) from error
