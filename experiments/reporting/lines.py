"""Result lines: the records of runs under version control, one JSON object per line of a results/*.jsonl file."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from experiments import tasks
from experiments.common.files import FileError, write_lines
from experiments.running import workdir as wd
from experiments.running.models import ModelOptions

MAX_RECORDS = 60
"""A line keeps at most this many records of a run's history."""
LOCK_SECONDS = 60
"""How long to wait for another process that is adding lines."""
MAX_CHARACTERS = 200
"""An option whose JSON is longer, a permutation for example, is replaced by its length and checksum."""


class ResultsError(FileError):
    """A file of result lines that cannot be read; the message is one line that says where and why."""


@dataclasses.dataclass(frozen=True)
class Line:
    """A run, finished or not.

    Args:
        id: the checksum of the run's whole configuration.
        task: the name of the task in :mod:`experiments.tasks`.
        setting: the task with its size, for example "memorization n=20".
        model: the model's name in the paper, for example "3D tLSTM+CN".
        depth: L.
        features: M.
        seed: the seed for initialization and data order.
        options: the run's whole configuration, long lists replaced by their checksums.
        finished: whether training ended by itself; otherwise it was cut short.
        summary: the run's summary.json; None unless finished.
        history: the evaluations during training, at most :data:`MAX_RECORDS` of them.
        parameters: the number of parameters; None unless finished.
        samples: training samples (or characters) seen, repetitions included.
        seconds: time of training and evaluation.
        date: the day on which the run ended or was cut short.
        devices: the kinds of devices on which the run was trained, one after the other; empty if not recorded.
    """

    id: str
    task: str
    setting: str
    model: str
    depth: int
    features: int
    seed: int
    options: dict[str, Any]
    finished: bool
    summary: dict[str, Any] | None
    history: list[dict[str, Any]]
    parameters: int | None
    samples: int
    seconds: int | float
    date: str
    devices: list[str] = dataclasses.field(default_factory=list)

    @property
    def info(self) -> tasks.TaskInfo:
        """The registry's record of the task."""
        return tasks.find(self.task)

    @property
    def model_options(self) -> ModelOptions:
        """The model's options."""
        return ModelOptions.recorded(self.options)

    @property
    def title(self) -> str:
        """Setting and model, for example "digits, 2D tLSTM+CN L=3 P=3 M=64"."""
        return f"{self.setting}, {self.model_options.title}"

    @property
    def watched(self) -> str:
        """The key of the measure in the history: on validation data, or on test data if there is none."""
        validation = f"validation_{self.info.measure}"
        return validation if self.history and validation in self.history[0] else f"test_{self.info.measure}"

    @property
    def solved(self) -> bool:
        """Whether the task can be solved, and the finished run solved it."""
        return self.info.until_solved and bool(self.summary and self.summary.get("solved"))

    @property
    def value(self) -> float | None:
        """The measure on the test data; if the run was cut short, the latest in its history, None if empty."""
        if self.summary is not None:
            return float(self.summary[f"test_{self.info.measure}"])
        return float(self.history[-1][self.watched]) if self.history else None

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Line:
        """Converts a JSON object to a line; the format before 2026-11-26 is converted too.

        Raises:
            ValueError: a field is missing or has the wrong type, or the fields contradict each other.
        """
        if "config" in record and "options" not in record:
            record = converted(record)
        for name, kind in TYPES.items():
            if name not in record:
                raise ValueError(f"{name} is missing")
            if not isinstance(record[name], kind):
                raise ValueError(f"{name} is {json.dumps(record[name])[:40]}")
        line = cls(**{name: record[name] for name in (*TYPES, *OPTIONAL) if name in record})
        measure = line.info.measure
        if line.finished and f"test_{measure}" not in (line.summary or {}):
            raise ValueError(f"the summary has no test_{measure}")
        if line.finished and not line.history:
            raise ValueError("the history is empty")
        for each in line.history:
            if not (isinstance(each, dict) and {"epoch", "samples", line.watched} <= each.keys()):
                raise ValueError(f"the history has a record without epoch, samples or {measure}")
        return line

    def to_json(self) -> dict[str, Any]:
        """The line as a JSON object."""
        recorded = (name for name in OPTIONAL if getattr(self, name))
        return {name: getattr(self, name) for name in (*TYPES, *recorded)}


def plain(hint: Any) -> Any:
    """A type hint without type arguments, as ``isinstance`` takes it."""
    if isinstance(hint, types.UnionType):
        return tuple(map(plain, typing.get_args(hint)))
    return typing.get_origin(hint) or hint


OPTIONAL = ("devices",)
"""Fields that older lines do not have."""
TYPES = {name: plain(hint) for name, hint in typing.get_type_hints(Line).items() if name not in OPTIONAL}
"""The type of each other field."""


def collect(workdir: Path) -> Line:
    """The line of the run in a workdir.

    Raises:
        CommandError: the folder is not a run's workdir, or a file in it is damaged.
    """
    config = wd.read_config(workdir)
    summary = wd.read_summary(workdir)
    history = read_records(workdir / wd.METRICS)
    try:
        described = description(config)
    except ValueError as error:
        raise wd.WorkdirError(f"{workdir / wd.CONFIG} is not the configuration of a run ({error})") from error
    latest = next(path for name in (wd.SUMMARY, wd.METRICS, wd.CONFIG) if (path := workdir / name).exists())
    record = {
        "id": identity(config),
        **described,
        "options": {name: shortened(value) for name, value in config.items()},
        "finished": summary is not None,
        "summary": summary,
        "history": thinned(history),
        "parameters": None if summary is None else summary["parameters"],
        "samples": history[-1].get("samples") if history else 0,
        "seconds": round(sum(record.get("seconds", 0.0) for record in history), 1),
        "date": datetime.datetime.fromtimestamp(latest.stat().st_mtime, datetime.UTC).date().isoformat(),
        "devices": wd.read_devices(workdir),
    }
    try:
        return Line.from_json(record)
    except ValueError as error:
        raise wd.WorkdirError(f"{workdir} cannot become a result line: {error}") from error


def description(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a line that follow from a run's configuration.

    Raises:
        ValueError: an option is missing or has an impossible value.
    """
    try:
        info, model = tasks.find(config["task"]), ModelOptions.recorded(dict(config))
        return {
            "task": info.name,
            "setting": info.setting(config),
            "model": model.name,
            "depth": model.resolved_depth,
            "features": model.features,
            "seed": config.get("seed", 0),
        }
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is missing") from error
    except TypeError as error:
        raise ValueError(str(error)) from error


def converted(record: Mapping[str, Any]) -> dict[str, Any]:
    """Converts a line from the format before 2026-11-26, which stated the task and the model only in a title.

    Raises:
        ValueError: its configuration is not a run's.
    """
    if not isinstance(record["config"], dict):
        raise ValueError(f"config is {json.dumps(record['config'])[:40]}")
    kept = {name: value for name, value in record.items() if name not in ("config", "title")}
    return {**kept, **description(record["config"]), "options": record["config"]}


def identity(config: Mapping[str, Any]) -> str:
    """The id of a run: the checksum of its configuration, with the task's first name, so that renaming keeps the id."""
    first_names = {name: former for former, name in wd.FORMER_TASKS.items()}
    return checksum({**config, "task": first_names.get(config["task"], config["task"])})


def checksum(value: Any) -> str:
    """The first 12 hexadecimal digits of the sha256 of a value's JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def shortened(value: Any) -> Any:
    """An option's value, or its length and checksum if it is longer than :data:`MAX_CHARACTERS`."""
    return value if len(json.dumps(value)) <= MAX_CHARACTERS else f"{len(value)} items, sha256 {checksum(value)}"


def thinned(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most :data:`MAX_RECORDS` records, evenly spaced, first and last included, floats rounded to 5 digits."""
    last = len(history) - 1
    kept = [round(i * last / (MAX_RECORDS - 1)) for i in range(MAX_RECORDS)] if last >= MAX_RECORDS else range(last + 1)
    return [{name: float(f"{x:.5g}") if isinstance(x, float) else x for name, x in history[i].items()} for i in kept]


def read(path: Path) -> list[Line]:
    """The lines of a file; none if the file does not exist.

    Raises:
        ResultsError: the file cannot be read or a line is damaged; the message names the line.
    """
    lines = []
    for number, record in enumerate(read_records(path), 1):
        try:
            lines.append(Line.from_json(record))
        except ValueError as error:
            raise ResultsError(f"{path}, line {number} is damaged ({error}): repair or delete the line") from error
    return lines


def read_all(paths: Iterable[Path]) -> list[Line]:
    """The lines of several files, one per configuration; see :func:`merged`.

    Raises:
        ResultsError: as :func:`read`.
    """
    return merged(line for path in paths for line in read(path))


def read_records(path: Path) -> list[dict[str, Any]]:
    """The objects in a file of JSON lines; none if the file does not exist.

    Raises:
        ResultsError: the file cannot be read or a line is damaged; the message names the line.
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
                raise ValueError("not a JSON object")
        except ValueError as error:
            raise ResultsError(f"{path}, line {number} is damaged ({error}): repair or delete the line") from error
        records.append(record)
    return records


def add(path: Path, lines: Iterable[Line]) -> None:
    """Adds lines to a file; a line replaces an earlier one of the same configuration, see :func:`merged`.

    Several processes may add lines to one file at the same time: each reads and writes it under a lock.

    Raises:
        FileError: the file cannot be read or written.
    """
    with locked(path):
        write_lines(path, [line.to_json() for line in merged([*read(path), *lines])])


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of a file of result lines, ``.NAME.lock`` in its folder, which is created if it does not exist.

    Raises:
        FileError: the lock cannot be created, or another process has held it for :data:`LOCK_SECONDS`.
    """
    lock = path.with_name(f".{path.name}.lock")
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(filelock.FileLock(lock, timeout=LOCK_SECONDS))
        except filelock.Timeout as error:
            raise FileError(
                f"another process has held the lock {lock} for {LOCK_SECONDS} s: stop it, then run this again"
            ) from error
        except OSError as error:
            raise FileError(
                f"cannot lock {path} ({error.strerror or error}): fix that, then run the same command again"
            ) from error
        yield


def merged(lines: Iterable[Line]) -> list[Line]:
    """One line per configuration: the last finished one, or the last if none is finished; sorted by title and seed."""
    kept: dict[str, Line] = {}
    for line in lines:
        if line.finished or line.id not in kept or not kept[line.id].finished:
            kept[line.id] = line
    return sorted(kept.values(), key=lambda line: (line.title, line.seed, line.id))
