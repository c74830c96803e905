"""Data-parallel placement of arrays on the devices of one process or of several.

With several processes, each runs the same program on the same data: it makes every batch and keeps its own rows.
Fetched arrays are the same in all processes, and only the first one writes files.
"""

from __future__ import annotations

import math
import re
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

Batch = dict[str, NDArray[Any]]
"""Arrays by name, with one row per example."""


def initialize(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connects this process to the others.

    Args:
        coordinator: HOST:PORT of the first process; None to detect it, on clusters that JAX knows.
        num_processes: the number of processes; None to detect it.
        process_id: the index of this process; None to detect it.

    Raises:
        ValueError: the arguments do not fit together, or the other processes cannot be reached.
    """
    given = (coordinator, num_processes, process_id)
    if any(x is None for x in given) and any(x is not None for x in given):
        raise ValueError(
            "coordinator, num_processes and process_id must be given together (or none of them on a cluster that "
            f"JAX knows), got {coordinator}, {num_processes} and {process_id}."
        )
    if coordinator is not None and not re.fullmatch(r".+:\d+", coordinator):
        raise ValueError(f"coordinator must be HOST:PORT, got {coordinator}.")
    if num_processes is not None and process_id is not None and not 0 <= process_id < num_processes:
        raise ValueError(f"process_id must be in 0..{num_processes - 1}, got {process_id}.")
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"distributed cannot reach the other processes ({reason}): name them with --coordinator"
        ) from error


def is_first() -> bool:
    """Whether this is the first process, which writes the files."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Waits until every process has called this with the same ``name``."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def data_mesh(devices: int) -> Mesh:
    """A mesh with one axis, ``data``: the first ``devices`` devices of this process; 0 takes all processes' devices.

    Raises:
        ValueError: there are fewer devices.
    """
    if not 0 <= devices <= jax.local_device_count():
        raise ValueError(f"devices must be 0..{jax.local_device_count()} on this machine, got {devices}.")
    used = jax.local_devices()[:devices] if devices else jax.devices()
    return jax.make_mesh((len(used),), ("data",), devices=used, axis_types=(jax.sharding.AxisType.Auto,))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Replicates a tree of arrays on every device."""
    return _place(tree, NamedSharding(mesh, PartitionSpec()))


def shard(tree: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Shards a tree of arrays along an axis, whose size must be a multiple of the number of devices."""
    return _place(tree, NamedSharding(mesh, PartitionSpec(*[None] * axis, "data")))


def padded_size(rows: int, mesh: Mesh) -> int:
    """The number of rows, rounded up to a multiple of the number of devices."""
    return math.ceil(rows / mesh.size) * mesh.size


def shard_batches(batches: Any, size: int, mesh: Mesh) -> Batch | dict[str, jax.Array]:
    """Stacks batches, padded to :func:`padded_size` of ``size`` rows, and shards their rows; padding has ``weights`` 0.

    With a single device the batches stay on the host: passing them to the compiled step is faster than placing them.

    Args:
        batches: a batch, or a sequence of batches or of such sequences; each level becomes an axis before the rows.
        size: the rows of a full batch.
        mesh: the devices.
    """

    def stacked(nested: Any) -> Batch:
        if isinstance(nested, dict):
            return _filled(nested, padded_size(size, mesh))
        parts = [stacked(each) for each in nested]
        return {name: np.stack([part[name] for part in parts]) for name in parts[0]}

    found = stacked(batches)
    return found if mesh.size == 1 else shard(found, mesh, axis=found["weights"].ndim - 1)


def _filled(batch: Batch, size: int) -> Batch:
    """Adds ``weights`` of 1, and pads the batch to ``size`` rows with rows of weight 0."""
    count = len(next(iter(batch.values())))
    batch = {**batch, "weights": np.ones(count, np.float32)}
    if missing := size - count:
        batch = {name: np.pad(z, ((0, missing), *((0, 0),) * (z.ndim - 1))) for name, z in batch.items()}
    return batch


def fetch(tree: Any) -> Any:
    """Fetches a tree to the host, including the shards of other processes: every process must call this."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return jax.tree.map(
        lambda z: np.asarray(z if z.is_fully_replicated else multihost_utils.process_allgather(z, tiled=True)), tree
    )


def _place(tree: Any, sharding: NamedSharding) -> Any:
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def place(z: Any) -> jax.Array:
        host = np.asarray(z)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(place, tree)
