"""The hierarchical multiscale LSTM: layers that find boundaries, and change only where the layer below found one.

Layers 1..L, h^0 = x, z^0 = 1. z_ is the layer's own boundary at t-1, zb the boundary of the layer below at t:

    [i,f,g,o,zt] = h^l_ U + z_.(h^{l+1}_ V) + zb.(h^{l-1} W) + b;   sigmoids of i, f, o, tanh of g
    c = z_ (i.g) + (1-z_)(1-zb) c_ + (1-z_) zb (f.c_ + i.g)        FLUSH, COPY, UPDATE
    h = o.tanh(c), but h_ in the case of COPY
    ztilde = clip((a zt + 1)/2, 0, 1);   z = [ztilde > 0.5]

(Chung, Ahn and Bengio, Hierarchical Multiscale Recurrent Neural Networks, arXiv:1609.01704.) The last layer has neither
an input from above nor a detector: z = 0. The gradient of z with respect to ztilde is 1 (the straight-through
estimate), while the slope of the hard sigmoid is kept; the three cases are weighted with z as above, since a selection
would let no gradient into z. With one layer the model is an LSTM.

A prediction reads all layers, through the output module

    g^l = s([h^1..h^L] w^l), a number;   e = relu(sum_l g^l h^l We^l)

The paper counts it with the head: e is 2048 wide where M = 1024. Here e is the layer's output, with M features, because
h^L alone changes only at boundaries and does not show what happens between them. Its L^2 M + L M^2 parameters are
outside the core, as an embedding and a head are.

Core parameters, d = 1 below L and else 0:

    sum_l (4M + d_l)(in_l + M + [l<L] M) + (4M + d_l), and 10ML with layer normalization

With L = 3, M = 1024, an embedding of 128 and e of 2048 for 205 symbols there are 36.65M in all (published: 35M).

The slope a is 1 for text8 and enwik8, and min(5, 1 + 0.04 epoch) for Penn Treebank; parameters do not depend on it, so
that a layer can be made anew with another slope in each epoch. The recipe: Adam with a learning rate of 1e-3 (Penn
Treebank 2e-3), divided by 50 when the validation stalls, gradients clipped at 1, batches of 128 (64), 100 timesteps,
the state carried. enwik8 in bits per character: 1.34, with layer normalization 1.32 (an earlier version of the paper:
1.33), an LSTM with layer normalization and the same head 1.39.

UNVERIFIED: the place of the layer normalization. Here it normalizes each gate's pre-activation, not the detector's, and
c where h reads it, with 1e-3 added to the variances. The initial values are not stated either: here Glorot's for the
matrices that read other layers, orthogonal for U, and biases of 0, except for the forget gates', which are 1.
"""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.rivals.initializers import gate_bias_init, orthogonal, per_gate
from experiments.rivals.layer import Carry, Cell, Rival, gate_norm, over_time, sharing


def boundary(zt: jax.Array, slope: float) -> jax.Array:
    """1 where the hard sigmoid of zt is above 1/2, else 0; with the gradient of the hard sigmoid."""
    ztilde = jnp.clip((slope * zt + 1) / 2, 0, 1)
    return (ztilde > 0.5).astype(zt.dtype) + (ztilde - jax.lax.stop_gradient(ztilde))


class HMLSTMCell(Cell):
    """A timestep of all layers.

    Args:
        num_layers: L.
        layer_norm: whether the gates' pre-activations and the memory cells are normalized.
        slope: the slope of the detectors.
        forget_bias: initial bias of the forget gates.
        time_scale: T of :func:`experiments.rivals.initializers.gate_bias_init`.
    """

    num_layers: int = 3
    layer_norm: bool = True
    slope: float = 1.0
    forget_bias: float = 1.0
    time_scale: float | None = None

    @nn.compact
    def __call__(self, carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        """Maps ``((c, h, z), ..)``, (*batch, M or 1), and x, (*batch, R), to the carry and [h^1..h^L], (*batch, LM)."""
        new, below, below_z = [], x, jnp.ones((*x.shape[:-1], 1), self.param_dtype)
        for index in range(self.num_layers):
            above = carry[index + 1][1] if index + 1 < self.num_layers else None
            state = self.layer(index, carry[index], above, below, below_z)
            _, below, below_z = state
            new.append(state)
        return tuple(new), jnp.concatenate([h for _, h, _ in new], axis=-1)

    @nn.nowrap
    def layer(
        self, index: int, carry: Carry, above: jax.Array | None, below: jax.Array, below_z: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The new c, h, z of a layer. above: h^{l+1} of the timestep before, None in the last layer."""
        c, h, z = carry
        m, detects = self.features, above is not None
        bias = gate_bias_init("ifgo", self.forget_bias, self.time_scale)
        before = nn.initializers.zeros if self.layer_norm else bias
        glorot, square = nn.initializers.glorot_uniform(), orthogonal()

        def product(name: str, init: Any, **options: Any) -> Any:
            return self.dense(4 * m + detects, f"{name}_{index}", kernel_init=gates_and_detector(init, m), **options)

        a = product("hidden", square, bias_init=padded(before, 4 * m))(h)
        a = a + below_z * product("below", glorot, use_bias=False)(below)
        if above is not None:
            a = a + z * product("above", glorot, use_bias=False)(above)
        gates = a[..., : 4 * m].reshape(*a.shape[:-1], 4, m)
        if self.layer_norm:
            gates = gate_norm(f"gate_norm_{index}", bias, self.param_dtype)(gates)
        i, f, g, o = jnp.unstack(gates, axis=-2)
        i, f, g, o = nn.sigmoid(i), nn.sigmoid(f), jnp.tanh(g), nn.sigmoid(o)
        copy = (1 - z) * (1 - below_z)
        c = z * (i * g) + copy * c + (1 - z) * below_z * (f * c + i * g)
        shown = c
        if self.layer_norm:
            options = {"param_dtype": self.param_dtype, "use_fast_variance": False}
            shown = nn.LayerNorm(1e-3, name=f"memory_norm_{index}", **options)(c)
        h = copy * h + (1 - copy) * (o * jnp.tanh(shown))
        return c, h, boundary(a[..., 4 * m :], self.slope) if detects else jnp.zeros_like(z)

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> Carry:
        """Zeros, (c, h, z) for each layer."""
        zeros = self.zeros(input_shape, self.features)
        return tuple((zeros, zeros, self.zeros(input_shape, 1)) for _ in range(self.num_layers))


def gates_and_detector(init: Any, features: int) -> Any:
    """Initializes a matrix (n, 4M) or (n, 4M + 1): each gate by itself, and the detector."""

    def blocks(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        gates = per_gate(init, 4)(key, (shape[0], 4 * features), dtype)
        rest = (shape[0], shape[1] - 4 * features)
        return jnp.concatenate([gates, init(jax.random.fold_in(key, 4), rest, dtype)], 1) if rest[1] else gates

    return blocks


def padded(init: Any, size: int) -> Any:
    """Initializes the first ``size`` numbers of a vector, and the rest with 0."""

    def vector(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jnp.concatenate([init(key, (size,), dtype), jnp.zeros((shape[0] - size,), dtype)])

    return vector


class HMLSTM(Rival):
    """Hierarchical multiscale LSTM: layers that update only where the layer below has found a boundary.

    Args:
        num_layers: L, 3 in the paper.
        layer_norm: whether the gates' pre-activations and the memory cells are normalized.
        gated_output: whether the outputs are the output module's, which reads all layers, instead of the last layer's.
        slope: the slope a of the detectors, at least 1.
        forget_bias: initial bias of the forget gates.
        time_scale: for how many timesteps memory has to last; replaces ``forget_bias``, in all layers.

    Example:
        >>> import jax
        >>> layer = HMLSTM(features=8)
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((3, 10, 5)))
        >>> ys.shape
        (3, 10, 8)
    """

    num_layers: int = 3
    layer_norm: bool = True
    gated_output: bool = True
    slope: float = 1.0
    forget_bias: float = 1.0
    time_scale: float | None = None

    outside_core: ClassVar[tuple[str, ...]] = ("output_gates", "output")

    def __post_init__(self) -> None:
        if self.slope <= 0:
            raise ValueError(f"slope must be positive, got {self.slope}: give 1.0, or more to anneal it.")
        super().__post_init__()

    def forward(
        self, xs: jax.Array, initial_carry: Carry | None, seq_lengths: jax.Array | None, deterministic: bool
    ) -> tuple[Carry, jax.Array]:
        """See :meth:`experiments.rivals.Rival.forward`."""
        m, types = self.features, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        cell = sharing(self, HMLSTMCell, parent=None)
        carry, hs = over_time(nn.RNN(cell, name="rnn"), xs, initial_carry, seq_lengths)
        ys = hs[..., -m:]
        if self.gated_output:
            gates = nn.Dense(self.num_layers, use_bias=False, name="output_gates", **types)(hs)
            gates = jnp.repeat(nn.sigmoid(gates.astype(self.param_dtype)), m, axis=-1)
            ys = nn.relu(nn.Dense(m, use_bias=False, name="output", **types)(gates * hs).astype(self.param_dtype))
        return carry, ys
