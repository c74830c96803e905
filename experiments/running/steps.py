"""The compiled training and evaluation steps of a population: runs whose models have one shape, in one program.

Every array of their state has the runs along its first axis. A single run is a population of one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.running import devices
from experiments.running.options import KEY_TYPE, TrainOptions
from experiments.running.task import Objective, Sums, Task

Settings = dict[str, Any]
"""The values in which runs differ, apart from their state and their batches: ``rate`` and ``seed``."""


class State(NamedTuple):
    """The training state, which a step updates.

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


@dataclasses.dataclass(frozen=True)
class Program:
    """The static arguments of the training step of a population; for equal programs and shapes it is compiled once.

    Args:
        objective: the computation of the loss and the metrics.
        clip_norm: see :class:`~experiments.running.options.TrainOptions`, also for the next two.
        schedule: the schedule of the learning rate.
        weight_decay: the weight decay of the kernels.
        num_steps: the steps of the schedule; None if it is constant.
        count: the number of runs.
    """

    objective: Objective
    clip_norm: float
    schedule: str
    weight_decay: float
    num_steps: int | None
    count: int

    @classmethod
    def of(cls, task: Task, options: TrainOptions, count: int) -> Program:
        """The program of ``count`` runs."""
        num_steps = None if options.schedule == "constant" else task.num_steps
        return cls(task.objective, options.clip_norm, options.schedule, options.weight_decay, num_steps, count)

    def optimizer(self, rate: Any) -> optax.GradientTransformation:
        """Adam with gradient clipping, a schedule, and weight decay of the kernels only.

        The state is that of ``optax.adamw``. The learning rate may be traced, since it differs within a population.
        """
        clip = optax.clip_by_global_norm(self.clip_norm) if self.clip_norm else optax.identity()
        if self.schedule == "cosine":
            scale = optax.scale_by_learning_rate(optax.cosine_decay_schedule(rate, self.num_steps))
        else:  # in the dtype of the gradients, as optax.scale does for a Python float

            def scaled(updates: Any, params: Any) -> Any:
                return jax.tree.map(lambda g: -jnp.asarray(rate, g.dtype) * g, updates)

            scale = optax.stateless(scaled)
        decay = optax.add_decayed_weights(self.weight_decay, kernels_only)
        return self.objective.network.optimizer(optax.chain(clip, optax.chain(optax.scale_by_adam(), decay, scale)))


def kernels_only(params: Any) -> Any:
    """A mask over a parameter tree: True for the leaves named ``kernel``."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def starting_states(tasks: Sequence[Task], params: Sequence[Any], options: TrainOptions, rows: int) -> list[State]:
    """The states of runs before the first step, for batches of ``rows`` rows; on the host."""
    task = tasks[0]  # the others have the same shapes, and tracing one is enough
    batch = {name: np.zeros((rows, *z.shape[1:]), z.dtype) for name, z in task.batch(0).items()}
    batch["weights"] = np.ones(rows, np.float32)
    totals, _, _ = SUMS.eval_shape(task.objective, task.data, params[0], batch, task.carry(rows), None)
    nothing = jax.tree.map(lambda z: np.zeros(z.shape, z.dtype), totals)
    optimizer = Program.of(task, options, 1).optimizer(options.learning_rate)
    return [
        jax.device_get(State(np.zeros((), np.int32), own, optimizer.init(own), nothing, task.carry(rows)))
        for own in params
    ]


def prepared_sums(
    objective: Objective, data: Any, params: Any, batch: Any, carry: Any, key: jax.Array | None
) -> tuple[Sums, Any, dict[str, Any]]:
    """The metrics of a batch as the host made it; see :meth:`Objective.sums`."""
    return objective.sums(params, objective.prepare(data, batch), carry, key)


SUMS = jax.jit(prepared_sums, static_argnums=0)
"""Used only for the shapes of the sums: a jitted function is traced once for equal objectives."""


def over_runs(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """Maps a function over the first axis of its arguments, along which there are ``count`` runs.

    A single run is not mapped, since programs with an axis of size 1 are slower.
    """
    if count > 1:
        return jax.vmap(function)

    def alone(*arguments: Any) -> Any:
        found = function(*jax.tree.map(lambda z: z[0], arguments))
        return jax.tree.map(lambda z: z[None], found)

    return alone


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_steps(program: Program, state: State, batches: Any, runs: Settings, data: Any) -> tuple[State, jax.Array]:
    """Takes a training step for each of several batches.

    The batches are sharded and the parameters replicated; the compiler adds the sums across devices.

    Args:
        program: the static arguments.
        state: the state of the runs; donated.
        batches: have the runs along the first axis and the steps along the second.
        runs: see :func:`settings`.
        data: the task's arrays on the devices.

    Returns:
        The new state, and the means of the metrics over the epoch so far, ``(count, steps, metrics)``.
    """

    def train_run(state: State, batches: dict[str, jax.Array], run: Settings) -> tuple[State, jax.Array]:
        optimizer = program.optimizer(run["rate"])

        def loss(params: Any, batch: Any, carry: Any, key: jax.Array) -> tuple[jax.Array, tuple[Sums, Any, Any]]:
            found, carry, changed = prepared_sums(program.objective, data, params, batch, carry, key)
            total, count = found["loss"]
            return total / count, (found, carry, changed)

        def train_step(state: State, batch: dict[str, jax.Array]) -> tuple[State, jax.Array]:
            key = jax.random.fold_in(jax.random.key(run["seed"], impl=KEY_TYPE), state.step)
            gradients, (found, carry, changed) = jax.grad(loss, has_aux=True)(state.params, batch, state.carry, key)
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            params = {**params, **changed} if changed else params
            totals = jax.tree.map(jnp.add, state.totals, found)
            # not part of the state, which the next step donates; one array is fetched faster than several
            means = jnp.stack([total / count for total, count in totals.values()])
            return State(state.step + 1, params, opt_state, totals, carry), means

        return jax.lax.scan(train_step, state, batches)

    return over_runs(train_run, program.count)(state, batches, runs)


@functools.partial(jax.jit, static_argnums=(0, 1))
def eval_step(objective: Objective, count: int, params: Any, batch: Any, carry: Any, data: Any) -> tuple[Sums, Any]:
    """The metrics of a batch of each of ``count`` runs, summed, and the carries for the next batch."""

    def evaluated(params: Any, batch: Any, carry: Any) -> tuple[Sums, Any]:
        found, carry, _ = prepared_sums(objective, data, params, batch, carry, None)
        return found, carry

    return over_runs(evaluated, count)(params, batch, carry)


def release() -> None:
    """Frees the compiled steps, which otherwise live as long as the process: for programs that train many shapes."""
    for function in (SUMS, train_steps, eval_step):
        cast(Any, function).clear_cache()


def settings(runs: Sequence[TrainOptions]) -> Settings:
    """The values in which runs differ, as arrays ``(count,)`` on the host; see :data:`Settings`."""
    return {
        "rate": np.array([run.learning_rate for run in runs], jax.dtypes.canonicalize_dtype(np.float64)),
        "seed": np.array([run.seed for run in runs], np.uint32),
    }


def stack(trees: Sequence[Any]) -> Any:
    """Stacks the trees of several runs, on the host."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def unstack(tree: Any, count: int) -> list[Any]:
    """The trees of the runs in a stacked tree on the host."""
    return [jax.tree.map(lambda z, n=n: np.asarray(z[n]), tree) for n in range(count)]


def placed(state: State, mesh: Mesh) -> State:
    """The state on the devices: the rows of the carry are sharded, everything else is replicated."""
    return devices.replicate(state._replace(carry=()), mesh)._replace(carry=devices.shard(state.carry, mesh, axis=1))


def evaluate(
    name: str, objective: Objective, params: Any, tasks: Sequence[Task], data: Any, mesh: Mesh
) -> list[dict[str, float]]:
    """The metrics of each run on an evaluation split; ``params`` are the runs' stacked parameters, on the devices.

    The objectives of the tasks may differ from ``objective`` in how parameters are initialized.
    """
    rows = devices.padded_size(len(next(iter(tasks[0].evaluated[name][0].values()))), mesh)
    carry = devices.shard(stack([task.carry(rows) for task in tasks]), mesh, axis=1)
    sums = []
    for batches in zip(*(task.evaluated[name] for task in tasks), strict=True):
        batch = devices.shard_batches(batches, rows, mesh)
        found, carry = eval_step(objective, len(tasks), params, batch, carry, data)
        sums.append(found)
    return averages(name, jax.tree.map(lambda *parts: sum(parts), *sums), len(tasks))


def averages(name: str, sums: Sums, count: int) -> list[dict[str, float]]:
    """The averages of each run's record, from the sums of all runs."""
    means = {f"{name}_{metric}": total / divisor for metric, (total, divisor) in jax.device_get(sums).items()}
    return [{metric: float(mean[n]) for metric, mean in means.items()} for n in range(count)]
