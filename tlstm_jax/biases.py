"""The initial value of b^h: how long memory lasts before training, and where it travels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tlstm_jax.config import TLSTMConfig
from tlstm_jax.typing import Array

LONGEST = 2.0
"""The longest time constant of a channel's gates, relative to ``time_scale``."""
TRANSPORT = 0.85
"""The time that memory takes from the input's corner to the output's, relative to ``time_scale``."""
SPREAD = 0.05
"""The fraction of each memory kernel spread evenly over all offsets, so that no offset starts without a gradient."""


def default_bias_init(cfg: TLSTMConfig) -> Callable[..., Any]:
    """The default initializer of b^h, as described in :func:`tlstm_jax.init_params`.

    Use it to wrap the default, for example in ``flax.linen.with_partitioning``.
    """

    def init(key: Array, shape: tuple[int, ...], dtype: Any = cfg.param_dtype) -> Array:
        m, bound = cfg.features, (cfg.num_offsets * cfg.features) ** -0.5
        bias = jnp.zeros(shape, dtype)
        bias = bias.at[:m].set(jax.random.uniform(key, (m,), dtype, -bound, bound))
        if cfg.time_scale is not None:
            i, f = chrono_biases(jax.random.fold_in(key, 1), m, cfg.time_scale, dtype)
            bias = bias.at[m : 2 * m].set(i).at[2 * m : 3 * m].set(f)
            if cfg.has_memory_kernel:
                bias = bias.at[4 * m :].set(jnp.asarray(transport_logits(cfg), dtype))
        elif cfg.cell == "lstm":
            bias = bias.at[2 * m : 3 * m].set(cfg.forget_bias)
            if cfg.has_memory_kernel:
                bias = bias.at[4 * m].set(cfg.conveyor_bias)  # q's first offset, -floor(K/2) in every dimension
        return bias

    return init


def chrono_biases(key: Array, features: int, time_scale: float, dtype: Any) -> tuple[Array, Array]:
    """Biases of the input gate and of the forget gate, -log u and log u (chrono initialization, arXiv:1804.11188).

    A forget gate of bias log u keeps u / (u + 1) of the memory in each timestep, so that it lasts for about u
    timesteps; an input gate of bias -log u balances what enters. u is uniform in 1..2T for each channel.

    Args:
        key: a JAX PRNG key.
        features: M.
        time_scale: T, in timesteps.
        dtype: of the biases.

    Returns:
        Two arrays of shape (M,).
    """
    u = jax.random.uniform(key, (features,), jnp.promote_types(dtype, jnp.float32), 1.0, max(1.0, LONGEST * time_scale))
    return -jnp.log(u).astype(dtype), jnp.log(u).astype(dtype)


def transport_time(cfg: TLSTMConfig) -> float:
    """The timesteps that memory takes from the input's corner to the output's, counting both, with ``cfg.time_scale``.

    It is ``TRANSPORT * time_scale``, but at least the number that the kernel needs for that distance.
    """
    least = max(1 + _fewest_moves(p, k) for p, k in zip(cfg.tensor_shape, cfg.kernel_shape, strict=True))
    return max(float(least), TRANSPORT * (cfg.time_scale or 0.0))


def transport_logits(cfg: TLSTMConfig) -> list[float]:
    """The logits of a memory kernel (eq. 16) that carries memory across the tensor in ``transport_time(cfg)``.

    Along each dimension memory moves by v = (P - 1) / (time - 1) locations per timestep on average: the kernel weights
    the two integers next to v so that their mean is v. All dimensions move together, by an offset of (-1, -1) for
    example rather than (-1, 0) and (0, -1). A fraction :data:`SPREAD` of the kernel is spread evenly over all offsets.
    For an even K this moves memory too, since the offsets reach farther towards the input.

    Returns:
        A logit for each offset in ``cfg.offsets``; 0 for offsets that take no part in the transport.
    """
    time, spread, least = transport_time(cfg), SPREAD, SPREAD / cfg.num_offsets
    speeds = []
    for p, k in zip(cfg.tensor_shape, cfg.kernel_shape, strict=True):
        speed = (p - 1) / max(1.0, time - 1)
        spread_speed = 0.5 * (1 - k % 2)
        fastest = (p - 1) / max(1, _fewest_moves(p, k))
        speeds.append(min(max(0.0, (speed - spread * spread_speed) / (1 - spread)), fastest))
    shares = dict.fromkeys(cfg.offsets, least)
    bounds = sorted({0.0, 1.0, *(v % 1 for v in speeds)})
    for low, high in itertools.pairwise(bounds):
        offset = tuple(-math.floor(v) - (low < v % 1) for v in speeds)
        shares[offset] += (1 - spread) * (high - low)
    return [math.log(share / least) for share in shares.values()]


def _fewest_moves(size: int, kernel_size: int) -> int:
    """The fewest timesteps in which a kernel can carry memory from the first of ``size`` locations to the last."""
    return math.ceil((size - 1) / (kernel_size // 2))
