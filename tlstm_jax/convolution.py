"""The neighbours of each location: patches of H (eqs. 5-6, 14) and the memory at each kernel offset (eq. 17)."""

from __future__ import annotations

import jax.numpy as jnp

from tlstm_jax.config import TLSTMConfig
from tlstm_jax.layout import to_rank
from tlstm_jax.typing import Array, Float, Locations, Preactivations


def concatenate_input(h: Locations, projected: Float[Array, "b m"], cfg: TLSTMConfig) -> Float[Array, "*padded b m"]:
    """H^cat_{t-1}: the hidden state, zero padded, with the projected input at its first corner (eqs. 5, 22).

    The padding below location 1 holds the paper's extra hcat locations (p_d = 1): the corner
    is the input, the rest zero. Everything further out is the zero padding of the convolution.
    """
    padded = jnp.pad(h, (*cfg.padding, (0, 0), (0, 0)))
    return padded.at[cfg.input_location].set(projected.astype(h.dtype))


def hidden_convolution(
    h: Locations,
    projected: Float[Array, "b m"],
    matrix: Float[Array, "km a"],
    bias: Float[Array, " a"],
    cfg: TLSTMConfig,
) -> Preactivations:
    """A_t = H^cat_{t-1} (*) {W^h, b^h}, for all gates in one matrix product (eqs. 6, 14).

    The convolution is one product of :func:`patches` with the kernel reshaped to ``(<K> m, a)``.
    It accumulates in the dtype of ``bias``.
    """
    columns = patches(h, projected, cfg, len(matrix))
    return jnp.dot(columns, matrix, precision=cfg.precision, preferred_element_type=bias.dtype) + to_rank(bias, h.ndim)


def patches(h: Locations, projected: Float[Array, "b m"], cfg: TLSTMConfig, width: int) -> Float[Array, "*p b km"]:
    """The patches of H^cat that the kernel multiplies at each location: <K> shifted copies along the channels.

    They are zero padded to ``width`` channels.
    """
    hcat = concatenate_input(h, projected, cfg)
    columns = jnp.concatenate([hcat[window] for window in cfg.windows], axis=-1)
    return jnp.pad(columns, ((0, 0),) * (columns.ndim - 1) + ((0, width - columns.shape[-1]),))


def neighbours(c: Locations | None, cfg: TLSTMConfig) -> list[Locations]:
    """C_{t-1} at each kernel offset, padded by replication of its boundary values (eq. 17).

    Only C_{t-1} itself without a memory-cell convolution, and nothing for the tRNN, which has no memory.
    """
    if c is None or not cfg.has_memory_kernel:
        return [] if c is None else [c]
    padded = jnp.pad(c, (*cfg.padding, (0, 0), (0, 0)), mode="edge")
    return [padded[window] for window in cfg.windows]
