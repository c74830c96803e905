"""Result lines: what is kept of a run under version control, one line of JSON each."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.running import workdir as wd
from experiments.running.models import ModelOptions

Line = dict[str, Any]
"""A run; :data:`FIELDS` says what is in it."""
FIELDS: dict[str, Any] = {
    "id": str,  # the checksum of the whole configuration
    "task": str,
    "title": str,
    "config": dict,  # with a checksum in place of a long list
    "finished": bool,
    "summary": dict | None,  # of a finished run
    "history": list,  # thinned
    "parameters": int | None,  # of a finished run
    "samples": int,  # or characters, each as often as it was seen
    "seconds": int | float,  # of training and evaluation
    "date": str,  # of the last word of the run
}
RECORDS = 60
"""At most so many records of a run's history are kept."""
LONG = 200
"""Characters of JSON; of an option that has more, a permutation say, the checksum is kept."""
NAMES: dict[str, Callable[[dict[str, Any]], str]] = {
    "memorization": lambda config: f"memorization n={config['length']}",
    "addition": lambda config: f"addition n={config['digits']}",
    "mnist": lambda config: f"{config['data']}{' permuted' if config['permutation'] else ''}",
    "wikipedia": lambda config: str(config["data"]),
}
"""What the tasks are called in titles, for runs that have no summary yet; others are called by the task alone."""
TITLE = re.compile(r"(?P<setting>.+), (?P<model>[^,]+?) L=(?P<depth>\d+)\b.* M=(?P<features>\d+)")


class ResultsError(wd.WorkdirError):
    """A file of results that cannot be read; one line that says where."""


def collect(workdir: Path) -> Line:
    """A run's line, from what it left.

    Raises:
        WorkdirError: the folder is no run's, or a file there is damaged.
    """
    config = wd.read_config(workdir)
    summary = wd.read_summary(workdir)
    history = read_records(workdir / wd.METRICS)
    latest = next(path for name in (wd.SUMMARY, wd.METRICS, wd.CONFIG) if (path := workdir / name).exists())
    line = {
        "id": checksum(config),
        "task": config["task"],
        "title": title(workdir, config) if summary is None else summary["title"],
        "config": {name: shortened(value) for name, value in config.items()},
        "finished": summary is not None,
        "summary": summary,
        "history": thinned(history),
        "parameters": None if summary is None else summary["parameters"],
        "samples": history[-1].get("samples") if history else 0,
        "seconds": round(sum(record.get("seconds", 0.0) for record in history), 1),
        "date": datetime.datetime.fromtimestamp(latest.stat().st_mtime, datetime.UTC).date().isoformat(),
    }
    if flaw := flaw_of(line):
        raise wd.WorkdirError(f"{workdir} cannot become a result: {flaw}")
    return line


def title(workdir: Path, config: dict[str, Any]) -> str:
    """Task and model, as the summary will have it.

    Raises:
        WorkdirError: the configuration does not tell.
    """
    try:
        task = NAMES[config["task"]](config) if config["task"] in NAMES else str(config["task"])
        return f"{task}, {ModelOptions.recorded(config).title}"
    except (KeyError, TypeError, ValueError) as error:
        raise wd.WorkdirError(f"{workdir / wd.CONFIG} is not of a run ({type(error).__name__}: {error})") from error


def checksum(value: Any) -> str:
    """The beginning of the sha256 of JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def shortened(value: Any) -> Any:
    """An option's value, or of a long one its length and checksum."""
    return value if len(json.dumps(value)) <= LONG else f"{len(value)} items, sha256 {checksum(value)}"


def thinned(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most :data:`RECORDS` of the records, evenly, the first and the last among them, to 5 digits."""
    last = len(history) - 1
    kept = [round(i * last / (RECORDS - 1)) for i in range(RECORDS)] if last >= RECORDS else range(last + 1)
    return [{name: float(f"{x:.5g}") if isinstance(x, float) else x for name, x in history[i].items()} for i in kept]


def read(path: Path) -> list[Line]:
    """The lines of a file of results; none where there is no file.

    Raises:
        ResultsError: it cannot be read, or a line is damaged; the message names the line.
    """
    lines = read_records(path)
    for number, line in enumerate(lines, 1):
        if flaw := flaw_of(line):
            raise ResultsError(f"{path}, line {number} is damaged ({flaw}): mend it, or take the line out")
    return lines


def read_records(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; none where there is no file.

    Raises:
        ResultsError: it cannot be read, or a line is damaged; the message names the line.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"cannot read {path} ({error})") from error
    records = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("no object")
        except ValueError as error:
            raise ResultsError(f"{path}, line {number} is damaged ({error}): mend it, or take the line out") from error
        records.append(record)
    return records


def flaw_of(line: Line) -> str | None:
    """What is wrong with a line, if anything is."""
    for name, kind in FIELDS.items():
        if name not in line:
            return f"{name} is missing"
        if not isinstance(line[name], kind):
            return f"{name} is {json.dumps(line[name])[:40]}"
    if not TITLE.fullmatch(line["title"]):
        return f"the title {line['title']!r} tells no task and model"
    if line["finished"] and f"test_{measure(line)}" not in (line["summary"] or {}):
        return f"the summary has no test_{measure(line)}"
    if line["finished"] and not line["history"]:
        return "the history is empty"
    for record in line["history"]:
        if not (isinstance(record, dict) and {"epoch", "samples"} <= record.keys()) or watched(line) not in record:
            return f"the history has a record without epoch, samples or {measure(line)}"
    return None


def measure(line: Line) -> str:
    """What the task is judged by: ``bits`` per character, or ``accuracy``."""
    return "bits" if line["task"] == "wikipedia" else "accuracy"


def unit(line: Line) -> str:
    """What a run has so many of behind it."""
    return "characters" if line["task"] == "wikipedia" else "samples"


def watched(line: Line) -> str:
    """The measure's name in the history: of the validation data, or of the test data where there are no others."""
    validation = f"validation_{measure(line)}"
    return validation if validation in line["history"][0] else f"test_{measure(line)}"


def add(path: Path, lines: Iterable[Line]) -> None:
    """Adds lines to a file of results, each in place of the one of the same configuration.

    Raises:
        WorkdirError: the file cannot be read or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise wd.WorkdirError(f"cannot make the folder {path.parent} ({error.strerror or error})") from error
    wd.write_lines(path, merged([*read(path), *lines]))


def merged(lines: Iterable[Line]) -> list[Line]:
    """One line for each configuration, the latest, or the latest that is finished; sorted by title and seed."""
    kept: dict[str, Line] = {}
    for line in lines:
        if line["finished"] or line["id"] not in kept or not kept[line["id"]]["finished"]:
            kept[line["id"]] = line
    return sorted(kept.values(), key=lambda line: (line["title"], line["config"].get("seed", 0), line["id"]))
