"""The memory-cell convolution (eqs. 16-17) in fewer passes over C, with its transpose written by hand.

Padding C by replication is the same as folding the weights that reach beyond the boundary onto the boundary, location
by location (:func:`fold`). These weights are then zero, so the values of C beyond the boundary do not matter if they
are finite: C and dC are shifted along the flattened list of locations (:func:`shifts`), and the boundary is handled in
the small arrays of Q. With d() for the derivative of the loss and s_k for the kernel's offsets:

    C^conv(p) = sum_k Q_k(p) C(p+s_k)      dQ_k(p) = sum_m dC^conv(p) . C(p+s_k)      dC(p+s_k) += Q_k(p) dC^conv(p)
"""

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

from tlstm_jax.cell import mix
from tlstm_jax.config import TLSTMConfig
from tlstm_jax.typing import Array, Locations

scope = jax.named_scope


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def memory_convolution(cfg: TLSTMConfig, all_pairs: bool, q: Sequence[Array], c: Locations) -> Locations:
    """C^conv_{t-1} (eq. 17).

    Args:
        cfg: the model.
        all_pairs: whether the derivative takes dQ from the inner products of all pairs of locations, one batched
            matrix product, instead of a reduction for each offset.
        q: Q_t, ``(*p, b, 1)`` for each kernel offset.
        c: C_{t-1}.
    """
    return convolve(cfg, q, c)


def convolve(cfg: TLSTMConfig, q: Sequence[Array], c: Locations) -> Locations:
    """:func:`memory_convolution` with JAX's own derivatives, including forward mode."""
    return mix(fold(q, cfg), shifts(c, cfg))


def _forward(
    cfg: TLSTMConfig, all_pairs: bool, q: Sequence[Array], c: Locations
) -> tuple[Locations, tuple[list[Array], Locations]]:
    folded = fold(q, cfg)
    return mix(folded, shifts(c, cfg)), (folded, c)


def _backward(
    cfg: TLSTMConfig, all_pairs: bool, residuals: tuple[list[Array], Locations], d_mixed: Locations
) -> tuple[tuple[Array, ...], Locations]:
    folded, c = residuals
    with scope("eq17_memory_convolution_transpose"):
        if all_pairs:
            d_q = inner_products(d_mixed, c, cfg)
        else:
            d_q = fold_transpose([(d_mixed * z).sum(-1, keepdims=True) for z in shifts(c, cfg)], cfg)
        weights = shifts(jnp.concatenate(folded, axis=-1), cfg, -1)
        terms = [w[..., k : k + 1] * z for k, (w, z) in enumerate(zip(weights, shifts(d_mixed, cfg, -1), strict=True))]
        return tuple(d_q), functools.reduce(operator.add, terms)


memory_convolution.defvjp(_forward, _backward)


def shifts(z: Locations, cfg: TLSTMConfig, sign: int = 1) -> list[Locations]:
    """For each kernel offset, ``z(p + sign offset)`` at every location p where that lies inside the tensor.

    Elsewhere the value is arbitrary, but finite if ``z`` is: :func:`fold` gives it the weight zero.
    """
    strides = [math.prod(cfg.tensor_shape[axis + 1 :]) for axis in range(len(cfg.tensor_shape))]
    steps = [sign * sum(map(operator.mul, offset, strides)) for offset in cfg.offsets]
    below, above, count = max(0, -min(steps)), max(0, max(steps)), math.prod(cfg.tensor_shape)
    padded = jnp.pad(z.reshape(count, *z.shape[-2:]), ((below, above), (0, 0), (0, 0)))
    return [padded[below + step : below + step + count].reshape(z.shape) for step in steps]


def fold(q: Sequence[Array], cfg: TLSTMConfig) -> list[Array]:
    """Memory kernels whose effect on C padded with zeros equals the effect of ``q`` on C padded by replication.

    A weight whose offset leads outside of the tensor is added to the weight of the offset that leads to the nearest
    location inside.
    """
    return _sum_where(q, [(to, source, where) for source, to, where in _folds(cfg)])


def fold_transpose(d_folded: Sequence[Array], cfg: TLSTMConfig) -> list[Array]:
    """The transpose of :func:`fold`."""
    return _sum_where(d_folded, _folds(cfg))


def _sum_where(weights: Sequence[Array], folds: Sequence[tuple[int, int, NDArray[np.bool_]]]) -> list[Array]:
    """For each offset ``to``, the sum of ``weights[source]`` at the locations ``where``."""
    results = [jnp.zeros_like(weight) for weight in weights]
    for to, source, where in folds:
        term = weights[source] if where.all() else jnp.where(where[..., None, None], weights[source], 0)
        results[to] = results[to] + term
    return results


@functools.cache
def _folds(cfg: TLSTMConfig) -> list[tuple[int, int, NDArray[np.bool_]]]:
    """Pairs of offsets with a mask ``(*p)`` of the locations where the first, clipped to the tensor, is the second."""
    locations, nearest_inside = _locations(cfg), _nearest(cfg)
    folds = []
    for (k, nearest), (to, offset) in itertools.product(enumerate(nearest_inside), enumerate(cfg.offsets)):
        where = (nearest == locations + offset).all(-1)
        if where.any():
            folds.append((k, to, where))
    return folds


def inner_products(z: Locations, c: Locations, cfg: TLSTMConfig) -> list[Array]:
    """For each kernel offset, ``sum_m z(p) C(p + offset)`` with C padded by replication, from the sums of all pairs."""
    count = math.prod(cfg.tensor_shape)
    z, c = (array.reshape(count, *array.shape[-2:]) for array in (z, c))
    pairs = lax.dot_general(z, c, (((2,), (2,)), ((1,), (1,))), precision=lax.Precision.HIGHEST)  # (b, p, p)
    numbers = [np.ravel_multi_index(tuple(np.moveaxis(at, -1, 0)), cfg.tensor_shape) for at in _nearest(cfg)]
    picked = pairs[:, np.arange(count)[:, None], np.stack(numbers, axis=-1).reshape(count, -1)]
    products = jnp.moveaxis(picked, 0, 1).reshape(*cfg.tensor_shape, -1, cfg.num_offsets)
    return jnp.split(products, cfg.num_offsets, axis=-1)


def _nearest(cfg: TLSTMConfig) -> list[NDArray[np.int_]]:
    """For each kernel offset, the index ``(*p, d)`` of the location inside the tensor nearest to where it leads."""
    return [np.clip(_locations(cfg) + offset, 0, np.subtract(cfg.tensor_shape, 1)) for offset in cfg.offsets]


def _locations(cfg: TLSTMConfig) -> NDArray[np.int_]:
    """Every location's index, ``(*p, d)``."""
    return np.stack(np.meshgrid(*map(np.arange, cfg.tensor_shape), indexing="ij"), axis=-1)
