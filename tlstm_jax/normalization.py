"""Channel normalization (eqs. 20-21) and layer normalization over the whole tensor."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from tlstm_jax.config import TLSTMConfig
from tlstm_jax.typing import Array, Locations

Mean = Callable[[Locations], Array]
"""A mean that keeps the reduced axes with size 1."""


def channel_mean(z: Locations) -> Array:
    """The mean over the channels of each location: channel normalization."""
    return z.mean(-1, keepdims=True)


def tensor_mean(z: Locations) -> Array:
    """The mean over all locations and channels of an example: layer normalization."""
    return z.mean((*range(z.ndim - 2), -1), keepdims=True)


def mean_of(cfg: TLSTMConfig) -> Mean:
    """The mean that the norm of ``cfg`` takes."""
    return tensor_mean if cfg.norm == "layer" else channel_mean


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def standardize(z: Locations, mean: Mean, epsilon: float) -> Locations:
    """Subtracts the mean and divides by the standard deviation (eqs. 20, 21).

    The derivative is written by hand, because the mean of the centred values, which is 0, drops out of it.
    """
    return _standardize(z, mean, epsilon)[0]


def _standardize(z: Locations, mean: Mean, epsilon: float) -> tuple[Locations, Array]:
    """The standardized z, and r = 1 / sqrt(variance + epsilon)."""
    centred = z - mean(z)
    r = jax.lax.rsqrt(mean(centred * centred) + epsilon)
    return centred * r, r


@standardize.defjvp
def _standardize_jvp(mean: Mean, epsilon: float, primals: Any, tangents: Any) -> tuple[Locations, Locations]:
    (z,), (t,) = primals, tangents
    standardized, r = _standardize(z, mean, epsilon)
    scaled = r * t
    return standardized, scaled - mean(scaled) - standardized * mean(standardized * scaled)
