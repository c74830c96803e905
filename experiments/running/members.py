"""The runs of a population: the state, history, checkpoints and metrics of each run, and its workdir."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from experiments.common.files import read_json, write_json
from experiments.running import devices
from experiments.running import workdir as wd
from experiments.running.checkpoints import CheckpointError, Checkpoints
from experiments.running.experiment import Experiment
from experiments.running.metrics import Metrics
from experiments.running.options import TrainOptions
from experiments.running.steps import State
from experiments.running.task import Record, Task, best_of, is_over


@dataclasses.dataclass(frozen=True)
class Member:
    """A run to be trained, alone or together with others.

    Args:
        experiment: task, model and initial parameters.
        options: how to train.
        workdir: the run's folder, claimed by this process while it trains.
        config: the configuration that identifies the run.
    """

    experiment: Experiment
    options: TrainOptions
    workdir: Path
    config: dict[str, Any]

    @property
    def task(self) -> Task:
        """Data, objective and stopping rule."""
        return self.experiment.task


class Training:
    """A member while it is trained: its state as of the latest checkpoint, its history and its best parameters.

    Args:
        number: the index of the run in the population.
        member: the run.
        start: the state before the first step, on the host.
    """

    def __init__(self, number: int, member: Member, start: State) -> None:
        self.number, self.member, self.task = number, member, member.task
        self.start = self.state = start
        self._history: list[Record] = []
        self._ended_at: int | None = None
        self.best: Any = member.experiment.params
        self.diverged_at: int | None = None
        """The step at which the loss became infinite or NaN; None if it did not."""
        self._held = contextlib.ExitStack()
        self.checkpoints = self._held.enter_context(
            Checkpoints(member.workdir / wd.CHECKPOINTS, read_only=not devices.is_first())
        )
        self._metrics = self._held.enter_context(Metrics(member.workdir, member.options))

    @property
    def history(self) -> list[Record]:
        """The records of the epochs so far."""
        return self._history

    @history.setter
    def history(self, history: list[Record]) -> None:
        self._history = history
        # computed once, since the history may be long and over_at is read at every step
        self._ended_at = int(history[-1]["step"]) if is_over(history, self.task) else None

    @property
    def over_at(self) -> int | None:
        """The step after which the run was over, or at which it diverged; None while it is neither."""
        return self._ended_at if self.diverged_at is None else self.diverged_at

    @property
    def unfinished(self) -> bool:
        """Whether the run is over but has no summary yet."""
        return self.over_at is not None and self.diverged_at is None and not (self.member.workdir / wd.SUMMARY).exists()

    def add(self, record: Record) -> bool:
        """Adds the record of an epoch. Returns whether its parameters are the best so far."""
        self.history = [*self.history, record]
        return best_of(self.history, self.task) is record

    def save(self, step: int) -> None:
        """Writes a checkpoint of ``state``, then the metrics.

        Before the first evaluation the current parameters are saved as the best ones, and the metadata has their step.
        """
        if not devices.is_first():
            return
        best, meta = self.best, dict[str, Any](history=self.history)
        if not self.history:
            best, meta["best_step"] = self.state.params, step
        self.checkpoints.save(step, {"state": self.state, "best": best}, meta)
        if self.history:
            self._metrics.write(self.history)

    def restore(self, report: Callable[[str], None], step: int | None = None) -> None:
        """Reads the latest intact checkpoint, or the one of ``step``; if there is none, the state does not change."""
        if self.checkpoints.latest_step is not None:
            like = {"state": self.start, "best": self.member.experiment.params}
            restored, meta = self.checkpoints.restore(like, report, step)
            self.state, self.best, self.history = restored["state"], jax.device_get(restored["best"]), meta["history"]
        self._metrics.write(self.history, resumed=True)

    def mark_diverged(self, step: int) -> None:
        """Records that the run has diverged, so that its population can be resumed without it."""
        self.diverged_at = step
        write_json(self.member.workdir / wd.DIVERGED, {"step": step})

    def read_diverged(self) -> None:
        """Reads what :meth:`mark_diverged` recorded."""
        if recorded := read_json(self.member.workdir / wd.DIVERGED):
            self.diverged_at = int(recorded["step"])

    def __enter__(self) -> Training:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the files."""
        self._held.__exit__(kind, error, traceback)


def resume(runs: Sequence[Training], report: Callable[[str], None]) -> int:
    """Restores every run, and returns the common step of the runs that are not over; 0 if there is no checkpoint.

    The runs of a population save one after the other. If the process was killed meanwhile, some runs have a later
    checkpoint than the others, and all go back to the latest step that they have in common.

    Raises:
        CheckpointError: no checkpoint of a run can be read, or the runs have no step in common.
    """
    if len(runs) > 1:
        for run in runs:
            run.read_diverged()
    for run in runs:
        run.restore(report)
    pending = [run for run in runs if run.over_at is None] or runs[:1]
    latest = {int(run.state.step) for run in pending}
    if len(latest) == 1:
        return latest.pop()
    steps = [set(run.checkpoints.steps) for run in pending]
    common = max(set.intersection(*steps), default=0)
    if not common and (all(steps) or any(len(each) > 1 for each in steps)):
        raise CheckpointError(
            f"the runs that are trained together have no step in common (they are at {sorted(latest)}), since some of "
            "them were trained without the others: finish those first, or all of them one by one, without --together"
        )
    for run in pending:
        run.checkpoints.discard_after(common)
        if common:
            run.restore(report, common)
        else:  # killed during the first save
            run.state, run.best, run.history = run.start, run.member.experiment.params, []
    return common
