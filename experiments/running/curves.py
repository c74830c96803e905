"""The learning curves of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from experiments.common.figures import STYLE, End, label_ends, plain_log_scale, settle_layout, write_png
from experiments.running import progress
from experiments.running.task import Task

COLORS = {"train": "tab:blue", "watched": "tab:orange"}
"""The colors of the training split and of the split on which the best parameters are chosen."""
TEST = "tab:green"


def learning_curves(path: Path, result: dict[str, Any], task: Task, title: str) -> None:
    """Draws the loss and the task's metric against the training samples, and marks the parameters that were kept.

    Args:
        path: the PNG to write.
        result: the return value of :func:`experiments.running.training.fit`.
        task: the task that was trained.
        title: the title of the figure.
    """
    history = result["history"]
    samples = [record["samples"] for record in history]
    test = result[f"test_{task.quantity}"]
    with mpl.rc_context({**STYLE, "font.size": 10}):
        figure = Figure(figsize=(10, 3.6), dpi=120, layout="constrained")
        figure.suptitle(title)
        left, right = figure.subplots(1, 2)
        ends: dict[Any, list[End]] = {left: [], right: []}
        for axes, quantity in ((left, "loss"), (right, task.quantity)):
            for split, color in COLORS.items():
                name = task.watched if split == "watched" else split
                values = [record[f"{name}_{quantity}"] for record in history]
                axes.plot(samples, values, color=color, marker="." if len(samples) < 3 else None)
                ends[axes].append(End(samples[-1], values[-1], name, color))
            axes.axvline(result["best"]["samples"], color="0.6", linewidth=1, linestyle=":")
            axes.set(xlabel=f"training {task.unit}")
            axes.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
        left.set(ylabel="negative log-likelihood (nats)", yscale="log")
        plain_log_scale(left.yaxis)
        right.axhline(test, color=TEST, linewidth=1, linestyle="--")
        ends[right].append(End(samples[-1], test, f"final test {progress.shown(task.quantity, test)}", TEST))
        if task.quantity == "accuracy":
            right.set(ylabel="accuracy", ylim=(0, 1.02))
            right.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
        else:
            right.set(ylabel="bits per character")
        settle_layout(figure)
        for axes, lines in ends.items():
            label_ends(axes, lines)
            rising = axes is right and task.quantity == "accuracy"  # rising curves leave the bottom free
            axes.annotate(
                "parameters kept",
                (result["best"]["samples"], 0.03 if rising else 0.97),
                (-2, 0),
                xycoords=axes.get_xaxis_transform(),
                textcoords="offset points",
                ha="right",
                va="bottom" if rising else "top",
                rotation=90,
                color="0.4",
                fontsize="small",
            )
        write_png(figure, path)
