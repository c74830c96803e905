"""The derivative of the loops of :mod:`tlstm_jax.fused.mosaic`, and what happens where JAX cannot transform kernels.

Where JAX cannot transform the kernels (:mod:`tlstm_jax.fused.fallback`), XLA's loops run instead; if the kernels were
asked for by name, an error says so. Each of the two passes may be transformed without the other, as in
:func:`jax.jacrev`. What the forward pass saves is therefore the same whichever loops run: the states, as the kernels
lay them out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tlstm_jax.fused import mosaic, timestep, xla
from tlstm_jax.fused.backward import backward
from tlstm_jax.fused.fallback import with_fallback
from tlstm_jax.fused.forward import Residuals, forward, pad_steps
from tlstm_jax.fused.geometry import Sizes
from tlstm_jax.fused.mosaic import Inputs, Saved
from tlstm_jax.typing import Array, TLSTMState

STATES_BYTES = 2**30
"""By default XLA's loops, which keep one state only, compute results without derivatives if all states are larger."""


class Static(NamedTuple):
    """Everything that is known at compile time.

    Attributes:
        kernels: for the loops with kernels.
        xla: for XLA's loops, where JAX cannot transform the kernels; None raises an error there.
    """

    kernels: mosaic.Static
    xla: timestep.Static | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def span(static: Static, inputs: Inputs, reset: Array | None, ends: Array | None) -> Any:
    """The results of a :class:`tlstm_jax.scan.Span` from ``inputs.state`` over ``inputs.xs``."""

    def by_kernels(*arguments: Any) -> Any:
        return mosaic.forward(static.kernels._replace(keeps=False), *arguments)[0]

    def by_xla(plan: timestep.Static, inputs: Inputs, *arguments: Any) -> Any:
        return xla.span(plan, _weights(plan, inputs), inputs.state, inputs.xs, *arguments)

    if static.xla is not None and _states_bytes(static.kernels.sizes, len(inputs.xs)) > STATES_BYTES:
        return by_xla(static.xla, inputs, reset, ends)
    return _choose(static, by_kernels, by_xla)(inputs, reset, ends)


def _states_bytes(s: Sizes, num_steps: int) -> int:
    """The size of C and H of all timesteps, in float32, which the kernels write even if nothing is differentiated."""
    return 2 * 4 * num_steps * s.locations * s.batch * s.padded


def _forward(static: Static, inputs: Inputs, reset: Array | None, ends: Array | None) -> Any:
    def by_kernels(*arguments: Any) -> tuple[Any, Saved]:
        return mosaic.forward(static.kernels, *arguments)

    def by_xla(plan: timestep.Static, inputs: Inputs, *arguments: Any) -> tuple[Any, Saved]:
        found, residuals = forward(plan, _weights(plan, inputs), inputs.state, inputs.xs, *arguments)
        return found, _save(jax.eval_shape(by_kernels, inputs, *arguments)[1], residuals.states)

    found, saved = _choose(static, by_kernels, by_xla)(inputs, reset, ends)
    return found, (inputs, reset, ends, saved)


# JAX transposes the branches of platform_dependent more than once; under jit, the second time uses the cache.
@functools.partial(jax.jit, static_argnums=0, inline=True)
def _backward(static: Static, residuals: Any, cotangents: Any) -> tuple[Inputs, None, None]:
    def by_kernels(*arguments: Any) -> Inputs:
        return mosaic.backward(static.kernels, *arguments)

    def by_xla(plan: timestep.Static, inputs: Inputs, reset: Any, ends: Any, saved: Saved, cotangents: Any) -> Inputs:
        weights, pull = jax.vjp(functools.partial(_weights, plan), inputs)
        states = _states(inputs.state, saved)
        xs, reset = jax.tree.map(lambda z: pad_steps(z, len(states.h)), (inputs.xs, reset))
        d_weights, d_state, d_xs, *_ = backward(plan, Residuals(weights, xs, reset, ends, states, None), cotangents)
        (d_inputs,) = pull(d_weights)
        return d_inputs._replace(state=d_state, xs=d_xs)

    return _choose(static, by_kernels, by_xla)(*residuals, cotangents), None, None


span.defvjp(_forward, _backward)


def _choose(static: Static, by_kernels: Callable[..., Any], by_xla: Callable[..., Any]) -> Callable[..., Any]:
    """``by_kernels``; where JAX cannot transform the kernels, ``by_xla`` with ``static.xla``, or an error."""

    def fallback(what: str) -> Callable[..., Any]:
        if static.xla is None:
            raise ValueError(f'kernel="mosaic" is not for {what}: use kernel="xla" or None.')
        return functools.partial(by_xla, static.xla)

    return with_fallback(by_kernels, fallback)


def _weights(static: timestep.Static, inputs: Inputs) -> timestep.Weights:
    return timestep.prepare(inputs.params, static, inputs.state.h.dtype, inputs.fresh)


def _save(like: Saved, states: TLSTMState) -> Saved:
    """The states before each timestep, as the kernels lay them out, in arrays of the shapes ``like``.

    The rest is a number that would be noticed: whatever keeps the kernels from the forward pass also keeps them from
    the backward pass, so that nothing reads it.
    """

    def flat(leaf: Any, like: Any) -> Array:
        leaf = leaf.reshape(len(leaf), *like.shape[1:-1], leaf.shape[-1])
        return jnp.pad(leaf, [(0, size - inner) for size, inner in zip(like.shape, leaf.shape, strict=True)])

    kept = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 1e38, leaf.dtype), like.kept)
    return Saved((flat(states.c, like.states[0]), flat(states.h, like.states[1])), kept)


def _states(state: TLSTMState, saved: Saved) -> TLSTMState:
    """The states before each timestep, as XLA's loops lay them out; ``state`` is one of them."""

    def nested(leaf: Array, like: Any) -> Array:
        return leaf[:-1, ..., : like.shape[-1]].reshape(len(leaf) - 1, *like.shape)

    return TLSTMState(*map(nested, saved.states, state))
