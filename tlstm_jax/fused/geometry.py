"""The sizes of the arrays of :mod:`tlstm_jax.fused.cell_kernel`, and which locations are neighbours."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tlstm_jax.config import TLSTMConfig

LANES = 128
"""Threads of a warpgroup."""
PROCESSORS, TILE, LONG_TILE = 132, (64, 64), (256, 128)
"""Multiprocessors of an H100, and the tiles that one of them computes of a timestep's product and of a gradient."""


class Sizes(NamedTuple):
    """The sizes of a kernel's arrays.

    Attributes:
        cfg: the model.
        batch: rows of the batch.
        padded: channels of a vector in registers.
        stride: channels of each gate and of each kernel offset in the operands of matrix products.
        width: columns of A.
        depth: columns of the patches.
        parts: split-K factors of the forward and the backward product: the inner dimension is divided into this many
            parts, so that a small product occupies more multiprocessors. The cell kernels add up the partial products,
            which would take a separate launch in XLA.
        chunk: timesteps in the arrays of pre-activations and their derivatives. The backward pass runs chunk by chunk,
            each from its last timestep to its first.
    """

    cfg: TLSTMConfig
    batch: int
    padded: int
    stride: int
    width: int
    depth: int
    parts: tuple[int, int]
    chunk: int = 1

    @classmethod
    def of(cls, cfg: TLSTMConfig, batch: int, itemsize: int, align: int) -> Sizes:
        """The sizes for matrix products of this ``itemsize``, padded to multiples of ``align`` and of 16 bytes."""
        padded, stride, unit = _up(cfg.features, LANES), _up(cfg.features, 16 // itemsize), math.lcm(align, 8)
        width = max(4 * stride + memory_offsets(cfg), 3 * stride + padded)
        depth = (cfg.num_offsets - 1) * stride + max(stride, padded)
        rows = math.prod(cfg.tensor_shape) * batch
        tiles = [_tiles(rows, columns, TILE) for columns in (width, depth)]
        # Measured on an H100. The backward kernel reads each part at K offsets, so fewer parts are faster there.
        parts = max(1, min(8, 2 * PROCESSORS // tiles[0])), max(1, min(4, PROCESSORS // tiles[1]))
        return cls(cfg, batch, padded, stride, _up(width, unit * parts[1]), _up(depth, unit * parts[0]), parts)

    @property
    def locations(self) -> int:
        """The number of locations."""
        return math.prod(self.cfg.tensor_shape)


def parts_of_sum(length: int, rows: int, columns: int) -> int:
    """The number of parts to divide a sum over ``length`` outer products into, so that few multiprocessors are idle.

    It divides ``length`` and is at most 16. It is the smallest that keeps nearly as many busy as the best, since the
    sums of the parts, ``(rows, columns)`` each, are written to memory and added up.
    """
    tiles = _tiles(rows, columns, LONG_TILE)
    busy = {n: n * tiles / _up(n * tiles, PROCESSORS) for n in range(1, 17) if length % n == 0}
    return min(parts for parts, share in busy.items() if share > 0.9 * max(busy.values()))


def _tiles(rows: int, columns: int, tile: tuple[int, int]) -> int:
    return math.ceil(rows / tile[0]) * math.ceil(columns / tile[1])


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def memory_offsets(cfg: TLSTMConfig) -> int:
    """The number of offsets of the memory-cell convolution, 0 without one."""
    return cfg.num_offsets if cfg.has_memory_kernel else 0


class Tables(NamedTuple):
    """The geometry, with locations numbered in row-major order.

    Attributes:
        neighbour: ``(p, k)``, the location whose memory p reads at each kernel offset, clipped to the tensor (eq. 17).
        reader: ``(p, k)``, the location whose patches hold p at each kernel offset, or -1 (eq. 14).
        pairs: ``(p, j)``, the pairs (location, offset) for which ``neighbour`` is p, each as one number; -1 pads them.
        zero: ``(p, k)``, 1 for an offset at which the patches of p have neither a location nor the input, else 0.
    """

    neighbour: NDArray[np.int32]
    reader: NDArray[np.int32]
    pairs: NDArray[np.int32]
    zero: NDArray[np.int32]


@functools.cache
def tables(cfg: TLSTMConfig) -> Tables:
    """The geometry of a model."""
    shape, count = np.array(cfg.tensor_shape), math.prod(cfg.tensor_shape)
    at = np.stack(np.unravel_index(np.arange(count), cfg.tensor_shape), -1)

    def number(locations: NDArray[Any]) -> NDArray[Any]:
        return np.ravel_multi_index(tuple(np.clip(locations, 0, shape - 1).T), cfg.tensor_shape)

    def inside(locations: NDArray[Any]) -> Any:
        return ((locations >= 0) & (locations < shape)).all(-1)

    steps = cfg.offsets if cfg.has_memory_kernel else [(0,) * len(cfg.tensor_shape)]
    neighbour = np.stack([number(at + step) for step in steps], -1)
    reader = np.stack([np.where(inside(at - step), number(at - step), -1) for step in np.array(cfg.offsets)], -1)
    pairs = [np.flatnonzero(neighbour == p) for p in range(count)]  # p k + offset
    width = max(map(len, pairs))
    filled = np.array([np.pad(found, (0, width - len(found)), constant_values=-1) for found in pairs])
    zero = np.stack([~inside(at + step) for step in np.array(cfg.offsets)], -1)
    for k, place in input_taps(cfg):
        zero[place, k] = False
    return Tables(*(table.astype(np.int32) for table in (neighbour, reader, filled, zero)))


def input_taps(cfg: TLSTMConfig) -> list[tuple[int, int]]:
    """The kernel offset and the location's number of each copy of the input in the patches."""
    return [(k, int(np.ravel_multi_index(location, cfg.tensor_shape))) for k, location in cfg.input_taps]
