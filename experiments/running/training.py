"""The training loop of every task: numbered batches, evaluation, early stopping, checkpoints that resume exactly.

:func:`fit` is the whole run, from top to bottom.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.common.errors import CommandError, Interrupted
from experiments.running import devices, profiling, progress
from experiments.running import workdir as wd
from experiments.running.checkpoints import Checkpoints
from experiments.running.devices import Batch
from experiments.running.metrics import Estimate, Metrics
from experiments.running.options import TrainOptions

Sums = dict[str, tuple[jax.Array, jax.Array]]
"""For every metric a sum over examples and its divisor. The metric ``loss`` is the training objective."""
Record = dict[str, Any]
"""The metrics of one evaluation: a line of metrics.jsonl."""

AHEAD = 3
"""The most dispatches in flight while the host makes the next batches."""


@dataclasses.dataclass(frozen=True)
class Task:
    """Data, objective and stopping rule of a run.

    Args:
        sums: the metrics of a batch: maps ``(params, batch, carry)`` to :data:`Sums` and the carry for the next batch.
            Rows whose ``weights`` are 0 are padding and must not contribute.
        batch: returns the training batch of a step. It must depend on the step number alone, so that a run can be
            resumed at any step.
        steps_per_epoch: training steps between two evaluations.
        samples_per_epoch: training samples in these steps.
        epochs: the largest number of epochs.
        patience: stop after this many epochs without an improvement.
        evaluated: the batches of each evaluation split; the first batch of a split has the most rows. The first split
            is evaluated after every epoch, the split ``test`` at the end.
        rank: sort key of a record; higher is better.
        solved: whether a record ends the training because the task is solved; None if there is no such thing.
        carry: the carry of the first batch of an epoch or of an evaluation, for a given number of rows: a pytree with
            the rows along the first axis.
        unit: what training samples are called.
        quantity: the metric to report beside the loss.
        shorter: what to say beside the estimate of a long run: how to get a short one.
    """

    sums: Callable[[Any, dict[str, jax.Array], Any], tuple[Sums, Any]]
    batch: Callable[[int], Batch]
    steps_per_epoch: int
    samples_per_epoch: int
    epochs: int
    patience: int
    evaluated: dict[str, Sequence[Batch]]
    rank: Callable[[Record], Any]
    solved: Callable[[Record], bool] | None = None
    carry: Callable[[int], Any] = lambda rows: ()
    unit: str = "samples"
    quantity: Literal["accuracy", "bits"] = "accuracy"
    shorter: str = ""

    @property
    def watched(self) -> str:
        """The split that is evaluated after every epoch."""
        return next(iter(self.evaluated))


class State(NamedTuple):
    """What a training step updates.

    Args:
        step: the number of steps so far.
        params: the parameters.
        opt_state: the optimizer's state.
        totals: the metrics summed over the epoch so far.
        carry: the carry for the next batch.
    """

    step: Any
    params: Any
    opt_state: Any
    totals: Sums
    carry: Any


class Diverged(CommandError):
    """The loss is infinite or NaN."""

    status = 1


def fit(task: Task, params: Any, options: TrainOptions, workdir: Path) -> dict[str, Any]:
    """Trains and evaluates epoch by epoch, until the task is solved or the epochs or the patience are used up.

    Args:
        task: data and model.
        params: initial parameters.
        options: how to train.
        workdir: the run's folder, claimed by this process. The run resumes from the latest checkpoint there, if any.

    Returns:
        ``history``, one record per epoch; ``best``, the record of the best epoch; and the metrics of its parameters on
        the test split, ``test_loss`` and so on. The last checkpoint holds these parameters too.

    Raises:
        CheckpointError: no checkpoint in ``workdir`` can be read, or one cannot be written.
        Interrupted: after SIGINT or SIGTERM, once a checkpoint of the last step is written.
        Diverged: the loss is infinite or NaN; the last checkpoint precedes that step.
    """
    mesh = devices.data_mesh(options.devices)
    num_steps = task.epochs * task.steps_per_epoch
    optimizer = make_optimizer(options, num_steps)
    train_steps, eval_step = make_steps(task.sums, optimizer)
    at_once = largest_divisor(task.steps_per_epoch, options.steps_per_dispatch)
    start = starting_state(task, params, optimizer, devices.padded_size(options.batch_size, mesh))
    with (
        Checkpoints(workdir / wd.CHECKPOINTS, read_only=not devices.is_first()) as checkpoints,
        progress.progress_bar(disable=not devices.is_first()) as bar,
        progress.asked_to_stop(heed=not options.distributed) as stop,
        Metrics(workdir, options) as metrics,
    ):
        state, best, history = resumed(checkpoints, start, params, bar)
        if checkpoints.latest_step is not None:
            bar.write(f"resuming from step {state.step} in {workdir}", file=sys.stderr)
        state, best = placed(state, mesh), jax.device_get(best)
        done = int(state.step)
        pipeline = Pipeline(task, options, mesh, train_steps, tuple(start.totals), bar)
        if options.profile:
            bar.write(pipeline.profile(state, done, at_once, workdir / wd.PROFILE))
        metrics.write(history, resumed=True)
        bar.total, bar.initial, bar.n = num_steps, done, done
        saved = time.monotonic()
        pipeline.estimate = Estimate(num_steps - done, task.epochs)
        while not is_over(history, task):
            epoch = len(history) + 1
            begin = time.monotonic()
            while done < epoch * task.steps_per_epoch:
                count = at_once - done % at_once  # fewer after resuming a run that had another steps_per_dispatch
                state = pipeline.dispatch(state, done, count)
                done += count
                if stop or (time.monotonic() - saved > options.checkpoint_seconds and not options.distributed):
                    pipeline.wait()
                    save(checkpoints, done, state, best, history)
                    saved = time.monotonic()
                if stop:
                    raise Interrupted(f"stopped by {signal.Signals(stop[0]).name} at step {done}", stop[0])
            pipeline.wait()
            record: Record = {"epoch": epoch, "step": done, "samples": epoch * task.samples_per_epoch}
            record |= averages("train", state.totals)
            record |= evaluate(task.watched, eval_step, state.params, task, mesh)
            record["seconds"] = round(time.monotonic() - begin, 3)
            history = [*history, record]
            if best_of(history, task) is record:
                best = jax.device_get(state.params)
            state = state._replace(totals=devices.replicate(start.totals, mesh), carry=devices.shard(start.carry, mesh))
            save(checkpoints, done, state, best, history)
            saved = time.monotonic()
            metrics.write(history)
            if devices.is_first():
                bar.write(progress.describe(record, task.epochs, task.unit, task.watched))
    test = evaluate("test", eval_step, devices.replicate(best, mesh), task, mesh)
    return {"history": history, "best": best_of(history, task), **test}


class Pipeline:
    """Sends training steps to the devices ahead of their results.

    Args:
        task: makes the batches.
        options: how to train.
        mesh: the devices.
        train_steps: from :func:`make_steps`.
        metrics: the names of what each step returns.
        bar: the progress bar, which advances as the losses arrive.
    """

    def __init__(
        self, task: Task, options: TrainOptions, mesh: Mesh, train_steps: Any, metrics: Sequence[str], bar: Any
    ) -> None:
        self._task, self._options, self._mesh, self._train_steps, self._bar = task, options, mesh, train_steps, bar
        self._names = [f"train_{metric}" for metric in metrics]
        self._in_flight: collections.deque[tuple[int, jax.Array]] = collections.deque()
        self.estimate: Estimate | None = None
        """Told as steps end; its line is shown."""

    def dispatch(self, state: State, number: int, count: int) -> State:
        """Starts ``count`` steps with the batches from ``number`` on; waits while more than AHEAD are in flight."""
        state, means = self._train_steps(state, self._load(number, count))
        self._in_flight.append((number, means))
        self.wait(AHEAD)
        return state

    def wait(self, in_flight: int = 0) -> None:
        """Waits until at most this many dispatches are in flight; checks and shows the losses that arrive.

        Raises:
            Diverged: a loss is infinite or NaN.
        """
        while len(self._in_flight) > in_flight:
            number, means = self._in_flight.popleft()
            rows = np.asarray(means).tolist()
            if self.estimate is not None and (line := self.estimate.after(len(rows))):
                self._bar.write(f"{line}. {self._task.shorter}".rstrip(" ."), file=sys.stderr)
            for step, row in enumerate(rows, number + 1):
                mean = dict(zip(self._names, row, strict=True))
                check_finite(step, mean, self._options)
                progress.show(self._bar, mean)

    def profile(self, state: State, done: int, at_once: int, trace: Path) -> str:
        """Compares the loop with the compiled step; see :func:`experiments.running.profiling.profile`."""
        batches = jax.device_put(self._load(done, at_once))
        return profiling.profile(
            state,
            self.dispatch,
            at_once,
            wait=self.wait,
            report=functools.partial(self._bar.write, file=sys.stderr),
            bare_steps=lambda state: self._train_steps(state, batches)[0],
            trace=trace,
        )

    def _load(self, number: int, count: int) -> dict[str, Any]:
        batches = [self._task.batch(n) for n in range(number, number + count)]
        return devices.shard_batches(batches, self._options.batch_size, self._mesh)


def resumed(checkpoints: Checkpoints, start: State, params: Any, bar: Any) -> tuple[State, Any, list[Record]]:
    """State, best parameters and history from the latest checkpoint; without one, those of a new run."""
    if checkpoints.latest_step is None:
        return start, params, []
    report = functools.partial(bar.write, file=sys.stderr)
    restored, meta = checkpoints.restore({"state": start, "best": params}, report)
    return restored["state"], restored["best"], meta["history"]


def save(checkpoints: Checkpoints, step: int, state: State, best: Any, history: list[Record]) -> None:
    """Writes a checkpoint. Every process must call it, since each may hold a part of the state.

    Before the first evaluation the current parameters stand for the best ones, and the metadata has their step.
    """
    whole = devices.fetch(state)
    if devices.is_first():
        meta: dict[str, Any] = {"history": history}
        if not history:
            best, meta["best_step"] = whole.params, step
        checkpoints.save(step, {"state": whole, "best": best}, meta)


def starting_state(task: Task, params: Any, optimizer: optax.GradientTransformation, rows: int) -> State:
    """The state before the first step, for batches of ``rows`` rows; on the host, since steps donate their state."""
    carry = task.carry(rows)
    batch = {name: np.zeros((rows, *z.shape[1:]), z.dtype) for name, z in task.batch(0).items()}
    totals, _ = jax.eval_shape(task.sums, params, {**batch, "weights": np.ones(rows, np.float32)}, carry)
    nothing = jax.tree.map(lambda z: np.zeros(z.shape, z.dtype), totals)
    return jax.device_get(State(np.zeros((), np.int32), params, optimizer.init(params), nothing, carry))


def placed(state: State, mesh: Mesh) -> State:
    """The state on the devices: the rows of the carry are sharded, everything else is replicated."""
    return devices.replicate(state._replace(carry=()), mesh)._replace(carry=devices.shard(state.carry, mesh))


def make_optimizer(options: TrainOptions, num_steps: int) -> optax.GradientTransformation:
    """Adam with gradient clipping, a schedule, and weight decay of the kernels only."""
    rate: Any = options.learning_rate
    if options.schedule == "cosine":
        rate = optax.cosine_decay_schedule(rate, num_steps)
    clip = optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity()
    return optax.chain(clip, optax.adamw(rate, weight_decay=options.weight_decay, mask=kernels_only))


def kernels_only(params: Any) -> Any:
    """A mask over a parameter tree: True for the leaves named ``kernel``."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def make_steps(
    sums: Callable[[Any, dict[str, jax.Array], Any], tuple[Sums, Any]], optimizer: optax.GradientTransformation
) -> tuple[Any, Any]:
    """A function that takes a training step for each of several stacked batches, and an evaluation step.

    Both are jitted and take sharded batches and replicated parameters; the compiler adds the sums across devices.
    The training step returns the new state, and for each step the means over the epoch so far.
    """

    def loss(params: Any, batch: dict[str, jax.Array], carry: Any) -> tuple[jax.Array, tuple[Sums, Any]]:
        found, carry = sums(params, batch, carry)
        total, count = found["loss"]
        return total / count, (found, carry)

    def train_step(state: State, batch: dict[str, jax.Array]) -> tuple[State, jax.Array]:
        gradients, (found, carry) = jax.grad(loss, has_aux=True)(state.params, batch, state.carry)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        totals = jax.tree.map(jnp.add, state.totals, found)
        # apart from the state, which the next step donates; in one array, which is fetched faster than several
        means = jnp.stack([total / count for total, count in totals.values()])
        return State(state.step + 1, params, opt_state, totals, carry), means

    @functools.partial(jax.jit, donate_argnums=0)
    def train_steps(state: State, batches: dict[str, jax.Array]) -> tuple[State, jax.Array]:
        return jax.lax.scan(train_step, state, batches)

    return train_steps, jax.jit(sums)


def evaluate(name: str, eval_step: Any, params: Any, task: Task, mesh: Mesh) -> dict[str, float]:
    """The metrics of an evaluation split."""
    batches = task.evaluated[name]
    rows = devices.padded_size(len(next(iter(batches[0].values()))), mesh)
    carry = devices.shard(task.carry(rows), mesh)
    sums = []
    for batch in batches:
        found, carry = eval_step(params, devices.shard_batch(batch, rows, mesh), carry)
        sums.append(found)
    return averages(name, jax.tree.map(lambda *parts: sum(parts), *sums))


def averages(name: str, sums: Sums) -> dict[str, float]:
    """The averages of a record, from their sums."""
    return {f"{name}_{metric}": float(total / count) for metric, (total, count) in jax.device_get(sums).items()}


def largest_divisor(number: int, at_most: int) -> int:
    """The largest divisor of ``number`` that is at most ``at_most``."""
    return max(n for n in range(1, min(number, at_most) + 1) if number % n == 0)


def best_of(history: list[Record], task: Task) -> Record:
    """The first record of the highest rank."""
    return max(history, key=task.rank)


def by_accuracy(split: str) -> Callable[[Record], tuple[float, float]]:
    """A sort key for records: accuracy, then the lower loss."""
    return lambda record: (record[f"{split}_accuracy"], -record[f"{split}_loss"])


def is_over(history: list[Record], task: Task) -> bool:
    """Whether the task is solved, or the epochs or the patience are used up."""
    if not history:
        return False
    since_best = len(history) - best_of(history, task)["epoch"]
    solved = task.solved is not None and task.solved(history[-1])
    return len(history) >= task.epochs or since_best >= task.patience or solved


def check_finite(step: int, mean: dict[str, float], options: TrainOptions) -> None:
    """Raises Diverged if the loss is infinite or NaN."""
    if not math.isfinite(mean["train_loss"]):
        raise Diverged(
            f"the loss became {mean['train_loss']} at step {step}: "
            f"try a --learning-rate below {options.learning_rate:g}, or a smaller --clip-norm"
        )
