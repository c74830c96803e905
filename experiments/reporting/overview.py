"""The paper's own results beside ours, with a status for each: reproduced or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from experiments.reporting import rivals, summary
from experiments.reporting.lines import Line
from experiments.reporting.measurements import Rows
from experiments.reporting.paper import TABLES, Column, Number, Table
from experiments.reporting.summary import Group

STATUSES = {
    "reproduced": "the paper's number lies within the range of our seeds, to its precision",
    "bettered": "every seed of ours is better",
    "not reached": "every seed of ours is worse",
    "not run": "there is no configuration of this model at this depth whose runs have all finished",
}
"""Each status and its meaning."""


class Cell(NamedTuple):
    """A number of the paper's own models, and our best runs of the same model at the same depth, if there are any."""

    table: int
    column: Column
    model: str
    depth: int
    number: Number
    ours: Group | None

    @property
    def status(self) -> str:
        """One of :data:`STATUSES`."""
        return compared(self.number, self.ours)


def compared(number: Number, ours: Group | None) -> str:
    """The status of a number of the paper, given our runs."""
    if ours is None:
        return "not run"
    until_solved = ours.info.until_solved and number.score > 1
    scores = ours.scores if until_solved else ours.directed
    sign = -1 if ours.info.higher_is_better and not until_solved else 1
    if max(scores) < sign * number.score - number.precision / 2:
        return "bettered"
    if min(scores) > sign * number.score + number.precision / 2:
        return "not reached"
    return "reproduced"


def judged(number: Number, ours: Group | None, text: str) -> str:
    """The text of our cell beside a number of the paper: the status, and ``text`` about our runs."""
    return compared(number, ours) if ours is None else f"**{compared(number, ours)}**: {text}"


def cells(lines: Iterable[Line]) -> list[Cell]:
    """All numbers of the paper's own models in its tables 1 to 3, column by column."""
    settings = summary.by_setting(lines)
    found = []
    for number, table in TABLES.items():
        for i, column in enumerate(table.columns):
            for (model, depth), numbers in table.own.items():
                ours = best_of(settings.get(column.setting, []), model, depth)
                found.append(Cell(number, column, model, depth, numbers[i], ours))
    return found


def best_of(lines: Sequence[Line], model: str, depth: int) -> Group | None:
    """The best complete group of a model at a depth."""
    same = [line for line in lines if (line.model, line.depth) == (model, depth)]
    return summary.best(summary.by_configuration(same))


def overview(lines: Sequence[Line]) -> tuple[str, Rows]:
    """A sentence that counts the statuses, and the table of all cells."""
    found = cells(lines)
    settings = summary.by_setting(lines)
    counts = Counter(cell.status for cell in found)
    counted = ", ".join(f"{counts[status]} {status}" for status in STATUSES)
    rows = [["table", "task", "model", "paper", "status", "ours"]]
    for cell in found:
        own = [line for line in settings.get(cell.column.setting, []) if not rivals.is_rival(line)]
        alike = [line for line in own if ("tLSTM" in line.model) == ("tLSTM" in cell.model)]
        other = summary.best(summary.by_configuration(alike or own))
        instead = f"(instead: {described(other, named=True)})" if other else ""
        model = f"{cell.model} L={cell.depth}"
        ours = described(cell.ours) or instead
        rows.append([str(cell.table), cell.column.setting, model, cell.number.text, f"**{cell.status}**", ours])
    return f"**Of the {len(found)} results of the paper's own models: {counted}.**", rows


def described(group: Group | None, *, named: bool = False) -> str:
    """A group's result, with the model's name and depth if ``named``, and its size."""
    if group is None:
        return ""
    name = f"{group.first.model} L={group.first.depth}: " if named else ""
    return f"{name}{summary.outcome(group)}, {group.first.parameters:,} parameters"


def paper_table(table: Table, lines: Sequence[Line]) -> Rows:
    """A table of the paper with a column of our results beside each of its columns."""
    settings = summary.by_setting(lines)
    columns = [settings.get(column.setting, []) for column in table.columns]
    names = [f"{column.setting}, {whose}" for column in table.columns for whose in ("published", "ours")]
    rows = [["model", "published model", *names]]
    for name, quoted in table.quoted.items():
        cells = []
        for number, members in zip(quoted.numbers, columns, strict=True):
            found = rivals.beside(quoted, members)
            cells += [number.text, judged(number, found, rivals.described(quoted, found))]
        rows.append([name, quoted.size, *cells])
    for (model, depth), numbers in table.own.items():
        cells = []
        for number, members in zip(numbers, columns, strict=True):
            best = best_of(members, model, depth)
            cells += [number.text, judged(number, best, rivals.measured(best))]
        rows.append([f"{model} L={depth}", "", *cells])
    return rows
