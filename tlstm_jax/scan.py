"""A recurrence over time, whatever the cell: output delay, lengths, resets, chunks.

Everything here is time-major with one batch axis. A cell is a function ``step(state, x) -> (state,
y)`` whose state leaves end in ``(b, m)``, so that a mask over the batch selects among states of any
rank. The tLSTM and the stacked baseline run through the same code.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from tlstm_jax.typing import Array, Bool, Float, Integer

State = TypeVar("State")


class Options(NamedTuple):
    """How to run over time; hashable, a static argument. :func:`tlstm_jax.unroll` says what each means."""

    time_major: bool = False
    aligned: bool = True
    reverse: bool = False
    keep_order: bool = False
    unroll: int | bool = 1
    remat: int | bool = False


class Layout(NamedTuple):
    """Between the user's ``(*b, t, ..)``, or time-major ``(t, *b, ..)``, and ``(t, b, ..)``."""

    batch_shape: tuple[int, ...]
    num_steps: int
    time_major: bool

    @classmethod
    def of(cls, shape: tuple[int, ...], time_major: bool) -> Layout:
        """The layout of inputs of this shape, the last axis being features."""
        if time_major:
            return cls(shape[1:-1], shape[0], time_major)
        return cls(shape[:-2], shape[-2], time_major)

    @property
    def time_and_batch(self) -> tuple[int, ...]:
        """The axes before the features."""
        return (self.num_steps, *self.batch_shape) if self.time_major else (*self.batch_shape, self.num_steps)

    def flatten(self, x: Array) -> Array:
        """To ``(t, b, ..)``."""
        if not self.time_major:
            x = jnp.moveaxis(x, len(self.batch_shape), 0)
        return x.reshape(self.num_steps, math.prod(self.batch_shape), *x.shape[len(self.batch_shape) + 1 :])

    def restore(self, x: Array) -> Array:
        """From ``(t, b, ..)``."""
        x = x.reshape(self.num_steps, *self.batch_shape, *x.shape[2:])
        return x if self.time_major else jnp.moveaxis(x, 0, len(self.batch_shape))


def run(
    project: Callable[[Array], Array],
    step: Callable[[State, Array], tuple[State, Array]],
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
        project: what the cell does to its inputs before anything recurs, for any number of timesteps at once.
        step: one timestep of the cell, from projected inputs.
        state: the state before the first timestep, flattened; leaves end in ``(b, m)``.
        xs: inputs, checked, as are the next two, which :func:`tlstm_jax.unroll` explains.
        seq_lengths: lengths of right-padded rows, or None.
        reset: where the state is zero before the input, or None.
        options: how to run.
        delay: timesteps from an input to its output.

    Returns:
        The state after each row's last input (not after the flush), flattened, and the outputs.
    """
    layout = Layout.of(xs.shape, options.time_major)
    xs = layout.flatten(xs)
    lengths = None if seq_lengths is None else seq_lengths.reshape(-1)
    valid = None if lengths is None else jnp.arange(layout.num_steps)[:, None] < lengths
    reset = None if reset is None else layout.flatten(reset)
    if valid is not None:
        xs = jnp.where(valid[..., None], xs, jnp.zeros_like(xs))  # padding and flush are fed the same: zeros
        reset = None if reset is None else reset & valid
    if options.reverse:
        xs = reverse_sequences(xs, lengths)
        reset = None if reset is None else reverse_sequences(boundaries_after(reset), lengths)
    state, ys = run_forward(
        step,
        state,
        project(xs),
        project(jnp.zeros_like(xs, shape=xs.shape[1:])),
        valid=valid,
        reset=reset,
        delay=delay if options.aligned else 0,
        unroll=options.unroll,
        remat=options.remat,
    )
    if options.reverse and options.keep_order:
        ys = reverse_sequences(ys, lengths)
    return state, layout.restore(ys)


def run_forward(
    step: Callable[[State, Array], tuple[State, Array]],
    state: State,
    xs: Float[Array, "t b m"],
    flush: Float[Array, "b m"],
    *,
    valid: Bool[Array, "t b"] | None,
    reset: Bool[Array, "t b"] | None,
    delay: int,
    unroll: int | bool,
    remat: int | bool,
) -> tuple[State, Float[Array, "t b m"]]:
    """The recurrence itself: T timesteps, ``delay`` more that are fed ``flush``, outputs shifted to their inputs."""

    def body(carry: tuple[Any, Any], inputs: tuple[Array, Any, Any]) -> tuple[Any, Array]:
        state, kept = carry
        x, is_valid, is_reset = inputs
        if is_reset is not None:
            state = _select(is_reset, jax.tree.map(jnp.zeros_like, state), state)
        state, y = step(state, x)
        if is_valid is not None:
            kept = _select(is_valid, state, kept)
        return (state, kept), y

    # Rows end at different timesteps while the scan goes on: `kept` holds the state after the last input of each.
    carry = (state, state if valid is not None else None)
    num_steps = xs.shape[0]
    (last, kept), ys = _scan(body, carry, (xs, valid, reset), num_steps, unroll, remat)
    if delay:
        _, tail = _scan(lambda state, _: step(state, flush), last, None, delay, unroll, remat)
        ys = jnp.concatenate([ys, tail])[delay:]
    answered = _answered(valid, reset, delay, num_steps)
    if answered is not None:
        ys = jnp.where(answered[..., None], ys, jnp.zeros_like(ys))
    return (last if valid is None else kept), ys


def _answered(valid: Array | None, reset: Array | None, delay: int, num_steps: int) -> Array | None:
    """Where an aligned output answers an input: not on padding, and not if a reset caught the answer inside."""
    answered = valid
    if reset is not None and delay:
        resets = jnp.cumsum(jnp.pad(reset, ((1, 0), (0, 0))), axis=0)  # resets[t]: how many before input t
        until = jnp.minimum(jnp.arange(num_steps) + delay + 1, num_steps)
        arrived = resets[until] == resets[1:]  # no reset at inputs t+1 .. t+delay
        answered = arrived if answered is None else answered & arrived
    return answered


def _select(mask: Bool[Array, " b"], new: State, old: State) -> State:
    return jax.tree.map(lambda n, o: jnp.where(mask[:, None], n, o), new, old)


def _scan(
    body: Callable[[Any, Any], tuple[Any, Array]],
    carry: Any,
    xs: Any,
    length: int,
    unroll: int | bool,
    remat: int | bool,
) -> tuple[Any, Array]:
    """``lax.scan`` that, with ``remat``, keeps the carry of every chunk and recomputes the rest."""
    if not remat:
        return lax.scan(body, carry, xs, length, unroll=unroll)
    chunk = min(1 if remat is True else remat, max(length, 1))
    whole = length - length % chunk

    def scan_chunk(carry: Any, xs: Any, size: int = chunk) -> tuple[Any, Array]:
        return lax.scan(body, carry, xs, size, unroll=unroll)

    chunks = jax.tree.map(lambda x: x[:whole].reshape(whole // chunk, chunk, *x.shape[1:]), xs)
    in_a_scan = jax.checkpoint(scan_chunk, prevent_cse=False)  # which keeps the two computations apart by itself
    carry, ys = lax.scan(in_a_scan, carry, chunks, whole // chunk)
    ys = ys.reshape(whole, *ys.shape[2:])
    if whole < length:
        rest = jax.checkpoint(functools.partial(scan_chunk, size=length - whole))
        carry, tail = rest(carry, jax.tree.map(lambda x: x[whole:], xs))
        ys = jnp.concatenate([ys, tail])
    return carry, ys


def reverse_sequences(xs: Array, lengths: Integer[Array, " b"] | None) -> Array:
    """Reverses ``(t, b, ..)`` in time; with lengths, each row within its own, the padding staying at the end."""
    if lengths is None:
        return xs[::-1]
    steps = jnp.arange(xs.shape[0])[:, None]
    source = jnp.where(steps < lengths, lengths - 1 - steps, steps)
    return jnp.take_along_axis(xs, source.reshape(*source.shape, *(1,) * (xs.ndim - 2)), axis=0)


def boundaries_after(reset: Bool[Array, "t b"]) -> Bool[Array, "t b"]:
    """A boundary before input t is one after input t - 1: where a backward pass has to reset."""
    return jnp.concatenate([reset[1:], jnp.zeros_like(reset[:1])])
