"""Writing a run's metrics to files, and estimating the run's duration."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.common.files import write_lines
from experiments.running import devices
from experiments.running import workdir as wd
from experiments.running.options import TrainOptions

MEASURED_SECONDS = 5.0
"""The time over which the speed is measured for the estimate at the beginning of a run."""
SHORT_SECONDS = 60.0
"""A run that takes less than this needs no estimate."""


class Metrics:
    """Writes the records of a run as JSON Lines, and for TensorBoard if the options say so; in the first process only.

    Args:
        workdir: the run's folder.
        options: how to train.
    """

    def __init__(self, workdir: Path, options: TrainOptions) -> None:
        self._workdir, self._tensorboard = workdir, options.tensorboard
        self._written = 0
        self._writer: Any = None

    def write(self, history: Sequence[dict[str, Any]], *, resumed: bool = False) -> None:
        """Writes all records as JSON Lines, and the new ones for TensorBoard; if ``resumed``, none are new.

        Raises:
            FileError: a file cannot be written.
        """
        if not devices.is_first():
            return
        write_lines(self._workdir / wd.METRICS, history)
        if self._tensorboard and not resumed:
            if self._writer is None:  # one file for each process that trains
                from tensorboardX import SummaryWriter

                self._writer = SummaryWriter(str(self._workdir / wd.TENSORBOARD), filename_suffix=f".{os.getpid()}")
            for record in history[self._written :]:
                for name, value in record.items():
                    self._writer.add_scalar(name, value, record["step"])
            self._writer.flush()
        self._written = len(history)

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes the file for TensorBoard."""
        if self._writer is not None:
            self._writer.close()


class Estimate:
    """Estimates the run's remaining time from the speed of its first steps, after those that compile.

    Args:
        steps: the number of steps that remain.
        epochs: the largest number of epochs, for the message.
    """

    def __init__(self, steps: int, epochs: int) -> None:
        self._left, self._epochs = steps, epochs
        self._begin: float | None = None
        self._done = 0
        self._told = False

    def after(self, steps: int) -> str | None:
        """Counts steps that have ended. Returns a line once the speed is known, unless the run is short."""
        if self._told:
            return None
        self._left -= steps
        if self._begin is None:
            self._begin = time.monotonic()
            return None
        self._done += steps
        seconds = time.monotonic() - self._begin
        if seconds < MEASURED_SECONDS:
            return None
        self._told = True
        left = seconds / self._done * self._left
        if left < SHORT_SECONDS:
            return None
        return f"about {duration(left)} for at most {self._epochs} epochs, {1e3 * seconds / self._done:.0f} ms a step"


def duration(seconds: float) -> str:
    """A time in words, for example "15 hours"."""
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
