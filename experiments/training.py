"""The training loop of every task: batches by number, evaluation, early stopping, checkpoints that resume exactly.

Read :func:`fit` from top to bottom: that is the whole run.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import importlib.util
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments import devices, profiling, progress
from experiments import workdir as wd
from experiments.checkpoints import Checkpoints
from experiments.devices import Batch

Sums = dict[str, tuple[jax.Array, jax.Array]]
"""For every metric a sum over examples and what to divide it by; ``loss`` is the one that training makes small."""
Record = dict[str, Any]
"""One evaluation: a line of metrics.jsonl."""

AHEAD = 3
"""Training steps that may be under way while the host makes the next batch."""
NO_MATTER = (
    *("workdir", "overwrite", "checkpoint_seconds", "profile", "tensorboard"),
    *("distributed", "coordinator", "num_processes", "process_id"),
)
"""The options that change no number of a run."""


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
    start_from: Path | None = None
    """Begin with the best parameters of the run in this workdir, its layer grown to this run's tensor shape."""
    workdir: Path | None = None
    """Where the run's files go. Started again with the same one, a run goes on where it was. Default: below runs/."""
    overwrite: bool = False
    """Discard what an earlier run left in the workdir."""
    checkpoint_seconds: float = 60.0
    """Save at least this often, and at every evaluation (with several processes, at evaluations only)."""
    profile: bool = False
    """Before training, time some steps of the loop beside the bare compiled step, and leave a trace in the workdir."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard as well, into the workdir; needs tensorboardX."""
    distributed: bool = False
    """One of several processes that train together, each started with the same options but for --process-id."""
    coordinator: str | None = None
    """HOST:PORT of the first process; not needed on a cluster that JAX knows, nor are the two that follow."""
    num_processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Which one this is; 0 is the first, which alone writes files."""

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
        if self.distributed and self.devices:
            raise ValueError(f"devices must be 0, all of them, when distributed, got {self.devices}.")
        if not self.distributed and (self.coordinator or self.num_processes or self.process_id is not None):
            raise ValueError("coordinator, num_processes and process_id need --distributed.")
        if self.tensorboard and importlib.util.find_spec("tensorboardX") is None:
            raise ValueError("tensorboard needs tensorboardX: pip install tensorboardX, or leave --tensorboard out.")
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
    train_step, eval_step = make_steps(task.sums, optimizer)
    start = starting_state(task, params, optimizer, devices.shared_size(options.batch_size, mesh))
    state, best = placed(start, mesh), params
    history: list[Record] = []
    names = [f"train_{metric}" for metric in start.totals]
    ahead: collections.deque[tuple[int, jax.Array]] = collections.deque()

    def load(number: int) -> Batch | dict[str, jax.Array]:
        return devices.spread_batch(task.batch(number), options.batch_size, mesh)

    def one_step(state: State, number: int) -> State:
        """Starts a step; waits only for one some steps before it."""
        state, means = train_step(state, load(number))
        ahead.append((number + 1, means))
        settle(AHEAD)
        return state

    def settle(under_way: int) -> None:
        """Waits until no more steps than these are under way."""
        while len(ahead) > under_way:
            step, means = ahead.popleft()
            mean = dict(zip(names, np.asarray(means).tolist(), strict=True))
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
            batch, wait = jax.device_put(load(done)), functools.partial(settle, 0)
            trace = workdir / wd.PROFILE
            bar.write(profiling.profile(state, one_step, wait, lambda state: train_step(state, batch)[0], trace))
        record_metrics(workdir, history, options)
        bar.total, bar.initial, bar.n = task.epochs * task.steps_per_epoch, done, done
        saved = time.monotonic()
        while not is_over(history, task):
            epoch = len(history) + 1
            begin = time.monotonic()
            for number in range(done, epoch * task.steps_per_epoch):
                state = one_step(state, number)
                done = number + 1
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
    """The jitted training step and evaluation step.

    Both take batches spread over the devices and parameters that every device holds; the compiler
    adds the sums across devices.
    """

    def loss(params: Any, batch: dict[str, jax.Array], carry: Any) -> tuple[jax.Array, tuple[Sums, Any]]:
        found, carry = sums(params, batch, carry)
        total, count = found["loss"]
        return total / count, (found, carry)

    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state: State, batch: dict[str, jax.Array]) -> tuple[State, jax.Array]:
        gradients, (found, carry) = jax.grad(loss, has_aux=True)(state.params, batch, state.carry)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        totals = jax.tree.map(jnp.add, state.totals, found)
        # on their own, since the state is given away at the next step; in one array, which is fetched the sooner
        means = jnp.stack([total / count for total, count in totals.values()])
        return State(state.step + 1, params, opt_state, totals, carry), means

    return train_step, jax.jit(sums)


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
