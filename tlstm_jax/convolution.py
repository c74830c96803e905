"""Convolutions across locations: a shared kernel for H (eqs. 5-6, 14), one of its own at each place for C (16-17)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tlstm_jax.config import TLSTMConfig
from tlstm_jax.typing import Array, Float, Locations, MemoryKernels, Preactivations


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
    kernel: Float[Array, "*k m a"],
    bias: Float[Array, " a"],
    cfg: TLSTMConfig,
) -> Preactivations:
    """A_t = H^cat_{t-1} (*) {W^h, b^h}, for all gates in one matrix product (eqs. 6, 14).

    The convolution is one product of :func:`patches` with the kernel read as a ``(<K> m, a)`` matrix.
    It accumulates in the dtype of ``bias``.
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    return jnp.dot(patches(h, projected, cfg), matrix, preferred_element_type=bias.dtype) + bias


def patches(h: Locations, projected: Float[Array, "b m"], cfg: TLSTMConfig) -> Float[Array, "*p b km"]:
    """The <K> shifted copies of H^cat side by side along the channels: what the kernel sees at each location."""
    hcat = concatenate_input(h, projected, cfg)
    return jnp.concatenate([hcat[window] for window in cfg.windows], axis=-1)


def memory_convolution(c: Locations, q: MemoryKernels, cfg: TLSTMConfig) -> Locations:
    """C^conv_{t-1} = C_{t-1} (*) W^c_t(p): each location mixes its neighbours' memory (eqs. 16-17).

    ``q`` holds one convex kernel for each location, the same for all M channels. C is padded
    by replication of its boundary values.
    """
    padded = jnp.pad(c, (*cfg.padding, (0, 0), (0, 0)), mode="edge")
    weights = jnp.split(q, cfg.num_offsets, axis=-1)
    terms = [weight * padded[window] for weight, window in zip(weights, cfg.windows, strict=True)]
    return jax.tree.reduce(jnp.add, terms)
