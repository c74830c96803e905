"""The unroll of :mod:`tlstm_jax.unrolling` with its derivative written by hand: fewer passes, a fraction of the memory.

Differentiating the scan of :func:`tlstm_jax.cell.timestep` keeps every intermediate value of every
timestep. Here the forward loop keeps H_{t-1}, C_{t-1} and, if asked, the gates; the backward loop
derives the rest. With d() for the derivative of the loss, from the last timestep to the first:

    H_t = U . O,  U = tanh(Z)         dO = dH_t . U            dZ = dH_t . O . (1 - U^2)                     (19, 31)
    Z = N(C_t) = Ĉ gain + bias        dĈ = dZ gain             dC_t += r (dĈ - mean(dĈ) - Ĉ mean(dĈ . Ĉ))    (20, 21)
                                      dgain += sum dZ . Ĉ      dbias += sum dZ       r = 1 / sqrt(variance + epsilon)
    C_t = G . I + C^conv . F          dG = dC_t . I            dI = dC_t . G                                 (18)
                                      dF = dC_t . C^conv       dC^conv = dC_t . F
    C^conv(p) = sum_k Q_k(p) C(p+s_k) dQ_k(p) = sum_m dC^conv(p) . C(p+s_k)                                  (17)
                                      dC_{t-1}(p+s_k) += Q_k(p) dC^conv(p)
    G = tanh(A^g)                     dA^g = dG . (1 - G^2)                                                  (15)
    I = sigm(A^i), also F and O       dA^i = dI . I . (1 - I)
    Q = softmax(A^q)                  dA^q = Q . (dQ - sum_k Q_k dQ_k)
    A = patches(H^cat) W^h + b^h      dpatches = dA W^h^T      dW^h += patches^T dA    db^h += sum dA        (14)
                                      dH^cat(p+s_k) += dpatches_k(p)

s_k are the kernel's offsets. The tRNN (eqs. 5-7) is H_t = tanh(N(A_t)): the second line, then the last.

Replicating C at its boundary is the same as folding the weights that reach beyond it onto the
boundary, location by location (:func:`fold`). Such a weight is zero then, so that it does not matter what C,
finite, is there: C and dC are moved along the list of all locations (:func:`neighbours`), and what is special at the
boundary happens in the small arrays of Q.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import export, lax

from tlstm_jax import cell
from tlstm_jax.config import TLSTMConfig
from tlstm_jax.convolution import fold, fold_transpose, folded_convolution, inner_products, mix, neighbours
from tlstm_jax.normalization import standardize, standardize_transpose
from tlstm_jax.options import Fused
from tlstm_jax.products import Kernels, Products
from tlstm_jax.reverse_only import reverse_only
from tlstm_jax.scan import Ends, Span, reset_rows, scan_span
from tlstm_jax.typing import Array, Bool, Float, Locations, MemoryKernels, Params, Preactivations, TLSTMState

PATCHES_BYTES = 2**30
"""Where there is no CPU cache to stay inside of, the size of the patches over which weight gradients are gathered."""


Gates = tuple[Any, ...]
"""As :func:`tlstm_jax.cell.gates` returns them: (G, I, F, O, Q), Q maybe None; (A,) for the tRNN."""


class Weights(NamedTuple):
    """The parameters as the loops want them: the products' kernels, (a,) bias, both maybe padded, and the norm's."""

    kernels: Kernels
    bias: Float[Array, " a"]
    norm: Params | None


class Static(NamedTuple):
    """All that is known when the loops are compiled; ``end`` is ``ends`` where that is a number."""

    cfg: TLSTMConfig
    plan: Fused
    unroll: int | bool
    end: int | None

    @property
    def products(self) -> Products:
        """How H is convolved."""
        return Products(self.cfg, self.plan.patches == "kept")


class Residuals(NamedTuple):
    """What the backward loop needs: the span's arguments, all n + 1 states before a reset, and maybe the n gates."""

    weights: Weights
    xs: Float[Array, "n b m"]
    reset: Bool[Array, "n b"] | None
    ends: Array | None
    states: TLSTMState
    gates: Gates | None


class Local(NamedTuple):
    """What of one timestep's derivative depends on that timestep alone.

    Attributes:
        state: H_{t-1} and C_{t-1}, after a reset.
        gates: as :func:`tlstm_jax.cell.gates` returns them.
        folded: :func:`fold` of Q, None without a memory-cell convolution.
        hidden: U = tanh(Z) (H_t itself for the tRNN).
        standardized: Ĉ (Â for the tRNN), None without a norm.
        r: 1 / sqrt(variance + epsilon), None without a norm.
    """

    state: TLSTMState
    gates: Gates
    folded: Array | None
    hidden: Locations
    standardized: Locations | None
    r: Array | None


def fused_span(params: Params, cfg: TLSTMConfig, fused: Fused, unroll: int | bool) -> Span[TLSTMState]:
    """A :class:`tlstm_jax.scan.Span` of :func:`tlstm_jax.cell.timestep` with its derivative written by hand.

    Args:
        params: kernels not yet in the computation dtype, so that their gradients are summed in float32 at least.
        cfg: the model.
        fused: how to differentiate; what is None follows from the platform.
        unroll: timesteps in one iteration of a scan.
    """
    params = reverse_only(params)

    def span(state: TLSTMState, xs: Array, reset: Array | None, ends: Ends) -> Any:
        end, array_ends = (ends, None) if isinstance(ends, int) else (None, ends)
        step_bytes = cfg.num_offsets * state.h.size * state.h.dtype.itemsize

        def run(plan: Fused, *arguments: Any) -> Any:
            static = Static(cfg, plan, unroll, end)
            return _span(static, prepare(params, static, state.h.dtype), *arguments)

        on_cpu = functools.partial(run, fused.or_else("gates", 1, 1, "kept"))
        known = not export.is_symbolic_dim(step_bytes)  # in a program exported for any batch size it is not
        gather = max(1, PATCHES_BYTES // max(1, step_bytes)) if known else 1
        elsewhere = functools.partial(run, fused.or_else("states", gather, 16, "built"))
        if len(xs) == 0:
            return state, None if ends is None else state, xs
        arguments = (*reverse_only((state, xs)), reset, array_ends)
        if None not in (fused.save, fused.gather, fused.align, fused.patches):
            return on_cpu(*arguments)
        return lax.platform_dependent(*arguments, cpu=on_cpu, default=elsewhere)

    return span


def prepare(params: Params, static: Static, dtype: Any) -> Weights:
    """The parameters as the loops want them; everything has the memory cell's dtype: each pass casts kernels, once."""
    params = jax.tree.map(lambda leaf: leaf.astype(static.cfg.memory_dtype(dtype)), params)
    kernel, bias, align = params["hidden"]["kernel"], params["hidden"]["bias"], static.plan.align or 1
    kernels = static.products.kernels(kernel.reshape(-1, kernel.shape[-1]), align)
    return Weights(kernels, jnp.pad(bias, (0, -len(bias) % align)), params.get("norm"))


# Forward


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _span(
    static: Static, weights: Weights, state: TLSTMState, xs: Array, reset: Array | None, ends: Array | None
) -> tuple[TLSTMState, TLSTMState | None, Array]:
    weights = _cast(weights, state.h.dtype)

    def step(state: TLSTMState, x: Array) -> tuple[TLSTMState, Array]:
        state = _update(static, weights, state, _gates(static, weights, state.h, x))
        return state, cell.output(state, static.cfg)

    return scan_span(step, static.unroll, state, xs, reset, ends if static.end is None else static.end)


def _forward(
    static: Static, weights: Weights, state: TLSTMState, xs: Array, reset: Array | None, ends: Array | None
) -> tuple[tuple[TLSTMState, TLSTMState | None, Array], Residuals]:
    num_steps, cast_weights = len(xs), _cast(weights, state.h.dtype)

    def body(
        kept: tuple[TLSTMState, Gates | None, Array | None], inputs: tuple[Array, Array, Array | None]
    ) -> tuple[tuple[TLSTMState, Gates | None, Array | None], None]:
        t, x, is_reset = inputs
        states, gates, columns = kept
        state = reset_rows(is_reset, _get(states, t))
        if columns is not None:
            columns = static.products.put(columns, state.h, x)
        now = _gates(static, cast_weights, state.h, x, columns)
        if gates is not None:  # what follows reads them where they are kept, and they are nowhere else
            gates = lax.optimization_barrier(_put(gates, now, t))
            now = _get(gates, t)
        return (_put(states, _update(static, cast_weights, state, now), t + 1), gates, columns), None

    # The loop works in the very arrays that it leaves behind: what is kept is written once and never copied. They
    # begin with different numbers, all overwritten, or XLA would fill one array and copy it to the others.
    numbers = itertools.count()
    states = jax.tree.map(lambda leaf: _filled(num_steps + 1, leaf, next(numbers)).at[0].set(leaf), state)
    gates = None
    if static.plan.save == "gates":
        now = jax.eval_shape(functools.partial(_gates, static, cast_weights), state.h, xs[0])
        gates = jax.tree.map(lambda leaf: _filled(num_steps, leaf, next(numbers)), now)
    steps = (jnp.arange(num_steps), xs, reset)
    columns = static.products.empty(state.h, cast_weights.kernels) if static.products.kept else None
    (states, gates, _), _ = lax.scan(body, (states, gates, columns), steps, unroll=static.unroll)
    last = jax.tree.map(lambda leaf: leaf[-1], states)
    ys = jax.vmap(functools.partial(cell.output, cfg=static.cfg))(states)[1:]
    end = _state_after(static.end if ends is None else ends, states)
    return (last, end, ys), Residuals(weights, xs, reset, ends, states, gates)


def _filled(count: int, leaf: Any, number: int) -> Array:
    """An array like ``leaf`` for each of so many timesteps, full of a number that XLA cannot fold into a literal."""
    return jnp.full((count, *leaf.shape), lax.optimization_barrier(jnp.asarray(number, leaf.dtype)))


def _get(kept: Any, t: Array) -> Any:
    """That of timestep t, of what is kept of all."""
    return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, t, keepdims=False), kept)


def _put(kept: Any, now: Any, t: Array) -> Any:
    """What is kept of all timesteps, with that of timestep t."""
    return jax.tree.map(lambda leaf, new: lax.dynamic_update_index_in_dim(leaf, new, t, 0), kept, now)


def _cast(weights: Weights, dtype: Any) -> Weights:
    """The kernels in the computation dtype, as the products want them."""
    return weights._replace(kernels=tuple(kernel.astype(dtype) for kernel in weights.kernels))


def _gates(
    static: Static, weights: Weights, h: Locations, x: Float[Array, "b m"], columns: Array | None = None
) -> Gates:
    """Eqs. 5, 14 and 15, from the patches of ``h`` if there are any."""
    columns = static.products.build(h, x, weights.kernels) if columns is None else columns
    a = static.products.preactivations(weights.kernels, weights.bias, columns, x)
    return cell.gates(a[..., : static.cfg.gate_features], static.cfg)


def _update(static: Static, weights: Weights, state: TLSTMState, gates: Gates) -> TLSTMState:
    """Eqs. 16 to 19."""
    return cell.update(weights.norm, state, gates, static.cfg, folded_convolution)


def _state_after(ends: Ends, states: TLSTMState) -> TLSTMState | None:
    """The state after ``ends`` timesteps, for all rows or for each."""
    if ends is None or isinstance(ends, int):
        return None if ends is None else jax.tree.map(lambda leaf: leaf[ends], states)
    rows: Any = jax.vmap(lambda leaf, end: leaf[end], in_axes=(-2, 0), out_axes=-2)
    within = jnp.clip(ends, 0, len(states.h) - 1)
    return jax.tree.map(lambda leaf: rows(leaf, within), states)


# Backward


def _backward(static: Static, residuals: Residuals, cotangents: tuple[TLSTMState, TLSTMState | None, Array]) -> Any:
    weights, xs, reset, ends, states, gates = residuals
    d_weights = jax.tree.map(jnp.zeros_like, weights)
    weights = _cast(weights, states.h.dtype)
    d_last, d_end, d_ys = cotangents
    cfg, products, num_steps, batch = static.cfg, static.products, *xs.shape[:2]
    end: Ends = static.end if ends is None else ends
    transposed = tuple(kernel.T for kernel in weights.kernels)
    folded = None if gates is None else _fold_gates(cfg, gates)  # of all timesteps: small, and better not redone

    def timesteps(start: Any, size: int, arrays: Any) -> Any:
        return jax.tree.map(lambda z: lax.dynamic_slice_in_dim(z, start, size), arrays)

    def add_end(d_state: TLSTMState, t: Any) -> TLSTMState:
        """Adds the derivative of the state after ``ends`` timesteps, where that is the state after t."""
        if end is None:
            return d_state
        here = jnp.broadcast_to(jnp.asarray(end) == t, (batch,))[:, None]
        return jax.tree.map(lambda d, more: d + jnp.where(here, more, jnp.zeros_like(more)), d_state, d_end)

    def chunk(
        carry: tuple[TLSTMState, Weights, Array | None], start: Any, size: int
    ) -> tuple[tuple[TLSTMState, Weights, Array | None], Array]:
        """``size`` timesteps: what is local to each, then from the last to the first, then the weights' gradient."""
        d_state, d_weights, columns = carry
        before, x, is_reset, d_y = timesteps(start, size, (states, xs, reset, d_ys))
        before = before if is_reset is None else jax.vmap(reset_rows)(is_reset, before)
        if columns is None:
            patches = jax.vmap(lambda h, x: products.build(h, x, weights.kernels))(before.h, x)
        else:
            columns = patches = products.put(columns, before.h, x)
        if gates is None:
            now = jax.vmap(functools.partial(_gates, static, weights))(before.h, x, patches)
            now_folded = _fold_gates(cfg, now)
        else:
            now, now_folded = timesteps(start, size, (gates, folded))
        after = timesteps(start + 1, size, states.h if states.c is None else states.c)
        local = jax.vmap(functools.partial(_local, cfg, weights))(before, now, now_folded, after)

        def body(d_state: TLSTMState, inputs: Any) -> tuple[TLSTMState, Any]:
            local, d_y, is_reset, t = inputs
            d_state, derivatives = _timestep_transpose(products, weights, transposed, local, d_state, d_y)
            return add_end(reset_rows(is_reset, d_state), t), derivatives

        inputs = (local, d_y, is_reset, start + jnp.arange(size))
        d_state, (d_a, d_z, d_x) = _scan_back(body, d_state, inputs, size, static.unroll)
        gathered = _gather(products, weights, local, patches, x, d_a, d_z)
        return (d_state, jax.tree.map(jnp.add, d_weights, gathered), columns), d_x

    def empty(size: int) -> Array | None:
        return products.empty(states.h[:size], weights.kernels) if products.kept else None

    d_last, d_end = jax.tree.map(lambda leaf: leaf.astype(weights.bias.dtype), (d_last, d_end))
    size = min(static.plan.gather or 1, num_steps)
    count, rest = divmod(num_steps, size)
    d_last, d_rest = add_end(d_last, num_steps), xs[:0]
    if rest:
        (d_last, d_weights, _), d_rest = chunk((d_last, d_weights, empty(rest)), count * size, rest)
    carry = (d_last, d_weights, empty(size))
    if count == 1:
        carry, d_xs = chunk(carry, 0, size)
    else:
        carry, d_xs = lax.scan(functools.partial(chunk, size=size), carry, size * jnp.arange(count), reverse=True)
        d_xs = d_xs.reshape(count * size, *xs.shape[1:])
    d_first, d_weights, _ = carry
    d_first = TLSTMState(d_first.c, d_first.h.astype(states.h.dtype))
    return d_weights, d_first, jnp.concatenate([d_xs, d_rest]), None, None


_span.defvjp(_forward, _backward)


def _fold_gates(cfg: TLSTMConfig, gates: Gates) -> Array | None:
    """:func:`fold` of many timesteps' Q."""
    return None if gates[-1] is None or cfg.cell == "rnn" else fold(gates[-1], cfg)


def _scan_back(body: Any, carry: Any, xs: Any, size: int, unroll: int | bool) -> tuple[Any, Any]:
    """A reverse scan, without the loop if there is one timestep."""
    if size > 1:
        return lax.scan(body, carry, xs, reverse=True, unroll=unroll)
    carry, ys = body(carry, jax.tree.map(lambda z: z[0], xs))
    return carry, jax.tree.map(lambda z: z[None], ys)


def _local(
    cfg: TLSTMConfig,
    weights: Weights,
    before: TLSTMState,
    gates: Gates,
    folded: Array | None,
    result: Locations,
) -> Local:
    """Eqs. 20, 21 and 31 once more."""
    standardized = r = None
    z = result if cfg.cell == "lstm" else gates[0]
    if weights.norm is not None:
        standardized, r = standardize(z, cfg)
        z = standardized * weights.norm["scale"][..., None, :] + weights.norm["bias"][..., None, :]
    return Local(before, gates, folded, result if cfg.cell == "rnn" else jnp.tanh(z), standardized, r)


def _timestep_transpose(
    products: Products,
    weights: Weights,
    transposed: Kernels,
    local: Local,
    d_state: TLSTMState,
    d_y: Float[Array, "b m"],
) -> tuple[TLSTMState, tuple[Preactivations, Locations, Float[Array, "b m"]]]:
    """From the derivatives of C_t, H_t and y_t to those of C_{t-1} and H_{t-1}; and dA, dZ and dx."""
    cfg = products.cfg
    d_h = d_state.h.at[(-1,) * len(cfg.tensor_shape)].add(d_y.astype(d_state.h.dtype))
    if d_state.c is None:
        d_c = None
        d_z = d_h * (1 - local.hidden**2)
        parts = [_norm_transpose(cfg, weights, local, d_z)]
    else:
        g, i, f, o, q = local.gates
        d_z = d_h * o * (1 - local.hidden**2)
        d_c = d_state.c + _norm_transpose(cfg, weights, local, d_z)
        d_mixed = d_c * f
        mixed, d_q, d_before = _memory_transpose(products, local.folded, cast(Array, local.state.c), d_mixed)
        parts = [d_c * i * (1 - g * g), d_c * g * i * (1 - i)]
        parts += [d_mixed * mixed * (1 - f), d_h * local.hidden * o * (1 - o)]
        if d_q is not None:
            parts.append(q * (d_q - (q * d_q).sum(-1, keepdims=True)))
        d_c = d_before
    padding = jnp.zeros((*d_h.shape[:-1], len(weights.bias) - cfg.gate_features), d_h.dtype)
    d_a = jnp.concatenate([*parts, padding], axis=-1)
    d_h, d_x = products.transpose(transposed, d_a)
    return TLSTMState(d_c, d_h), (d_a, d_z, d_x)


def _norm_transpose(cfg: TLSTMConfig, weights: Weights, local: Local, d_z: Locations) -> Locations:
    """Eqs. 20 and 21: dZ to dC (to dA for the tRNN)."""
    if weights.norm is None or local.standardized is None or local.r is None:
        return d_z
    return standardize_transpose(d_z * weights.norm["scale"][..., None, :], local.standardized, local.r, cfg)


def _memory_transpose(
    products: Products, folded: MemoryKernels | None, c: Locations, d_mixed: Locations
) -> tuple[Locations, MemoryKernels | None, Locations]:
    """Eqs. 16 and 17: C^conv once more, and dQ and dC_{t-1} from its derivative."""
    cfg = products.cfg
    if folded is None:
        return c, None, d_mixed
    shifted = neighbours(c, cfg)
    mixed = mix(folded, shifted)
    if products.all_pairs:
        d_q = inner_products(d_mixed, c, cfg)
    else:
        d_q = fold_transpose([(d_mixed * z).sum(-1, keepdims=True) for z in shifted], cfg)
    d_c = [
        weight[..., k : k + 1] * z
        for k, (weight, z) in enumerate(zip(neighbours(folded, cfg, -1), neighbours(d_mixed, cfg, -1), strict=True))
    ]
    return mixed, d_q, functools.reduce(jnp.add, d_c)


def _gather(
    products: Products, weights: Weights, local: Local, columns: Array, x: Array, d_a: Array, d_z: Array
) -> Weights:
    """The gradient of the weights from a chunk of timesteps: products of all their patches with all their dA."""
    kernels = products.gradient(columns, x, d_a, weights.bias.dtype)
    norm = None
    if weights.norm is not None and local.standardized is not None:
        norm = {"scale": (d_z * local.standardized).sum((0, -2)), "bias": d_z.sum((0, -2))}
    return Weights(kernels, d_a.sum(range(d_a.ndim - 1)), norm)
