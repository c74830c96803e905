"""The figure of ``benchmarks.depth``; needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

PANELS = {
    "training": ("forward + backward", "ms per timestep and example"),
    "forward": ("forward", "ms per timestep and example"),
    "step": ("step of a stream", "ms"),
    "jitted step": ("jitted step of a stream", "ms"),
}
"""Title and unit of each pass."""


def depth_figure(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """One panel for each pass, one line for each model, L along the bottom.

    Args:
        path: the file, of any format that matplotlib knows.
        rows: the rows of ``benchmarks.depth`` that have a time.
        title: the title of the figure.
    """
    passes = [each for each in PANELS if any(row["pass"] == each for row in rows)]
    lines = list(dict.fromkeys((row["model"], row["precision"]) for row in rows))
    with mpl.rc_context({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(figsize=(4.2 * len(passes), 3.6), layout="constrained")
        axes = figure.subplots(1, len(passes), squeeze=False)[0]
        for panel, each in zip(axes, passes, strict=True):
            for number, (model, precision) in enumerate(lines):
                points = [
                    row for row in rows if (row["model"], row["precision"], row["pass"]) == (model, precision, each)
                ]
                points.sort(key=lambda row: row["depth"])
                x, y = [row["depth"] for row in points], [row["ms_per_timestep_and_example"] for row in points]
                panel.plot(x, y, marker=".", color=f"C{number % 10}", label=f"{model}, {precision}")
            name, unit = PANELS[each]
            panel.set(title=name, ylabel=unit, xlabel="depth L", xticks=sorted({row["depth"] for row in rows}))
            panel.set_ylim(bottom=0)
        axes[0].legend()
        figure.suptitle(title)
        figure.savefig(path, dpi=120)
