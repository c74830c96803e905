"""The progress bar, and stopping on signals."""

from __future__ import annotations

import contextlib
import signal
import statistics
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from tqdm import tqdm

from experiments.running.task import Record, Task


def progress_bar(*, disable: bool = False) -> Any:
    """A progress bar of training steps; updated every 30 seconds if the output is not a terminal."""
    interval = 0.2 if sys.stderr.isatty() else 30
    return tqdm(unit="step", mininterval=interval, maxinterval=interval, dynamic_ncols=True, disable=disable)


def show(bar: Any, averages: dict[str, float]) -> None:
    """Advances the bar by a step and shows the averages over the epoch so far."""
    metrics = {name.removeprefix("train_"): shown(name, value) for name, value in averages.items()}
    bar.set_postfix(metrics, refresh=False)
    bar.update()


def shown(name: str, value: float) -> str:
    """Formats a metric."""
    return f"{value:.1%}" if name.endswith("accuracy") else f"{value:.4f}"


def describe(records: Sequence[Record], task: Task) -> str:
    """A line about an epoch of one run, or the range and the median of several that are trained together."""
    first = records[0]
    parts = [f"epoch {first['epoch']:3}/{task.epochs}", f"{first['samples']:,} {task.unit}"]
    if len(records) > 1:
        parts[-1] += f", {len(records)} runs"
    for split in ("train", task.watched):
        names = [name for name in first if name.startswith(f"{split}_")]
        found = {name.removeprefix(f"{split}_"): _range(name, [record[name] for record in records]) for name in names}
        parts.append(" ".join([split, *(f"{short} {text}" for short, text in found.items())]))
    return "  ".join([*parts, f"{first['seconds']:.1f} s"])


def _range(name: str, values: Sequence[float]) -> str:
    if len(values) == 1:
        return shown(name, values[0])
    return f"{shown(name, min(values))}..{shown(name, max(values))} ({shown(name, statistics.median(values))})"


STOPPING = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
"""The signals on which a run saves a checkpoint and ends; SIGHUP, for a closed terminal, is missing on Windows."""


@contextlib.contextmanager
def asked_to_stop(*, save_first: bool = True) -> Iterator[list[int]]:
    """Yields a list to which the signals :data:`STOPPING` are appended; a second signal has its usual effect.

    Without ``save_first``, no signal is caught: one of several processes cannot save a checkpoint alone. A signal after
    the last step has no effect, since the run is about to finish. A signal that is ignored remains so: SIGHUP under
    nohup, and SIGINT in a job that a script starts in the background.
    """
    received: list[int] = []
    if not save_first:
        yield received
        return

    def handler(signum: int, frame: Any) -> None:
        received.append(signum)
        for name in previous:
            signal.signal(name, previous[name])

    previous = {}
    try:
        for name in STOPPING:
            if signal.getsignal(name) is not signal.SIG_IGN:
                previous[name] = signal.signal(name, handler)
    except ValueError:  # not the main thread; only that one receives signals
        yield received
        return
    try:
        yield received
    finally:
        for name, old in previous.items():
            signal.signal(name, old)
