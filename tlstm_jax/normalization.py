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
    axes = (-1,) if cfg.norm == "channel" else (*range(len(cfg.tensor_shape)), -1)
    centred = z - z.mean(axes, keepdims=True)
    variance = (centred * centred).mean(axes, keepdims=True)
    return centred * jax.lax.rsqrt(variance + cfg.norm_epsilon) * scale[..., None, :] + bias[..., None, :]
