"""The training loop of every task: numbered batches, evaluation, early stopping, checkpoints that resume exactly.

:func:`fit` is the complete loop. It trains a population: one run, or several in one program.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.common.errors import CommandError, Interrupted
from experiments.running import devices, profiling, progress, steps
from experiments.running import workdir as wd
from experiments.running.members import Member, Training, resume
from experiments.running.metrics import Estimate
from experiments.running.options import TrainOptions
from experiments.running.task import Record, best_of

AHEAD = 3
"""The most dispatches in flight while the host makes the next batches."""
SAVING = 10
"""The runs of a population save at an evaluation only if the time since the last save is more than this many times the
duration of that save."""


class Diverged(CommandError):
    """The loss is infinite or NaN."""

    status = 1


def fit(members: Sequence[Member], ended: Callable[[int, dict[str, Any]], None]) -> dict[int, Diverged]:
    """Trains and evaluates epoch by epoch, until each run is solved or its epochs or its patience are used up.

    The runs differ only in their initial parameters, their batches and their learning rates: the shapes, the schedule
    and the stopping rule of the first run apply to all. Each has its own history, best parameters, early stop and
    checkpoints. A finished run is no longer trained; the program ends with the last one.

    Args:
        members: the runs. Each resumes from the latest checkpoint in its workdir, if any.
        ended: called when a run is over, unless it has a summary, with its index and its result: ``history``, one
            record per epoch; ``best``, the record of the best epoch; and the metrics of its parameters on the test
            split, ``test_loss`` and so on. The run's last checkpoint holds these parameters too.

    Returns:
        By index, the errors of the runs that diverged, now or before, if there are several runs.

    Raises:
        CheckpointError: no checkpoint of a run can be read, or one cannot be written.
        Interrupted: after SIGINT or SIGTERM, once a checkpoint of the last step is written.
        Diverged: the loss of the only run is infinite or NaN; its last checkpoint precedes that step.
    """
    task, options = members[0].task, members[0].options
    mesh = devices.data_mesh(options.devices)
    at_once = largest_divisor(task.steps_per_epoch, options.steps_per_dispatch)
    rows = devices.padded_size(options.batch_size, mesh)
    params = [each.experiment.params for each in members]
    starts = steps.starting_states([each.task for each in members], params, options, rows)
    with (
        contextlib.ExitStack() as held,
        progress.progress_bar(disable=not devices.is_first()) as bar,
        progress.asked_to_stop(save_first=not options.distributed) as stop,
    ):
        runs = [held.enter_context(Training(n, *each)) for n, each in enumerate(zip(members, starts, strict=True))]
        done = resume(runs, functools.partial(bar.write, file=sys.stderr))
        if done:
            where = members[0].workdir if len(members) == 1 else f"{len(members)} workdirs"
            bar.write(f"resuming from step {done} in {where}", file=sys.stderr)
        population = Population(runs, options, mesh, bar)
        if unfinished := [run for run in runs if run.unfinished]:
            population.arrange(min(run.over_at or done for run in unfinished) - 1)  # the size they were trained with
            for number, result in population.results(unfinished):
                with bar.external_write_mode():
                    ended(number, result)
        epochs = [len(run.history) for run in population.active]
        population.arrange(min(epochs) * task.steps_per_epoch if epochs else done)
        if options.profile:
            bar.write(population.profile(done, at_once))
        bar.total, bar.initial, bar.n = task.num_steps, done, done
        population.estimate = Estimate(task.num_steps - done, task.epochs)
        saved, saving = time.monotonic(), 0.0
        while active := population.active:
            epoch = 1 + min(len(run.history) for run in active)
            begin = time.monotonic()
            while done < epoch * task.steps_per_epoch:
                count = at_once - done % at_once  # fewer after resuming a run that had another steps_per_dispatch
                population.dispatch(done, count)
                done += count
                if stop or (time.monotonic() - saved > options.checkpoint_seconds and not options.distributed):
                    population.wait()
                    population.save(done)
                    saved = time.monotonic()
                if stop:
                    raise Interrupted(f"stopped by {signal.Signals(stop[0]).name} at step {done}", stop[0])
            population.wait()
            record: Record = {"epoch": epoch, "step": done, "samples": epoch * task.samples_per_epoch}
            over = population.evaluate(record, begin)
            if len(members) == 1 or over or time.monotonic() - saved > SAVING * saving:
                begin = time.monotonic()
                population.save(done)
                saved = time.monotonic()
                saving = saved - begin
            records = [run.history[-1] for run in active if run.diverged_at is None]
            if devices.is_first() and records:
                bar.write(progress.describe(records, task))
            for number, result in population.results(over):
                with bar.external_write_mode():  # hides the bar meanwhile
                    ended(number, result)
            population.arrange(done)
    return population.errors


class Population:
    """The runs in one compiled program, whose training steps are dispatched before earlier results arrive.

    Args:
        runs: all runs, also those that are over.
        options: the training options of the first run; learning rates and seeds are those of each run.
        mesh: the devices.
        bar: the progress bar, which advances as the losses arrive.
    """

    def __init__(self, runs: Sequence[Training], options: TrainOptions, mesh: Mesh, bar: Any) -> None:
        self._runs, self._options, self._mesh, self._bar = runs, options, mesh, bar
        self._task = runs[0].task
        self._data = devices.replicate(self._task.data, mesh)
        self._names = [f"train_{metric}" for metric in runs[0].start.totals]
        self._in_flight: collections.deque[tuple[int, jax.Array]] = collections.deque()
        self._slots: list[Training] = []
        self._state: Any = None
        self._settings: Any = None
        self._program: steps.Program | None = None
        self.errors = {
            run.number: diverged("infinite or NaN", run.diverged_at, run.member.options)
            for run in runs
            if run.diverged_at is not None and not (run.member.workdir / wd.SUMMARY).exists()
        }
        """The errors of the runs that diverged, by number."""
        self.estimate: Estimate | None = None
        """Estimates the time that remains, from the steps that have ended; :meth:`wait` prints its line."""

    @property
    def active(self) -> list[Training]:
        """The runs that are not over."""
        return [run for run in self._runs if run.over_at is None]

    def arrange(self, done: int) -> None:
        """Puts the runs that are not over into the program, which is made smaller once half of its runs are over.

        The size of the program may affect how its results are rounded. So the size depends only on which runs are
        over after ``done`` steps, a number of whole epochs, and a resumed population has the same sizes. Runs that are
        over fill up the program.
        """
        active = [run for run in self._runs if run.over_at is None or run.over_at > done]
        if self._slots and not active:
            return
        size = program_size(len(self._runs), len(active))
        if size == len(self._slots):
            return
        if self._slots:
            self.fetch()
        others = [run for run in self._runs if run not in active]
        self._slots = sorted([*active, *others][:size], key=lambda run: run.number)
        self._state = steps.placed(steps.stack([run.state for run in self._slots]), self._mesh)
        self._settings = devices.replicate(steps.settings([run.member.options for run in self._slots]), self._mesh)
        self._program = steps.Program.of(self._task, self._options, size)

    def dispatch(self, number: int, count: int) -> None:
        """Starts ``count`` steps with the batches from ``number`` on; waits while more than AHEAD are in flight."""
        self._state, means = self._step(self._state, self._load(number, count))
        self._in_flight.append((number, means))
        self.wait(AHEAD)

    def _step(self, state: Any, batches: Any) -> tuple[Any, jax.Array]:
        return steps.train_steps(self._program, state, batches, self._settings, self._data)

    def wait(self, in_flight: int = 0) -> None:
        """Waits until at most this many dispatches are in flight; checks and shows the losses that arrive.

        Raises:
            Diverged: the loss of the only run is infinite or NaN.
        """
        while len(self._in_flight) > in_flight:
            number, means = self._in_flight.popleft()
            rows = np.asarray(means).swapaxes(0, 1)  # to (steps, runs, metrics)
            if self.estimate is not None and (line := self.estimate.after(len(rows))):
                self._bar.write(f"{line}. {self._task.shorter}".rstrip(" ."), file=sys.stderr)
            for step, row in enumerate(rows, number + 1):
                shown = [self._checked(step, run, means) for run, means in zip(self._slots, row, strict=True)]
                if kept := [each for each in shown if each]:
                    progress.show(self._bar, {name: sum(each[name] for each in kept) / len(kept) for name in kept[0]})

    def _checked(self, step: int, run: Training, means: Any) -> dict[str, float]:
        """The metrics of a run's step by name; none if the run is over or has diverged."""
        if run.over_at is not None:
            return {}
        found = dict(zip(self._names, means.tolist(), strict=True))
        try:
            check_finite(step, found, run.member.options)
        except Diverged as error:
            if len(self._runs) == 1:
                raise
            run.mark_diverged(step)
            self.errors[run.number] = error
            return {}
        return found

    def evaluate(self, record: Record, begin: float) -> list[Training]:
        """Ends an epoch: evaluates the runs and adds a record to each. Returns the runs that are now over."""
        trained = steps.averages("train", self._state.totals, len(self._slots))
        watched, tasks = self._task.watched, [run.task for run in self._slots]
        found = steps.evaluate(watched, self._task.objective, self._state.params, tasks, self._data, self._mesh)
        seconds = round(time.monotonic() - begin, 3)
        improved: list[int] = []
        over: list[Training] = []
        for slot, (run, train, held_out) in enumerate(zip(self._slots, trained, found, strict=True)):
            if run.over_at is None and len(run.history) < record["epoch"]:  # some runs may be ahead after a kill
                improved += [slot] if run.add({**record, **train, **held_out, "seconds": seconds}) else []
                over += [run] if run.over_at is not None else []
        if improved:
            params = steps.unstack(jax.device_get(self._state.params), len(self._slots))
            for slot in improved:
                self._slots[slot].best = jax.tree.map(np.array, params[slot])
        first = steps.stack([run.start._replace(params=(), opt_state=()) for run in self._slots])
        self._state = self._state._replace(
            totals=devices.replicate(first.totals, self._mesh), carry=devices.shard(first.carry, self._mesh, axis=1)
        )
        return over

    def results(self, over: Sequence[Training]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields the index and the result of each run in ``over``, with the test metrics of its best parameters."""
        size = len(self._slots)
        for begin in range(0, len(over), size):
            group = over[begin : begin + size]
            slots = [*group, *[group[0]] * (size - len(group))]
            best = devices.replicate(steps.stack([run.best for run in slots]), self._mesh)
            tasks = [run.task for run in slots]
            tests = steps.evaluate("test", self._task.objective, best, tasks, self._data, self._mesh)
            for run, test in zip(group, tests, strict=False):
                yield run.number, {"history": run.history, "best": best_of(run.history, run.task), **test}

    def fetch(self) -> None:
        """Fetches the state of every run in the program. Every process must call it, since each may hold a part."""
        for run, state in zip(self._slots, steps.unstack(devices.fetch(self._state), len(self._slots)), strict=True):
            run.state = state

    def save(self, done: int) -> None:
        """Writes a checkpoint of every run that is not over, or that ended with this step."""
        self.fetch()
        for run in self._slots:
            # a run that was over when a kill set the others back has been trained further, to fill up the program
            if run.diverged_at is None and run.over_at in (None, done) and run.state.step == done:
                run.save(done)

    def profile(self, done: int, at_once: int) -> str:
        """Compares the loop with the compiled step; see :func:`experiments.running.profiling.profile`."""
        batches = jax.device_put(self._load(done, at_once))
        kept = self._state

        def dispatch(state: Any, number: int, count: int) -> Any:
            self._state = state
            self.dispatch(number, count)
            return self._state

        line = profiling.profile(
            kept,
            dispatch,
            at_once,
            wait=self.wait,
            report=functools.partial(self._bar.write, file=sys.stderr),
            bare_steps=lambda state: self._step(state, batches)[0],
            trace=self._runs[0].member.workdir / wd.PROFILE,
        )
        self._state = kept
        return line

    def _load(self, number: int, count: int) -> dict[str, Any]:
        batches = [[run.task.batch(n) for n in range(number, number + count)] for run in self._slots]
        return devices.shard_batches(batches, self._options.batch_size, self._mesh)


def program_size(total: int, active: int) -> int:
    """The number of runs in a program: the total, halved (rounded up) while the active runs still fit."""
    size = total
    while size > 1 and math.ceil(size / 2) >= active:
        size = math.ceil(size / 2)
    return size


def largest_divisor(number: int, at_most: int) -> int:
    """The largest divisor of ``number`` that is at most ``at_most``."""
    return max(n for n in range(1, min(number, at_most) + 1) if number % n == 0)


def check_finite(step: int, mean: dict[str, float], options: TrainOptions) -> None:
    """Raises Diverged if the loss is infinite or NaN."""
    if not math.isfinite(mean["train_loss"]):
        raise diverged(mean["train_loss"], step, options)


def diverged(loss: float | str, step: int, options: TrainOptions) -> Diverged:
    """The error of a run whose loss became infinite or NaN at a step."""
    return Diverged(
        f"the loss became {loss} at step {step}: "
        f"try a --learning-rate below {options.learning_rate:g}, or a smaller --clip-norm"
    )
