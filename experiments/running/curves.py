"""The learning curves of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from experiments.common.figures import STYLE
from experiments.running import progress
from experiments.running.training import Task


def learning_curves(path: Path, result: dict[str, Any], task: Task, title: str) -> None:
    """Draws the loss and the task's metric against the training samples, and marks the parameters that were kept.

    Args:
        path: the PNG to write.
        result: the return value of :func:`experiments.running.training.fit`.
        task: the task that was trained.
        title: the title of the figure.
    """
    history = result["history"]
    watched = task.watched
    samples = [record["samples"] for record in history]
    with mpl.rc_context({**STYLE, "font.size": 10}):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        figure.suptitle(title)
        left, right = figure.subplots(1, 2)
        for axes, quantity in ((left, "loss"), (right, task.quantity)):
            for split, colour in (("train", "tab:blue"), (watched, "tab:orange")):
                values = [record[f"{split}_{quantity}"] for record in history]
                axes.plot(samples, values, color=colour, label=split, marker="." if len(samples) < 3 else None)
            axes.axvline(result["best"]["samples"], color="0.6", linewidth=1, linestyle=":", label="parameters kept")
            axes.set(xlabel=f"training {task.unit}")
            axes.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
        left.set(ylabel="negative log-likelihood (nats)", yscale="log")
        test = result[f"test_{task.quantity}"]
        label = f"test {progress.shown(task.quantity, test)}"
        right.axhline(test, color="tab:green", linewidth=1, linestyle="--", label=label)
        if task.quantity == "accuracy":
            right.set(ylabel="accuracy", ylim=(0, 1.02))
            right.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
        else:
            right.set(ylabel="bits per character")
        best = "lower right" if task.quantity == "accuracy" else "upper right"
        right.legend(loc=best, framealpha=1, edgecolor="none")
        left.legend(loc="upper right", framealpha=1, edgecolor="none")
        figure.savefig(path, format="png", dpi=120)
