"""The loops of :mod:`tlstm_jax.fused.loops` around the GPU kernels of :mod:`tlstm_jax.fused.cell_kernel`.

A timestep is one matrix product and one kernel, in the forward and in the backward pass. The equations of the
derivative are those of :mod:`tlstm_jax.fused`; the gradient of W^h, and pre-activations that are recomputed, are
computed for many timesteps at once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from tlstm_jax import cell
from tlstm_jax.config import TLSTMConfig
from tlstm_jax.convolution import patches
from tlstm_jax.fused import cell_kernel
from tlstm_jax.fused.cell_kernel import Arrival, Backward, Common, Forward, Kept
from tlstm_jax.fused.forward import state_after
from tlstm_jax.fused.geometry import Sizes, input_taps, memory_offsets, parts_of_sum, tables
from tlstm_jax.fused.timestep import chunks
from tlstm_jax.layout import to_rank
from tlstm_jax.options import Fused
from tlstm_jax.scan import reset_rows
from tlstm_jax.typing import Array, Bool, Float, Params, TLSTMState


class Inputs(NamedTuple):
    """What the loops' results are differentiated with respect to.

    Attributes:
        params: the parameters.
        fresh: the state after a reset, ``(*p, 1, m)``; None for zeros.
        state: the state before the first timestep.
        xs: projected inputs, ``(n, b, m)``.
    """

    params: Params
    fresh: TLSTMState | None
    state: TLSTMState
    xs: Float[Array, "n b m"]


class Weights(NamedTuple):
    """The parameters as the kernels use them, in float32.

    Attributes:
        kernel: ``(depth, width)``.
        bias: ``(width,)``.
        pointwise: the groups of :func:`tlstm_jax.cell.pointwise_params`, each leaf ``(p, padded)``.
        fresh: the state (c, h) after a reset, ``(p, padded)`` each; None for zeros.
    """

    kernel: Float[Array, "depth width"]
    bias: Float[Array, " width"]
    pointwise: Params
    fresh: tuple[Array, Array] | None


class Static(NamedTuple):
    """Everything that is known at compile time; ``end`` is ``ends`` if that is an int."""

    sizes: Sizes
    gather: int
    keeps: bool
    unroll: int | bool
    end: int | None


def static_of(
    cfg: TLSTMConfig, fused: Fused, unroll: int | bool, until: int | None, state: TLSTMState, xs: Float[Array, "n b m"]
) -> Static:
    """What is known at compile time, for a ``fused`` without None; ``until`` is ``ends`` if that is an int."""
    s = Sizes.of(cfg, xs.shape[1], state.h.dtype.itemsize, fused.align or 1)
    keeps = fused.save == "gates"
    return Static(s, len(xs) if keeps else fused.gather or 1, keeps, unroll, until)


def prepare(s: Sizes, params: Params, fresh: TLSTMState | None) -> Weights:
    """The parameters as the kernels use them, in float32; each pass casts the kernel once."""
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    kernel, features = params["hidden"]["kernel"], s.cfg.features
    kernel = _pad_gates(s, kernel.reshape(s.cfg.num_offsets, features, -1))
    kernel = jnp.pad(kernel, ((0, 0), (0, s.stride - features), (0, 0))).reshape(-1, s.width)
    pointwise = jax.tree.map(lambda leaf: _pad(leaf.reshape(s.locations, -1), s.padded), cell.pointwise_params(params))
    start: Any = None
    if fresh is not None:
        start = jax.tree.map(lambda leaf: _flat(s, leaf)[:, 0].astype(jnp.float32), (fresh.c, fresh.h))
    return Weights(
        jnp.pad(kernel, ((0, s.depth - len(kernel)), (0, 0))), _pad_gates(s, params["hidden"]["bias"]), pointwise, start
    )


def _pad(z: Array, size: int) -> Array:
    """``z`` with zeros after its channels."""
    return jnp.pad(z, [(0, 0)] * (z.ndim - 1) + [(0, size - z.shape[-1])])


def _pad_gates(s: Sizes, z: Float[Array, "*n a"]) -> Float[Array, "*n width"]:
    """``z`` with zeros after the channels of each gate and at the end."""
    *gates, q = jnp.split(z, [n * s.cfg.features for n in range(1, 5)], axis=-1)
    return _pad(jnp.concatenate([*(_pad(gate, s.stride) for gate in gates), q], axis=-1), s.width)


def _flat(s: Sizes, z: Array) -> Float[Array, "p b padded"]:
    return _pad(z.reshape(s.locations, *z.shape[-2:]), s.padded)


def _unflat(s: Sizes, z: Float[Array, "p b padded"]) -> Array:
    return z[..., : s.cfg.features].reshape(*s.cfg.tensor_shape, s.batch, s.cfg.features)


def _arguments(s: Sizes, inputs: Inputs) -> tuple[Weights, tuple[Array, Array], Array]:
    """The parameters, the state and the inputs as the kernels use them."""
    start = jax.tree.map(functools.partial(_flat, s), (inputs.state.c, inputs.state.h))
    return prepare(s, inputs.params, inputs.fresh), start, _pad(inputs.xs, s.padded)


def _patches(s: Sizes, h: Float[Array, "p b padded"], x: Float[Array, "b padded"]) -> Float[Array, "p b depth"]:
    """The patches, which W^h multiplies at each location (eqs. 5, 14)."""
    h = h[..., : s.stride].reshape(*s.cfg.tensor_shape, s.batch, s.stride)
    return patches(h, x[..., : s.stride], s.cfg, s.depth).reshape(s.locations, s.batch, s.depth)


def _product(s: Sizes, z: Array, kernel: Array) -> Array:
    """``z`` times a kernel along the last axis, in float32."""
    flat = z.reshape(-1, z.shape[-1]).astype(kernel.dtype)
    a = jnp.dot(flat, kernel, precision=s.cfg.precision, preferred_element_type=jnp.float32)
    return a.reshape(*z.shape[:-1], kernel.shape[-1])


def _product_in_parts(s: Sizes, z: Float[Array, "p b j"], kernel: Float[Array, "j k"], parts: int) -> Array:
    """:func:`_product` as partial sums over ``parts`` parts of the inner dimension: ``(parts, p, b, k)``."""
    z, kernel = z.reshape(-1, parts, z.shape[-1] // parts), kernel.reshape(parts, -1, kernel.shape[-1])
    a = lax.dot_general(
        z, kernel, (((2,), (1,)), ((1,), (0,))), precision=s.cfg.precision, preferred_element_type=jnp.float32
    )
    return a.reshape(parts, s.locations, s.batch, -1)


def _common(s: Sizes, weights: Weights, reset: Array | None, c: Any, steps: Any) -> Common:
    numbers = jax.tree.map(jnp.asarray, tables(s.cfg))
    return Common(
        weights.bias, weights.pointwise, weights.fresh if reset is not None else None, reset, c, numbers, steps
    )


class Saved(NamedTuple):
    """The residuals of the backward loop besides its arguments.

    Attributes:
        states: C and H before the first and after every timestep, before any reset, ``(n + 1, p, b, padded)`` each.
        kept: None if pre-activations and patches are recomputed, chunk by chunk.
    """

    states: tuple[Array, Array]
    kept: Kept | None


def _gradient(s: Sizes, columns: Float[Array, "n depth"], d_a: Float[Array, "n width"]) -> Array:
    """The gradient of the kernel, a sum over n rows.

    XLA divides a sum this long into parts, and copies both arrays if the number of parts does not divide n.
    """
    parts = parts_of_sum(len(columns), columns.shape[-1], d_a.shape[-1])
    columns, d_a = (z.reshape(parts, -1, z.shape[-1]) for z in (columns, d_a))
    found = lax.dot_general(
        columns, d_a, (((1,), (1,)), ((0,), (0,))), precision=s.cfg.precision, preferred_element_type=jnp.float32
    )
    return found.sum(0)


class Updated(NamedTuple):
    """The arrays that the backward kernel updates in place, as in :class:`Backward`; ``slots`` is its ``d_c``."""

    slots: Any
    steps: Any
    now: Any
    d_a: Any
    d_pointwise: Any
    d_fresh: Any


def _pad_steps(static: Static, xs: Array, reset: Array | None) -> tuple[Array, Array | None]:
    """``xs`` and ``reset`` for as many timesteps as the loops run."""
    num_steps = len(xs)
    total = math.prod(chunks(num_steps, static.gather))
    if reset is not None:  # one more, since the kernel also writes the next timestep's patches
        reset = jnp.pad(reset, ((0, total + 1 - num_steps), (0, 0))).astype(jnp.int32)
    return jnp.pad(xs, ((0, total - num_steps), (0, 0), (0, 0))), reset


def forward(static: Static, inputs: Inputs, reset: Bool[Array, "n b"] | None, ends: Array | None) -> tuple[Any, Saved]:
    """The results of a :class:`tlstm_jax.scan.Span`, and what :func:`backward` needs besides the same arguments."""
    s, num_steps = static.sizes, len(inputs.xs)
    weights, state, xs = _arguments(s, inputs)
    xs, reset = _pad_steps(static, xs, reset)
    total = len(xs)
    kernel = weights.kernel.astype(state[1].dtype)
    first = state[1] if reset is None else _reset(reset[0], state[1], weights, 1)

    columns = _patches(s, first, xs[0])

    def loop(refs: Any) -> None:
        (cs, hs), columns, steps, kept = refs

        def body(_: Any, __: Any) -> Any:
            a = _product_in_parts(s, columns[...], kernel, s.parts[0])
            common = _common(s, weights, reset, cs, steps)
            cell_kernel.forward_step(s, Forward(common, a, xs, hs, columns, kept))
            return (), None

        lax.scan(body, (), None, length=total, unroll=static.unroll)

    def before(leaf: Array, count: int) -> Array:
        """An array for ``count`` timesteps, uninitialized except for the first, which is ``leaf``."""
        return lax.empty((count, *leaf.shape), leaf.dtype).at[0].set(leaf)

    start: Any = tuple(before(leaf, total + 1) for leaf in state)
    kept: Any = None
    if static.keeps:
        a = lax.empty((total, s.locations, s.batch, s.width), jnp.float32)
        kept = Kept(a, before(columns[..., : s.cfg.num_offsets * s.stride], total))
    steps = jnp.zeros((s.locations, s.batch), jnp.int32)
    states, _, _, kept = pl.run_state(loop)((start, columns, steps, kept))
    last, end = state_after(num_steps, states), state_after(static.end if ends is None else ends, states)
    last, end = jax.tree.map(functools.partial(_unflat, s), (last, end))
    ys = states[1][1 : num_steps + 1, -1, :, : s.cfg.features]
    return (TLSTMState(*last), None if end is None else TLSTMState(*end), ys), Saved(states, kept)


def _reset(is_reset: Array, z: Float[Array, "p b padded"], weights: Weights, which: int) -> Array:
    """``z``, which is C (``which`` is 0) or H (1), with the reset rows replaced."""
    fresh = None if weights.fresh is None else weights.fresh[which][:, None].astype(z.dtype)
    return reset_rows(is_reset > 0, z, fresh)


def backward(
    static: Static,
    inputs: Inputs,
    reset: Bool[Array, "n b"] | None,
    ends: Array | None,
    saved: Saved,
    cotangents: tuple[TLSTMState, TLSTMState | None, Float[Array, "n b m"]],
) -> Inputs:
    """The cotangents of the inputs, from those of the results of :func:`forward`."""
    (weights, _, xs), pull = jax.vjp(functools.partial(_arguments, static.sizes), inputs)
    xs, reset = _pad_steps(static, xs, reset)
    (cs, hs), kept = saved
    num_steps, total = len(inputs.xs), len(xs)
    count, size = chunks(num_steps, static.gather)
    s = static.sizes._replace(chunk=size)
    d_last, d_end = (None if d is None else jax.tree.map(functools.partial(_flat, s), tuple(d)) for d in cotangents[:2])
    d_ys = jnp.pad(cotangents[2].astype(jnp.float32), ((0, total - num_steps), (0, 0), (0, s.padded - s.cfg.features)))
    kernel = weights.kernel.astype(hs.dtype)
    transposed = kernel.T
    float32 = functools.partial(jax.tree.map, lambda leaf: leaf.astype(jnp.float32))

    def rows(end: Any) -> Array:
        return jnp.broadcast_to(jnp.asarray(end, jnp.int32), (s.batch,))

    arriving = [] if d_end is None else [Arrival(rows(static.end if ends is None else ends), *float32(d_end))]
    if total > num_steps:
        arriving.append(Arrival(rows(num_steps), *float32(d_last)))
        d_last = jax.tree.map(jnp.zeros_like, d_last)
    arriving = lax.optimization_barrier(arriving)  # otherwise XLA would make zeros again in every iteration
    d_c, d_h = float32(d_last)  # as if a timestep after the last had passed them on, at offset (0, .., 0)
    still = s.cfg.offsets.index((0,) * len(s.cfg.tensor_shape))
    d_columns = _place(d_h[None, ..., : s.stride], (s.parts[1], *d_h.shape[:2], s.depth), (0, 0, 0, still * s.stride))
    offsets = max(1, memory_offsets(s.cfg))
    place = ((total - 1) % 2, 0, 0, still if offsets > 1 else 0, 0)
    slots = _place(d_c.swapaxes(0, 1)[None, :, :, None], (2, s.batch, s.locations, offsets, s.padded), place)

    def per_row(leaf: Array) -> Any:
        return jnp.zeros((s.locations, s.batch, s.padded), leaf.dtype)

    updated = Updated(
        slots.reshape(2, s.batch, -1, s.padded),
        jnp.full((s.locations, s.batch), total - 1, jnp.int32),
        jnp.zeros((s.locations, s.batch, s.width), hs.dtype),
        lax.empty((size, s.locations, s.batch, s.width), jnp.float32),
        jax.tree.map(per_row, weights.pointwise),
        None if reset is None else jax.tree.map(per_row, weights.fresh),
    )

    def again(start: Any) -> tuple[Array, Array]:
        """Recomputes the patches and pre-activations of a chunk."""

        def timesteps(z: Array) -> Array:
            return lax.dynamic_slice_in_dim(z, start, size)

        before = timesteps(hs)
        if reset is not None:
            before = jax.vmap(lambda is_reset, h: _reset(is_reset, h, weights, 1))(timesteps(reset), before)
        columns = jax.vmap(functools.partial(_patches, s))(before, timesteps(xs))
        return columns, _product(s, columns, kernel)

    def chunk(refs: Updated, carry: Any, start: Any) -> Any:
        d_columns, d_kernel, d_bias = carry

        columns, a = again(start) if kept is None else (kept.patches, kept.a)

        def body(d_columns: Array, _: Any) -> tuple[Array, None]:
            common = _common(s, weights, reset, cs, refs.steps)
            arrays = Backward(
                common, d_columns, d_ys, a, arriving, refs.slots, refs.d_a, refs.now, refs.d_pointwise, refs.d_fresh
            )
            cell_kernel.backward_step(s, arrays)
            return _product_in_parts(s, refs.now[...], transposed, s.parts[1]), None

        d_columns, _ = lax.scan(body, d_columns, None, length=size, unroll=static.unroll)
        factor, used = refs.d_a[...], 4 * s.stride + memory_offsets(s.cfg)
        flat = factor.reshape(-1, s.width)
        found = _gradient(s, columns.reshape(-1, columns.shape[-1]), flat.astype(columns.dtype))
        found = jnp.pad(found, ((0, s.depth - len(found)), (0, 0)))
        taps = [
            _product(s, factor[:, place, :, :used], transposed[:used, k * s.stride : (k + 1) * s.stride])
            for k, place in input_taps(s.cfg)
        ]
        return (d_columns, d_kernel + found, d_bias + flat.sum(0)), functools.reduce(jnp.add, taps)

    def loop(refs: Any) -> None:
        updated, totals, d_xs = refs
        carry = jax.tree.map(lambda total: total[...], totals)
        starts = size * jnp.arange(count)
        carry, found = lax.scan(functools.partial(chunk, updated), carry, starts, reverse=True, unroll=count == 1)
        for total, value in zip(totals, carry, strict=True):
            total[...] = value
        d_xs[...] = found

    totals = (d_columns, jnp.zeros_like(weights.kernel), jnp.zeros_like(weights.bias))
    d_xs = jnp.zeros((count, size, s.batch, s.stride), jnp.float32)
    updated, (d_columns, d_kernel, d_bias), d_xs = pl.run_state(loop)((updated, totals, d_xs))
    _, to_first = jax.vjp(lambda h: _patches(s, h, jnp.zeros(xs.shape[1:], jnp.float32)), jnp.zeros_like(d_h))
    (d_h,) = to_first(d_columns.sum(0))
    d_c = _first_memory(s, updated.slots[1])
    fresh = None if weights.fresh is None else jax.tree.map(jnp.zeros_like, weights.fresh)
    if reset is not None:
        is_reset = to_rank(reset[0][:, None] > 0, 3)
        if updated.d_fresh is not None:
            more = [jnp.where(is_reset, d, 0).sum(1) for d in (d_c, d_h)]
            fresh = tuple(total.sum(1) + d for total, d in zip(updated.d_fresh, more, strict=True))
        d_c, d_h = (jnp.where(is_reset, 0, d) for d in (d_c, d_h))
    for arrival in arriving:  # in rows that end after 0 timesteps
        here = to_rank((arrival.ends == 0)[:, None], 3)
        d_c, d_h = (d + jnp.where(here, more, 0) for d, more in zip((d_c, d_h), arrival[1:], strict=True))
    d_pointwise = jax.tree.map(lambda total: total.sum(1), updated.d_pointwise)
    d_xs = _pad(d_xs.reshape(total, s.batch, s.stride), s.padded)[:num_steps].astype(xs.dtype)
    d_state = (d_c.astype(cs.dtype), d_h.astype(hs.dtype))
    (d_inputs,) = pull((Weights(d_kernel, d_bias, d_pointwise, fresh), d_state, d_xs))
    return d_inputs


def _place(z: Array, shape: Sequence[int], place: Sequence[int]) -> Array:
    """Zeros of ``shape`` with ``z`` at ``place``. Padding takes one launch; updating an array of zeros takes two."""
    widths = [(first, size - first - inner) for first, size, inner in zip(place, shape, z.shape, strict=True)]
    return jnp.pad(z, widths)


def _first_memory(s: Sizes, slots: Float[Array, "b pk padded"]) -> Float[Array, "p b padded"]:
    """dC_0, from the terms that each location adds to its neighbours in the first timestep."""
    d_c = jnp.zeros((s.locations, s.batch, s.padded), slots.dtype)
    return d_c.at[tables(s.cfg).neighbour.reshape(-1)].add(slots.swapaxes(0, 1))
