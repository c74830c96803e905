"""What is read off result lines: which task and model, what came out, which runs belong together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from experiments.reporting.results import TITLE, Line, measure, unit, watched
from experiments.running.models import LATER, PRESETS, ModelOptions

Key = TypeVar("Key")

UNTIL_SOLVED = ("memorization", "addition")
"""The tasks whose measure is the number of training samples until they are solved."""
IN_TITLE = (
    *("task", "length", "digits", "data"),
    *("preset", "depth", "params", "model", "features", "tensor_shape", "num_layers", "shared", "norm", "memory_conv"),
    "seed",
)
"""Options that title and seed tell."""
NO_VARIANT = ("seed", "samples")
"""Options in which runs of one configuration differ: the seed, and after how many samples they would give up."""


def told(line: Line, part: str) -> str:
    """The ``setting`` (task and size), ``model``, ``depth`` or ``features`` that a title tells."""
    match = TITLE.fullmatch(line["title"])
    assert match, line["title"]  # no line without comes out of results.read and results.collect
    return match[part]


def depth(line: Line) -> int:
    """L."""
    return int(told(line, "depth"))


def seed(line: Line) -> int:
    """The run's."""
    return int(line["config"].get("seed", 0))


def model_names() -> list[str]:
    """The presets as titles call them."""
    named = (ModelOptions(preset=preset, depth=1).resolved(ModelOptions()) for preset in PRESETS)  # type: ignore[arg-type]
    return [chosen.title.split(" L=")[0] for chosen in named]


def place(line: Line) -> tuple[int, str, int]:
    """A key to sort by: models as in the paper, others after them, and their depths."""
    names, model = model_names(), told(line, "model")
    return names.index(model) if model in names else len(names), model, depth(line)


def in_order(lines: Iterable[Line]) -> list[Line]:
    """Sorted by task and size, model, depth, options, and seed."""

    def key(line: Line) -> tuple[Any, ...]:
        sizes = natural(line["title"]), natural(str(options(line)))
        return line["task"], natural(told(line, "setting")), *place(line), *sizes, seed(line), line["id"]

    return sorted(lines, key=key)


def natural(text: str) -> list[str | int]:
    """A key to sort by, for which 2 comes before 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]


def options(line: Line) -> dict[str, str]:
    """The options that the title does not tell, as shown."""
    chosen = {**LATER, **line["config"]}
    for name in (*IN_TITLE, *ModelOptions.recorded(chosen).meaningless):
        chosen.pop(name, None)
    if {*chosen.get("kernel_size", [3])} in ({2}, {3}):  # 2 is -F in the title, and 3 what one expects
        chosen.pop("kernel_size", None)
    return {name: f"{x:g}" if isinstance(x, float) else json.dumps(x).strip('"') for name, x in chosen.items()}


def common(lines: Sequence[Line]) -> dict[str, str]:
    """The options that are the same in all lines that have them."""
    found: dict[str, set[str]] = {}
    for line in lines:
        for name, value in options(line).items():
            found.setdefault(name, set()).add(value)
    return {name: next(iter(values)) for name, values in found.items() if len(values) == 1}


def label(line: Line, among: Sequence[Line], but: Sequence[str] = ()) -> str:
    """The options by which a line differs from others, but some; the title does not tell them."""
    same = {*common(among), *but}
    return ", ".join(f"{name}={value}" for name, value in options(line).items() if name not in same)


def variant(line: Line, among: Sequence[Line]) -> str:
    """The options that tell a configuration from others (see :func:`by_configuration`)."""
    return label(line, among, but=NO_VARIANT)


def sizes(line: Line, among: Sequence[Line]) -> str:
    """M, and the options by which a line differs from others."""
    return ", ".join(filter(None, (f"M={told(line, 'features')}", variant(line, among))))


def grouped(lines: Iterable[Line], key: Callable[[Line], Key]) -> dict[Key, list[Line]]:
    """Lines of the same key together, in the order in which they come."""
    groups: dict[Key, list[Line]] = {}
    for line in lines:
        groups.setdefault(key(line), []).append(line)
    return groups


def by_setting(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """Lines by task and size."""
    return grouped(lines, lambda line: told(line, "setting"))


def by_configuration(lines: Iterable[Line]) -> list[list[Line]]:
    """Lines that differ in nothing but :data:`NO_VARIANT`, together."""
    apart = dict.fromkeys(NO_VARIANT)
    return list(grouped(lines, lambda line: json.dumps({**line["config"], **apart}, sort_keys=True)).values())


def series(lines: Sequence[Line]) -> dict[str, dict[int, list[Line]]]:
    """Lines that differ in depth and seed alone, by model (and M and options, where it takes them to tell) and L."""
    found: dict[str, dict[int, list[Line]]] = {}
    for model, members in grouped(in_order(lines), lambda line: told(line, "model")).items():
        variants = grouped(members, lambda line: sizes(line, lines))
        for variant, same in variants.items():
            found[f"{model}, {variant}" if len(variants) > 1 else model] = grouped(same, depth)
    return found


def solved(line: Line) -> bool:
    """Whether samples until solved are the task's measure, and the run solved it."""
    return line["task"] in UNTIL_SOLVED and line["finished"] and bool(line["summary"].get("solved"))


def quality(line: Line) -> float | None:
    """The measure in the end, on the test data; of a run cut short the last in its history, None before the first."""
    if line["finished"]:
        return float(line["summary"][f"test_{measure(line)}"])
    return float(line["history"][-1][watched(line)]) if line["history"] else None


def shown(line: Line, value: float) -> str:
    """A value of its measure as people read it."""
    return f"{value:.3f}" if measure(line) == "bits" else f"{value:.1%}"


def spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    """Mean, least and most, and how many seeds."""
    if len(values) == 1:
        return f"{show(values[0])} (1 seed)"
    return f"{show(sum(values) / len(values))} ({show(min(values))}..{show(max(values))}, {len(values)} seeds)"


def came_of(lines: Sequence[Line], among: Sequence[Line], apart: str) -> str:
    """:func:`outcome` of each configuration, with the options by which it differs from others."""
    groups = [(variant(group[0], among), outcome(group)) for group in by_configuration(lines)]
    return apart.join(f"{found} ({options})" if options else found for options, found in groups)


def outcome(lines: Sequence[Line]) -> str:
    """What came of runs of one configuration: those that solved the task, those that ended, each that was cut short."""
    parts = []
    if samples := [line["samples"] for line in lines if solved(line)]:
        parts.append(f"solved after {spread(samples, lambda value: f'{value:,.0f}')}")
    unsolved = [line for line in lines if line["finished"] and not solved(line)]
    until = grouped(unsolved, lambda line: line["samples"] if line["task"] in UNTIL_SOLVED else 0)
    for within, ended in sorted(until.items(), key=lambda item: item[0]):
        found = spread([float(quality(line) or 0) for line in ended], lambda value: shown(unsolved[0], value))
        parts.append(f"not solved within {within:,}: {found}" if within else found)
    parts += [f"{cut_short(line)} (seed {seed(line)})" for line in lines if not line["finished"]]
    return "; ".join(parts)


def cut_short(line: Line) -> str:
    """What a run had reached when it was cut short."""
    value = quality(line)
    if value is None:
        return "cut short before the first test"
    split = "validation " if watched(line).startswith("validation") else ""
    return f"{split}{shown(line, value)} after {line['samples']:,} {unit(line)}, cut short"


def headline(line: Line) -> str:
    """What came of one run, in one line."""
    return str(line["summary"]["headline"]) if line["finished"] else cut_short(line)
