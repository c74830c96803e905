"""One timestep of the tLSTM, equation by equation (section 2 of the paper).

He, Gao, Xiao, Liu, He, Barber, "Wider and Deeper, Cheaper and Faster: Tensorized LSTMs for
Sequence Learning", NIPS 2017, https://arxiv.org/abs/1711.01577.

A timestep is :func:`preactivations`, a matrix product, and then :func:`pointwise`, which is everything else. Both the
reference (:func:`timestep`) and the fused implementation (:mod:`tlstm_jax.fused`) call :func:`pointwise`; the latter
differentiates it with :func:`jax.vjp`. To add a term to the cell, write it there and give it a parameter group in
:mod:`tlstm_jax.parameters`.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tlstm_jax.config import TLSTMConfig
from tlstm_jax.convolution import hidden_convolution, neighbours
from tlstm_jax.layout import to_rank
from tlstm_jax.normalization import Mean, channel_mean, mean_of, standardize
from tlstm_jax.typing import Array, Float, Locations, Params, Preactivations, PrecisionLike, TLSTMState

scope = jax.named_scope
Mix = Callable[[Sequence[Array], Sequence[Locations]], Locations]
"""A function that computes eq. 17 from the memory kernels, ``(*p, b, 1)`` for each offset, and C at each offset."""


class Gates(NamedTuple):
    """Eq. 15: G, I, F, O, each ``(*p, b, m)``, and Q, one ``(*p, b, 1)`` for each kernel offset.

    Q is empty without a memory-cell convolution.
    """

    g: Locations
    i: Locations
    f: Locations
    o: Locations
    q: tuple[Array, ...]


def timestep(params: Params, state: TLSTMState, projected: Float[Array, "b m"], cfg: TLSTMConfig) -> TLSTMState:
    """H_t and C_t from H_{t-1}, C_{t-1} and the projected input, in the internal layout (eqs. 14-19; tRNN: 5-7)."""
    a = preactivations(params, state.h, projected, cfg)
    c, h = pointwise(split(a, cfg), neighbours(state.c, cfg), pointwise_params(params), cfg, mean=mean_of(cfg))
    return jax.tree.map(lambda new, old: new.astype(old.dtype), TLSTMState(c, h), state)


def project(params: Params, x: Float[Array, "*tb r"], precision: PrecisionLike = None) -> Float[Array, "*tb m"]:
    """x_t W^x + b^x (eq. 5), for any number of timesteps at once."""
    with scope("eq5_project_input"):
        kernel, bias = params["input"]["kernel"], params["input"]["bias"]
        y = jnp.dot(x.astype(kernel.dtype), kernel, precision=precision, preferred_element_type=bias.dtype)
        return (y + to_rank(bias, y.ndim)).astype(kernel.dtype)


def preactivations(params: Params, h: Locations, projected: Float[Array, "b m"], cfg: TLSTMConfig) -> Preactivations:
    """A_t from H_{t-1} and the projected input (eqs. 5, 14; the tRNN's 6)."""
    with scope("eq14_hidden_convolution"):
        kernel, bias = params["hidden"]["kernel"], params["hidden"]["bias"]
        return hidden_convolution(h, projected, kernel.reshape(-1, kernel.shape[-1]), bias, cfg)


def split(a: Preactivations, cfg: TLSTMConfig) -> list[Array]:
    """A^g, A^i, A^f, A^o, each ``(*p, b, m)``, and A^q, ``(*p, b, 1)`` for each kernel offset; the tRNN's A alone."""
    m, offsets = cfg.features, cfg.num_offsets if cfg.has_memory_kernel else 0
    sizes = [m] if cfg.cell == "rnn" else [m] * 4 + [1] * offsets
    return jnp.split(a, list(itertools.accumulate(sizes[:-1])), axis=-1)


def gates(a: Sequence[Array]) -> Gates:
    """[G, I, F, O, Q] = [tanh(A^g), sigm(A^i), sigm(A^f), sigm(A^o), softmax(A^q)] (eq. 15)."""
    with scope("eq15_gates"):
        g, i, f, o, *q = a
        sigm = jax.nn.sigmoid
        return Gates(jnp.tanh(g), sigm(i), sigm(f), sigm(o), softmax(q))


@jax.custom_jvp
def softmax(logits: Sequence[Array]) -> tuple[Array, ...]:
    """Softmax over the kernel offsets, given as one array each: on a GPU, reducing an axis would take another kernel.

    As in :func:`jax.nn.softmax`, the derivative is written by hand: the maximum, which only avoids overflow, cancels
    out of it.
    """
    if not logits:
        return ()
    largest = functools.reduce(jnp.maximum, logits)
    exponentials = [jnp.exp(z - largest) for z in logits]
    total = functools.reduce(operator.add, exponentials)
    inverse = 1 / total  # one division, which takes several instructions on a GPU
    return tuple(z * inverse for z in exponentials)


@softmax.defjvp
def _softmax_jvp(primals: Any, tangents: Any) -> Any:
    q, (t,) = softmax(*primals), tangents
    if not q:
        return q, q
    along = functools.reduce(operator.add, map(operator.mul, q, t))
    return q, tuple(weight * (z - along) for weight, z in zip(q, t, strict=True))


def mix(q: Sequence[Array], neighbours: Sequence[Locations]) -> Locations:
    """C^conv_{t-1} (eqs. 16-17): every location mixes its neighbours' memory with its own convex kernel."""
    with scope("eq17_memory_convolution"):
        return functools.reduce(operator.add, map(operator.mul, q, neighbours))


def pointwise(
    a: Sequence[Array],
    neighbours: Sequence[Locations],
    params: Params,
    cfg: TLSTMConfig,
    *,
    mix: Mix = mix,
    mean: Mean = channel_mean,
) -> tuple[Locations | None, Locations]:
    """Everything in a timestep except the matrix product (eqs. 15-21 and 31; the tRNN's 7).

    Nothing is shifted or padded here, and all reductions are over channels, except in ``mean``: for layer
    normalization, the caller passes a mean over all locations.

    Args:
        a: A_t as :func:`split` returns it, in the memory cell's dtype.
        neighbours: C_{t-1} at each kernel offset, ``(*p, b, m)`` each; only C_{t-1} itself without a memory-cell
            convolution, and nothing for the tRNN.
        params: the parameter groups of :func:`pointwise_params`.
        cfg: the model.
        mix: the memory-cell convolution, a function of the memory kernels and ``neighbours``.
        mean: the mean that the norm takes; it keeps the reduced axes with size 1.

    Returns:
        C_t (None for the tRNN) and H_t, in the dtype of ``a``.
    """
    if cfg.cell == "rnn":
        z = norm(params, a[0], cfg, mean)
        with scope("eq7_hidden_state"):
            return None, jnp.tanh(z)
    g, i, f, o, q = gates(a)
    mixed = mix(q, neighbours) if q else neighbours[0]
    with scope("eq18_memory_cell"):
        c = g * i + mixed * f  # eq. 12 without a memory-cell convolution
    z = norm(params, c, cfg, mean)
    with scope("eq19_hidden_state"):
        return c, jnp.tanh(z) * o  # eq. 31 with a norm


def norm(params: Params, z: Locations, cfg: TLSTMConfig, mean: Mean) -> Locations:
    """N(z; gain, bias) of eq. 20, or z itself without a norm."""
    if cfg.norm is None:
        return z
    with scope("eq20_norm"):
        return standardize(z, mean, cfg.norm_epsilon) * params["norm"]["scale"] + params["norm"]["bias"]


def pointwise_params(params: Params) -> Params:
    """The parameter groups that act on each location and channel, reshaped from ``(*p, m)`` to ``(*p, 1, m)``."""
    groups = {name: group for name, group in params.items() if name not in ("input", "hidden", "carry")}
    return jax.tree.map(lambda leaf: jnp.expand_dims(leaf, -2), groups)


def output(h: Locations, cfg: TLSTMConfig) -> Float[Array, "b m"]:
    """H_t at the output corner (P_1, .., P_{D-1}), eqs. 8 and 23."""
    with scope("eq8_output"):
        return h[(-1,) * len(cfg.tensor_shape)]
