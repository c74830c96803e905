"""The forward and the backward loop, and the :func:`jax.custom_vjp` around them."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export, lax

from tlstm_jax import cell, sharding
from tlstm_jax.config import TLSTMConfig
from tlstm_jax.fused.coverage import check_covered
from tlstm_jax.fused.hidden import HiddenConvolution, Kernels
from tlstm_jax.fused.memory import convolve, memory_convolution
from tlstm_jax.fused.reverse_only import reverse_only
from tlstm_jax.normalization import mean_of
from tlstm_jax.options import Fused
from tlstm_jax.scan import Ends, Span, reset_rows, scan_span, select
from tlstm_jax.typing import Array, Bool, Float, Locations, Params, Preactivations, TLSTMState

PATCHES_BYTES = 2**30
"""Off the CPU, the size of the patches from which weight gradients are taken at a time."""

UNROLLS = (3, 4, 5)
"""Off the CPU, the timesteps in one iteration of a loop, unless ``unroll`` says otherwise; see :func:`several`."""

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


class Static(NamedTuple):
    """Everything that is known at compile time; ``end`` is ``ends`` where that is an int."""

    cfg: TLSTMConfig
    plan: Fused
    unroll: int | bool
    end: int | None

    @property
    def hidden(self) -> HiddenConvolution:
        """How H is convolved."""
        return HiddenConvolution(self.cfg, self.plan.patches == "kept")

    def chunks(self, num_steps: int) -> tuple[int, int]:
        """Number and size of the chunks of the backward loop, which together may have a few timesteps more."""
        count = math.ceil(num_steps / min(self.plan.gather or 1, num_steps))
        return count, math.ceil(num_steps / count)


class Residuals(NamedTuple):
    """What the backward loop needs.

    Attributes:
        weights: the parameters.
        xs: projected inputs of all timesteps of the loops, which may be a few more than the span's.
        reset: where the state is reset before the input, or None.
        ends: as in :class:`tlstm_jax.scan.Span`, where that is an array.
        states: the state before every timestep, before any reset; with save="gates" also the last one.
        a: the pre-activations of all timesteps, if saved.
    """

    weights: Weights
    xs: Float[Array, "n b m"]
    reset: Bool[Array, "n b"] | None
    ends: Array | None
    states: TLSTMState
    a: Saved | None


def fused_span(
    params: Params, cfg: TLSTMConfig, fused: Fused, unroll: int | bool | None, fresh: TLSTMState | None
) -> Span[TLSTMState]:
    """A :class:`tlstm_jax.scan.Span` of :func:`tlstm_jax.cell.timestep` with a derivative of its own.

    Args:
        params: kernels not yet in the computation dtype, so that their gradients are summed in float32 at least.
        cfg: the model.
        fused: how to differentiate; what is None follows from the platform.
        unroll: timesteps in one iteration of a scan; None follows from the platform too.
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
            from tlstm_jax.fused import mosaic  # only where it is asked for: it imports Pallas, and needs a later jax

            fits = (fused.gather or gather) >= xs.shape[0]
            plan = fused.or_else("gates" if fits else "states", gather, 16, "built")
            return mosaic.run(params, cfg, plan, mosaic.UNROLL if unroll is None else unroll, end, *arguments, fresh)
        on_cpu = functools.partial(run, fused.or_else("gates", 1, 1, "kept"), 1)
        elsewhere = functools.partial(run, fused.or_else("states", gather, 16, "built"), several(xs.shape[0]))
        if None not in (fused.save, fused.gather, fused.align, fused.patches, unroll):
            return on_cpu(*arguments)
        return lax.platform_dependent(*arguments, cpu=on_cpu, default=elsewhere)

    return span


def several(num_steps: int) -> int:
    """The one of :data:`UNROLLS` for which the fewest timesteps are compiled, and of those the largest.

    Compiled are those of an iteration and those that the iterations leave over.
    """
    if export.is_symbolic_dim(num_steps):
        return 1
    return min(UNROLLS, key=lambda unroll: (unroll + num_steps % unroll, -unroll))


def prepare(params: Params, static: Static, dtype: Any, fresh: TLSTMState | None) -> Weights:
    """The parameters as the loops use them, in the memory cell's dtype: each pass casts the kernels, once."""
    params = jax.tree.map(lambda leaf: leaf.astype(static.cfg.memory_dtype(dtype)), params)
    kernel, bias, align = params["hidden"]["kernel"], params["hidden"]["bias"], static.plan.align or 1
    kernels = static.hidden.kernels(kernel.reshape(-1, kernel.shape[-1]), align)
    fresh = jax.tree.map(lambda leaf: leaf.astype(bias.dtype), fresh)
    return Weights(kernels, jnp.pad(bias, (0, -len(bias) % align)), cell.pointwise_params(params), fresh)


# One timestep


def _preactivations(
    static: Static, weights: Weights, h: Locations, x: Float[Array, "b m"], patches: Array | None = None
) -> Saved:
    """Eqs. 5 and 14, from the patches of ``h`` if they are there already."""
    with scope("eq14_hidden_convolution"):
        patches = static.hidden.build(h, x, weights.kernels) if patches is None else patches
        a = static.hidden.preactivations(weights.kernels, weights.bias, patches, x)
        return _by_gates(a[..., : static.cfg.gate_features], static.cfg)


def _by_gates(a: Preactivations, cfg: TLSTMConfig) -> Saved:
    """Slices A_t, so that each gate is contiguous."""
    return jnp.split(a, [n * cfg.features for n in range(1, 5) if n * cfg.features < a.shape[-1]], axis=-1)


def _pointwise(
    static: Static, a: Saved, c: Locations | None, params: Params, *, transposed: bool = False
) -> tuple[Locations | None, Locations]:
    """:func:`tlstm_jax.cell.pointwise` with the memory-cell convolution of :mod:`tlstm_jax.fused.memory`.

    ``transposed`` where it is differentiated with respect to ``c``, with the transpose written by hand. Elsewhere a
    ``custom_vjp`` would stand in the way of second derivatives, which are forward over reverse.
    """
    cfg = static.cfg

    def mix(q: Any, neighbours: Any) -> Locations:
        if transposed:
            return memory_convolution(cfg, static.hidden.all_pairs, q, *neighbours)
        return convolve(cfg, q, *neighbours)

    gates, q = a[:4], [] if len(a) < 5 else jnp.split(a[4], cfg.num_offsets, axis=-1)
    return cell.pointwise([*gates, *q], [] if c is None else [c], params, cfg, mix=mix, mean=mean_of(cfg))


def _advance(static: Static, weights: Weights, state: TLSTMState, a: Saved) -> TLSTMState:
    """Eqs. 15 to 21."""
    c, h = _pointwise(static, a, state.c, weights.pointwise)
    return TLSTMState(c, h.astype(state.h.dtype))


def _cast(weights: Weights, dtype: Any) -> Weights:
    """The weights with what is multiplied, kernels and H, in the computation dtype."""
    fresh = weights.fresh
    return weights._replace(
        kernels=tuple(kernel.astype(dtype) for kernel in weights.kernels),
        fresh=None if fresh is None else fresh._replace(h=fresh.h.astype(dtype)),
    )


# Forward


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _span(
    static: Static, weights: Weights, state: TLSTMState, xs: Array, reset: Array | None, ends: Array | None
) -> tuple[TLSTMState, TLSTMState | None, Array]:
    weights = _cast(weights, state.h.dtype)

    def step(state: TLSTMState, x: Array) -> tuple[TLSTMState, Array]:
        state = _advance(static, weights, state, _preactivations(static, weights, state.h, x))
        return state, cell.output(state.h, static.cfg)

    end = ends if static.end is None else static.end
    last, end_state, ys = scan_span(step, static.unroll, state, xs, reset, end, weights.fresh)
    # jax.vmap of a custom_vjp requires each result to be batched along the same axis here and in _forward;
    # concatenation always gives the first, a scan the second.
    return last, end_state, jnp.concatenate([ys, ys[:0]])


def _forward(
    static: Static, weights: Weights, state: TLSTMState, xs: Array, reset: Array | None, ends: Array | None
) -> tuple[tuple[TLSTMState, TLSTMState | None, Array], Residuals]:
    num_steps, cast_weights = xs.shape[0], _cast(weights, state.h.dtype)
    if export.is_symbolic_dim(num_steps):
        raise ValueError(
            "the gradient needs a fixed number of timesteps, got a symbolic one (batch dimensions may be symbolic): "
            'export for a fixed T, or pass implementation="reference", or remat=n for chunks of n timesteps.'
        )
    total = math.prod(static.chunks(num_steps))
    xs, reset = jax.tree.map(lambda z: _pad_steps(z, total), (xs, reset))
    if static.plan.save == "gates":
        (states, saved), final = _in_place(static, cast_weights, state, xs, reset), None
    else:
        (states, final), saved = _stacked(static, cast_weights, state, xs, reset), None
    h = jax.vmap(functools.partial(cell.output, cfg=static.cfg))(states.h)[1 : num_steps + 1]
    ys = h if len(h) == num_steps or final is None else jnp.concatenate([h, cell.output(final.h, static.cfg)[None]])
    last = _state_at(num_steps, states, final)
    end = _state_after(static.end if ends is None else ends, states, final)
    return (last, end, ys), Residuals(weights, xs, reset, ends, states, saved)


def _in_place(
    static: Static, weights: Weights, state: TLSTMState, xs: Array, reset: Array | None
) -> tuple[TLSTMState, Saved]:
    """All states, the last one included, and all pre-activations.

    The loop works in the arrays that it leaves behind, so that they are written once and never copied.
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
        a = _preactivations(static, weights, state.h, x, patches)
        # What follows reads A where it is saved, so that it is written only once.
        saved = lax.optimization_barrier(_put(saved, a, t))
        a = _get(saved, t)
        return (_put(states, _advance(static, weights, state, a), t + 1), saved, patches), None

    # The arrays start with different numbers, all overwritten, or XLA would fill one and copy it to the others.
    numbers = itertools.count()
    states = jax.tree.map(lambda leaf: _filled(total + 1, leaf, next(numbers)).at[0].set(leaf), state)
    a = jax.eval_shape(functools.partial(_preactivations, static, weights), state.h, xs[0])
    saved = [_filled(total, leaf, next(numbers)) for leaf in a]
    states, saved, _ = sharding.vary_alike((states, saved, state.h))
    patches = hidden.empty(state.h, weights.kernels) if hidden.kept else None
    steps = (jnp.arange(total), xs, reset)
    (states, saved, _), _ = lax.scan(body, (states, saved, patches), steps, unroll=static.unroll)
    return states, saved


def _stacked(
    static: Static, weights: Weights, state: TLSTMState, xs: Array, reset: Array | None
) -> tuple[TLSTMState, TLSTMState]:
    """The states before each timestep, which a scan writes once in an iteration, and the last one."""
    hidden = static.hidden

    def body(
        carry: tuple[TLSTMState, Array | None], inputs: tuple[Array, Array | None]
    ) -> tuple[tuple[TLSTMState, Array | None], TLSTMState]:
        before, patches = carry
        x, is_reset = inputs
        state = reset_rows(is_reset, before, weights.fresh)
        if patches is not None:
            patches = hidden.put(patches, state.h, x)
        a = _preactivations(static, weights, state.h, x, patches)
        return (_advance(static, weights, state, a), patches), before

    patches = hidden.empty(state.h, weights.kernels) if hidden.kept else None
    (last, _), states = lax.scan(body, (state, patches), (xs, reset), unroll=static.unroll)
    return states, last


def _pad_steps(z: Array, num_steps: int) -> Array:
    """``z`` with zeros for timesteps after its own."""
    return jnp.pad(z, ((0, num_steps - len(z)), *((0, 0),) * (z.ndim - 1)))


def _filled(count: int, leaf: Any, number: int) -> Array:
    """An array like ``leaf`` for each of ``count`` timesteps, with a value that XLA cannot fold to a literal."""
    return jnp.full((count, *leaf.shape), lax.optimization_barrier(jnp.asarray(number, leaf.dtype)))


def _get(residuals: Any, t: Array) -> Any:
    """Reads timestep t from saved residuals."""
    return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, t, keepdims=False), residuals)


def _put(residuals: Any, now: Any, t: Array) -> Any:
    """Saves timestep t among the residuals."""
    return jax.tree.map(lambda leaf, new: lax.dynamic_update_index_in_dim(leaf, new, t, 0), residuals, now)


def _state_at(t: int, states: TLSTMState, final: TLSTMState | None) -> TLSTMState:
    """The state after t timesteps; ``final``, if given, follows ``states``."""
    return final if final is not None and t == len(states.h) else jax.tree.map(lambda leaf: leaf[t], states)


def _state_after(ends: Ends, states: TLSTMState, final: TLSTMState | None) -> TLSTMState | None:
    """The state after ``ends`` timesteps, an int for all rows or an array with one for each."""
    if ends is None or isinstance(ends, int):
        return None if ends is None else _state_at(ends, states, final)
    count = len(states.h)
    rows: Any = jax.vmap(lambda leaf, end: leaf[end], in_axes=(-2, 0), out_axes=-2)
    within = jnp.clip(ends, 0, count - 1)
    found = jax.tree.map(lambda leaf: rows(leaf, within), states)
    return found if final is None else select(ends == count, final, found)


# Backward


class Cotangents(NamedTuple):
    """The derivatives of the loss that the backward loop carries.

    Attributes:
        state: with respect to C and H, in the memory cell's dtype.
        weights: with respect to the weights, summed over the timesteps so far.
        patches: not a derivative: the patches of the last chunk, which the next overwrites; None if built anew.
    """

    state: TLSTMState
    weights: Weights
    patches: Array | None


# JAX transposes the branches of platform_dependent more than once; under jit the second time takes what is cached.
@functools.partial(jax.jit, static_argnums=0, inline=True)
def _backward(static: Static, residuals: Residuals, cotangents: tuple[TLSTMState, TLSTMState | None, Array]) -> Any:
    weights, xs, reset, ends, states, saved = residuals
    d_weights = jax.tree.map(jnp.zeros_like, weights)
    weights = _cast(weights, states.h.dtype)
    cfg, hidden, batch = static.cfg, static.hidden, xs.shape[1]
    d_last, d_end, d_ys = cotangents
    num_steps, total = len(d_ys), len(xs)
    count, size = static.chunks(num_steps)
    d_last, d_end = jax.tree.map(lambda leaf: leaf.astype(weights.bias.dtype), (d_last, d_end))
    d_ys = _pad_steps(d_ys, total)
    transposed = tuple(kernel.T for kernel in weights.kernels)
    arriving = [] if d_end is None else [(static.end if ends is None else ends, d_end)]
    if total > num_steps:
        arriving.append((num_steps, d_last))
        d_last = jax.tree.map(jnp.zeros_like, d_last)

    def add_arriving(d_state: TLSTMState, t: Any) -> TLSTMState:
        """Adds the cotangents of the states after ``ends`` and ``num_steps`` timesteps, in the rows where that is t."""
        for end, more in arriving:
            here = jnp.broadcast_to(jnp.asarray(end) == t, (batch,))[:, None]
            d_state = jax.tree.map(lambda d, m, here=here: d + jnp.where(here, m, jnp.zeros_like(m)), d_state, more)
        return d_state

    def timestep(carry: tuple[TLSTMState, TLSTMState | None], inputs: Any) -> tuple[Any, Any]:
        """From the cotangents of C_t, H_t and y_t to those of C_{t-1} and H_{t-1}."""
        d_state, d_fresh = carry
        t, is_reset, d_y, pull = inputs
        with scope("eq8_output_transpose"):
            d_h = d_state.h.at[(-1,) * len(cfg.tensor_shape)].add(d_y.astype(d_state.h.dtype))
        d_a, d_c, d_pointwise = pull((d_state.c, d_h))
        padding = jnp.zeros((*d_h.shape[:-1], len(weights.bias) - cfg.gate_features), d_h.dtype)
        d_a = jnp.concatenate([*d_a, padding], axis=-1)
        with scope("eq14_hidden_convolution_transpose"):
            d_h_before, d_x = hidden.transpose(transposed, d_a)
        d_before = TLSTMState(d_c, d_h_before)
        if d_fresh is not None and is_reset is not None:
            summed = jax.tree.map(lambda d: jnp.where(is_reset[:, None], d, 0).sum(-2, keepdims=True), d_before)
            d_fresh = jax.tree.map(jnp.add, d_fresh, summed)
        d_before = add_arriving(reset_rows(is_reset, d_before), t)
        return (d_before, d_fresh), (d_a, d_x, d_pointwise, TLSTMState(d_state.c, d_h))

    def chunk(carry: Cotangents, start: Any) -> tuple[Cotangents, Array]:
        """``size`` timesteps, from the last to the first, and the gradient of the weights from them."""

        def timesteps(start: Any, arrays: Any) -> Any:
            return jax.tree.map(lambda z: lax.dynamic_slice_in_dim(z, start, size), arrays)

        before, x, is_reset, d_y = timesteps(start, (states, xs, reset, d_ys))
        if is_reset is not None:
            before = jax.vmap(functools.partial(reset_rows, fresh=weights.fresh))(is_reset, before)
        if carry.patches is None:
            kept, patches = None, jax.vmap(lambda h, x: hidden.build(h, x, weights.kernels))(before.h, x)
        else:
            kept = patches = hidden.put(carry.patches, before.h, x)
        if saved is None:
            a = jax.vmap(functools.partial(_preactivations, static, weights))(before.h, x, patches)
        else:
            a = timesteps(start, saved)

        def linearize(a: Saved, c: Locations | None) -> Any:
            return jax.vjp(functools.partial(_pointwise, static, transposed=True), a, c, weights.pointwise)[1]

        pull = _over_steps(size, linearize)(a, before.c)
        inputs = (start + jnp.arange(size), is_reset, d_y, pull)
        first = (carry.state, carry.weights.fresh)
        (d_state, d_fresh), (d_a, d_x, d_pointwise, d_after) = _scan_back(timestep, first, inputs, size, static.unroll)
        d_kernels = hidden.gradient(patches, x, d_a, weights.bias.dtype)
        if size > 1:  # the sums over timesteps and batch in one reduction, not one in each timestep
            every: Any = jax.vmap(functools.partial(_pointwise, static), in_axes=(0, 0, None))
            _, pull = jax.vjp(functools.partial(every, a, before.c), weights.pointwise)
            (d_pointwise,) = pull((d_after.c, d_after.h))
        else:
            d_pointwise = jax.tree.map(lambda z: z[0], d_pointwise)
        found = Weights(d_kernels, d_a.sum(range(d_a.ndim - 1)), d_pointwise, None)
        d_weights = jax.tree.map(jnp.add, carry.weights._replace(fresh=None), found)._replace(fresh=d_fresh)
        return Cotangents(d_state, d_weights, kept), d_x

    patches = hidden.empty(states.h[:size], weights.kernels) if hidden.kept else None
    carry = Cotangents(add_arriving(d_last, total), d_weights, patches)
    if count == 1:
        carry, d_xs = chunk(carry, 0)
    else:
        carry, d_xs = lax.scan(chunk, carry, size * jnp.arange(count), reverse=True)
        d_xs = d_xs.reshape(total, *xs.shape[1:])
    d_first = TLSTMState(carry.state.c, carry.state.h.astype(states.h.dtype))
    return carry.weights, d_first, d_xs[:num_steps], None, None


_span.defvjp(_forward, _backward)


def _over_steps(size: int, function: Any) -> Any:
    """``function`` of one timestep for ``size`` of them; one does without a further axis."""
    if size > 1:
        return jax.vmap(function)
    return lambda *arrays: jax.tree.map(lambda z: z[None], function(*jax.tree.map(lambda z: z[0], arrays)))


def _scan_back(body: Any, carry: Any, xs: Any, size: int, unroll: int | bool) -> tuple[Any, Any]:
    """A reverse scan; for a single timestep without a loop."""
    if size > 1:
        return lax.scan(body, carry, xs, reverse=True, unroll=unroll)
    carry, ys = body(carry, jax.tree.map(lambda z: z[0], xs))
    return carry, jax.tree.map(lambda z: z[None], ys)
