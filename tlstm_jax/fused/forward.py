"""The forward loop, and the residuals that it saves for the backward loop."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export, lax

from tlstm_jax import cell, sharding
from tlstm_jax.fused.timestep import (
    Saved,
    Static,
    Weights,
    advance,
    cast,
    chunks,
    preactivations,
)
from tlstm_jax.scan import Ends, reset_rows, select
from tlstm_jax.typing import Array, Bool, Float, TLSTMState


class Residuals(NamedTuple):
    """The residuals of the backward loop.

    Attributes:
        weights: the parameters.
        xs: projected inputs of all timesteps of the loops, which may be a few more than the span's.
        reset: where the state is reset before the input, or None.
        ends: as in :class:`tlstm_jax.scan.Span` if that is an array, else None.
        states: the state before every timestep, before any reset; with save="gates" also the last one.
        a: the pre-activations of all timesteps, if saved.
    """

    weights: Weights
    xs: Float[Array, "n b m"]
    reset: Bool[Array, "n b"] | None
    ends: Array | None
    states: TLSTMState
    a: Saved | None


def forward(
    static: Static, weights: Weights, state: TLSTMState, xs: Array, reset: Array | None, ends: Array | None
) -> tuple[tuple[TLSTMState, TLSTMState | None, Array], Residuals]:
    """The results of a :class:`tlstm_jax.scan.Span`, and residuals for :func:`tlstm_jax.fused.backward.backward`."""
    num_steps, cast_weights = xs.shape[0], cast(weights, state.h.dtype)
    if export.is_symbolic_dim(num_steps):
        raise ValueError(
            "the gradient needs a fixed number of timesteps, got a symbolic one (batch dimensions may be symbolic): "
            'export for a fixed T, or pass implementation="reference", or remat=n for chunks of n timesteps.'
        )
    total = math.prod(chunks(num_steps, static.plan.gather))
    xs, reset = jax.tree.map(lambda z: pad_steps(z, total), (xs, reset))
    if static.plan.save == "gates":
        (states, saved), final = _in_place(static, cast_weights, state, xs, reset), None
    else:
        (states, final), saved = _stacked(static, cast_weights, state, xs, reset), None
    h = jax.vmap(functools.partial(cell.output, cfg=static.cfg))(states.h)[1 : num_steps + 1]
    ys = h if len(h) == num_steps or final is None else jnp.concatenate([h, cell.output(final.h, static.cfg)[None]])
    last = state_after(num_steps, states, final)
    end = state_after(static.end if ends is None else ends, states, final)
    return (last, end, ys), Residuals(weights, xs, reset, ends, states, saved)


def _in_place(
    static: Static, weights: Weights, state: TLSTMState, xs: Array, reset: Array | None
) -> tuple[TLSTMState, Saved]:
    """All states, the last one included, and all pre-activations.

    The loop updates the arrays that it returns in place, so that they are written once and never copied.
    """
    total, hidden = len(xs), static.hidden

    def body(
        carry: tuple[TLSTMState, Saved, Array | None], inputs: tuple[Array, Array, Array | None]
    ) -> tuple[tuple[TLSTMState, Saved, Array | None], None]:
        t, x, is_reset = inputs
        states, saved, patches = carry
        state = reset_rows(is_reset, _get(states, t), weights.fresh)
        if patches is not None:
            patches = hidden.put(patches, state.h, x)
        a = preactivations(static, weights, state.h, x, patches)
        # The rest of the timestep reads A from the saved array, so that A is written only once.
        saved = lax.optimization_barrier(_put(saved, a, t))
        a = _get(saved, t)
        return (_put(states, advance(static, weights, state, a), t + 1), saved, patches), None

    # The arrays start with different numbers, all overwritten later: XLA would fill equal arrays once and copy them.
    numbers = itertools.count()
    states = jax.tree.map(lambda leaf: _filled(total + 1, leaf, next(numbers)).at[0].set(leaf), state)
    a = jax.eval_shape(functools.partial(preactivations, static, weights), state.h, xs[0])
    saved = [_filled(total, leaf, next(numbers)) for leaf in a]
    states, saved, _ = sharding.vary_alike((states, saved, state.h))
    patches = hidden.empty(state.h, weights.kernels) if hidden.kept else None
    steps = (jnp.arange(total), xs, reset)
    (states, saved, _), _ = lax.scan(body, (states, saved, patches), steps, unroll=static.unroll)
    return states, saved


def _stacked(
    static: Static, weights: Weights, state: TLSTMState, xs: Array, reset: Array | None
) -> tuple[TLSTMState, TLSTMState]:
    """The states before each timestep, which a scan writes once per iteration, and the last state."""
    hidden = static.hidden

    def body(
        carry: tuple[TLSTMState, Array | None], inputs: tuple[Array, Array | None]
    ) -> tuple[tuple[TLSTMState, Array | None], TLSTMState]:
        before, patches = carry
        x, is_reset = inputs
        state = reset_rows(is_reset, before, weights.fresh)
        if patches is not None:
            patches = hidden.put(patches, state.h, x)
        a = preactivations(static, weights, state.h, x, patches)
        return (advance(static, weights, state, a), patches), before

    patches = hidden.empty(state.h, weights.kernels) if hidden.kept else None
    (last, _), states = lax.scan(body, (state, patches), (xs, reset), unroll=static.unroll)
    return states, last


def pad_steps(z: Array, num_steps: int) -> Array:
    """``z``, zero padded at the end to ``num_steps`` timesteps."""
    return jnp.pad(z, ((0, num_steps - len(z)), *((0, 0),) * (z.ndim - 1)))


def _filled(count: int, leaf: Any, number: int) -> Array:
    """``count`` arrays like ``leaf``, stacked and filled with a value that XLA cannot fold to a literal."""
    return jnp.full((count, *leaf.shape), lax.optimization_barrier(jnp.asarray(number, leaf.dtype)))


def _get(residuals: Any, t: Array) -> Any:
    """Reads timestep t from saved residuals."""
    return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, t, keepdims=False), residuals)


def _put(residuals: Any, now: Any, t: Array) -> Any:
    """Saves timestep t among the residuals."""
    return jax.tree.map(lambda leaf, new: lax.dynamic_update_index_in_dim(leaf, new, t, 0), residuals, now)


def state_after(ends: Ends, states: Any, final: Any = None) -> Any:
    """The state after ``ends`` timesteps, an int for all rows or an array with one for each.

    Leaves of ``states`` are ``(n, *p, b, m)``; ``final``, if given, is the state that follows the last of them.
    """
    if ends is None:
        return None
    count = len(jax.tree.leaves(states)[0])
    if isinstance(ends, int):
        return final if final is not None and ends == count else jax.tree.map(lambda leaf: leaf[ends], states)
    rows: Any = jax.vmap(lambda leaf, end: leaf[end], in_axes=(-2, 0), out_axes=-2)
    within = jnp.clip(ends, 0, count - 1)
    found = jax.tree.map(lambda leaf: rows(leaf, within), states)
    return found if final is None else select(ends == count, final, found)
