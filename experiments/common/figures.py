"""The style of all figures, and labels at the ends of lines in place of a legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg

STYLE: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
"""Settings for ``matplotlib.rc_context``."""


def plain_log_scale(axis: Any) -> None:
    """Labels a logarithmic axis at 1, 2 and 5 times powers of 10, without exponents."""
    axis.set_minor_locator(mpl.ticker.LogLocator(subs=(2, 5)))
    axis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axis.set_minor_formatter(mpl.ticker.FormatStrFormatter("%g"))


def settle_layout(figure: Any) -> None:
    """Places the axes of a figure with a layout engine, so that distances between labels can be measured."""
    figure.get_layout_engine().execute(figure)


def write_png(figure: Any, path: Any) -> None:
    """Draws the figure once, in its own resolution. (``Figure.savefig`` would lay it out and draw it twice.)"""
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(path)


class End(NamedTuple):
    """The right end of a line, and its label."""

    x: float
    y: float
    text: str
    color: Any


def label_ends(axes: Any, ends: Sequence[End], *, gap: float = 1.25) -> None:
    """Writes a label to the right of each line end, in the line's color, moved apart where labels would overlap.

    Call it after :func:`settle_layout`, when the limits, the scale and the size of the axes are final.

    Args:
        axes: the axes with the lines.
        ends: the right ends of the lines.
        gap: the distance between two labels, in multiples of the font size.
    """
    figure = axes.get_figure()
    size = mpl.rcParams["font.size"]
    points = 72 / figure.dpi
    places = [axes.transData.transform((end.x, end.y)) * points for end in ends]
    order = sorted(range(len(ends)), key=lambda i: places[i][1])
    top = axes.bbox.y1 * points  # above it is the title
    heights = below(top, spread_out([float(places[i][1]) for i in order], gap * size), gap * size)
    for i, height in zip(order, heights, strict=True):
        end = ends[i]
        axes.annotate(
            end.text,
            (end.x, end.y),
            (6, height - places[i][1]),
            textcoords="offset points",
            color=end.color,
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5},
            annotation_clip=False,
        )


def spread_out(values: Sequence[float], distance: float) -> list[float]:
    """Sorted values moved as little as possible so that neighbors are at least ``distance`` apart.

    >>> spread_out([0.0, 1.0, 10.0], 3.0)
    [-1.0, 2.0, 10.0]
    """
    clusters: list[list[float]] = []  # values that touch, centered on their mean
    for value in values:
        clusters.append([value])
        while len(clusters) > 1 and lowest(clusters[-1], distance) - highest(clusters[-2], distance) < distance:
            clusters[-2:] = [clusters[-2] + clusters[-1]]
    return [lowest(cluster, distance) + i * distance for cluster in clusters for i in range(len(cluster))]


def below(top: float, values: Sequence[float], distance: float) -> list[float]:
    """Sorted values, those above ``top`` moved down, and others with them, so that neighbors stay apart.

    >>> below(9.0, [0.0, 7.0, 10.0], 3.0)
    [0.0, 6.0, 9.0]
    """
    moved: list[float] = []
    for value in reversed(values):
        moved.append(min(value, moved[-1] - distance if moved else top))
    return moved[::-1]


def lowest(cluster: Sequence[float], distance: float) -> float:
    """The lowest position of a cluster."""
    return sum(cluster) / len(cluster) - distance * (len(cluster) - 1) / 2


def highest(cluster: Sequence[float], distance: float) -> float:
    """The highest position of a cluster."""
    return sum(cluster) / len(cluster) + distance * (len(cluster) - 1) / 2
