"""The models and devices that the GPU kernels of :mod:`tlstm_jax.fused.mosaic` support, without importing Pallas."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import export, lax

from tlstm_jax.config import TLSTMConfig
from tlstm_jax.options import Fused
from tlstm_jax.typing import Array, Params, TLSTMState

MOST_FEATURES = 512
"""The largest M at which the vectors of a location are meant to fit into the registers of one warpgroup."""
LEAST_CAPABILITY = 9.0
"""Bulk copies from shared memory came with Hopper."""
TIMED_CAPABILITY = 9.0
"""The kernels were timed on an H100. An H200, which has faster memory, has the same capability."""
TIMED_FEATURES, TIMED_LOCATIONS = range(96, 129), 100
"""The kernels were timed with M = 100 and up to 10 x 10 locations (suite-h100.json). They pad 96 to 128 channels alike,
to 128; with fewer, their arrays would need much more memory than XLA's."""


def check_covered(cfg: TLSTMConfig, state: TLSTMState, xs: Array) -> None:
    """Raises an error for anything that ``Fused(kernel="mosaic")`` does not support.

    Args:
        cfg: the model.
        state: the state from which the loops start, in the computation dtype.
        xs: projected inputs, ``(n, b, m)``.

    Raises:
        ValueError: the model, a dtype, a size, the device or the version of jax is not covered.
    """
    for expected, given, holds in _needs(cfg, state, xs):
        if not holds:
            raise ValueError(f'kernel="mosaic" needs {expected}, got {given}: use kernel="xla" or None.')


def kernels_are_faster(cfg: TLSTMConfig, fused: Fused, params: Params, state: TLSTMState, xs: Array) -> bool:
    """Whether ``kernel=None`` is ``"mosaic"`` on the GPU, because it is known to be faster.

    Programs for several devices get XLA's loops when they are lowered; here, those that name their mesh.
    """
    config: Any = jax.config
    if fused.kernel is not None or fused.patches == "kept" or config.jax_check_tracer_leaks:
        return False
    explicit = any(not jax.typeof(leaf).sharding.mesh.empty for leaf in jax.tree.leaves((params, state, xs)))
    no_mesh = jax.sharding.get_abstract_mesh().empty and not explicit
    if not (no_mesh and is_recent() and _is_timed(cfg, state)):
        return False
    # Last, since it starts the backend: a program may still want to call jax.distributed.initialize.
    return compute_capability() == TIMED_CAPABILITY and all(holds for *_, holds in _needs(cfg, state, xs))


def _is_timed(cfg: TLSTMConfig, state: TLSTMState) -> bool:
    """Whether the kernels were timed for such a model: a tLSTM+CN in 2D or 3D with K = 3 and products in TF32."""
    config: Any = jax.config
    precisions = {cfg.precision, config.jax_default_matmul_precision}
    return (
        cfg.cell == "lstm"
        and cfg.memory_conv
        and cfg.norm == "channel"
        and cfg.features in TIMED_FEATURES
        and cfg.kernel_shape in ((3,), (3, 3))
        and math.prod(cfg.tensor_shape) <= TIMED_LOCATIONS
        and state.h.dtype == jnp.float32
        and precisions <= {None, lax.Precision.DEFAULT, "default", "tensorfloat32"}
    )


def _needs(cfg: TLSTMConfig, state: TLSTMState, xs: Array) -> list[tuple[str, str, bool]]:
    """The kernels' requirements, each as (expected, found, whether it is met)."""
    dtypes = (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16))
    symbolic = any(map(export.is_symbolic_dim, (*xs.shape, *state.h.shape)))
    mesh = jax.sharding.get_abstract_mesh()
    return [
        *environment_needs(),
        ('cell="lstm"', f'cell="{cfg.cell}"', cfg.cell == "lstm"),
        ('norm="channel" or None', f'norm="{cfg.norm}"', cfg.norm in ("channel", None)),
        (f"at most {MOST_FEATURES} features", f"features={cfg.features}", cfg.features <= MOST_FEATURES),
        ("a computation in float32 or bfloat16", f"{state.h.dtype}", state.h.dtype in dtypes),
        ("fixed sizes", f"symbolic ones, {xs.shape}", not symbolic),
        ("at least one row", "an empty batch", symbolic or xs.shape[1] > 0),
        ("arrays on one device", f"a mesh, {mesh}", mesh.empty or mesh.size == 1),
    ]


def environment_needs() -> list[tuple[str, str, bool]]:
    """The kernels' requirements of jax and the device, each as (expected, found, whether it is met)."""
    capability = compute_capability()
    expected = f"a GPU of compute capability {LEAST_CAPABILITY} or later"
    return [
        ("jax 0.11 or later", f"jax {jax.__version__}", is_recent()),
        (expected, f"{capability}", capability is None or covered_capability(capability)),
    ]


def is_recent() -> bool:
    """Whether this version of jax can trace the kernels."""
    return tuple(map(int, jax.__version__.split(".")[:2])) >= (0, 11)


def covered_capability(capability: float | str) -> bool:
    """Whether a GPU can run the kernels."""
    return not isinstance(capability, str) and capability >= LEAST_CAPABILITY


def compute_capability() -> float | str | None:
    """The lowest compute capability of the local GPUs, or the name that another maker's GPU has instead.

    None without a GPU: the program may be compiled for another machine, so the device is not checked.
    """
    if jax.default_backend() != "gpu":
        return None
    found = [str(device.compute_capability) for device in jax.local_devices()]
    other = [name for name in found if not name.replace(".", "", 1).isdecimal()]
    return other[0] if other else min(map(float, found))
