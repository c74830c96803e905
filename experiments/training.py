"""The training loop of every task: batches by number, evaluation, early stopping, checkpoints that resume exactly.

Read :func:`fit` from top to bottom: that is the whole run.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec
from numpy.typing import NDArray
from tqdm import tqdm

from experiments import workdir as wd
from experiments.checkpoints import Checkpoints

Batch = dict[str, NDArray[Any]]
"""Arrays that have one row for each example."""
Sums = dict[str, tuple[jax.Array, jax.Array]]
"""For every metric a sum over examples and what to divide it by; ``loss`` is the one that training makes small."""
Record = dict[str, Any]
"""One evaluation: a line of metrics.jsonl."""

AHEAD = 3
"""Training steps that may be under way while the host makes the next batch."""


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Training; the defaults shown are those for the task chosen."""

    batch_size: int = 50
    """Sequences in a batch, over all devices together."""
    learning_rate: float = 1e-3
    """Adam's."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Of the learning rate over the whole run; cosine ends at 0."""
    weight_decay: float = 0.0
    """AdamW's: shrink the kernels by this fraction of the learning rate at every step."""
    clip_norm: float = 1.0
    """Clip gradients to this global norm; 0 does not."""
    seed: int = 0
    """Of the initial parameters and of the data that the run sees, or its order."""
    devices: int = 0
    """Train on this many local devices, data-parallel; 0: on all."""
    workdir: Path | None = None
    """Where the run's files go. Started again with the same one, a run goes on where it was. Default: below runs/."""
    overwrite: bool = False
    """Discard what an earlier run left in the workdir."""
    checkpoint_seconds: float = 60.0
    """Save at least this often, and at every evaluation."""

    sizes: ClassVar[tuple[str, ...]] = ("batch_size",)

    def check(self) -> None:
        """Raises a ValueError for a number that makes no sense."""
        for name in self.sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate must be a positive number, got {self.learning_rate}.")
        for name in ("clip_norm", "weight_decay", "checkpoint_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or a positive number, got {getattr(self, name)}.")
        if not 0 <= self.devices <= jax.local_device_count():
            raise ValueError(f"devices must be 0..{jax.local_device_count()} on this machine, got {self.devices}.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in 0..2^32 - 1, got {self.seed}.")


@dataclasses.dataclass(frozen=True)
class EpochOptions(TrainOptions):
    """Training on a dataset; the defaults shown are those for the dataset chosen."""

    epochs: int = 50
    """At most."""
    patience: int = 10
    """Stop after this many epochs without a better validation result."""

    sizes: ClassVar = (*TrainOptions.sizes, "epochs", "patience")


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learnt, batch by batch.

    Args:
        sums: the metrics of a batch, ``(params, batch)`` to :data:`Sums`. Rows whose ``weights`` are 0 only fill a
            batch up, and must count for nothing.
        batch: the training batch of a step. It depends on the number of the step and nothing else, so that a run
            can go on from anywhere.
        steps_per_epoch: training steps between two evaluations.
        samples_per_epoch: what the batches of these steps hold together.
        epochs: how often, at most.
        patience: evaluations without a better one after which to stop.
        evaluated: what to evaluate on. The first is watched while training, ``test`` is reported in the end.
        rank: the better of two records has the higher.
        solved: of a record, whether there is nothing left to learn.
    """

    sums: Callable[[Any, dict[str, jax.Array]], Sums]
    batch: Callable[[int], Batch]
    steps_per_epoch: int
    samples_per_epoch: int
    epochs: int
    patience: int
    evaluated: dict[str, Batch]
    rank: Callable[[Record], Any]
    solved: Callable[[Record], bool] = lambda record: False


class State(NamedTuple):
    """What a training step changes."""

    step: jax.Array
    params: Any
    opt_state: Any
    totals: Sums
    """Over the epoch so far."""


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
    mesh = data_mesh(options.devices)
    optimizer = make_optimizer(options, task.epochs * task.steps_per_epoch)
    train_step, eval_step = make_steps(task.sums, optimizer)
    everywhere = NamedSharding(mesh, PartitionSpec())
    nothing = zero_sums(task, params)
    state = jax.device_put(State(jnp.zeros((), jnp.int32), params, optimizer.init(params), nothing), everywhere)
    best = params
    watched = next(iter(task.evaluated))
    history: list[Record] = []
    ahead: collections.deque[tuple[int, Sums]] = collections.deque()

    def settle(under_way: int) -> None:
        """Waits until no more steps than these are under way."""
        while len(ahead) > under_way:
            show(bar, *ahead.popleft(), options)

    def save() -> None:
        settle(0)
        checkpoints.save(int(state.step), (state, best), {"history": history})

    with Checkpoints(workdir / wd.CHECKPOINTS) as checkpoints, progress_bar() as bar, asked_to_stop() as stop:
        if checkpoints.latest_step is not None:
            (state, best), meta = checkpoints.restore((state, best), functools.partial(bar.write, file=sys.stderr))
            history = meta["history"]
            bar.write(f"going on from step {state.step} in {workdir}", file=sys.stderr)
        best = jax.device_get(best)
        wd.write_lines(workdir / wd.METRICS, history)
        done = int(state.step)
        bar.total, bar.initial, bar.n = task.epochs * task.steps_per_epoch, done, done
        saved = time.monotonic()
        while not is_over(history, task):
            epoch = len(history) + 1
            begin = time.monotonic()
            for step in range(done, epoch * task.steps_per_epoch):
                state, totals = train_step(state, to_devices(task.batch(step), options.batch_size, mesh))
                done = step + 1
                ahead.append((done, totals))
                settle(AHEAD)
                if stop or time.monotonic() - saved > options.checkpoint_seconds:
                    save()
                    saved = time.monotonic()
                if stop:
                    raise Interrupted(stop[0], done)
            settle(0)
            record: Record = {"epoch": epoch, "step": done, "samples": epoch * task.samples_per_epoch}
            record |= averages("train", state.totals)
            record |= evaluate(watched, eval_step, state.params, task, options, mesh)
            record["seconds"] = round(time.monotonic() - begin, 3)
            history = [*history, record]
            if best_of(history, task) is record:
                best = jax.device_get(state.params)
            state = state._replace(totals=jax.device_put(nothing, everywhere))
            save()
            saved = time.monotonic()
            wd.write_lines(workdir / wd.METRICS, history)
            bar.write(describe(record, task))
    test = evaluate("test", eval_step, jax.device_put(best, everywhere), task, options, mesh)
    return {"history": history, "best": best_of(history, task), **test}


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
    sums: Callable[[Any, dict[str, jax.Array]], Sums], optimizer: optax.GradientTransformation
) -> tuple[Any, Any]:
    """The jitted training step and evaluation step.

    Both take batches spread over the devices and parameters that every device holds; the compiler
    adds the sums across devices.
    """

    def loss(params: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, Sums]:
        found = sums(params, batch)
        total, count = found["loss"]
        return total / count, found

    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state: State, batch: dict[str, jax.Array]) -> tuple[State, Sums]:
        gradients, found = jax.grad(loss, has_aux=True)(state.params, batch)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        totals = jax.tree.map(jnp.add, state.totals, found)
        return State(state.step + 1, params, opt_state, totals), totals  # the state is given away at the next step

    return train_step, jax.jit(sums)


def data_mesh(devices: int) -> jax.sharding.Mesh:
    """The local devices along one axis, ``data``."""
    used = jax.local_devices()[: devices or None]
    return jax.make_mesh((len(used),), ("data",), devices=used, axis_types=(jax.sharding.AxisType.Auto,))


def to_devices(rows: Batch, batch_size: int, mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """A batch spread over the devices, filled up with rows of weight 0 to a size that they can share."""
    size = math.ceil(batch_size / mesh.size) * mesh.size
    count = len(next(iter(rows.values())))
    rows = {**rows, "weights": np.ones(count, np.float32)}
    batch = {name: np.pad(z, ((0, size - count), *((0, 0),) * (z.ndim - 1))) for name, z in rows.items()}
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))


def evaluate(
    name: str, eval_step: Any, params: Any, task: Task, options: TrainOptions, mesh: jax.sharding.Mesh
) -> dict[str, float]:
    """The metrics over all that is to be evaluated under a name."""
    rows = task.evaluated[name]
    count = len(next(iter(rows.values())))
    size = min(count, 4 * options.batch_size)  # no gradients to keep, so more fits
    parts = [{key: z[i : i + size] for key, z in rows.items()} for i in range(0, count, size)]
    sums = [eval_step(params, to_devices(part, size, mesh)) for part in parts]
    return averages(name, jax.tree.map(lambda *parts: sum(parts), *sums))


def zero_sums(task: Task, params: Any) -> Any:
    """Nothing counted yet; numpy's, of which every epoch gets a copy on the devices to give away."""
    rows = task.batch(0)
    batch = {**rows, "weights": np.ones(len(next(iter(rows.values()))), np.float32)}
    return jax.tree.map(lambda z: np.zeros(z.shape, z.dtype), jax.eval_shape(task.sums, params, batch))


def averages(name: str, sums: Sums) -> dict[str, float]:
    """Sums as the averages that a record holds."""
    return {f"{name}_{metric}": float(total / count) for metric, (total, count) in jax.device_get(sums).items()}


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


def progress_bar() -> Any:
    """Steps, and steps per second; every 30 seconds at most where nobody watches."""
    interval = 0.2 if sys.stderr.isatty() else 30
    return tqdm(unit="step", mininterval=interval, maxinterval=interval, dynamic_ncols=True)


def show(bar: Any, step: int, totals: Sums, options: TrainOptions) -> None:
    """Waits for a step, advances the bar and looks at the loss.

    Raises:
        Diverged: it is not a number.
    """
    mean = averages("train", totals)
    if not math.isfinite(mean["train_loss"]):
        raise Diverged(
            f"the loss became {mean['train_loss']} at step {step}: "
            f"try a --learning-rate below {options.learning_rate:g}, or a smaller --clip-norm"
        )
    bar.set_postfix({name.removeprefix("train_"): shown(name, mean[name]) for name in mean}, refresh=False)
    bar.update()


def shown(name: str, value: float) -> str:
    """A metric as people read it."""
    return f"{value:.1%}" if name.endswith("accuracy") else f"{value:.4f}"


def describe(record: Record, task: Task) -> str:
    """One epoch in one line."""
    parts = [f"epoch {record['epoch']:3}/{task.epochs}", f"{record['samples']:,} samples"]
    for split in ("train", next(iter(task.evaluated))):
        found = {name.removeprefix(f"{split}_"): name for name in record if name.startswith(f"{split}_")}
        parts.append(" ".join([split, *(f"{short} {shown(name, record[name])}" for short, name in found.items())]))
    return "  ".join([*parts, f"{record['seconds']:.1f} s"])


@contextlib.contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """The signals that ask for a stop, as they come in; a second one stops at once.

    One that comes after the last step is not needed any more: the run is about to finish.
    """
    received: list[int] = []

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
