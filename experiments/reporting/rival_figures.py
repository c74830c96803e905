"""The figure of accuracy against training samples at equal parameters."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl

from experiments.common.figures import End
from experiments.reporting.result_figures import Row, measure_axis, style_of
from experiments.reporting.rivals import Contest, Entry
from experiments.reporting.summary import Group, mean

LEAST = 3
"""A contest with fewer rivals is not drawn."""
LABELLED = 6
"""The number of models that are labelled beside the tLSTM."""
GRAY = "0.8"
COLORS = (
    *("tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:olive", "tab:cyan"),
    *("black", "gold", "teal", "navy", "magenta", "lime"),
)
"""The colors of the labelled rivals, in the order in which the panels name them."""


def contest_panels(contests: Sequence[Contest]) -> list[Row]:
    """A row with one panel for each contest with enough rivals in a task that can be solved."""
    drawn = [each for each in contests if each.info.until_solved and each.num_rivals >= LEAST]
    colors: dict[str, str] = {}
    for each in drawn:
        for entry in ranked(each.entries)[1]:
            colors.setdefault(entry.name, COLORS[len(colors) % len(COLORS)])
    return [Row(each.title, [functools.partial(against_samples, contest=each, colors=colors)]) for each in drawn]


def against_samples(axes: Any, contest: Contest, colors: Mapping[str, str]) -> list[End]:
    """The mean accuracy over seeds during training: the tLSTM and the best others labelled, the rest gray.

    Args:
        axes: the axes to draw on.
        contest: the models that are compared.
        colors: the color of each labelled rival, the same in all panels.
    """
    ours, best, rest = ranked(contest.entries)
    for entry in rest:
        axes.plot(*curve(entry.group), color=GRAY, linewidth=0.9, zorder=1)
    for entry in [*ours, *best]:
        first = entry in ours
        color = style_of(entry.name)["color"] if first else colors[entry.name]
        samples, values = curve(entry.group)
        label, width, order = named(entry), 2.2 if first else 1.4, 4 if first else 3
        axes.plot(samples, values, color=color, linewidth=width, zorder=order, label=label)
        axes.plot(samples[-1], values[-1], "o", color=color, markersize=4, zorder=order)
    if rest:
        axes.plot([], [], color=GRAY, label=f"{len(rest)} other models")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)  # solved runs all end at the top
    seeds = sorted({len(entry.group.lines) for entry in contest.entries})
    means = "one seed"
    if seeds[-1] > 1:
        means = f"means over {' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seeds"
    axes.set(xlabel=f"training samples ({means})", xlim=(0, None))
    axes.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
    measure_axis(axes, contest.info, "y")
    return []


def named(entry: Entry) -> str:
    """The model and its result: the mean of the samples after which it was solved, or of the accuracy."""
    group, samples = entry.group, mean(entry.group.scores)
    result = f"{samples:,.0f} samples" if math.isfinite(samples) else group.info.format(mean(group.values))
    return f"{entry.name} L={group.first.depth}: {result}"


def ranked(entries: Sequence[Entry]) -> tuple[list[Entry], list[Entry], list[Entry]]:
    """The best tLSTM, or none; the best :data:`LABELLED` of the others; and the rest."""
    ours = [entry for entry in entries if "tLSTM" in entry.name][:1]
    others = [entry for entry in entries if entry not in ours]
    return ours, others[:LABELLED], others[LABELLED:]


def curve(group: Group) -> tuple[list[int], list[float]]:
    """The samples of all evaluations, and the mean over the runs; a run that is over keeps its last value."""
    points = sorted({record["samples"] for line in group.lines for record in line.history})
    means = []
    for point in points:
        latest = [[r[line.watched] for r in line.history if r["samples"] <= point] for line in group.lines]
        means.append(mean([values[-1] for values in latest if values]))
    return points, means
