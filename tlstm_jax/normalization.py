"""Channel normalization (eqs. 20-21) and layer normalization of the tensor."""

from __future__ import annotations

import jax

from tlstm_jax.config import TLSTMConfig
from tlstm_jax.typing import Array, Float, Locations


def normalize(z: Locations, scale: Float[Array, "*p m"], bias: Float[Array, "*p m"], cfg: TLSTMConfig) -> Locations:
    """N(z; gain, bias): subtract the mean, divide by the standard deviation, scale and shift.

    Channel normalization takes both over the M channels of each location, layer normalization over
    the whole tensor of an example. Gain and bias are ``(*p, m)`` in either case.
    """
    standardized, _ = standardize(z, cfg)
    return standardized * scale[..., None, :] + bias[..., None, :]


def standardize(z: Locations, cfg: TLSTMConfig) -> tuple[Locations, Array]:
    """Subtracts the mean and multiplies by r = 1 / sqrt(variance + epsilon); returns r as well, which broadcasts."""
    centred = z - z.mean(_axes(cfg), keepdims=True)
    r = jax.lax.rsqrt((centred * centred).mean(_axes(cfg), keepdims=True) + cfg.norm_epsilon)
    return centred * r, r


def standardize_transpose(dz: Locations, standardized: Locations, r: Array, cfg: TLSTMConfig) -> Locations:
    """The derivative with respect to z from that with respect to standardized z."""
    along = (dz * standardized).mean(_axes(cfg), keepdims=True)
    return r * (dz - dz.mean(_axes(cfg), keepdims=True) - standardized * along)


def _axes(cfg: TLSTMConfig) -> tuple[int, ...]:
    return (-1,) if cfg.norm == "channel" else (*range(len(cfg.tensor_shape)), -1)
