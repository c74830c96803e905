"""XLA's loops, with the derivative of :mod:`tlstm_jax.fused.backward`."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from tlstm_jax import cell
from tlstm_jax.fused.backward import backward
from tlstm_jax.fused.forward import forward
from tlstm_jax.fused.timestep import Static, Weights, advance, cast, preactivations
from tlstm_jax.scan import scan_span
from tlstm_jax.typing import Array, TLSTMState


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def span(
    static: Static, weights: Weights, state: TLSTMState, xs: Array, reset: Array | None, ends: Array | None
) -> tuple[TLSTMState, TLSTMState | None, Array]:
    """The results of a :class:`tlstm_jax.scan.Span`."""
    weights = cast(weights, state.h.dtype)

    def step(state: TLSTMState, x: Array) -> tuple[TLSTMState, Array]:
        state = advance(static, weights, state, preactivations(static, weights, state.h, x))
        return state, cell.output(state.h, static.cfg)

    end = ends if static.end is None else static.end
    last, end_state, ys = scan_span(step, static.unroll, state, xs, reset, end, weights.fresh)
    # jax.vmap of a custom_vjp requires each result to be batched along the same axis here and in forward;
    # concatenation always gives the first, a scan the second.
    return last, end_state, jnp.concatenate([ys, ys[:0]])


span.defvjp(forward, backward)
