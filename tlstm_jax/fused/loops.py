"""The choice of loops by platform, and the :func:`jax.custom_vjp` around them."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import export, lax

from tlstm_jax import cell
from tlstm_jax.config import TLSTMConfig
from tlstm_jax.fused.backward import backward
from tlstm_jax.fused.coverage import check_covered
from tlstm_jax.fused.forward import forward
from tlstm_jax.fused.reverse_only import reverse_only
from tlstm_jax.fused.timestep import (
    Static,
    Weights,
    advance,
    cast,
    preactivations,
    prepare,
)
from tlstm_jax.options import Fused
from tlstm_jax.scan import Ends, Span, scan_span
from tlstm_jax.typing import Array, Params, TLSTMState

PATCHES_BYTES = 2**30
"""Except on a CPU, the size of the patches from which weight gradients are computed at once."""

UNROLLS = (3, 4, 5)
"""Except on a CPU, the choices for the timesteps in one iteration if ``unroll`` is None; see :func:`several`."""

KERNEL_UNROLL = 8
"""The timesteps in one iteration with ``kernel="mosaic"``, whose kernels are compiled once for all timesteps."""


def fused_span(
    params: Params, cfg: TLSTMConfig, fused: Fused, unroll: int | bool | None, fresh: TLSTMState | None
) -> Span[TLSTMState]:
    """A :class:`tlstm_jax.scan.Span` of :func:`tlstm_jax.cell.timestep` with a custom derivative.

    Args:
        params: kernels not yet in the computation dtype, so that their gradients are summed in float32 at least.
        cfg: the model.
        fused: how to differentiate; options that are None are chosen by platform.
        unroll: timesteps in one iteration of a scan; None chooses by platform, too.
        fresh: the state after a reset, ``(*p, 1, m)``; None for zeros.
    """
    params, fresh = reverse_only((params, fresh))

    def span(state: TLSTMState, xs: Array, reset: Array | None, ends: Ends) -> Any:
        end, array_ends = (None, ends) if isinstance(ends, jax.Array) else (ends, None)
        step_bytes = cfg.num_offsets * state.h.size * state.h.dtype.itemsize

        def run(plan: Fused, by_default: int, *arguments: Any) -> Any:
            static = Static(cfg, plan, by_default if unroll is None else unroll, end)
            return _span(static, prepare(params, static, state.h.dtype, fresh), *arguments)

        # Batch and timesteps are unknown in a program exported for any number of them.
        gather = 1 if export.is_symbolic_dim(step_bytes) else max(1, PATCHES_BYTES // max(1, step_bytes))
        if xs.shape[0] == 0:
            return state, None if ends is None else state, xs
        arguments = (*reverse_only((state, xs)), reset, array_ends)
        if fused.kernel == "mosaic":
            check_covered(cfg, state, xs)
            from tlstm_jax.fused import mosaic  # only if asked for, since it imports Pallas and needs a later jax

            fits = (fused.gather or gather) >= xs.shape[0]
            plan = fused.or_else("gates" if fits else "states", gather, 16, "built")
            return mosaic.run(params, cfg, plan, KERNEL_UNROLL if unroll is None else unroll, end, *arguments, fresh)
        on_cpu = functools.partial(run, fused.or_else("gates", 1, 16, "kept"), 1)
        elsewhere = functools.partial(run, fused.or_else("states", gather, 16, "built"), several(xs.shape[0]))
        if None not in (fused.save, fused.gather, fused.align, fused.patches, unroll):
            return on_cpu(*arguments)
        return lax.platform_dependent(*arguments, cpu=on_cpu, default=elsewhere)

    return span


def several(num_steps: int) -> int:
    """The value in :data:`UNROLLS` that compiles the fewest timesteps; the largest of several such values.

    The timesteps of the loop's body and of the remainder are compiled.
    """
    if export.is_symbolic_dim(num_steps):
        return 1
    return min(UNROLLS, key=lambda unroll: (unroll + num_steps % unroll, -unroll))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _span(
    static: Static, weights: Weights, state: TLSTMState, xs: Array, reset: Array | None, ends: Array | None
) -> tuple[TLSTMState, TLSTMState | None, Array]:
    weights = cast(weights, state.h.dtype)

    def step(state: TLSTMState, x: Array) -> tuple[TLSTMState, Array]:
        state = advance(static, weights, state, preactivations(static, weights, state.h, x))
        return state, cell.output(state.h, static.cfg)

    end = ends if static.end is None else static.end
    last, end_state, ys = scan_span(step, static.unroll, state, xs, reset, end, weights.fresh)
    # jax.vmap of a custom_vjp requires each result to be batched along the same axis here and in forward;
    # concatenation always gives the first, a scan the second.
    return last, end_state, jnp.concatenate([ys, ys[:0]])


_span.defvjp(forward, backward)
