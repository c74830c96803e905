"""The training loop: epochs of shuffled batches, evaluation, early stopping, checkpoints that resume exactly.

Read :func:`fit` from top to bottom: that is the whole run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from experiments import workdir as wd
from experiments.checkpoints import Checkpoints
from experiments.datasets import Split


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Training; the defaults shown are those for the dataset chosen."""

    batch_size: int = 50
    """Sequences in a batch, over all devices together."""
    learning_rate: float = 1e-3
    """Adam's."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Of the learning rate over all epochs; cosine ends at 0."""
    weight_decay: float = 0.0
    """AdamW's: shrink the kernels by this fraction of the learning rate at every step."""
    clip_norm: float = 1.0
    """Clip gradients to this global norm; 0 does not."""
    epochs: int = 50
    """At most."""
    patience: int = 10
    """Stop after this many epochs without a better validation accuracy."""
    seed: int = 0
    """Of the initial parameters and the order of the data."""
    devices: int = 0
    """Train on this many local devices, data-parallel; 0: on all."""
    workdir: Path | None = None
    """Where the run's files go. Started again with the same one, a run goes on where it was. Default: below runs/."""
    overwrite: bool = False
    """Discard what an earlier run left in the workdir."""
    checkpoint_seconds: float = 60.0
    """Save at least this often, and at the end of every epoch."""

    def check(self) -> None:
        """Raises a ValueError for a number that makes no sense."""
        for name in ("batch_size", "epochs", "patience"):
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


class Task(NamedTuple):
    """What is learnt: ``predict(params, images)`` gives logits for uint8 images ``(batch, H, W)``."""

    predict: Callable[[Any, jax.Array], jax.Array]
    train: Split
    validation: Split
    test: Split


class State(NamedTuple):
    """What a training step changes."""

    step: jax.Array
    params: Any
    opt_state: Any
    totals: dict[str, jax.Array]
    """Sums over the epoch so far: loss, correct, count."""


class Interrupted(Exception):
    """The run was asked to stop, and has saved where it is; ``signum`` is the signal."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} at step {step}")
        self.signum = signum


class Diverged(Exception):
    """The loss is no longer a number."""


def fit(task: Task, params: Any, options: TrainOptions, workdir: Path) -> dict[str, Any]:
    """Trains, evaluating after each epoch, until the epochs or the patience are used up.

    Args:
        task: data and model.
        params: initial parameters.
        options: how.
        workdir: the run's folder, claimed; holds a checkpoint to go on from, or none.

    Returns:
        ``history``, a record for each epoch, the ``best`` of them by validation accuracy, and the
        ``test_loss`` and ``test_accuracy`` of its parameters, which the last checkpoint holds too.

    Raises:
        CheckpointError: the checkpoint there cannot be read.
        Interrupted: after SIGINT or SIGTERM, with a checkpoint of the last step.
        Diverged: the loss became infinite or NaN.
    """
    steps_per_epoch = math.ceil(len(task.train) / options.batch_size)
    mesh = data_mesh(options.devices)
    optimizer = make_optimizer(options, steps_per_epoch)
    train_step, eval_step = make_steps(task.predict, optimizer)
    state = State(jnp.zeros((), jnp.int32), params, optimizer.init(params), zero_totals())
    state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    best = params
    history: list[dict[str, Any]] = []

    def save() -> None:
        checkpoints.save(int(state.step), (state, best), {"history": history})

    with Checkpoints(workdir / wd.CHECKPOINTS) as checkpoints, progress_bar() as bar, asked_to_stop() as stop:
        if checkpoints.latest_step is not None:
            (state, best), meta = checkpoints.restore((state, best))
            history = meta["history"]
            bar.write(f"going on from step {state.step} in {workdir}", file=sys.stderr)
        best = jax.device_get(best)
        wd.write_lines(workdir / wd.METRICS, history)
        bar.total, bar.initial, bar.n = options.epochs * steps_per_epoch, int(state.step), int(state.step)
        saved = time.monotonic()
        while not is_over(history, options):
            epoch = len(history)
            order = np.random.default_rng([options.seed, epoch]).permutation(len(task.train))
            begin = time.monotonic()
            for index in range(int(state.step) - epoch * steps_per_epoch, steps_per_epoch):
                rows = task.train[order[index * options.batch_size : (index + 1) * options.batch_size]]
                state = train_step(state, to_devices(rows, options.batch_size, mesh))
                show(bar, state)
                if stop or time.monotonic() - saved > options.checkpoint_seconds:
                    save()
                    saved = time.monotonic()
                if stop:
                    raise Interrupted(stop[0], int(state.step))
            record = {"epoch": epoch + 1, "step": int(state.step), **averages("train", state.totals)}
            record |= evaluate("validation", eval_step, state.params, task.validation, options, mesh)
            record["seconds"] = round(time.monotonic() - begin, 3)
            if not math.isfinite(record["train_loss"]):
                raise Diverged(
                    f"the loss became {record['train_loss']} in epoch {epoch + 1}: "
                    f"try a --learning-rate below {options.learning_rate:g}, or a smaller --clip-norm"
                )
            history = [*history, record]
            if best_of(history) is record:
                best = jax.device_get(state.params)
            state = state._replace(totals=jax.device_put(zero_totals(), NamedSharding(mesh, PartitionSpec())))
            save()
            saved = time.monotonic()
            wd.write_lines(workdir / wd.METRICS, history)
            bar.write(describe(record, options))
    test = evaluate("test", eval_step, jax.device_put(best, state.step.sharding), task.test, options, mesh)
    return {"history": history, "best": best_of(history), **test}


def make_optimizer(options: TrainOptions, steps_per_epoch: int) -> optax.GradientTransformation:
    """Adam with clipping, a schedule and weight decay, which spares biases and gains."""
    rate: Any = options.learning_rate
    if options.schedule == "cosine":
        rate = optax.cosine_decay_schedule(rate, options.epochs * steps_per_epoch)
    clip = optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity()
    return optax.chain(clip, optax.adamw(rate, weight_decay=options.weight_decay, mask=kernels_only))


def kernels_only(params: Any) -> Any:
    """A mask over a parameter tree, True at the leaves named kernel."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def make_steps(predict: Callable[[Any, jax.Array], jax.Array], optimizer: optax.GradientTransformation) -> Any:
    """The jitted training step and evaluation step.

    Both take batches spread over the devices and parameters that every device holds; the compiler
    adds the sums across devices. Rows of weight 0 fill a batch up and count for nothing.
    """

    def loss(params: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits = predict(params, batch["images"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        correct = logits.argmax(-1) == batch["labels"]
        weights = batch["weights"]
        sums = {"loss": (losses * weights).sum(), "correct": (correct * weights).sum(), "count": weights.sum()}
        return sums["loss"] / sums["count"], sums

    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state: State, batch: dict[str, jax.Array]) -> State:
        gradients, sums = jax.grad(loss, has_aux=True)(state.params, batch)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(state.step + 1, params, opt_state, jax.tree.map(jnp.add, state.totals, sums))

    @jax.jit
    def eval_step(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return loss(params, batch)[1]

    return train_step, eval_step


def data_mesh(devices: int) -> jax.sharding.Mesh:
    """The local devices along one axis, ``data``."""
    used = jax.local_devices()[: devices or None]
    return jax.make_mesh((len(used),), ("data",), devices=used, axis_types=(jax.sharding.AxisType.Auto,))


def to_devices(rows: Split, batch_size: int, mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """A batch spread over the devices, filled up with rows of weight 0 to a size that they can share."""
    size = math.ceil(batch_size / mesh.size) * mesh.size
    fill = size - len(rows)
    batch = {
        "images": np.pad(rows.images, ((0, fill), (0, 0), (0, 0))),
        "labels": np.pad(rows.labels, (0, fill)),
        "weights": np.pad(np.ones(len(rows), np.float32), (0, fill)),
    }
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))


def evaluate(
    name: str, eval_step: Any, params: Any, split: Split, options: TrainOptions, mesh: jax.sharding.Mesh
) -> dict[str, float]:
    """Loss and accuracy over a whole split."""
    size = 4 * options.batch_size  # no gradients to keep, so more fits
    sums = [eval_step(params, to_devices(split[i : i + size], size, mesh)) for i in range(0, len(split), size)]
    return averages(name, jax.tree.map(lambda *parts: sum(parts), *sums))


def zero_totals() -> dict[str, jax.Array]:
    """Nothing counted yet."""
    return {name: jnp.zeros((), jnp.float32) for name in ("loss", "correct", "count")}


def averages(name: str, totals: dict[str, jax.Array]) -> dict[str, float]:
    """Sums as the averages that a record holds."""
    loss, correct, count = (float(totals[key]) for key in ("loss", "correct", "count"))
    return {f"{name}_loss": loss / count, f"{name}_accuracy": correct / count}


def best_of(history: list[dict[str, Any]]) -> dict[str, Any]:
    """The record of the highest validation accuracy; of equals, the one of the lowest loss."""
    return max(history, key=lambda record: (record["validation_accuracy"], -record["validation_loss"]))


def is_over(history: list[dict[str, Any]], options: TrainOptions) -> bool:
    """Whether the epochs or the patience are used up."""
    if not history:
        return False
    since_best = len(history) - best_of(history)["epoch"]
    return len(history) >= options.epochs or since_best >= options.patience


def progress_bar() -> Any:
    """Steps, and steps per second; every 30 seconds at most where nobody watches."""
    interval = 0.2 if sys.stderr.isatty() else 30
    return tqdm(unit="step", mininterval=interval, maxinterval=interval, dynamic_ncols=True)


def show(bar: Any, state: State) -> None:
    """Advances the bar; fetches loss and accuracy, which waits for the device, only every 20 steps."""
    if bar.n % 20 == 0:
        mean = averages("train", state.totals)
        bar.set_postfix(loss=f"{mean['train_loss']:.3f}", accuracy=f"{mean['train_accuracy']:.1%}", refresh=False)
    bar.update()


def describe(record: dict[str, Any], options: TrainOptions) -> str:
    """One epoch in one line."""
    return (
        f"epoch {record['epoch']:3}/{options.epochs}  train loss {record['train_loss']:.4f} "
        f"accuracy {record['train_accuracy']:6.1%}  validation loss {record['validation_loss']:.4f} "
        f"accuracy {record['validation_accuracy']:6.1%}  {record['seconds']:.1f} s"
    )


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
