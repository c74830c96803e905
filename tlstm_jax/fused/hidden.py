"""The convolution of H (eqs. 5, 14) as matrix products, and their transposes.

A product multiplies patches (copies of H shifted by some kernel offsets, side by side) by the rows of the kernel that
belong to these offsets. There are two ways:

- "built": one product over all offsets; the patches are built anew at every timestep. On a GPU this launches the
  fewest kernels.
- "kept": the loops carry the patches from one timestep to the next and overwrite only what is not padding. With
  two or more dimensions of locations there is one product per offset along the first dimension, which skips the rows
  of locations where that offset leads out of the tensor. This leaves out part of the products with padding: 2 / 3 P of
  all factors with a kernel of 3. All these products read the same patches, which hold the offsets along the other
  dimensions. The input, which enters beyond the tensor's corner, then has separate products. (With one dimension there
  is less to save, and three small products take longer than a large one.)
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from tlstm_jax.config import TLSTMConfig
from tlstm_jax.convolution import patches
from tlstm_jax.layout import to_rank
from tlstm_jax.typing import Array, Float, Locations, Preactivations

Kernels = tuple[Array, ...]
"""A kernel for each of :attr:`HiddenConvolution.terms`, ``(offsets m, a)``, then for each of ``inputs``, ``(m, a)``."""


class Term(NamedTuple):
    """One product: rows ``start`` to ``stop`` of A, along the first dimension, from the rows of H shifted by ``step``.

    ``first`` is the index of the product's first kernel offset.
    """

    first: int
    start: int
    stop: int
    step: int


@dataclasses.dataclass(frozen=True)
class HiddenConvolution:
    """How a model's hidden convolution is computed; hashable.

    Args:
        cfg: the model.
        kept: whether the patches are kept from one timestep to the next.
    """

    cfg: TLSTMConfig
    kept: bool

    @property
    def split(self) -> bool:
        """Whether each offset along the first dimension has a separate product."""
        return self.kept and len(self.cfg.tensor_shape) > 1

    @property
    def all_pairs(self) -> bool:
        """Whether dQ comes from the products of all pairs of locations, rather than of neighbours only.

        On a CPU one batched product is faster than several passes over C, but its arithmetic grows with the square of
        the number of locations. The bound of 32 locations for each offset is an estimate, not a measurement.
        """
        return self.kept and math.prod(self.cfg.tensor_shape) <= 32 * self.cfg.num_offsets

    @property
    def offsets(self) -> tuple[tuple[int, ...], ...]:
        """The offsets whose copies of H lie side by side in the patches."""
        if not self.split:
            return self.cfg.offsets
        return tuple(
            (0, *offset[1:]) for offset in self.cfg.offsets[: self.cfg.num_offsets // self.cfg.kernel_shape[0]]
        )

    @property
    def terms(self) -> tuple[Term, ...]:
        """The products; the one that covers all rows comes first."""
        size, count = self.cfg.tensor_shape[0], len(self.offsets)
        if not self.split:
            return (Term(0, 0, size, 0),)
        steps = [offset[0] for offset in self.cfg.offsets[::count]]
        terms = [Term(k * count, max(0, -step), min(size, size - step), step) for k, step in enumerate(steps)]
        return tuple(sorted((term for term in terms if term.start < term.stop), key=lambda term: abs(term.step)))

    @property
    def inputs(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """Kernel offset and location of each separate product of the input; empty without such products."""
        return self.cfg.input_taps if self.split else ()

    def kernels(self, matrix: Float[Array, "km a"], align: int) -> Kernels:
        """The part of the kernel that each product uses, zero padded to multiples of ``align``."""
        columns = -matrix.shape[-1] % align

        def part(first: int, count: int, align: int) -> Array:
            rows = matrix[first * self.cfg.features : (first + count) * self.cfg.features]
            return jnp.pad(rows, ((0, -len(rows) % align), (0, columns)))

        terms = (part(term.first, len(self.offsets), align) for term in self.terms)
        return (*terms, *(part(k, 1, 1) for k, _ in self.inputs))

    def empty(self, h: Array, kernels: Kernels) -> Array:
        """Patches before the first :meth:`put`, all zero like the padding, for states ``(.., *p, b, m)``."""
        shape = (*h.shape[:-1], len(kernels[0]))
        return jnp.zeros_like(h, shape=shape)  # varies over the manual axes over which h does

    def put(self, kept: Array, h: Array, x: Array) -> Array:
        """The patches of states ``(.., *p, b, m)`` and inputs ``(.., b, m)``, written over another timestep's."""
        m, size = self.cfg.features, self.cfg.tensor_shape
        before = (0,) * (h.ndim - len(size) - 2)
        # Inputs are written first: the product reads the result of the last write, and XLA would do a small last write
        # twice (once in the product's layout), each time into a copy of all the patches.
        for k, location in () if self.split else self.cfg.input_taps:
            corner = jnp.expand_dims(x.astype(h.dtype), tuple(range(len(before), len(before) + len(size))))
            kept = lax.dynamic_update_slice(kept, corner, (*before, *location, 0, k * m))
        for k, offset in enumerate(self.offsets):
            start = [max(0, -step) for step in offset]
            stop = [min(p, p - step) for p, step in zip(size, offset, strict=True)]
            if all(a < b for a, b in zip(start, stop, strict=True)):
                source = [slice(a + step, b + step) for a, b, step in zip(start, stop, offset, strict=True)]
                kept = lax.dynamic_update_slice(
                    kept, h[(..., *source, slice(None), slice(None))], (*before, *start, 0, k * m)
                )
        return kept

    def build(self, h: Locations, x: Float[Array, "b m"], kernels: Kernels) -> Float[Array, "*p b km"]:
        """The patches of ``h``, from scratch."""
        if self.kept:
            return self.put(self.empty(h, kernels), h, x)
        return patches(h, x, self.cfg, len(kernels[0]))

    def preactivations(
        self, kernels: Kernels, bias: Float[Array, " a"], columns: Float[Array, "*p b km"], x: Float[Array, "b m"]
    ) -> Preactivations:
        """A_t from patches."""
        product = functools.partial(jnp.dot, precision=self.cfg.precision, preferred_element_type=bias.dtype)
        terms, inputs = self._each(kernels)
        (_, whole), *others = terms
        a = product(columns, whole) + to_rank(bias, columns.ndim)
        for term, kernel in others:
            a = a.at[term.start : term.stop].add(
                product(columns[term.start + term.step : term.stop + term.step], kernel)
            )
        for (_, location), kernel in inputs:
            a = a.at[location].add(product(x.astype(kernel.dtype), kernel))
        return a

    def transpose(self, transposed: Kernels, d_a: Preactivations) -> tuple[Locations, Float[Array, "b m"]]:
        """dH_{t-1} and dx_t from dA, with transposed kernels."""
        product = functools.partial(jnp.dot, precision=self.cfg.precision, preferred_element_type=d_a.dtype)
        factor, size = d_a.astype(transposed[0].dtype), self.cfg.tensor_shape[0]
        terms, inputs = self._each(transposed)
        d_h, d_x = [], [product(factor[location], kernel) for (_, location), kernel in inputs]
        for term, kernel in terms:
            d_columns = product(factor[term.start : term.stop], kernel)[..., : len(self.offsets) * self.cfg.features]
            parts = jnp.split(d_columns, len(self.offsets), axis=-1)
            for part, (first, *others) in zip(parts, self.offsets, strict=True):
                step = first + term.step
                edges = [
                    (term.start + step, size - term.stop - step, 0),
                    *((to, -to, 0) for to in others),
                    *[(0, 0, 0)] * 2,
                ]
                d_h.append(lax.pad(part, jnp.zeros((), part.dtype), edges))
            if not self.split:
                d_x += [parts[k][location] for k, location in self.cfg.input_taps]
        return _sum(d_h), _sum(d_x).astype(factor.dtype)

    def gradient(
        self,
        columns: Float[Array, "n *p b km"],
        xs: Float[Array, "n b m"],
        d_a: Float[Array, "n *p b a"],
        dtype: Any,
    ) -> Kernels:
        """The gradients of the kernels, summed over n timesteps."""

        def product(z: Array, dz: Array) -> Array:
            z, dz = (factor.reshape(-1, factor.shape[-1]) for factor in (z, dz))
            rows = (((0,), (0,)), ((), ()))
            return lax.dot_general(z, dz, rows, precision=self.cfg.precision, preferred_element_type=dtype)

        rows: tuple[slice, ...] = (slice(None),)
        d_a = d_a.astype(columns.dtype)
        if len(d_a) == 1:  # the same slices as in `transpose`, so that XLA makes them once
            columns, d_a, rows = columns[0], d_a[0], ()
        terms = (
            product(columns[*rows, term.start + term.step : term.stop + term.step], d_a[*rows, term.start : term.stop])
            for term in self.terms
        )
        return (*terms, *(product(xs.astype(columns.dtype), d_a[*rows, *location]) for _, location in self.inputs))

    def _each(
        self, kernels: Kernels
    ) -> tuple[list[tuple[Term, Array]], list[tuple[tuple[int, tuple[int, ...]], Array]]]:
        """Terms and inputs, each paired with its kernel."""
        count = len(self.terms)
        return list(zip(self.terms, kernels[:count], strict=True)), list(zip(self.inputs, kernels[count:], strict=True))


def _sum(terms: Sequence[Array]) -> Array:
    return functools.reduce(jnp.add, terms)
