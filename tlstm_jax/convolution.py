"""Convolutions across locations: a shared kernel for H (eqs. 5-6, 14), one of its own at each place for C (16-17)."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

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
    matrix: Float[Array, "km a"],
    bias: Float[Array, " a"],
    cfg: TLSTMConfig,
) -> Preactivations:
    """A_t = H^cat_{t-1} (*) {W^h, b^h}, for all gates in one matrix product (eqs. 6, 14).

    The convolution is one product of :func:`patches` with the kernel read as a ``(<K> m, a)`` matrix.
    It accumulates in the dtype of ``bias``.
    """
    return jnp.dot(patches(h, projected, cfg, len(matrix)), matrix, preferred_element_type=bias.dtype) + bias


def patches(h: Locations, projected: Float[Array, "b m"], cfg: TLSTMConfig, width: int) -> Float[Array, "*p b km"]:
    """The <K> shifted copies of H^cat side by side along the channels: what the kernel sees at each location.

    Zeros follow up to ``width`` channels.
    """
    hcat = concatenate_input(h, projected, cfg)
    columns = jnp.concatenate([hcat[window] for window in cfg.windows], axis=-1)
    return jnp.pad(columns, ((0, 0),) * (columns.ndim - 1) + ((0, width - columns.shape[-1]),))


def memory_convolution(c: Locations, q: MemoryKernels, cfg: TLSTMConfig) -> Locations:
    """C^conv_{t-1} = C_{t-1} (*) W^c_t(p): each location mixes its neighbours' memory (eqs. 16-17).

    ``q`` holds one convex kernel for each location, the same for all M channels. C is padded
    by replication of its boundary values.
    """
    padded = jnp.pad(c, (*cfg.padding, (0, 0), (0, 0)), mode="edge")
    weights = jnp.split(q, cfg.num_offsets, axis=-1)
    terms = [weight * padded[window] for weight, window in zip(weights, cfg.windows, strict=True)]
    return jax.tree.reduce(jnp.add, terms)


def folded_convolution(c: Locations, q: MemoryKernels, cfg: TLSTMConfig) -> Locations:
    """:func:`memory_convolution` in fewer passes: moves along the list of all locations, with folded kernels."""
    return mix(fold(q, cfg), neighbours(c, cfg))


def mix(folded: MemoryKernels, shifted: Sequence[Locations]) -> Locations:
    """Eq. 17 from folded kernels and :func:`neighbours`."""
    weights = jnp.split(folded, len(shifted), axis=-1)
    return functools.reduce(jnp.add, map(jnp.multiply, weights, shifted))


def neighbours(z: Locations, cfg: TLSTMConfig, sign: int = 1) -> list[Locations]:
    """For each kernel offset, ``z(p + sign offset)`` at every location p where that lies inside.

    Where it lies outside, what comes so many places farther in the list of all locations, or zero: only for
    a weight that is zero there, as :func:`fold` makes them.
    """
    strides = [math.prod(cfg.tensor_shape[axis + 1 :]) for axis in range(len(cfg.tensor_shape))]
    moves = [sign * sum(map(operator.mul, offset, strides)) for offset in cfg.offsets]
    below, above, count = max(0, -min(moves)), max(0, max(moves)), math.prod(cfg.tensor_shape)
    padded = jnp.pad(z.reshape(count, *z.shape[-2:]), ((below, above), (0, 0), (0, 0)))
    return [padded[below + move : below + move + count].reshape(z.shape) for move in moves]


def fold(q: MemoryKernels, cfg: TLSTMConfig) -> MemoryKernels:
    """Memory kernels for C padded with zeros that do what ``q`` does to C padded by replication.

    A weight whose offset leads outside is added to that of the offset which leads to the nearest location inside.
    """
    return _fold(jnp.split(q, cfg.num_offsets, axis=-1), [(to, source, where) for source, to, where in _folds(cfg)])


def fold_transpose(d_folded: Sequence[Array], cfg: TLSTMConfig) -> MemoryKernels:
    """The transpose of :func:`fold`, from one ``(*p, b, 1)`` for each offset."""
    return _fold(d_folded, _folds(cfg))


def _fold(weights: Sequence[Array], folds: Sequence[tuple[int, int, NDArray[np.bool_]]]) -> MemoryKernels:
    """For each offset, the sum of the weights that go there, each where it goes there."""
    results = [jnp.zeros_like(weight) for weight in weights]
    for to, source, where in folds:
        term = weights[source] if where.all() else jnp.where(where[..., None, None], weights[source], 0)
        results[to] = results[to] + term
    return jnp.concatenate(results, axis=-1)


@functools.cache
def _folds(cfg: TLSTMConfig) -> list[tuple[int, int, NDArray[np.bool_]]]:
    """Pairs of offsets, and the locations ``(*p)`` where the first leads, cut off at the boundary, to the second's."""
    locations, nearest_inside = _locations(cfg), _nearest(cfg)
    folds = []
    for (k, nearest), (to, offset) in itertools.product(enumerate(nearest_inside), enumerate(cfg.offsets)):
        where = (nearest == locations + offset).all(-1)
        if where.any():
            folds.append((k, to, where))
    return folds


def inner_products(z: Locations, c: Locations, cfg: TLSTMConfig) -> MemoryKernels:
    """For each kernel offset, ``sum_m z(p) C(p + offset)``, C padded by replication: taken from those of all pairs."""
    count = math.prod(cfg.tensor_shape)
    z, c = (array.reshape(count, *array.shape[-2:]) for array in (z, c))
    pairs = lax.dot_general(z, c, (((2,), (2,)), ((1,), (1,))), precision=lax.Precision.HIGHEST)  # (b, p, p)
    numbers = [np.ravel_multi_index(tuple(np.moveaxis(at, -1, 0)), cfg.tensor_shape) for at in _nearest(cfg)]
    picked = pairs[:, np.arange(count)[:, None], np.stack(numbers, axis=-1).reshape(count, -1)]
    return jnp.moveaxis(picked, 0, 1).reshape(*cfg.tensor_shape, -1, cfg.num_offsets)


def _nearest(cfg: TLSTMConfig) -> list[NDArray[np.int_]]:
    """For each kernel offset, the location inside that is nearest to where it leads, ``(*p, d)``."""
    return [np.clip(_locations(cfg) + offset, 0, np.subtract(cfg.tensor_shape, 1)) for offset in cfg.offsets]


def _locations(cfg: TLSTMConfig) -> NDArray[np.int_]:
    """Every location's index, ``(*p, d)``."""
    return np.stack(np.meshgrid(*map(np.arange, cfg.tensor_shape), indexing="ij"), axis=-1)
