"""One timestep of the loops of :mod:`tlstm_jax.fused.forward` and :mod:`tlstm_jax.fused.backward`."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tlstm_jax import cell
from tlstm_jax.config import TLSTMConfig
from tlstm_jax.fused.hidden import HiddenConvolution, Kernels
from tlstm_jax.fused.memory import convolve, memory_convolution
from tlstm_jax.normalization import mean_of
from tlstm_jax.options import Fused
from tlstm_jax.typing import Array, Float, Locations, Params, Preactivations, TLSTMState

scope = jax.named_scope

Saved = list[Array]
"""A_t by gates: g, i, f, o, each ``(.., m)``, and q, ``(.., k)``; the tRNN's A alone."""


class Weights(NamedTuple):
    """The parameters as the loops use them.

    Attributes:
        kernels: as :class:`HiddenConvolution` multiplies them, perhaps padded.
        bias: ``(a,)``, perhaps padded.
        pointwise: the groups of :func:`tlstm_jax.cell.pointwise_params`.
        fresh: the state after a reset, ``(*p, 1, m)``; None for zeros.
    """

    kernels: Kernels
    bias: Float[Array, " a"]
    pointwise: Params
    fresh: TLSTMState | None


def chunks(num_steps: int, gather: int | None) -> tuple[int, int]:
    """Number and size of the chunks of the backward loop, in all maybe a few timesteps more than ``num_steps``."""
    count = math.ceil(num_steps / min(gather or 1, num_steps))
    return count, math.ceil(num_steps / count)


class Static(NamedTuple):
    """Everything that is known at compile time; ``end`` is ``ends`` if that is an int."""

    cfg: TLSTMConfig
    plan: Fused
    unroll: int | bool
    end: int | None

    @property
    def hidden(self) -> HiddenConvolution:
        """The hidden convolution."""
        return HiddenConvolution(self.cfg, self.plan.patches == "kept")


def prepare(params: Params, static: Static, dtype: Any, fresh: TLSTMState | None) -> Weights:
    """The parameters as the loops use them, in the memory cell's dtype; each pass casts the kernels once."""
    params = jax.tree.map(lambda leaf: leaf.astype(static.cfg.memory_dtype(dtype)), params)
    kernel, bias, align = params["hidden"]["kernel"], params["hidden"]["bias"], static.plan.align or 1
    kernels = static.hidden.kernels(kernel.reshape(-1, kernel.shape[-1]), align)
    fresh = jax.tree.map(lambda leaf: leaf.astype(bias.dtype), fresh)
    return Weights(kernels, jnp.pad(bias, (0, -len(bias) % align)), cell.pointwise_params(params), fresh)


def preactivations(
    static: Static, weights: Weights, h: Locations, x: Float[Array, "b m"], patches: Array | None = None
) -> Saved:
    """Eqs. 5 and 14, from ``patches`` if given, otherwise from patches built here."""
    with scope("eq14_hidden_convolution"):
        patches = static.hidden.build(h, x, weights.kernels) if patches is None else patches
        a = static.hidden.preactivations(weights.kernels, weights.bias, patches, x)
        return by_gates(a[..., : static.cfg.gate_features], static.cfg)


def by_gates(a: Preactivations, cfg: TLSTMConfig) -> Saved:
    """Splits A_t, so that each gate is contiguous."""
    return jnp.split(a, [n * cfg.features for n in range(1, 5) if n * cfg.features < a.shape[-1]], axis=-1)


def pointwise(
    static: Static, a: Saved, c: Locations | None, params: Params, *, transposed: bool = False
) -> tuple[Locations | None, Locations]:
    """:func:`tlstm_jax.cell.pointwise` with the memory-cell convolution of :mod:`tlstm_jax.fused.memory`.

    ``transposed`` selects the transpose written by hand, for differentiation with respect to ``c``. Elsewhere a
    ``custom_vjp`` would prevent second derivatives, which are forward over reverse.
    """
    cfg = static.cfg

    def mix(q: Any, neighbours: Any) -> Locations:
        if transposed:
            return memory_convolution(cfg, static.hidden.all_pairs, q, *neighbours)
        return convolve(cfg, q, *neighbours)

    gates, q = a[:4], [] if len(a) < 5 else jnp.split(a[4], cfg.num_offsets, axis=-1)
    return cell.pointwise([*gates, *q], [] if c is None else [c], params, cfg, mix=mix, mean=mean_of(cfg))


def advance(static: Static, weights: Weights, state: TLSTMState, a: Saved) -> TLSTMState:
    """Eqs. 15 to 21."""
    c, h = pointwise(static, a, state.c, weights.pointwise)
    return TLSTMState(c, h.astype(state.h.dtype))


def cast(weights: Weights, dtype: Any) -> Weights:
    """The weights with the operands of products, the kernels and the H of ``fresh``, in the computation dtype."""
    fresh = weights.fresh
    return weights._replace(
        kernels=tuple(kernel.astype(dtype) for kernel in weights.kernels),
        fresh=None if fresh is None else fresh._replace(h=fresh.h.astype(dtype)),
    )
