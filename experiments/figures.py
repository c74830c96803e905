"""Figures of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from experiments.training import Task


def learning_curves(path: Path, result: dict[str, Any], task: Task, title: str) -> None:
    """Draws loss and accuracy against samples seen, and marks the parameters that were kept.

    Args:
        path: the PNG to write.
        result: of :func:`experiments.training.fit`.
        task: what was learnt.
        title: what to call it.
    """
    history = result["history"]
    watched = next(iter(task.evaluated))
    samples = [record["samples"] for record in history]
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        figure.suptitle(title)
        left, right = figure.subplots(1, 2)
        for axes, quantity in ((left, "loss"), (right, "accuracy")):
            for split, colour in (("train", "tab:blue"), (watched, "tab:orange")):
                values = [record[f"{split}_{quantity}"] for record in history]
                axes.plot(samples, values, color=colour, label=split, marker="." if len(samples) < 3 else None)
            axes.axvline(result["best"]["samples"], color="0.6", linewidth=1, linestyle=":", label="parameters kept")
            axes.set(xlabel="training samples")
            axes.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
        left.set(ylabel="negative log-likelihood (nats)", yscale="log")
        right.set(ylabel="accuracy", ylim=(0, 1.02))
        test = result["test_accuracy"]
        right.axhline(test, color="tab:green", linewidth=1, linestyle="--", label=f"test {test:.1%}")
        right.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
        right.legend(loc="lower right", framealpha=1, edgecolor="none")
        left.legend(loc="upper right", framealpha=1, edgecolor="none")
        figure.savefig(path, format="png", dpi=120)
