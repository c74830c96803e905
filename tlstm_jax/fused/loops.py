"""The choice of loops by platform."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
from jax import export, lax

from tlstm_jax.config import TLSTMConfig
from tlstm_jax.fused import xla
from tlstm_jax.fused.coverage import check_covered, kernels_are_faster
from tlstm_jax.fused.reverse_only import reverse_only
from tlstm_jax.fused.timestep import Static, prepare
from tlstm_jax.options import Fused
from tlstm_jax.scan import Ends, Span
from tlstm_jax.typing import Array, Params, TLSTMState

PATCHES_BYTES = 2**30
"""Except on a CPU, the size of the patches from which weight gradients are computed at once."""

UNROLLS = (6, 7, 8)
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
            return xla.span(static, prepare(params, static, state.h.dtype, fresh), *arguments)

        # Batch and timesteps are unknown in a program exported for any number of them.
        gather = 1 if export.is_symbolic_dim(step_bytes) else max(1, PATCHES_BYTES // max(1, step_bytes))
        if xs.shape[0] == 0:
            return state, None if ends is None else state, xs
        arguments = (*reverse_only((state, xs)), reset, array_ends)

        def with_kernels(state: TLSTMState, xs: Array, reset: Array | None, ends: Array | None) -> Any:
            from tlstm_jax.fused import gpu, mosaic  # only if used, since they import Pallas and need a later jax

            fits = (fused.gather or gather) >= xs.shape[0]
            plan = fused.or_else("gates" if fits else "states", gather, 16, "built")
            if fused.kernel is None and not fits:  # to save gates, the kernels keep the patches of all timesteps
                plan = dataclasses.replace(plan, save="states")
            kernels = mosaic.static_of(cfg, plan, KERNEL_UNROLL if unroll is None else unroll, end, state, xs)
            otherwise = None
            if fused.kernel is None:
                plan = dataclasses.replace(plan, save="states", gather=kernels.gather)
                otherwise = Static(cfg, plan, several(xs.shape[0]) if unroll is None else unroll, end)
            return gpu.span(gpu.Static(kernels, otherwise), mosaic.Inputs(params, fresh, state, xs), reset, ends)

        if fused.kernel == "mosaic":
            check_covered(cfg, state, xs)
            return with_kernels(*arguments)
        on_cpu = functools.partial(run, fused.or_else("gates", 1, 16, "kept"), 1)
        elsewhere = functools.partial(run, fused.or_else("states", gather, 16, "built"), several(xs.shape[0]))
        if kernels_are_faster(cfg, fused, params, state, xs):
            return lax.platform_dependent(*arguments, cpu=on_cpu, cuda=with_kernels, default=elsewhere)
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
