"""Orthogonal initial matrices in every floating-point dtype, also in those in which no matrix can be decomposed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def orthogonal(scale: float = 1.0) -> Callable[..., jax.Array]:
    """An initializer of matrices with orthonormal rows or columns, times ``scale``.

    It is Flax's own, but draws what is narrower than float32 in float32 and rounds it.

    Example:
        >>> orthogonal()(jax.random.key(0), (4, 4), jnp.bfloat16).dtype
        dtype(bfloat16)
    """
    init = nn.initializers.orthogonal(scale)

    def rounded(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return init(key, shape, decomposable(dtype)).astype(dtype)

    return rounded


def decomposable(dtype: Any) -> Any:
    """The dtype in which a matrix of this dtype is decomposed: at least float32, since LAPACK knows none below."""
    return jnp.promote_types(dtype, jnp.float32)
