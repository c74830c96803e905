"""The backward loop."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from tlstm_jax.fused.forward import Residuals, pad_steps
from tlstm_jax.fused.timestep import (
    Saved,
    Static,
    Weights,
    cast,
    chunks,
    pointwise,
    preactivations,
    scope,
)
from tlstm_jax.scan import reset_rows
from tlstm_jax.typing import Array, Locations, TLSTMState


class Cotangents(NamedTuple):
    """The derivatives of the loss that the backward loop carries.

    Attributes:
        state: with respect to C and H, in the memory cell's dtype.
        weights: with respect to the weights, summed over the timesteps so far.
        patches: not a derivative: the patches of the last chunk, which the next chunk overwrites; None if rebuilt.
    """

    state: TLSTMState
    weights: Weights
    patches: Array | None


# JAX transposes the branches of platform_dependent more than once; under jit, the second time uses the cache.
@functools.partial(jax.jit, static_argnums=0, inline=True)
def backward(static: Static, residuals: Residuals, cotangents: tuple[TLSTMState, TLSTMState | None, Array]) -> Any:
    """The cotangents of the weights, the state and the inputs, from the cotangents of the results."""
    weights, xs, reset, ends, states, saved = residuals
    d_weights = jax.tree.map(jnp.zeros_like, weights)
    weights = cast(weights, states.h.dtype)
    cfg, hidden, batch = static.cfg, static.hidden, xs.shape[1]
    d_last, d_end, d_ys = cotangents
    num_steps, total = len(d_ys), len(xs)
    count, size = chunks(num_steps, static.plan.gather)
    d_last, d_end = jax.tree.map(lambda leaf: leaf.astype(weights.bias.dtype), (d_last, d_end))
    d_ys = pad_steps(d_ys, total)
    transposed = tuple(kernel.T for kernel in weights.kernels)
    arriving = [] if d_end is None else [(static.end if ends is None else ends, d_end)]
    if total > num_steps:
        arriving.append((num_steps, d_last))
        d_last = jax.tree.map(jnp.zeros_like, d_last)

    def add_arriving(d_state: TLSTMState, t: Any) -> TLSTMState:
        """Adds the cotangents of the states after ``ends`` and ``num_steps`` timesteps, in rows where these equal t."""
        for end, more in arriving:
            here = jnp.broadcast_to(jnp.asarray(end) == t, (batch,))[:, None]
            d_state = jax.tree.map(lambda d, m, here=here: d + jnp.where(here, m, jnp.zeros_like(m)), d_state, more)
        return d_state

    def timestep(carry: tuple[TLSTMState, TLSTMState | None], inputs: Any) -> tuple[Any, Any]:
        """One backward timestep: the cotangents of C_{t-1} and H_{t-1} from those of C_t, H_t and y_t."""
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
        """Runs ``size`` timesteps, from the last to the first, and adds their gradient of the weights."""

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
            a = jax.vmap(functools.partial(preactivations, static, weights))(before.h, x, patches)
        else:
            a = timesteps(start, saved)

        def linearize(a: Saved, c: Locations | None) -> Any:
            return jax.vjp(functools.partial(pointwise, static, transposed=True), a, c, weights.pointwise)[1]

        pull = _over_steps(size, linearize)(a, before.c)
        inputs = (start + jnp.arange(size), is_reset, d_y, pull)
        first = (carry.state, carry.weights.fresh)
        (d_state, d_fresh), (d_a, d_x, d_pointwise, d_after) = _scan_back(timestep, first, inputs, size, static.unroll)
        d_kernels = hidden.gradient(patches, x, d_a, weights.bias.dtype)
        if size > 1:  # the sums over timesteps and batch in one reduction, not one in each timestep
            every: Any = jax.vmap(functools.partial(pointwise, static), in_axes=(0, 0, None))
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


def _over_steps(size: int, function: Any) -> Any:
    """Maps ``function``, written for one timestep, over ``size`` timesteps; without vmap if ``size`` is 1."""
    if size > 1:
        return jax.vmap(function)
    return lambda *arrays: jax.tree.map(lambda z: z[None], function(*jax.tree.map(lambda z: z[0], arrays)))


def _scan_back(body: Any, carry: Any, xs: Any, size: int, unroll: int | bool) -> tuple[Any, Any]:
    """A reverse scan; a single timestep runs without a loop."""
    if size > 1:
        return lax.scan(body, carry, xs, reverse=True, unroll=unroll)
    carry, ys = body(carry, jax.tree.map(lambda z: z[0], xs))
    return carry, jax.tree.map(lambda z: z[None], ys)
