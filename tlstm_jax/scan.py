"""A recurrence over time, whatever the cell: output delay, lengths, resets, chunks.

Everything here is time-major with one batch axis. The leaves of a cell's state end in ``(b, m)``, so
that a mask over the batch selects among states of any rank. The tLSTM, however it is differentiated,
and the stacked baseline run through the same code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jax import export, lax

from tlstm_jax.layout import Layout
from tlstm_jax.options import Options
from tlstm_jax.typing import Array, Bool, Float, Integer

State = TypeVar("State")
Ends = Array | int | None


@runtime_checkable
class Span(Protocol[State]):
    """A cell run from ``state`` over n timesteps.

    ``reset`` (n, b) resets the state before an input, to zeros or the learned carry. Returns the last state; the
    state after ``ends`` timesteps, an int for all rows or an array (b,) (undefined for rows whose end lies outside
    0..n, None if ``ends`` is None); and the outputs (n, b, m).
    """

    def __call__(  # noqa: D102
        self, state: State, xs: Float[Array, "n b m"], reset: Bool[Array, "n b"] | None, ends: Ends
    ) -> tuple[State, State | None, Float[Array, "n b m"]]: ...


def run(
    project: Callable[[Array], Array],
    span: Span[State],
    state: State,
    xs: Array,
    seq_lengths: Array | None,
    reset: Array | None,
    options: Options,
    *,
    delay: int = 0,
) -> tuple[State, Array]:
    """Runs a cell over sequences in the user's layout.

    Args:
        project: the input projection, applied to any number of timesteps at once, outside of the recurrence.
        span: the recurrence, from projected inputs.
        state: the state before the first timestep, flattened; leaves end in ``(b, m)``.
        xs: inputs, already checked, as are ``seq_lengths`` and ``reset``; see :func:`tlstm_jax.unroll`.
        seq_lengths: lengths of right-padded rows, or None.
        reset: where the state is reset before the input, or None.
        options: how to run.
        delay: timesteps from an input to its output.

    Returns:
        The state after each row's last input (not after the flush), flattened, and the outputs.
    """
    layout = Layout.of(xs.shape, options.time_major)
    xs = layout.flatten(xs)
    lengths = None if seq_lengths is None else seq_lengths.reshape(-1)
    valid = None if lengths is None else jnp.arange(layout.num_steps)[:, None] < lengths[None]
    reset = None if reset is None else layout.flatten(reset)
    if valid is not None:
        xs = jnp.where(valid[..., None], xs, jnp.zeros_like(xs))  # zeros on padding, as in the flush
        reset = None if reset is None else reset & valid
    if options.reverse:
        xs = reverse_sequences(xs, lengths)
        reset = None if reset is None else reverse_sequences(boundaries_after(reset), lengths)
    delay = delay if options.aligned else 0
    answered = _answered(valid, reset, delay, layout.num_steps)
    ends: Ends = layout.num_steps if delay and lengths is None else lengths
    if delay:  # the flush; its inputs are projected with the others, in one product
        xs = jnp.pad(xs, ((0, delay), (0, 0), (0, 0)))
        reset = None if reset is None else jnp.pad(reset, ((0, delay), (0, 0)))
    run_span = functools.partial(_in_chunks, span, int(options.remat)) if options.remat else span
    last, end, ys = run_span(state, project(xs), reset, ends)
    state, ys = (last if end is None else end), ys[delay:]
    if answered is not None:
        ys = jnp.where(answered[..., None], ys, jnp.zeros_like(ys))
    if options.reverse and options.keep_order:
        ys = reverse_sequences(ys, lengths)
    return state, layout.restore(ys)


def _in_chunks(
    span: Span[State], size: int, state: State, xs: Array, reset: Array | None, ends: Ends
) -> tuple[State, State | None, Array]:
    """A span that keeps the state before every chunk of about ``size`` timesteps and recomputes the rest."""
    num_steps, batch = xs.shape[:2]
    count, symbolic = -(-num_steps // size), export.is_symbolic_dim(num_steps)
    if not symbolic:
        count = max(1, count)
        size = -(-num_steps // count)
    fill = count * size - num_steps  # timesteps added at the end, for chunks of equal size
    if symbolic or fill:
        ends = num_steps if ends is None else ends
        xs, reset = jax.tree.map(lambda z: jnp.pad(z, ((0, fill), *((0, 0),) * (z.ndim - 1))), (xs, reset))
    ends = None if ends is None else jnp.broadcast_to(jnp.asarray(ends), (batch,))

    def body(carry: Any, inputs: tuple[Array, Array, Any]) -> tuple[Any, Array]:
        state, end = carry
        start, xs, reset = inputs
        here = None if ends is None else ends - start
        in_a_scan = jax.checkpoint(span, prevent_cse=False)  # the scan prevents CSE
        state, found, ys = in_a_scan(state, xs, reset, here)
        if end is not None and here is not None and found is not None:
            end = select((here >= 0) & (here <= size), found, end)
        return (state, end), ys

    chunks = jax.tree.map(lambda z: z.reshape(count, size, *z.shape[1:]), (xs, reset))
    starts = size * jnp.arange(count)
    (state, end), ys = lax.scan(body, (state, None if ends is None else state), (starts, *chunks))
    return state, end, ys.reshape(count * size, *ys.shape[2:])[:num_steps]


def scan_span(
    step: Callable[[State, Array], tuple[State, Array]],
    unroll: int | bool | None,
    state: State,
    xs: Array,
    reset: Array | None,
    ends: Ends,
    fresh: State | None = None,
) -> tuple[State, State | None, Array]:
    """A :class:`Span` as a plain scan, from one timestep of the cell, ``step(state, x) -> (state, y)``.

    ``unroll=None`` is 1.
    """

    def body(carry: Any, inputs: tuple[Array, Array, Any]) -> tuple[Any, Array]:
        state, end = carry
        t, x, is_reset = inputs
        if end is not None:  # rows end at different timesteps while the scan goes on
            end = select(jnp.asarray(ends) == t, state, end)
        state, y = step(reset_rows(is_reset, state, fresh), x)
        return (state, end), y

    n = xs.shape[0]
    carry: Any = (state, None if ends is None else state)
    (last, end), ys = lax.scan(body, carry, (jnp.arange(n), xs, reset), unroll=1 if unroll is None else unroll)
    return last, None if end is None else select(jnp.asarray(ends) == n, last, end), ys


def _answered(valid: Array | None, reset: Array | None, delay: int, num_steps: int) -> Array | None:
    """A mask of the aligned outputs that answer an input: no padding, and no reset before the answer arrived."""
    answered = valid
    if reset is not None and delay:
        resets = jnp.cumsum(jnp.pad(reset, ((1, 0), (0, 0))), axis=0)  # resets[t]: resets at inputs 0..t-1
        until = jnp.minimum(jnp.arange(num_steps) + delay + 1, num_steps)
        arrived = resets[until] == resets[1:]  # no reset at inputs t+1 .. t+delay
        answered = arrived if answered is None else answered & arrived
    return answered


def select(mask: Bool[Array, "*b"], new: State, old: State) -> State:
    """Rows of ``new`` where ``mask``, rows of ``old`` elsewhere, in every leaf ``(.., b, m)``; a scalar is all rows."""
    return jax.tree.map(lambda n, o: jnp.where(mask[..., None], n, o), new, old)


def reset_rows(is_reset: Bool[Array, " b"] | None, state: State, fresh: State | None = None) -> State:
    """``state`` with reset rows replaced by zeros or by ``fresh``, whose leaves broadcast against the state's."""
    if is_reset is None:
        return state
    return select(is_reset, jax.tree.map(jnp.zeros_like, state) if fresh is None else fresh, state)


def reverse_sequences(xs: Array, lengths: Integer[Array, " b"] | None) -> Array:
    """Reverses ``(t, b, ..)`` in time; with lengths, each row within its length, so that padding stays at the end."""
    if lengths is None:
        return xs[::-1]
    steps = jnp.arange(xs.shape[0])[:, None]
    source = jnp.where(steps < lengths[None], lengths[None] - 1 - steps, steps)
    return jnp.take_along_axis(xs, source.reshape(*source.shape, *(1,) * (xs.ndim - 2)), axis=0)


def boundaries_after(reset: Bool[Array, "t b"]) -> Bool[Array, "t b"]:
    """Moves each reset from input t to input t - 1, where a reversed run crosses the boundary between the two."""
    return jnp.concatenate([reset[1:], jnp.zeros_like(reset[:1])])
