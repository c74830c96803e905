"""Figures of results: accuracy or bits per character against depth, learning curves, and runtime against depth."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from experiments.common.figures import STYLE, End, label_ends, plain_log_scale
from experiments.reporting import summary
from experiments.reporting.lines import Line
from experiments.reporting.measurements import TIMED_MODELS
from experiments.reporting.summary import Group
from experiments.tasks import TaskInfo

Panel = Callable[[Any], list[End]]
"""Draws one panel on its axes, and returns the ends of the lines to label."""


class Row(NamedTuple):
    """A row of panels, and the title above it."""

    title: str
    panels: list[Panel]


Series = dict[str, dict[int, Group]]
"""Groups of runs of one configuration by model and depth."""

LONG = 5
"""Learning curves are drawn for runs with at least this many evaluations."""
WIDTH, HEIGHT = 11.0, 3.2
"""Inches: the width of a figure, and the height of a panel."""
GRID: dict[Any, Any] = {"axes.grid": True, "grid.alpha": 0.3}
STYLES: dict[str, dict[str, Any]] = {
    "sLSTM": {"color": "dimgray"},
    "sLSTM, skewed": {"color": "dimgray", "linestyle": "--"},
    "sLSTM (unshared)": {"color": "tab:green"},
    "sLSTM (unshared), skewed": {"color": "tab:green", "linestyle": "--"},
    "2D tLSTM+CN": {"color": "tab:blue"},
    "3D tLSTM+CN": {"color": "tab:orange"},
    "cuDNN LSTM (unshared)": {"color": "tab:red"},
}
"""The models that most figures compare; other models get a color by their order in the paper."""


def depth_panels(lines: Sequence[Line], paper: Mapping[str, tuple[str, float]]) -> list[Row]:
    """The rows of panels with the results of finished runs: settings with several depths, then all others together.

    Args:
        lines: the runs.
        paper: the paper's model and its measure by setting, for comparison.
    """
    rows: list[Row] = []
    single: list[Group] = []
    for setting, members in summary.by_setting(summary.in_order(lines)).items():
        groups = [group for group in summary.by_configuration(members) if group.complete]
        found = series(groups)
        if not found:
            single += groups
            continue
        others = bests([group for group in groups if group.first.model not in found])
        panels: list[Panel] = [functools.partial(against_depth, found=found, others=others)]
        if groups[0].info.until_solved:
            panels.insert(0, functools.partial(learning, found=found, others=others))
        rows.append(Row(titled(setting, found, others, members), panels))
    if single:
        rows.append(
            Row("Tasks that were run at one depth", [functools.partial(side_by_side, groups=single, paper=paper)])
        )
        long = [group for group in bests(single) if len(group.first.history) >= LONG]
        if long and not long[0].info.until_solved:
            rows.append(Row("The longest of these runs", [functools.partial(over_epochs, groups=long)]))
    return rows


def bests(groups: Sequence[Group]) -> list[Group]:
    """The best configuration of each model in each setting."""
    lines = [line for group in groups for line in group.lines]
    models = summary.grouped(lines, lambda line: (line.setting, line.model)).values()
    return [min(summary.by_configuration(members), key=lambda group: group.rank) for members in models]


def runtime_panels(runs: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row of panels with the runtime against L for each device.

    Args:
        runs: the contents of files of ``benchmarks.depth``.
    """
    panels: list[Panel] = [functools.partial(runtime, run=run) for run in runs]
    return [Row("Time of a forward and a backward pass", panels)] if panels else []


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Writes a PNG with rows of panels."""
    ends: dict[Any, list[End]] = {}
    with mpl.rc_context({**STYLE, **GRID}):
        figure = Figure(figsize=(WIDTH, HEIGHT * len(rows)), layout="constrained")
        for part, row in zip(figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
            part.suptitle(row.title)
            for axes, panel in zip(part.subplots(1, len(row.panels), squeeze=False)[0], row.panels, strict=True):
                ends[axes] = panel(axes)
        figure.draw_without_rendering()  # settles the layout, so that distances between labels can be measured
        for axes, lines in ends.items():
            label_ends(axes, lines)
        figure.savefig(path, format="png", dpi=110, metadata={"Software": None})


def titled(setting: str, found: Series, others: Sequence[Group], members: Sequence[Line]) -> str:
    """The setting, and the options that are the same in all runs that are drawn but not in all runs of the setting."""
    groups = [*(group for depths in found.values() for group in depths.values()), *others]
    drawn = [line for group in groups for line in group.lines]
    same = summary.common_options(drawn)
    had_by_all = set.intersection(*({*summary.shown_options(line)} for line in drawn))
    fixed = [name for name in summary.varied_options(members) if same.get(name) and name in had_by_all]
    options = ", ".join(f"{summary.SHORT_NAMES.get(name, name)}={same[name]}" for name in fixed)
    return f"{setting}, {options}" if options else setting


def series(groups: Sequence[Group]) -> Series:
    """For each model, the configuration run at the most depths; among several, the best at the greatest depth."""
    found: Series = {}
    for model, members in summary.grouped((line for each in groups for line in each.lines), lambda x: x.model).items():
        variants: dict[str, dict[int, Group]] = {}
        for group in summary.by_configuration(members):
            label = summary.label(group.first, members, (*summary.WITHIN_GROUP, "time_scale"))
            variants.setdefault(f"{label}, {relative_time_scale(group.first)}", {})[group.first.depth] = group
        most = max(len(depths) for depths in variants.values())
        if most > 1:
            longest = (depths for depths in variants.values() if len(depths) == most)
            found[model] = dict(sorted(min(longest, key=lambda depths: depths[max(depths)].rank).items()))
    return found


def relative_time_scale(line: Line) -> float | None:
    """The time scale without the delay, which the time scales of generated tasks include; None without one."""
    scale = line.model_options.time_scale
    return scale - line.depth if scale and line.info.until_solved else scale or None


def style_of(model: str) -> dict[str, Any]:
    """The color and line style of a model, the same in every figure."""
    names = summary.model_names()
    return STYLES.get(model, {"color": f"C{names.index(model) if model in names else len(names)}"})


def against_depth(axes: Any, found: Series, others: Sequence[Group]) -> list[End]:
    """The measure on the test data against L: means over seeds, with bars over their range."""
    ends: list[End] = []
    for model, depths in [*found.items(), *((group.first.model, {group.first.depth: group}) for group in others)]:
        style = style_of(model)
        means = range_bars(axes, list(depths), list(depths.values()), style)
        ends.append(End(max(depths), means[-1], model, style["color"]))
    every = {depth for depths in found.values() for depth in depths} | {group.first.depth for group in others}
    axes.set(title="after training", xlabel="depth L", xticks=sorted(every))
    measure_axis(axes, info_of(found), "y")
    return ends


def info_of(found: Series) -> TaskInfo:
    """The task of a series."""
    return next(iter(next(iter(found.values())).values())).info


def range_bars(axes: Any, x: Sequence[float], groups: Sequence[Group], style: dict[str, Any]) -> list[float]:
    """Draws the means of groups, joined, with bars from the least to the greatest value; returns the means."""
    means = [summary.mean(group.values) for group in groups]
    below = [mean - min(group.values) for mean, group in zip(means, groups, strict=True)]
    above = [max(group.values) - mean for mean, group in zip(means, groups, strict=True)]
    axes.errorbar(x, means, yerr=[below, above], marker="o", markersize=5, capsize=3, **style)
    return means


def learning(axes: Any, found: Series, others: Sequence[Group]) -> list[End]:
    """Accuracy during training: a curve for each seed, and one label for all seeds of a model at a depth.

    Of the models in ``others``, which are in no series, only the best is drawn.
    """
    ends = []
    best = sorted(others, key=lambda group: group.rank)[:1]
    for group in [*(group for depths in found.values() for group in depths.values()), *best]:
        color = style_of(group.first.model)["color"]
        for line in group.lines:
            x = [record["samples"] for record in line.history]
            y = [record[line.watched] for record in line.history]
            axes.plot(x, y, color=color, linewidth=0.9)
        last = max(group.lines, key=lambda line: line.samples)
        label = f"{group.first.model} L={group.first.depth}"
        ends.append(End(last.samples, last.history[-1][last.watched], label, color))
    axes.set(title="during training", xlabel="training samples")
    axes.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
    measure_axis(axes, info_of(found), "y")
    return ends


def side_by_side(axes: Any, groups: Sequence[Group], paper: Mapping[str, tuple[str, float]]) -> list[End]:
    """The measure on the test data in settings with one depth: a row for each model, a mark for each seed."""
    info = groups[0].info
    rows: list[tuple[str, Any, list[float], str]] = []
    for setting, lines in summary.by_setting(line for group in groups for line in group.lines).items():
        for model, members in summary.grouped(lines, lambda line: line.model).items():
            best = min(summary.by_configuration(members), key=lambda group: group.rank)
            name = ", ".join([f"{setting}: {model} L={best.first.depth}", *effort(best.first)])
            rows.append((name, style_of(model)["color"], best.values, summary.outcome(best)))
        if setting in paper:
            model, value = paper[setting]
            rows.append((f"{setting}: paper, {model}", "black", [value], info.format(value)))
    for place, (_, color, values, _) in enumerate(rows):
        axes.plot(values, [place] * len(values), "o", color=color, alpha=0.7)
    names = [name for name, *_ in rows]
    axes.set(yticks=range(len(rows)), yticklabels=names, ylim=(len(rows) - 0.5, -0.5))
    measure_axis(axes, info, "x")
    return [End(max(values), place, text, color) for place, (_, color, values, text) in enumerate(rows)]


def effort(line: Line) -> list[str]:
    """A run's parameters and, if its result is not a number of samples, its training samples, both in thousands.

    The best runs of two models may differ in both.
    """
    sized = [f"{line.parameters / 1000:.0f}K parameters"] if line.parameters else []
    return sized if line.info.until_solved else [*sized, f"{line.samples / 1000:.0f}K {line.info.unit}"]


def over_epochs(axes: Any, groups: Sequence[Group]) -> list[End]:
    """The measure on the validation data after each epoch, and the result on the test data in the label."""
    ends, info = [], groups[0].info
    for group in groups:
        color = style_of(group.first.model)["color"]
        for line in group.lines:
            x = [record["samples"] for record in line.history]
            axes.plot(x, [record[line.watched] for record in line.history], "o-", color=color, markersize=3)
        last = group.first.history[-1]
        label = f"{group.first.setting}: {group.first.model} L={group.first.depth}, test {summary.outcome(group)}"
        ends.append(End(last["samples"], last[group.first.watched], label, color))
    axes.set(xlabel=f"training {info.unit}")
    axes.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
    measure_axis(axes, info, "y")
    axes.set(ylabel=f"validation {info.measure_title}")
    return ends


def measure_axis(axes: Any, info: TaskInfo, which: str) -> None:
    """Labels the axis ("x" or "y") that shows a task's measure."""
    axes.set(**{f"{which}label": f"test {info.measure_title}"})
    if info.measure == "accuracy":
        axes.set(**{f"{which}lim": (-0.02, 1.03)})
        getattr(axes, f"{which}axis").set_major_formatter(mpl.ticker.PercentFormatter(1.0))


def runtime(axes: Any, run: Mapping[str, Any]) -> list[End]:
    """Time of forward + backward against L on one device."""
    rows = [row for row in run["rows"] if row["pass"] == "training" and "ms_per_timestep_and_example" in row]
    rows = [row for row in rows if row["precision"] == rows[0]["precision"]]
    ends = []
    for i, model in enumerate(dict.fromkeys(row["model"] for row in rows)):
        same = [row for row in rows if row["model"] == model]
        points = sorted((row["depth"], 1000 * row["ms_per_timestep_and_example"]) for row in same)
        name = TIMED_MODELS.get(model, model)
        style = STYLES.get(name, {"color": f"C{i + 3}"})
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, **style)
        ends.append(End(*points[-1], name, style["color"]))
    axes.set(title=run["environment"]["device_kind"], xlabel="depth L", yscale="log")
    axes.set(ylabel="µs per timestep and example", xticks=sorted({row["depth"] for row in rows}))
    plain_log_scale(axes.yaxis)
    return ends
