"""The recurrent highway network (RHN), whose state passes D highway layers at each timestep, with coupled gates.

    s = h_;  for d = 1..D:  hd = tanh([d=1] (x mi) Wh + (s mh) Rh_d + bh_d)
                            td = s([d=1] (x mi) Wt + (s mh) Rt_d + bt_d)
                            s  = s + td (hd - s)
    h = s

(Zilly et al., arXiv:1607.03474.) mi, mh and a mask of the outputs are variational dropout: drawn once for a sequence,
and the same for hd and td, as in the authors' TensorFlow code; their Torch code draws separate masks for the two, which
is not offered. Core parameters: 2M(R + M) + 2M + (D - 1)(2M^2 + 2M). With D=10, M=1500, an input table of 205 x 205 and
the head they are 45,994,730, the 46M of the large model.

Initialization: U(+-0.04) for all weights and biases except for those of td, which start at -2 on Penn Treebank and at
-4 on enwik8 and text8, so that the state passes. U(+-0.04) is for 1500 units; ``initial_scale=None`` is sqrt(3 / n) for
n inputs instead, which is about the same there and does not vanish in narrow layers. Recipe on enwik8: dropout of 0.40
for inputs, 0.10 for states, 0.40 for outputs, and 0.10 for the types of symbols (a symbol is dropped or kept in the
whole window); SGD with 0.2, divided by 1.03 in each epoch after the fifth, L2 of 1e-7, clipping at 10, windows of 50,
batches of 128. Where the inputs are one-hot, ``input_dropout`` is that of the types of symbols; where they are
embedded, the dropout of types belongs to the embedding and is not done here. Known results, bits per character: enwik8
1.31 (D=5, 23M), 1.30 (D=10, 21M), 1.27 (46M); text8 1.29 and 1.27.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.rivals.layer import Carry, Cell, Rival, over_time, sharing
from tlstm_jax import biases


def uniform(scale: float | None) -> Callable[..., jax.Array]:
    """An initializer that draws from U(-scale, scale), with sqrt(3 / n) for matrices (n, ..) if ``scale`` is None."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        bound = (3 / shape[0]) ** 0.5 if scale is None else scale
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def highway_bias_init(
    num_layers: int, scale: float | None, transform_bias: float, time_scale: float | None
) -> Callable[..., jax.Array]:
    """An initializer of all biases of hd and td, (D, 2M): U(+-scale), or 0, for hd, and for td as follows.

    A gate of bias -log u for one layer a timestep keeps the state for about u timesteps (chrono initialization,
    arXiv:1804.11188). D layers keep (1 - td)^D of it; that is as much as one layer's u / (u + 1) if
    1 - td = (u / (u + 1))^(1 / D). With a time scale T, td's biases are those for u uniform in 1..2T, drawn for each
    unit and the same in all D layers; else they are ``transform_bias``.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        features = shape[-1] // 2
        half = (num_layers, features)
        hidden = jnp.zeros(half, dtype) if scale is None else uniform(scale)(key, half, dtype)
        if time_scale is None:
            return jnp.concatenate([hidden, jnp.full(half, transform_bias, dtype)], axis=-1)
        _, log_u = biases.chrono_biases(jax.random.fold_in(key, 1), features, time_scale, dtype)
        log_keep = jax.nn.log_sigmoid(log_u) / num_layers
        transform = jnp.log(-jnp.expm1(log_keep)) - log_keep
        return jnp.concatenate([hidden, jnp.broadcast_to(transform, half)], axis=-1)

    return init


class RHNCell(Cell):
    """A timestep: D highway layers.

    Args:
        num_layers: D.
        state_dropout: rate of mh.
        transform_bias: initial bias of td.
        initial_scale: bound of the initial weights.
        time_scale: T of :func:`highway_bias_init`.
        deterministic: whether there is no dropout.
    """

    num_layers: int = 10
    state_dropout: float = 0.0
    transform_bias: float = -4.0
    initial_scale: float | None = 0.04
    time_scale: float | None = None
    deterministic: bool = True

    @nn.compact
    def __call__(self, carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        """Maps h, (*batch, M), and x, (*batch, R), to ``(h, h)``."""
        s, options = carry, {"use_bias": False, "kernel_init": uniform(self.initial_scale)}
        bias_init = highway_bias_init(self.num_layers, self.initial_scale, self.transform_bias, self.time_scale)
        bias = self.param("bias", bias_init, (self.num_layers, 2 * self.features), self.param_dtype)
        mask = nn.Dropout(self.state_dropout, deterministic=self.deterministic)(jnp.ones_like(s))
        for d in range(self.num_layers):
            a = self.dense(2 * self.features, f"hidden_{d}", **options)(s * mask)
            a = a + jnp.broadcast_to(bias[d], a.shape)
            if d == 0:
                a = a + self.dense(2 * self.features, "input", **options)(x)
            h, t = jnp.split(a, 2, axis=-1)
            s = s + nn.sigmoid(t) * (jnp.tanh(h) - s)
        return s, s

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> Carry:
        """Zeros, h."""
        return self.zeros(input_shape, self.features)


class RHN(Rival):
    """Recurrent highway network: one state that passes several highway layers at each timestep.

    The carry is h, (*batch, M).

    Args:
        num_layers: D, the number of highway layers a timestep.
        input_dropout: rate of the components of the inputs that are dropped in a whole sequence.
        state_dropout: the same for the state, in all D layers.
        output_dropout: the same for the outputs.
        transform_bias: initial bias of the gates td, through which the state changes.
        initial_scale: bound of the uniform initial weights, and biases of hd; None for sqrt(3 / n), and 0.
        time_scale: for how many timesteps memory has to last; replaces ``transform_bias`` so that the D gates together
            keep as much of the state as a gate of chrono initialization.

    Example:
        >>> import jax
        >>> layer = RHN(features=8, num_layers=3, state_dropout=0.1)
        >>> xs, key = jax.numpy.ones((2, 10, 5)), jax.random.key(0)
        >>> variables = layer.init(key, xs)
        >>> layer.apply(variables, xs, deterministic=False, rngs={"dropout": key}).shape
        (2, 10, 8)
    """

    num_layers: int = 10
    input_dropout: float = 0.0
    state_dropout: float = 0.0
    output_dropout: float = 0.0
    transform_bias: float = -4.0
    initial_scale: float | None = 0.04
    time_scale: float | None = None

    def forward(
        self, xs: jax.Array, initial_carry: Carry | None, seq_lengths: jax.Array | None, deterministic: bool
    ) -> tuple[Carry, jax.Array]:
        """See :meth:`experiments.rivals.Rival.forward`."""
        cell = sharing(self, RHNCell, deterministic=deterministic, parent=None)

        def whole_sequence(rate: float, values: jax.Array) -> jax.Array:
            return nn.Dropout(rate, broadcast_dims=(-2,), deterministic=deterministic)(values)

        xs = whole_sequence(self.input_dropout, xs)
        rnn = nn.RNN(cell, split_rngs={"params": False, "dropout": False}, name="rnn")  # one mask for all timesteps
        carry, ys = over_time(rnn, xs, initial_carry, seq_lengths)
        ys = whole_sequence(self.output_dropout, ys)
        return carry, ys
