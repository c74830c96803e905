"""The compiled training and evaluation steps of a population: runs whose models have one shape, in one program.

Every array of their state has the runs along its first axis. A single run is a population of one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.running import devices
from experiments.running.options import KEY_TYPE, TrainOptions
from experiments.running.task import Sums, Task

Settings = dict[str, Any]
"""What runs differ in apart from their state and their batches: ``rate`` and ``seed``."""


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


def make_optimizer(task: Task, options: TrainOptions, rate: Any) -> optax.GradientTransformation:
    """Adam with gradient clipping, a schedule, and weight decay of the kernels only.

    The state is that of ``optax.adamw``. The learning rate may be traced, since it differs within a population.
    """
    clip = optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity()
    if options.schedule == "cosine":
        scale = optax.scale_by_learning_rate(optax.cosine_decay_schedule(rate, task.num_steps))
    else:  # in the dtype of the gradients, as optax.scale does for a Python float

        def scaled(updates: Any, params: Any) -> Any:
            return jax.tree.map(lambda g: -jnp.asarray(rate, g.dtype) * g, updates)

        scale = optax.stateless(scaled)
    decay = optax.add_decayed_weights(options.weight_decay, kernels_only)
    usual = optax.chain(clip, optax.chain(optax.scale_by_adam(), decay, scale))
    return task.optimizer(usual)


def kernels_only(params: Any) -> Any:
    """A mask over a parameter tree: True for the leaves named ``kernel``."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def starting_states(tasks: Sequence[Task], params: Sequence[Any], options: TrainOptions, rows: int) -> list[State]:
    """The states of runs before the first step, for batches of ``rows`` rows; on the host."""
    task = tasks[0]  # the others have the same shapes, and tracing one is enough
    batch = {name: np.zeros((rows, *z.shape[1:]), z.dtype) for name, z in task.batch(0).items()}
    batch["weights"] = np.ones(rows, np.float32)
    sums = functools.partial(prepared_sums, task)
    totals, _, _ = jax.eval_shape(sums, task.data, params[0], batch, task.carry(rows), None)
    nothing = jax.tree.map(lambda z: np.zeros(z.shape, z.dtype), totals)
    optimizer = make_optimizer(task, options, options.learning_rate)
    return [
        jax.device_get(State(np.zeros((), np.int32), own, optimizer.init(own), nothing, task.carry(rows)))
        for own in params
    ]


def prepared_sums(
    task: Task, data: Any, params: Any, batch: Any, carry: Any, key: jax.Array | None
) -> tuple[Sums, Any, dict[str, Any]]:
    """``task.sums`` of a batch as the host made it."""
    return task.sums(params, task.prepare(data, batch), carry, key)


def over_runs(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """Maps a function over the first axis of its arguments, along which there are ``count`` runs.

    A single run is not mapped, since a compiler makes slower programs of an axis of size 1.
    """
    if count > 1:
        return jax.vmap(function)

    def alone(*arguments: Any) -> Any:
        found = function(*jax.tree.map(lambda z: z[0], arguments))
        return jax.tree.map(lambda z: z[None], found)

    return alone


def make_steps(task: Task, options: TrainOptions, count: int) -> tuple[Any, Any]:
    """A function that takes a training step for each of several stacked batches, and an evaluation step.

    Both are jitted and take sharded batches and replicated parameters; the compiler adds the sums across devices.

    - ``train_steps(state, batches, runs, data)``: the batches have the runs along the first axis and the steps along
      the second; for ``runs`` see :func:`settings`. Returns the new state, and the means of the metrics
      over the epoch so far, ``(count, steps, metrics)``.
    - ``eval_step(params, batch, carry, data)`` returns :data:`Sums` and the carry for the next batch.
    """
    sums = functools.partial(prepared_sums, task)

    def train_run(data: Any, state: State, batches: dict[str, jax.Array], run: Settings) -> tuple[State, jax.Array]:
        optimizer = make_optimizer(task, options, run["rate"])

        def loss(params: Any, batch: Any, carry: Any, key: jax.Array) -> tuple[jax.Array, tuple[Sums, Any, Any]]:
            found, carry, changed = sums(data, params, batch, carry, key)
            total, count = found["loss"]
            return total / count, (found, carry, changed)

        def train_step(state: State, batch: dict[str, jax.Array]) -> tuple[State, jax.Array]:
            key = jax.random.fold_in(jax.random.key(run["seed"], impl=KEY_TYPE), state.step)
            gradients, (found, carry, changed) = jax.grad(loss, has_aux=True)(state.params, batch, state.carry, key)
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            params = {**params, **changed} if changed else params
            totals = jax.tree.map(jnp.add, state.totals, found)
            # apart from the state, which the next step donates; in one array, which is fetched faster than several
            means = jnp.stack([total / count for total, count in totals.values()])
            return State(state.step + 1, params, opt_state, totals, carry), means

        return jax.lax.scan(train_step, state, batches)

    @functools.partial(jax.jit, donate_argnums=0)
    def train_steps(state: State, batches: Any, runs: Settings, data: Any) -> tuple[State, jax.Array]:
        return over_runs(functools.partial(train_run, data), count)(state, batches, runs)

    @jax.jit
    def eval_step(params: Any, batch: Any, carry: Any, data: Any) -> tuple[Sums, Any]:
        def evaluated(params: Any, batch: Any, carry: Any) -> tuple[Sums, Any]:
            found, carry, _ = sums(data, params, batch, carry, None)
            return found, carry

        return over_runs(evaluated, count)(params, batch, carry)

    return train_steps, eval_step


def settings(runs: Sequence[TrainOptions]) -> Settings:
    """What runs differ in apart from their state and their batches, as arrays on the host, each ``(count,)``."""
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
    name: str, eval_step: Any, params: Any, tasks: Sequence[Task], data: Any, mesh: Mesh
) -> list[dict[str, float]]:
    """The metrics of an evaluation split, for each run, whose stacked parameters are on the devices."""
    rows = devices.padded_size(len(next(iter(tasks[0].evaluated[name][0].values()))), mesh)
    carry = devices.shard(stack([task.carry(rows) for task in tasks]), mesh, axis=1)
    sums = []
    for batches in zip(*(task.evaluated[name] for task in tasks), strict=True):
        found, carry = eval_step(params, devices.shard_batches(batches, rows, mesh), carry, data)
        sums.append(found)
    return averages(name, jax.tree.map(lambda *parts: sum(parts), *sums), len(tasks))


def averages(name: str, sums: Sums, count: int) -> list[dict[str, float]]:
    """The averages of each run's record, from the sums of all runs."""
    means = {f"{name}_{metric}": total / divisor for metric, (total, divisor) in jax.device_get(sums).items()}
    return [{metric: float(mean[n]) for metric, mean in means.items()} for n in range(count)]
