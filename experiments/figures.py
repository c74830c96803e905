"""Figures of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure


def learning_curves(path: Path, history: list[dict[str, Any]], test_accuracy: float, title: str) -> None:
    """Draws loss and accuracy against epochs, and marks the parameters that were kept.

    Args:
        path: the PNG to write.
        history: one record an epoch, as in ``metrics.jsonl``.
        test_accuracy: of the parameters kept.
        title: what was trained.
    """
    epochs = [record["epoch"] for record in history]
    best = max(history, key=lambda record: record["validation_accuracy"])
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        figure.suptitle(title)
        left, right = figure.subplots(1, 2)
        for axes, quantity in ((left, "loss"), (right, "accuracy")):
            for split, colour in (("train", "tab:blue"), ("validation", "tab:orange")):
                values = [record[f"{split}_{quantity}"] for record in history]
                axes.plot(epochs, values, color=colour, label=split, marker="." if len(epochs) < 3 else None)
            axes.axvline(best["epoch"], color="0.6", linewidth=0.8, linestyle=":")
            axes.set(xlabel="epoch")
        left.set(ylabel="negative log-likelihood (nats)", yscale="log")
        right.set(ylabel="accuracy", ylim=(0, 1.02))
        right.axhline(test_accuracy, color="tab:green", linewidth=1, linestyle="--", label=f"test {test_accuracy:.1%}")
        right.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
        right.legend(frameon=False, loc="lower right")
        left.legend(frameon=False, loc="upper right")
        figure.savefig(path, dpi=120)
