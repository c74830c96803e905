"""Figures of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure


def learning_curves(path: Path, history: list[dict[str, Any]], kept: int, test_accuracy: float, title: str) -> None:
    """Draws loss and accuracy against epochs, and marks the parameters that were kept.

    Args:
        path: the PNG to write.
        history: one record an epoch, as in ``metrics.jsonl``.
        kept: the epoch whose parameters were kept.
        test_accuracy: of the parameters kept.
        title: what was trained.
    """
    epochs = [record["epoch"] for record in history]
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        figure.suptitle(title)
        left, right = figure.subplots(1, 2)
        for axes, quantity in ((left, "loss"), (right, "accuracy")):
            for split, colour in (("train", "tab:blue"), ("validation", "tab:orange")):
                values = [record[f"{split}_{quantity}"] for record in history]
                axes.plot(epochs, values, color=colour, label=split, marker="." if len(epochs) < 3 else None)
            axes.axvline(kept, color="0.6", linewidth=1, linestyle=":", label="parameters kept")
            axes.set(xlabel="epoch")
        left.set(ylabel="negative log-likelihood (nats)", yscale="log")
        right.set(ylabel="accuracy", ylim=(0, 1.02))
        right.axhline(test_accuracy, color="tab:green", linewidth=1, linestyle="--", label=f"test {test_accuracy:.1%}")
        right.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
        right.legend(loc="lower right", framealpha=1, edgecolor="none")
        left.legend(loc="upper right", framealpha=1, edgecolor="none")
        figure.savefig(path, dpi=120)
