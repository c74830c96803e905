"""What a run shows while it trains, and the signals that it heeds."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm


def progress_bar(*, disable: bool = False) -> Any:
    """Steps, and steps per second; every 30 seconds at most where nobody watches."""
    interval = 0.2 if sys.stderr.isatty() else 30
    return tqdm(unit="step", mininterval=interval, maxinterval=interval, dynamic_ncols=True, disable=disable)


def show(bar: Any, averages: dict[str, float]) -> None:
    """Advances the bar by a step, with what has been averaged over the epoch so far."""
    metrics = {name.removeprefix("train_"): shown(name, value) for name, value in averages.items()}
    bar.set_postfix(metrics, refresh=False)
    bar.update()


def shown(name: str, value: float) -> str:
    """A metric as people read it."""
    return f"{value:.1%}" if name.endswith("accuracy") else f"{value:.4f}"


def describe(record: dict[str, Any], epochs: int, unit: str, watched: str) -> str:
    """One epoch in one line."""
    parts = [f"epoch {record['epoch']:3}/{epochs}", f"{record['samples']:,} {unit}"]
    for split in ("train", watched):
        found = {name.removeprefix(f"{split}_"): name for name in record if name.startswith(f"{split}_")}
        parts.append(" ".join([split, *(f"{short} {shown(name, record[name])}" for short, name in found.items())]))
    return "  ".join([*parts, f"{record['seconds']:.1f} s"])


@contextlib.contextmanager
def asked_to_stop(*, heed: bool = True) -> Iterator[list[int]]:
    """The signals that ask for a stop, as they come in; a second one stops at once.

    Without ``heed`` each does at once: of several processes, one that is told to stop cannot save alone.

    One that comes after the last step is not needed any more: the run is about to finish.
    """
    received: list[int] = []
    if not heed:
        yield received
        return

    def handler(signum: int, frame: Any) -> None:
        received.append(signum)
        for name in previous:
            signal.signal(name, previous[name])

    previous = {}
    try:
        for name in (signal.SIGINT, signal.SIGTERM):
            previous[name] = signal.signal(name, handler)
    except ValueError:  # not the main thread: nobody can send us signals
        yield received
        return
    try:
        yield received
    finally:
        for name, old in previous.items():
            signal.signal(name, old)
