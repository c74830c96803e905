"""The table at the end of a sweep: a row per preset, a column per depth."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from experiments.common.tables import aligned
from experiments.reporting import summary
from experiments.reporting.lines import Line


class Result(NamedTuple):
    """How a run of a grid ended; ``depth`` is 0 if the model has its own depth, ``line`` is None without a result."""

    model: str
    depth: int
    line: Line | None
    failed: bool


def table(models: Iterable[str], results: Sequence[Result]) -> str:
    """The results as text, with the numbers of parameters of the finished runs of each model."""
    depths = sorted({result.depth for result in results})
    rows = [["", "parameters", *(f"L={depth}" if depth else "" for depth in depths)]]
    for model in models:
        cells = [[result for result in results if (result.model, result.depth) == (model, n)] for n in depths]
        counts = {each.line.parameters for each in itertools.chain(*cells) if each.line and each.line.parameters}
        rows.append([model, parameter_range(counts), *map(cell, cells)])
    return aligned(rows)


def parameter_range(counts: Collection[int]) -> str:
    """The smallest and the largest number of parameters; empty if no run has finished."""
    return " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)})) if counts else ""


def cell(results: Sequence[Result]) -> str:
    """The results of the runs of a preset at a depth."""
    found = [result.line for result in results if result.line is not None]
    texts = []
    for group in summary.by_configuration(found):
        label = summary.label(group.first, found)
        unfinished = [f"{summary.cut_short(line)} (seed {line.seed})" for line in group.lines if not line.finished]
        text = "; ".join(filter(None, (summary.outcome(group), *unfinished)))
        texts.append(f"{text} ({label})" if label else text)
    failed = sum(result.failed for result in results)
    return "; ".join([*texts, *([f"{failed} failed"] if failed else [])])
