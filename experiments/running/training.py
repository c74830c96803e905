"""The training loop of every task: batches by number, evaluation, early stopping, checkpoints that resume exactly.

Read :func:`fit` from top to bottom: that is the whole run.
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

from experiments.running import devices, profiling, progress
from experiments.running import workdir as wd
from experiments.running.checkpoints import Checkpoints
from experiments.running.devices import Batch
from experiments.running.options import TrainOptions

Sums = dict[str, tuple[jax.Array, jax.Array]]
"""For every metric a sum over examples and what to divide it by; ``loss`` is the one that training makes small."""
Record = dict[str, Any]
"""One evaluation: a line of metrics.jsonl."""

AHEAD = 3
"""Dispatches that may be under way while the host makes the next batches."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learnt, batch by batch.

    Args:
        sums: the metrics of a batch, ``(params, batch, carry)`` to :data:`Sums`, and the carry for the batch that
            follows. Rows whose ``weights`` are 0 only fill a batch up, and must count for nothing.
        batch: the training batch of a step. It depends on the number of the step and nothing else, so that a run
            can go on from anywhere.
        steps_per_epoch: training steps between two evaluations.
        samples_per_epoch: what the batches of these steps hold together.
        epochs: how often, at most.
        patience: evaluations without a better one after which to stop.
        evaluated: what to evaluate on, in batches of which none has more rows than the first. The first is watched
            while training, ``test`` is reported in the end.
        rank: the better of two records has the higher.
        solved: of a record, whether there is nothing left to learn.
        carry: what the first batch of an epoch, or of an evaluation, gets: a pytree with a row for each of the
            batch's, whose number is the argument.
        unit: what samples are called.
        quantity: the metric that people look at, beside the loss.
    """

    sums: Callable[[Any, dict[str, jax.Array], Any], tuple[Sums, Any]]
    batch: Callable[[int], Batch]
    steps_per_epoch: int
    samples_per_epoch: int
    epochs: int
    patience: int
    evaluated: dict[str, Sequence[Batch]]
    rank: Callable[[Record], Any]
    solved: Callable[[Record], bool] = lambda record: False
    carry: Callable[[int], Any] = lambda rows: ()
    unit: str = "samples"
    quantity: Literal["accuracy", "bits"] = "accuracy"

    @property
    def watched(self) -> str:
        """What is evaluated while training."""
        return next(iter(self.evaluated))


class State(NamedTuple):
    """What a training step changes."""

    step: Any
    params: Any
    opt_state: Any
    totals: Sums
    """Over the epoch so far."""
    carry: Any
    """For the next batch."""


class Interrupted(Exception):
    """The run was asked to stop, and has saved where it is; ``signum`` is the signal."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} at step {step}")
        self.signum = signum


class Diverged(Exception):
    """The loss is no longer a number."""


def fit(task: Task, params: Any, options: TrainOptions, workdir: Path) -> dict[str, Any]:
    """Trains, evaluating after each epoch, until the task is solved or the epochs or the patience are used up.

    Args:
        task: data and model.
        params: initial parameters.
        options: how.
        workdir: the run's folder, claimed; holds a checkpoint to go on from, or none.

    Returns:
        ``history``, a record for each epoch, the ``best`` of them, and the metrics of its parameters on the test data,
        ``test_loss`` and so on. The last checkpoint holds these parameters too.

    Raises:
        CheckpointError: no checkpoint there can be read, or one cannot be written.
        Interrupted: after SIGINT or SIGTERM, with a checkpoint of the last step.
        Diverged: the loss became infinite or NaN; the last checkpoint is of a step at which it was not.
    """
    mesh = devices.data_mesh(options.devices)
    optimizer = make_optimizer(options, task.epochs * task.steps_per_epoch)
    train_steps, eval_step = make_steps(task.sums, optimizer)
    at_once = largest_divisor(task.steps_per_epoch, options.steps_per_dispatch)
    start = starting_state(task, params, optimizer, devices.shared_size(options.batch_size, mesh))
    state, best = placed(start, mesh), params
    history: list[Record] = []
    names = [f"train_{metric}" for metric in start.totals]
    ahead: collections.deque[tuple[int, jax.Array]] = collections.deque()

    def load(number: int, count: int) -> dict[str, Any]:
        batches = [task.batch(n) for n in range(number, number + count)]
        return devices.spread_batches(batches, options.batch_size, mesh)

    def dispatch(state: State, number: int, count: int) -> State:
        """Starts so many steps from this one; waits only for some that went long before."""
        state, means = train_steps(state, load(number, count))
        ahead.append((number, means))
        settle(AHEAD)
        return state

    def settle(under_way: int) -> None:
        """Waits until no more dispatches than these are under way."""
        while len(ahead) > under_way:
            number, means = ahead.popleft()
            for step, row in enumerate(np.asarray(means).tolist(), number + 1):
                mean = dict(zip(names, row, strict=True))
                check_finite(step, mean, options)
                progress.show(bar, mean)

    def save() -> None:
        settle(0)
        whole = devices.fetched(state)
        if devices.is_first():
            checkpoints.save(done, {"state": whole, "best": best}, {"history": history})

    with (
        Checkpoints(workdir / wd.CHECKPOINTS, read_only=not devices.is_first()) as checkpoints,
        progress.progress_bar(disable=not devices.is_first()) as bar,
        progress.asked_to_stop(heed=not options.distributed) as stop,
    ):
        if checkpoints.latest_step is not None:
            report = functools.partial(bar.write, file=sys.stderr)
            restored, meta = checkpoints.restore({"state": start, "best": best}, report)
            state, best, history = placed(restored["state"], mesh), restored["best"], meta["history"]
            bar.write(f"going on from step {state.step} in {workdir}", file=sys.stderr)
        best = jax.device_get(best)
        done = int(state.step)
        if options.profile:
            batches = jax.device_put(load(done, at_once))
            bar.write(
                profiling.profile(
                    state,
                    dispatch,
                    at_once,
                    wait=functools.partial(settle, 0),
                    bare_steps=lambda state: train_steps(state, batches)[0],
                    trace=workdir / wd.PROFILE,
                )
            )
        record_metrics(workdir, history, options)
        bar.total, bar.initial, bar.n = task.epochs * task.steps_per_epoch, done, done
        saved = time.monotonic()
        while not is_over(history, task):
            epoch = len(history) + 1
            begin = time.monotonic()
            while done < epoch * task.steps_per_epoch:
                count = at_once - done % at_once  # fewer if an earlier process, with other numbers, stopped in between
                state = dispatch(state, done, count)
                done += count
                if stop or (time.monotonic() - saved > options.checkpoint_seconds and not options.distributed):
                    save()
                    saved = time.monotonic()
                if stop:
                    raise Interrupted(stop[0], done)
            settle(0)
            record: Record = {"epoch": epoch, "step": done, "samples": epoch * task.samples_per_epoch}
            record |= averages("train", state.totals)
            record |= evaluate(task.watched, eval_step, state.params, task, mesh)
            record["seconds"] = round(time.monotonic() - begin, 3)
            history = [*history, record]
            if best_of(history, task) is record:
                best = jax.device_get(state.params)
            state = state._replace(totals=devices.on_all(start.totals, mesh), carry=devices.spread(start.carry, mesh))
            save()
            saved = time.monotonic()
            record_metrics(workdir, history, options)
            if devices.is_first():
                bar.write(progress.describe(record, task.epochs, task.unit, task.watched))
    test = evaluate("test", eval_step, devices.on_all(best, mesh), task, mesh)
    return {"history": history, "best": best_of(history, task), **test}


def starting_state(task: Task, params: Any, optimizer: optax.GradientTransformation, rows: int) -> State:
    """The state before the first step, with batches of so many rows, on the host: steps consume what they are given."""
    carry = task.carry(rows)
    batch = {name: np.zeros((rows, *z.shape[1:]), z.dtype) for name, z in task.batch(0).items()}
    totals, _ = jax.eval_shape(task.sums, params, {**batch, "weights": np.ones(rows, np.float32)}, carry)
    nothing = jax.tree.map(lambda z: np.zeros(z.shape, z.dtype), totals)
    return jax.device_get(State(np.zeros((), np.int32), params, optimizer.init(params), nothing, carry))


def placed(state: State, mesh: Mesh) -> State:
    """The state on the devices: the carry has rows, which are spread; everything else is on each of them."""
    return devices.on_all(state._replace(carry=()), mesh)._replace(carry=devices.spread(state.carry, mesh))


def make_optimizer(options: TrainOptions, num_steps: int) -> optax.GradientTransformation:
    """Adam with clipping, a schedule and weight decay, which spares biases and gains."""
    rate: Any = options.learning_rate
    if options.schedule == "cosine":
        rate = optax.cosine_decay_schedule(rate, num_steps)
    clip = optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity()
    return optax.chain(clip, optax.adamw(rate, weight_decay=options.weight_decay, mask=kernels_only))


def kernels_only(params: Any) -> Any:
    """A mask over a parameter tree, True at the leaves named kernel."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def make_steps(
    sums: Callable[[Any, dict[str, jax.Array], Any], tuple[Sums, Any]], optimizer: optax.GradientTransformation
) -> tuple[Any, Any]:
    """Training steps in a row, one for each of several batches that lie along a first axis, and an evaluation step.

    Both are jitted and take batches spread over the devices and parameters that every device holds; the compiler
    adds the sums across devices.
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
        # on their own, since the state is given away at the next step; in one array, which is fetched the sooner
        means = jnp.stack([total / count for total, count in totals.values()])
        return State(state.step + 1, params, opt_state, totals, carry), means

    @functools.partial(jax.jit, donate_argnums=0)
    def train_steps(state: State, batches: dict[str, jax.Array]) -> tuple[State, jax.Array]:
        return jax.lax.scan(train_step, state, batches)

    return train_steps, jax.jit(sums)


def evaluate(name: str, eval_step: Any, params: Any, task: Task, mesh: Mesh) -> dict[str, float]:
    """The metrics over all that is to be evaluated under a name."""
    batches = task.evaluated[name]
    rows = devices.shared_size(len(next(iter(batches[0].values()))), mesh)
    carry = devices.spread(task.carry(rows), mesh)
    sums = []
    for batch in batches:
        found, carry = eval_step(params, devices.spread_batch(batch, rows, mesh), carry)
        sums.append(found)
    return averages(name, jax.tree.map(lambda *parts: sum(parts), *sums))


def averages(name: str, sums: Sums) -> dict[str, float]:
    """Sums as the averages that a record holds."""
    return {f"{name}_{metric}": float(total / count) for metric, (total, count) in jax.device_get(sums).items()}


def largest_divisor(number: int, at_most: int) -> int:
    """Of a number, no greater than another."""
    return max(n for n in range(1, min(number, at_most) + 1) if number % n == 0)


def best_of(history: list[Record], task: Task) -> Record:
    """The first of the highest rank."""
    return max(history, key=task.rank)


def by_accuracy(split: str) -> Callable[[Record], tuple[float, float]]:
    """Ranks by accuracy; of equals, the one of the lowest loss."""
    return lambda record: (record[f"{split}_accuracy"], -record[f"{split}_loss"])


def is_over(history: list[Record], task: Task) -> bool:
    """Whether the task is solved, or the epochs or the patience are used up."""
    if not history:
        return False
    since_best = len(history) - best_of(history, task)["epoch"]
    return len(history) >= task.epochs or since_best >= task.patience or task.solved(history[-1])


def check_finite(step: int, mean: dict[str, float], options: TrainOptions) -> None:
    """Raises Diverged if the loss is not a number."""
    if not math.isfinite(mean["train_loss"]):
        raise Diverged(
            f"the loss became {mean['train_loss']} at step {step}: "
            f"try a --learning-rate below {options.learning_rate:g}, or a smaller --clip-norm"
        )


def record_metrics(workdir: Path, history: list[Record], options: TrainOptions) -> None:
    """Writes the records that there are, as JSON lines and for TensorBoard."""
    if not devices.is_first():
        return
    wd.write_lines(workdir / wd.METRICS, history)
    if options.tensorboard and history:
        from tensorboardX import SummaryWriter

        suffix = f".{history[-1]['step']:09}"  # files of the same second would overwrite each other
        with SummaryWriter(str(workdir / wd.TENSORBOARD), filename_suffix=suffix) as writer:
            for name, value in history[-1].items():
                writer.add_scalar(name, value, history[-1]["step"])
