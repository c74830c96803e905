"""Devices, of one process or of several: what every one of them holds, and what is spread over them.

Several processes run the same program on the same data. Each makes every batch and keeps its own rows of
it; what is fetched is the same in all of them, and the first one alone writes files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

Batch = dict[str, NDArray[Any]]
"""Arrays that have one row for each example."""


def initialize(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Makes this process one of several.

    Args:
        coordinator: HOST:PORT of the first process; None for a cluster that JAX knows.
        num_processes: how many there are; None likewise.
        process_id: which this one is, 0 being the first; None likewise.

    Raises:
        ValueError: the arguments contradict each other, or the others cannot be reached.
    """
    given = (coordinator, num_processes, process_id)
    if any(x is None for x in given) and any(x is not None for x in given):
        raise ValueError(
            "coordinator, num_processes and process_id belong together (or leave out all three on a cluster that JAX "
            f"knows), got {coordinator}, {num_processes} and {process_id}."
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
    """Whether this process is the one that writes files."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when every process is here; ``name`` says where."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def data_mesh(devices: int) -> Mesh:
    """The devices along one axis, ``data``: the first so many of this process, or for 0 all of all processes.

    Raises:
        ValueError: there are not so many.
    """
    if not 0 <= devices <= jax.local_device_count():
        raise ValueError(f"devices must be 0..{jax.local_device_count()} on this machine, got {devices}.")
    used = jax.local_devices()[:devices] if devices else jax.devices()
    return jax.make_mesh((len(used),), ("data",), devices=used, axis_types=(jax.sharding.AxisType.Auto,))


def on_all(tree: Any, mesh: Mesh) -> Any:
    """A tree of arrays, whole on every device."""
    return _place(tree, NamedSharding(mesh, PartitionSpec()))


def spread(tree: Any, mesh: Mesh, axis: int = 0) -> Any:
    """A tree of arrays, their rows along an axis spread over the devices; these must share them evenly."""
    return _place(tree, NamedSharding(mesh, PartitionSpec(*[None] * axis, "data")))


def shared_size(rows: int, mesh: Mesh) -> int:
    """The number of rows, rounded up so that the devices can share them evenly."""
    return math.ceil(rows / mesh.size) * mesh.size


def spread_batch(batch: Batch, size: int, mesh: Mesh) -> Batch | dict[str, jax.Array]:
    """A batch spread over the devices, filled up to ``size`` rows, or what they can share, of ``weights`` 0.

    For a single device it stays on the host, from where the compiled step takes it sooner than it could be placed.
    """
    batch = _filled(batch, shared_size(size, mesh))
    return batch if mesh.size == 1 else spread(batch, mesh)


def spread_batches(batches: Sequence[Batch], size: int, mesh: Mesh) -> Batch | dict[str, jax.Array]:
    """Several batches along a new first axis, each as from :func:`spread_batch`."""
    filled = [_filled(batch, shared_size(size, mesh)) for batch in batches]
    stacked = {name: np.stack([batch[name] for batch in filled]) for name in filled[0]}
    return stacked if mesh.size == 1 else spread(stacked, mesh, axis=1)


def _filled(batch: Batch, size: int) -> Batch:
    """With ``weights``, 1, and as many more rows as are missing, of weight 0."""
    count = len(next(iter(batch.values())))
    batch = {**batch, "weights": np.ones(count, np.float32)}
    if missing := size - count:
        batch = {name: np.pad(z, ((0, missing), *((0, 0),) * (z.ndim - 1))) for name, z in batch.items()}
    return batch


def fetched(tree: Any) -> Any:
    """A tree on this host, whole, also where other processes hold a part of it: all of them must ask."""
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
