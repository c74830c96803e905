"""Arrays on several devices: meshes with explicit axes, and the manual axes of ``jax.shard_map``.

On a mesh of Auto axes, XLA divides the work and nothing here has an effect. The division over explicit axes is part of
an array's type, and so are the manual axes over which the array varies: JAX checks both at every operation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tlstm_jax.typing import Array, TLSTMState


def call(function: Callable[..., Any], *arguments: Any, out_specs: Callable[[], Any]) -> Any:
    """``function(*arguments)`` on whatever mesh the arguments are.

    The arguments are first made to vary over the same manual axes (:func:`vary_alike`). Explicit axes of the mesh are
    Auto inside of the function, where XLA divides the work; its results get the specs of ``out_specs()``.
    """
    arguments = vary_alike(arguments)
    mesh = _explicit_mesh(arguments)
    if mesh is None:
        return function(*arguments)
    axes = tuple(name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Explicit)
    places = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), out_specs(), is_leaf=lambda leaf: isinstance(leaf, PartitionSpec)
    )
    return jax.jit(jax.sharding.auto_axes(function, axes=axes, out_sharding=places))(*arguments)


def vary_alike(tree: Any) -> Any:
    """``tree``, each array marked as varying over all manual axes over which any of them varies.

    In ``jax.shard_map`` zeros and replicated parameters do not vary over the devices. The carry of a scan and the
    cotangents of a ``custom_vjp`` must have the type that they start with, so everything varies from the start. The
    transpose of this cast sums the cotangents of replicated arrays over the devices, once, outside of the loops.
    """
    axes = frozenset[Any]().union(*(jax.typeof(leaf).manual_axis_type.varying for leaf in jax.tree.leaves(tree)))
    if not axes:
        return tree

    def cast(leaf: Array) -> Array:
        missing = axes - jax.typeof(leaf).manual_axis_type.varying
        return lax.pcast(leaf, tuple(sorted(missing, key=str)), to="varying")

    return jax.tree.map(cast, tree)


def spec(x: Array) -> tuple[Any, ...]:
    """For each axis of ``x`` the explicit mesh axes that divide it, or None."""
    return tuple(itertools.islice(itertools.chain(jax.typeof(x).sharding.spec, itertools.repeat(None)), x.ndim))


def state_spec(state: TLSTMState | None, batch: tuple[Any, ...], like: TLSTMState) -> TLSTMState:
    """The spec of a returned state: the given state's, or without one its batch divided as the inputs' batch is."""
    if state is not None:
        return jax.tree.map(lambda leaf: PartitionSpec(*spec(leaf)), state)
    return jax.tree.map(lambda _: PartitionSpec(*batch), like)


def _explicit_mesh(tree: Any) -> Any:
    """The mesh of the arrays if any of its axes is explicit, and None otherwise."""
    for leaf in jax.tree.leaves(tree):
        mesh = jax.typeof(leaf).sharding.mesh
        if AxisType.Explicit in mesh.axis_types:
            return mesh
    return None
