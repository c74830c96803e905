"""Public layouts, ``(*b, t, r)`` and ``(*b, *p, m)``, and the internal ones, ``(t, b, r)`` and ``(*p, b, m)``."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tlstm_jax.typing import Array, TLSTMState


class Layout(NamedTuple):
    """Converts between the user's ``(*b, t, ..)``, or time-major ``(t, *b, ..)``, and the internal ``(t, b, ..)``."""

    batch_shape: tuple[int, ...]
    num_steps: int
    time_major: bool

    @classmethod
    def of(cls, shape: tuple[int, ...], time_major: bool) -> Layout:
        """The layout of inputs of this shape, whose last axis is features."""
        if time_major:
            return cls(shape[1:-1], shape[0], time_major)
        return cls(shape[:-2], shape[-2], time_major)

    @property
    def time_and_batch(self) -> tuple[int, ...]:
        """The axes before the features."""
        return (self.num_steps, *self.batch_shape) if self.time_major else (*self.batch_shape, self.num_steps)

    def flatten(self, x: Array) -> Array:
        """Converts ``x`` to ``(t, b, ..)``."""
        if not self.time_major:
            x = jnp.moveaxis(x, len(self.batch_shape), 0)
        return x.reshape(self.num_steps, math.prod(self.batch_shape), *x.shape[len(self.batch_shape) + 1 :])

    def restore(self, x: Array) -> Array:
        """Converts ``x`` from ``(t, b, ..)``."""
        x = x.reshape(self.num_steps, *self.batch_shape, *x.shape[2:])
        return x if self.time_major else jnp.moveaxis(x, 0, len(self.batch_shape))


def to_rank(z: Array, ndim: int) -> Array:
    """``z`` with leading axes of size 1, which JAX does not add if ``jax.numpy_rank_promotion`` forbids it."""
    return jnp.expand_dims(z, tuple(range(ndim - z.ndim)))


def to_locations_major(state: TLSTMState, batch_shape: tuple[int, ...]) -> TLSTMState:
    """Converts a state from ``(*b, *p, m)`` to ``(*p, b, m)``."""

    def convert(leaf: Array) -> Array:
        flat = leaf.reshape(math.prod(batch_shape), *leaf.shape[len(batch_shape) :])
        return jnp.moveaxis(flat, 0, -2)

    return jax.tree.map(convert, state)


def to_batch_major(state: TLSTMState, batch_shape: tuple[int, ...]) -> TLSTMState:
    """Converts a state from ``(*p, b, m)`` to ``(*b, *p, m)``."""

    def convert(leaf: Array) -> Array:
        flat = jnp.moveaxis(leaf, -2, 0)
        return flat.reshape(*batch_shape, *flat.shape[1:])

    return jax.tree.map(convert, state)
