"""One timestep of the tLSTM, equation by equation (section 2 of the paper).

He, Gao, Xiao, Liu, He, Barber, "Wider and Deeper, Cheaper and Faster: Tensorized LSTMs for
Sequence Learning", NIPS 2017, https://arxiv.org/abs/1711.01577.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tlstm_jax.config import TLSTMConfig
from tlstm_jax.convolution import hidden_convolution, memory_convolution
from tlstm_jax.normalization import normalize
from tlstm_jax.typing import Array, Float, Locations, MemoryKernels, Params, Preactivations, PrecisionLike, TLSTMState


def timestep(params: Params, state: TLSTMState, projected: Float[Array, "b m"], cfg: TLSTMConfig) -> TLSTMState:
    """H_t and C_t from H_{t-1}, C_{t-1} and the projected input, locations-major (eqs. 14-19; the tRNN's 5-7)."""
    a = preactivations(params, state, projected, cfg)
    return update(params.get("norm"), state, gates(a, cfg), cfg)


def preactivations(
    params: Params, state: TLSTMState, projected: Float[Array, "b m"], cfg: TLSTMConfig
) -> Preactivations:
    """A_t from H_{t-1} and the projected input (eqs. 5, 14; the tRNN's 6)."""
    kernel, bias = params["hidden"]["kernel"], params["hidden"]["bias"]
    return hidden_convolution(state.h, projected, kernel.reshape(-1, kernel.shape[-1]), bias, cfg)


def gates(a: Preactivations, cfg: TLSTMConfig) -> tuple[Any, ...]:
    """[G, I, F, O, Q] = [tanh(A^g), sigm(A^i), sigm(A^f), sigm(A^o), softmax(A^q)] (eq. 15).

    Q is None for tLSTM-M. The tRNN has no gates: (A,).
    """
    if cfg.cell == "rnn":
        return (a,)
    m = cfg.features
    g, i, f, o, q = jnp.split(a, (m, 2 * m, 3 * m, 4 * m), axis=-1)
    sigm = jax.nn.sigmoid
    return jnp.tanh(g), sigm(i), sigm(f), sigm(o), _softmax(q) if cfg.memory_conv else None


def _softmax(a: Float[Array, "*p b k"]) -> MemoryKernels:
    """Softmax over the few kernel offsets, one by one: a reduction would be a kernel of its own on a GPU."""
    parts = jnp.split(a, a.shape[-1], axis=-1)
    largest = jax.lax.stop_gradient(functools.reduce(jnp.maximum, parts))
    exponentials = [jnp.exp(part - largest) for part in parts]
    total = functools.reduce(jnp.add, exponentials)
    return jnp.concatenate([part / total for part in exponentials], axis=-1)


def update(
    norm_params: Params | None,
    state: TLSTMState,
    gates: tuple[Any, ...],
    cfg: TLSTMConfig,
    convolve: Callable[[Locations, MemoryKernels, TLSTMConfig], Locations] = memory_convolution,
) -> TLSTMState:
    """The new state from the old one and the gates (eqs. 16-19, 31; eqs. 10-13 without Q; the tRNN's 7)."""
    if state.c is None:  # the tRNN has no memory
        (a,) = gates
        return TLSTMState(None, jnp.tanh(norm(norm_params, a, cfg)).astype(state.h.dtype))
    g, i, f, o, q = gates
    c = state.c if q is None else convolve(state.c, q, cfg)
    c = g * i + c * f  # eq. 18; without Q, eq. 12
    h = jnp.tanh(norm(norm_params, c, cfg)) * o  # eqs. 19, 31
    return TLSTMState(c.astype(state.c.dtype), h.astype(state.h.dtype))


def norm(params: Params | None, z: Locations, cfg: TLSTMConfig) -> Locations:
    """N(z) of eq. 31, or z itself without a norm."""
    return z if params is None else normalize(z, params["scale"], params["bias"], cfg)


def project(params: Params, x: Float[Array, "*tb r"], precision: PrecisionLike = None) -> Float[Array, "*tb m"]:
    """x_t W^x + b^x (eq. 5), for any number of timesteps at once."""
    kernel, bias = params["input"]["kernel"], params["input"]["bias"]
    y = jnp.dot(x.astype(kernel.dtype), kernel, precision=precision, preferred_element_type=bias.dtype) + bias
    return y.astype(kernel.dtype)


def output(state: TLSTMState, cfg: TLSTMConfig) -> Float[Array, "b m"]:
    """Output corner of h, (P_1, .., P_{D-1}), eqs. 8 and 23, of a locations-major state."""
    return state.h[(-1,) * len(cfg.tensor_shape)]
