"""Initializers of the rivals: the biases of gates, matrices side by side, and orthogonal ones in every dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlstm_jax import biases


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


def gate_bias_init(order: str, forget_bias: float, time_scale: float | None) -> Callable[..., jax.Array]:
    """An initializer of the biases of gates side by side, (len(order) * M,).

    The biases are 0 except for the forget gate's, which is ``forget_bias``. With a time scale T the forget gate's is
    log u instead and the input gate's -log u, u uniform in 1..2T for each unit (chrono initialization,
    arXiv:1804.11188), as in :class:`tlstm_jax.TLSTMConfig`.

    Args:
        order: a letter for each gate, ``i`` for the input gate and ``f`` for the forget gate, for example ``"ifgo"``.
        forget_bias: the initial bias of the forget gate.
        time_scale: for how many timesteps memory has to last, or None.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        features = shape[-1] // len(order)
        given = {"f": jnp.full((features,), forget_bias, dtype)}
        if time_scale is not None:
            given["i"], given["f"] = biases.chrono_biases(key, features, time_scale, dtype)
        zeros = jnp.zeros((features,), dtype)
        return jnp.concatenate([given.get(gate, zeros) for gate in order])

    return init


def per_gate(init: Callable[..., jax.Array], gates: int) -> Callable[..., jax.Array]:
    """Initializes the matrices of several gates side by side, (n, gates * M), each as ``init`` does (n, M).

    One after the other: on two CPU cores several QR decompositions of batches of matrices, which ``jax.vmap`` of an
    orthogonal initializer makes, wait for each other for ever with jax 0.10.
    """

    def blocks(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        block = (*shape[:-1], shape[-1] // gates)
        return jnp.concatenate([init(each, block, dtype) for each in jax.random.split(key, gates)], axis=-1)

    return blocks


def uniform_init(limit: float) -> Callable[..., jax.Array]:
    """An initializer of numbers uniform in -limit..limit."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init
