"""Figures 3 to 5 of the paper: quality and runtime against L."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.reporting import outcomes
from experiments.reporting.figures import STYLE
from experiments.reporting.measurements import TIMED_MODELS
from experiments.reporting.results import Line, measure, watched

Series = dict[str, dict[int, list[Line]]]
"""Lines by model and L."""
Styles = dict[str, dict[str, Any]]
"""Colour and marker of each model."""
Panel = Callable[[Any], None]
"""Draws on axes."""

COLUMNS = 3
PANEL, SAMPLE, LETTER = 4.2, 0.6, 0.085
"""Inches: the width of a panel, of a legend's sample with the space around it, and of a letter."""
DASHES = ("-", "--", "-.", ":")
MARKERS = "sv^DPX"
GRID: dict[Any, Any] = {"axes.grid": True, "grid.alpha": 0.3}
TITLES = {"accuracy": "test accuracy", "bits": "test bits per character"}


def depth_figure(path: Path, settings: dict[str, list[Line]], runtimes: Sequence[dict[str, Any]]) -> None:
    """Panels for each setting, and one for each device on which the runtime was measured.

    Args:
        path: the PNG to write.
        settings: result lines by task and size; where there are none, a panel says so.
        runtimes: of ``benchmarks.depth``.
    """
    found = {setting: outcomes.series(lines) for setting, lines in settings.items()}
    styles = styles_of({name for series in found.values() for name in series})
    groups = [setting_panels(setting, series, styles) for setting, series in found.items()]
    panels = [
        panel for group in sorted(groups, key=len, reverse=True) for panel in group
    ]  # those that fill a row first
    panels += [functools.partial(runtime, run=run) for run in runtimes]
    if not runtimes:
        panels.append(functools.partial(empty, title="runtime", reason="not measured"))
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    in_row = max(1, min(columns, int(PANEL * columns / (SAMPLE + LETTER * max(map(len, styles), default=0)))))
    height = 3.2 * rows + 0.2 * -(-len(styles) // in_row)
    with mpl.rc_context({**STYLE, **GRID}):
        figure = Figure(figsize=(PANEL * columns, height), layout="constrained")
        for axes, draw in itertools.zip_longest(figure.subplots(rows, columns, squeeze=False).flat, panels):
            if draw is None:
                axes.set_axis_off()
            else:
                draw(axes)
        if styles:
            handles = [sample(label=name, **style) for name, style in styles.items()]
            figure.legend(handles=handles, loc="outside lower center", ncols=in_row, frameon=False)
        figure.savefig(path, format="png", dpi=100, metadata={"Software": None})


def styles_of(names: set[str]) -> Styles:
    """Of the paper's models everywhere the same; of all that take options to tell apart, from other colours."""
    known = {name: {"color": f"C{i}", "marker": "o"} for i, name in enumerate(outcomes.model_names())}
    others = mpl.colormaps["Dark2"].colors  # type: ignore[attr-defined]
    styles: Styles = {name: style for name, style in known.items() if name in names}
    for i, name in enumerate(sorted(names - known.keys())):
        styles[name] = {"color": others[i % len(others)], "marker": MARKERS[i % len(MARKERS)]}
    return styles


def setting_panels(setting: str, series: Series, styles: Styles) -> list[Panel]:
    """What there is to draw of a task and size."""
    lines = [line for points in series.values() for members in points.values() for line in members]
    if not any(line["history"] for line in lines):
        reason = "cut short before the first test" if lines else "not run here"
        return [functools.partial(empty, title=setting, reason=reason)]
    found: dict[str, Any] = {"series": series, "styles": styles}
    if lines[0]["task"] not in outcomes.UNTIL_SOLVED:
        return [functools.partial(against_depth, title=setting, **found)]
    return [
        functools.partial(curves, title=f"{setting}: while training", **found),
        functools.partial(against_depth, title=f"{setting}: in the end", **found),
        functools.partial(samples_against_depth, title=f"{setting}: until solved", **found),
    ]


def empty(axes: Any, title: str, reason: str) -> None:
    """A panel for what is not there."""
    axes.set(title=title, xticks=[], yticks=[])
    axes.text(0.5, 0.5, reason, ha="center", va="center", color="0.4", transform=axes.transAxes)


def curves(axes: Any, title: str, series: Series, styles: Styles) -> None:
    """Accuracy while training, a curve for each run."""
    depths = depths_of(series)
    dashes = {depth: DASHES[i % len(DASHES)] for i, depth in enumerate(depths)}
    for name, points in series.items():
        for depth, lines in points.items():
            for line in lines:
                x = [record["samples"] for record in line["history"]]
                y = [record[watched(line)] for record in line["history"]]
                axes.plot(x, y, color=styles[name]["color"], linestyle=dashes[depth], linewidth=1, alpha=0.8)
    axes.set(title=title, xlabel="training samples", ylabel="test accuracy", ylim=(0, 1.02))
    axes.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
    handles = [sample(label=f"L={depth}", linestyle=dashes[depth], color="0.3") for depth in depths]
    axes.legend(handles=handles, loc="upper left", framealpha=0.8, edgecolor="none", fontsize="small")


def against_depth(axes: Any, title: str, series: Series, styles: Styles) -> None:
    """The measure in the end, and hollow what runs had reached when they were cut short."""

    def values(lines: list[Line], *, finished: bool) -> list[float]:
        found = (outcomes.quality(line) for line in lines if line["finished"] is finished)
        return [value for value in found if value is not None]

    marks(axes, series, styles, functools.partial(values, finished=True), functools.partial(values, finished=False))
    line = next(lines[0] for points in series.values() for lines in points.values())
    axes.set(title=title, ylabel=TITLES[measure(line)])
    if measure(line) == "accuracy":
        axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
        axes.set_ylim(top=min(1.005, axes.get_ylim()[1]))
    if line["task"] in outcomes.UNTIL_SOLVED:
        axes.set(ylim=(0, 1.05))


def samples_against_depth(axes: Any, title: str, series: Series, styles: Styles) -> None:
    """Training samples until solved, and hollow the samples within which runs did not solve the task."""

    def values(lines: list[Line], *, solved: bool) -> list[float]:
        return [line["samples"] for line in lines if outcomes.solved(line) is solved and line["samples"]]

    marks(axes, series, styles, functools.partial(values, solved=True), functools.partial(values, solved=False))
    axes.set(title=title, ylabel="training samples", ylim=(0, None))
    axes.yaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))


def marks(
    axes: Any,
    series: Series,
    styles: Styles,
    full: Callable[[list[Line]], list[float]],
    hollow: Callable[[list[Line]], list[float]],
) -> None:
    """Means with bars from the least to the most, joined, and hollow marks one by one, against L."""
    for i, (name, points) in enumerate(series.items()):
        shift = 0.06 * (i - (len(series) - 1) / 2)  # bars at the same L would hide each other
        found = {depth + shift: full(lines) for depth, lines in points.items() if full(lines)}
        means = [sum(values) / len(values) for values in found.values()]
        below = [mean - min(values) for mean, values in zip(means, found.values(), strict=True)]
        above = [max(values) - mean for mean, values in zip(means, found.values(), strict=True)]
        if means:
            axes.errorbar(list(found), means, yerr=[below, above], capsize=2, linewidth=1, markersize=5, **styles[name])
        for depth, lines in points.items():
            values = hollow(lines)
            shape = {**styles[name], "linestyle": "none", "markerfacecolor": "none", "markersize": 6}
            axes.plot([depth + shift] * len(values), values, **shape)
    depths = depths_of(series)
    axes.set(xlabel="depth L", xticks=depths, xlim=(depths[0] - 0.7, depths[-1] + 0.7))


def sample(**shape: Any) -> Line2D:
    """A line for a legend."""
    return Line2D([], [], **shape)


def depths_of(series: Series) -> list[int]:
    """Every L that occurs."""
    return sorted({depth for points in series.values() for depth in points})


def runtime(axes: Any, run: dict[str, Any]) -> None:
    """Milliseconds against L, as measured on a device."""
    rows = [row for row in run["rows"] if row["pass"] == "training" and "ms_per_timestep_and_example" in row]
    rows = [row for row in rows if row["precision"] == rows[0]["precision"]]
    for i, model in enumerate(dict.fromkeys(row["model"] for row in rows)):
        points = sorted((row["depth"], row["ms_per_timestep_and_example"]) for row in rows if row["model"] == model)
        shape = {"linestyle": DASHES[i % len(DASHES)], "marker": MARKERS[i % len(MARKERS)], "markersize": 4}
        axes.plot(
            *zip(*points, strict=True),
            color=f"{0.65 * (i % 3) / 2:.2f}",
            linewidth=1,
            label=TIMED_MODELS.get(model, model),
            **shape,
        )
    axes.set(title=f"runtime, {run['environment']['device_kind']}", xlabel="depth L", yscale="log")
    axes.set(ylabel="ms per timestep and example", xticks=sorted({row["depth"] for row in rows}))
    axes.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axes.legend(loc="upper left", framealpha=0.8, edgecolor="none", fontsize="small")
