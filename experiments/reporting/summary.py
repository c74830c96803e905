"""Summaries of result lines: runs grouped by configuration, statistics over seeds, and texts about both."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from experiments import tasks
from experiments.reporting.lines import Line
from experiments.running.models import PRESETS, SET_BY_TIME_SCALE, ModelOptions
from experiments.running.options import LATER
from experiments.running.workdir import EVALUATION_STREAMS
from experiments.tasks import TASKS, TaskInfo

Key = TypeVar("Key")

STATED = ("task", "seed", "preset", "depth", "params")
STATED_BY_MODEL = ("model", "features", "num_layers", "shared", "norm", "memory_conv", "rival_options")
"""Options that other fields of a line state: task, seed, model, depth and features."""
WITHIN_GROUP = ("task", "seed", "samples")
"""Options in which the runs of a group may differ: the task's name, which may be a former one, the seed, and the
largest number of samples."""
SHORT_NAMES = {"batch_size": "B", "learning_rate": "lr"}
"""Options with a short name in tables."""


@dataclasses.dataclass(frozen=True)
class Group:
    """The runs of one configuration, which differ in their seeds."""

    lines: tuple[Line, ...]

    @property
    def first(self) -> Line:
        """One of the runs, for the fields that are equal in all of them."""
        return self.lines[0]

    @property
    def info(self) -> TaskInfo:
        """The registry's record of the task."""
        return self.first.info

    @property
    def finished(self) -> list[Line]:
        """The runs that ended by themselves."""
        return [line for line in self.lines if line.finished]

    @property
    def complete(self) -> bool:
        """Whether no run was cut short."""
        return len(self.finished) == len(self.lines)

    @property
    def values(self) -> list[float]:
        """The measure on the test data of each finished run."""
        return [line.value for line in self.finished if line.value is not None]

    @property
    def scores(self) -> list[float]:
        """The score of each finished run; lower is better.

        For a task that can be solved, the number of training samples until it was solved, or infinity if it was not;
        for other tasks the measure, negated if higher is better.
        """
        if self.info.until_solved:
            return [line.samples if line.solved else math.inf for line in self.finished]
        return self.directed

    @property
    def directed(self) -> list[float]:
        """:attr:`values`, negated if higher is better."""
        return [-value if self.info.higher_is_better else value for value in self.values]

    @property
    def rank(self) -> tuple[float, float]:
        """A sort key by which the better group comes first: mean score, then mean measure."""
        return mean(self.scores), mean(self.directed)


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; infinite if there are no values."""
    return sum(values) / len(values) if values else math.inf


def best(groups: Iterable[Group]) -> Group | None:
    """The best group without runs that were cut short, since those might have ended worse."""
    return min((group for group in groups if group.complete), key=lambda group: group.rank, default=None)


@functools.cache
def model_names() -> tuple[str, ...]:
    """The names of the presets' models, in the paper's order."""
    presets = (ModelOptions(preset=preset, depth=1) for preset in PRESETS)  # type: ignore[arg-type]
    return tuple(options.resolved(ModelOptions()).name for options in presets)


def in_order(lines: Iterable[Line]) -> list[Line]:
    """Lines sorted by setting, model in the paper's order, depth, options and seed."""
    names = model_names()

    def key(line: Line) -> tuple[Any, ...]:
        place = names.index(line.model) if line.model in names else len(names)
        sizes = natural(line.title), natural(str(shown_options(line)))
        return (
            [*TASKS].index(line.task),
            natural(line.setting),
            place,
            line.model,
            line.depth,
            *sizes,
            line.seed,
            line.id,
        )

    return sorted(lines, key=key)


def natural(text: str) -> list[str | int]:
    """A sort key by which "n=2" comes before "n=10"."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]


def grouped(lines: Iterable[Line], key: Callable[[Line], Key]) -> dict[Key, list[Line]]:
    """Groups lines by a key, in their order."""
    groups: dict[Key, list[Line]] = {}
    for line in lines:
        groups.setdefault(key(line), []).append(line)
    return groups


def by_setting(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """Groups lines by setting."""
    return grouped(lines, lambda line: line.setting)


def by_configuration(lines: Iterable[Line]) -> list[Group]:
    """Groups of lines that differ at most in :data:`WITHIN_GROUP`."""
    ignored = dict.fromkeys(WITHIN_GROUP)
    groups = grouped(lines, lambda line: json.dumps({**line.options, **ignored}, sort_keys=True))
    return [Group(tuple(members)) for members in groups.values()]


def shown_options(line: Line) -> dict[str, str]:
    """The options that no other field of the line states, formatted; empty if time_scale replaces them."""
    model = line.model_options
    options = {**LATER, **line.options}
    for name in (*STATED, *STATED_BY_MODEL, *line.info.setting_options, *model.meaningless):
        options.pop(name, None)
    streams = options.pop(EVALUATION_STREAMS, options.get("batch_size"))
    if line.info.measure == "bits" and streams != tasks.MOST_STREAMS:  # the result is not quite comparable
        options[EVALUATION_STREAMS] = streams
    without_effect = SET_BY_TIME_SCALE if model.time_scale else ("time_scale",)
    if options["data_on"] == LATER["data_on"]:  # not worth stating; only generated tasks have the option
        without_effect = (*without_effect, "data_on")
    options |= {name: "" for name in without_effect if name in options}
    if tuple(options.get("tensor_shape", ())) == (line.depth,) * len(model.tensor_shape):
        options.pop("tensor_shape", None)
    if set(model.kernel_size) in ({2}, {3}):  # 3 is the default, and 2 is stated as -F in the model's name
        options.pop("kernel_size", None)
    return {name: f"{x:g}" if isinstance(x, float) else json.dumps(x).strip('"') for name, x in options.items()}


def common_options(lines: Sequence[Line]) -> dict[str, str]:
    """The options that have the same value in every line that has them."""
    found: dict[str, set[str]] = {}
    for line in lines:
        for name, value in shown_options(line).items():
            found.setdefault(name, set()).add(value)
    return {name: next(iter(values)) for name, values in found.items() if len(values) == 1}


def varied_options(lines: Sequence[Line], ignore: Sequence[str] = WITHIN_GROUP) -> list[str]:
    """The names of the options that are not common to all lines, in their order."""
    same = {*common_options(lines), *ignore}
    return list(dict.fromkeys(name for line in lines for name in shown_options(line) if name not in same))


def label(line: Line, among: Sequence[Line], ignore: Sequence[str] = WITHIN_GROUP) -> str:
    """The options in which a line differs from others, for example "B=5, lr=0.001"."""
    options = shown_options(line)
    names = (name for name in varied_options(among, ignore) if options.get(name) not in (None, "", "null"))
    return ", ".join(f"{SHORT_NAMES.get(name, name)}={options[name]}" for name in names)


def spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    """The mean and range of the values of several seeds, or one value if all are equal as formatted."""
    if show(min(values)) == show(max(values)):
        return show(values[0])
    return f"{show(mean(values))} ({show(min(values))} to {show(max(values))})"


def results(group: Group) -> str:
    """The measure of the finished runs: mean and range, or the range alone if others were cut short.

    Runs that solve their task end early, so that a mean over those that have finished would be too good.
    """
    return spread(group.values, group.info.format) if group.complete else extent(group.values, group.info.format)


def extent(values: Sequence[float], show: Callable[[float], str]) -> str:
    """The range of some values, or one value if all are equal as formatted."""
    return " to ".join(dict.fromkeys(map(show, (min(values), max(values)))))


def seeds(group: Group) -> str:
    """The number of seeds, for example "3 seeds", or "1 of 3 seeds" if the others were cut short."""
    distinct = len({line.seed for line in group.lines})
    if group.complete and distinct < len(group.lines):
        return f"{distinct} seed{'s' * (distinct != 1)}, {len(group.lines)} runs"
    return f"{count_seeds(group)} seed{'s' * (len(group.lines) != 1)}"


def count_seeds(group: Group) -> str:
    """The number of seeds, for example "3", or "1 of 3" if the others were cut short.

    A seed that was run twice, with another limit, is one: "2 (3 runs)". On another machine its result differs.
    """
    distinct = len({line.seed for line in group.lines})
    if group.complete and distinct < len(group.lines):
        return f"{distinct} ({len(group.lines)} runs)"
    return str(len(group.lines)) if group.complete else f"{len(group.finished)} of {len(group.lines)}"


def samples_until_solved(group: Group) -> str:
    """The training samples until the task was solved, or the limit if it was not; empty if no run has finished."""
    solved = [line.samples for line in group.finished if line.solved]
    failed = sorted({line.samples for line in group.finished if not line.solved})
    stopped = sorted({line.samples for line in group.lines if not line.finished and line.samples})
    if not group.finished:
        return ""
    parts = []
    if solved:
        shown = (spread if group.complete else extent)(solved, "{:,.0f}".format)
        every = len(solved) == len(group.lines)
        parts = [shown if every else f"{shown} for {len(solved)} of {len(group.lines)} seeds"]
    parts += [f"not within {within:,}" for within in failed]
    return "; ".join([*parts, *(f"cut short after {samples:,}" for samples in stopped)])


def outcome(group: Group) -> str:
    """The result of a group in a phrase; empty if no run has finished."""
    if not group.finished:
        return ""
    value = results(group)
    if not group.info.until_solved:
        return f"{value}, {seeds(group)}"
    until = samples_until_solved(group)
    if any(line.solved for line in group.finished):
        return f"solved after {until} samples, {seeds(group)}"
    return f"not solved {until.removeprefix('not ')} samples: {value}, {seeds(group)}"


def cut_short(line: Line) -> str:
    """The latest measure of a run that was cut short, in a phrase."""
    if line.value is None:
        return "cut short before the first evaluation"
    split = "validation " if line.watched.startswith("validation") else ""
    return f"{split}{line.info.format(line.value)} after {line.samples:,} {line.info.unit}, cut short"


def headline(line: Line) -> str:
    """The result of one run in a phrase."""
    return str(line.summary["headline"]) if line.summary is not None else cut_short(line)
