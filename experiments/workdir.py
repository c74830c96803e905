"""A run's folder: who it belongs to, what is in it, and what may be overwritten."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

CONFIG, METRICS, SUMMARY, CHECKPOINTS, CURVES = (
    "config.json",
    "metrics.jsonl",
    "summary.json",
    "checkpoints",
    "learning_curves.png",
)


class WorkdirError(ValueError):
    """A workdir that cannot be used; one line that says why and what to do."""


def claim(workdir: Path, config: dict[str, Any], *, overwrite: bool) -> None:
    """Makes ``workdir`` this run's, new or the same as before.

    Args:
        workdir: the folder; made where it does not exist.
        config: everything that decides the run's numbers, as JSON.
        overwrite: remove an earlier run's files first (those that a run writes, and no others).

    Raises:
        WorkdirError: it holds another configuration's run or files that no run wrote, or cannot be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise WorkdirError(
            f"cannot write to the workdir {workdir} ({error.strerror or error}): "
            "give --workdir a folder that can be written"
        ) from error
    if overwrite:
        for name in (CONFIG, METRICS, SUMMARY, CURVES):
            (workdir / name).unlink(missing_ok=True)
        shutil.rmtree(workdir / CHECKPOINTS, ignore_errors=True)
    recorded = read_json(workdir / CONFIG)
    config = json.loads(json.dumps(config))  # as it will be read back
    if recorded is None and not overwrite and any(workdir.iterdir()):
        raise WorkdirError(
            f"{workdir} holds files but no {CONFIG}, so it is no run's: give --workdir another folder, "
            "or --overwrite to write beside them"
        )
    if recorded is None:
        write_json(workdir / CONFIG, config)
    elif recorded != config:
        differences = ", ".join(
            f"{key} {_shown(recorded.get(key))} there and {_shown(config.get(key))} here"
            for key in sorted({*recorded, *config})
            if recorded.get(key) != config.get(key)
        )
        raise WorkdirError(
            f"{workdir} belongs to a run of another configuration ({differences}): give --workdir another folder, "
            "the same options to go on with that run, or --overwrite to discard it"
        )


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:36]}.."


def read_json(path: Path) -> Any:
    """What a JSON file holds, or None where there is none.

    Raises:
        WorkdirError: it is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise WorkdirError(f"cannot read {path} ({error}): restore it, or use --overwrite to begin again") from error


def write_json(path: Path, value: Any) -> None:
    """Writes JSON in one piece."""
    _replace(path, json.dumps(value, indent=2) + "\n")


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Writes JSON lines, one a record, in one piece."""
    _replace(path, "".join(json.dumps(record) + "\n" for record in records))


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".new")
    with beside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
