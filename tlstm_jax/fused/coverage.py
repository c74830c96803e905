"""The models and devices that the GPU kernels of :mod:`tlstm_jax.fused.mosaic` support, without importing Pallas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import export

from tlstm_jax.config import TLSTMConfig
from tlstm_jax.typing import Array, TLSTMState

MOST_FEATURES = 512
"""The largest M at which the vectors of a location are meant to fit into the registers of one warpgroup."""
LEAST_CAPABILITY = 9.0
"""Bulk copies from shared memory came with Hopper."""


def check_covered(cfg: TLSTMConfig, state: TLSTMState, xs: Array) -> None:
    """Raises an error for anything that ``Fused(kernel="mosaic")`` does not support.

    Args:
        cfg: the model.
        state: the state from which the loops start, in the computation dtype.
        xs: projected inputs, ``(n, b, m)``.

    Raises:
        ValueError: the model, a dtype, a size, the device or the version of jax is not covered.
    """
    dtypes = (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16))
    symbolic = any(map(export.is_symbolic_dim, (*xs.shape, *state.h.shape)))
    mesh = jax.sharding.get_abstract_mesh()
    needs = [
        *environment_needs(),
        ('cell="lstm"', f'cell="{cfg.cell}"', cfg.cell == "lstm"),
        ('norm="channel" or None', f'norm="{cfg.norm}"', cfg.norm != "layer"),
        (f"at most {MOST_FEATURES} features", f"features={cfg.features}", cfg.features <= MOST_FEATURES),
        ("a computation in float32 or bfloat16", f"{state.h.dtype}", state.h.dtype in dtypes),
        ("fixed sizes", f"symbolic ones, {xs.shape}", not symbolic),
        ("at least one row", "an empty batch", symbolic or xs.shape[1] > 0),
        ("arrays on one device", f"a mesh, {mesh}", mesh.empty or mesh.size == 1),
    ]
    for expected, given, holds in needs:
        if not holds:
            raise ValueError(f'kernel="mosaic" needs {expected}, got {given}: use kernel="xla" or None.')


def environment_needs() -> list[tuple[str, str, bool]]:
    """The kernels' requirements of jax and the device, each as (expected, found, whether it is met)."""
    version, capability = tuple(map(int, jax.__version__.split(".")[:2])), compute_capability()
    expected = f"a GPU of compute capability {LEAST_CAPABILITY} or later"
    return [
        ("jax 0.11 or later", f"jax {jax.__version__}", version >= (0, 11)),
        (expected, f"{capability}", capability is None or covered_capability(capability)),
    ]


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
