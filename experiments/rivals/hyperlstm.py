"""The HyperLSTM with layer normalization: a small LSTM scales the rows of the weights of a large one at each timestep.

For each gate y of i, f, g, o, with hh (H) the output of the small LSTM, which reads [x, h_], and embeddings of Z
numbers:

    zh = hh Ah + ah;   zx = hh Ax + ax;   zb = hh Ab
    y  = LN_y( (zx Dx).(x Wx_y) + (zh Dh).(h_ Wh_y) + zb Db + b_y )
    c  = s(f).c_ + s(i).drop(tanh(g));    h = s(o).tanh(LN_c(c))

    LN(a) = gain.(a - mean)/sqrt(var + epsilon) + bias, over the units; epsilon = 1e-3

(Ha, Dai and Le, HyperNetworks, arXiv:1609.09106.) The small LSTM has the same normalizations.

Initialization, on which the model depends: Ah, Ax are 0 and ah, ax are 1, Dx and Dh are 0.1/Z everywhere, so that every
scale begins at 0.1; Ab is normal with deviation 0.01, Db is 0; Wh is orthogonal for each gate, Wx Glorot's; gains are
1, biases 0 except for the forget gates' (after the normalization), which are 1.

Core parameters of a layer, with LSTM(R, M) = 4M(R + M) + 4M:

    LSTM(R, M) + LSTM(R + M, H) + 8(HZ + Z) + 4HZ + 12ZM, and 10M + 10H with layer normalization

Results on enwik8 in bits per character: LSTM 1.470, with layer normalization 1.402, HyperLSTM 1.391, HyperLSTM with
layer normalization 1.353, the large one (H = 512, Z = 64, M = 2048, 26.5M parameters with the head) 1.340. The recipe:
truncated backpropagation over 250 timesteps (300 for the large one), batches of 128, Adam with a learning rate of 1e-3,
gradients clipped at 1, dropout of the candidates 0.1 (0.15, in both LSTMs, for the large one). UNVERIFIED: the recipe
and the results of enwik8 are from notes, not read again in the paper.

Deviations: the bias of the forget gate is an initial value of a parameter, where the authors' code adds the constant 1
to a parameter that starts at 0: the same function, and the same training unless weights decay. Wx is initialized for
each gate by itself; the authors' framework has one fan-out for the four gates side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.rivals.initializers import gate_bias_init, orthogonal, per_gate
from experiments.rivals.layer import Carry, Cell, CellStack, gate_norm, sharing


class NormedGates(nn.Module):
    """The gates of an LSTM with each pre-activation and the memory cell normalized.

    Args:
        layer_norm: whether to normalize.
        epsilon: the number that is added to the variances.
        dropout: the probability that an entry of the candidate is dropped in training.
        bias_init: initializer of the biases after the normalizations of i, f, g, o, (4M,).
        param_dtype: dtype of the parameters.
    """

    layer_norm: bool
    epsilon: float
    dropout: float
    bias_init: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, a: jax.Array, c: jax.Array, deterministic: bool) -> tuple[jax.Array, jax.Array]:
        """Maps pre-activations, (*batch, 4M) in the order i, f, g, o, and c, (*batch, M), to c' and h, (*batch, M)."""
        if self.layer_norm:
            a = a.reshape(*a.shape[:-1], 4, a.shape[-1] // 4)
            a = gate_norm("gate_norm", self.bias_init, self.param_dtype, self.epsilon)(a)
            i, f, g, o = jnp.unstack(a, axis=-2)
        else:
            i, f, g, o = jnp.split(a, 4, axis=-1)
        g = nn.Dropout(self.dropout, deterministic=deterministic)(jnp.tanh(g))
        c = nn.sigmoid(f) * c + nn.sigmoid(i) * g
        norm = nn.LayerNorm(self.epsilon, param_dtype=self.param_dtype, use_fast_variance=False, name="memory_norm")
        return c, nn.sigmoid(o) * jnp.tanh(norm(c) if self.layer_norm else c)


class HyperLSTMCell(Cell):
    """A timestep of one layer.

    Args:
        hyper_features: H.
        embedding: Z.
        layer_norm: whether pre-activations and memory cells are normalized.
        epsilon: the number that is added to the variances.
        dropout: the probability that an entry of the candidate is dropped in training.
        hyper_dropout: the same in the small LSTM.
        forget_bias: initial bias of the forget gates.
        time_scale: T of :func:`experiments.rivals.initializers.gate_bias_init`, for the large LSTM.
        deterministic: whether dropout is off.
    """

    hyper_features: int = 1
    embedding: int = 1
    layer_norm: bool = True
    epsilon: float = 1e-3
    dropout: float = 0.0
    hyper_dropout: float = 0.0
    forget_bias: float = 1.0
    time_scale: float | None = None
    deterministic: bool = True

    @nn.compact
    def __call__(self, carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        """Maps ``(c, h, cc, hh)``, the last two (*batch, H), and x, (*batch, R), to ``((c, h, cc, hh), h)``."""
        c, h, cc, hh = carry
        m, n, z = self.features, self.hyper_features, self.embedding
        glorot = per_gate(nn.initializers.glorot_uniform(), 4)
        square = per_gate(orthogonal(), 4)
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        # A normalization would remove much of a bias before it.
        hyper_bias = gate_bias_init("ifgo", self.forget_bias, None)
        bias = gate_bias_init("ifgo", self.forget_bias, self.time_scale)
        before, hyper_before = (zeros, zeros) if self.layer_norm else (bias, hyper_bias)

        inputs = jnp.concatenate([x, h], axis=-1)
        a = self.dense(4 * n, "hyper_input", kernel_init=glorot, bias_init=hyper_before)(inputs)
        a = a + self.dense(4 * n, "hyper_hidden", use_bias=False, kernel_init=square)(hh)
        cc, hh = self.gates("hyper_gates", self.hyper_dropout, hyper_bias)(a, cc, self.deterministic)

        zs = self.dense(8 * z, "scale_embedding", kernel_init=zeros, bias_init=ones)(hh)  # for x, then for h
        zb = self.dense(4 * z, "bias_embedding", use_bias=False, kernel_init=nn.initializers.normal(0.01))(hh)
        scales = self.by_gate((2, 4, z, m), "scale", nn.initializers.constant(0.1 / z))(zs)
        scale_x, scale_h = jnp.split(scales, 2, axis=-1)

        a = scale_x * self.dense(4 * m, "input", use_bias=False, kernel_init=glorot)(x)
        a = a + scale_h * self.dense(4 * m, "hidden", use_bias=False, kernel_init=square)(h)
        a = a + self.by_gate((4, z, m), "shift", zeros)(zb)
        a = a + jnp.broadcast_to(self.param("bias", before, (4 * m,), self.param_dtype), a.shape)
        c, h = self.gates("gates", self.dropout, bias)(a, c, self.deterministic)
        return (c, h, cc, hh), h

    @nn.nowrap
    def by_gate(self, shape: tuple[int, ...], name: str, init: Any) -> Callable[[jax.Array], jax.Array]:
        """Matrices (.., Z, M), one for each gate: maps (*batch, .. * Z) to (*batch, .. * M)."""
        lead = "kg"[-len(shape[:-2]) :]
        product = nn.Einsum(
            shape,
            f"...{lead}z,{lead}zm->...{lead}m",
            use_bias=False,
            kernel_init=init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )

        def apply(z: jax.Array) -> jax.Array:
            y = product(z.reshape(*z.shape[:-1], *shape[:-1])).astype(self.param_dtype)
            return y.reshape(*z.shape[:-1], math.prod(y.shape[z.ndim - 1 :]))

        return apply

    @nn.nowrap
    def gates(self, name: str, dropout: float, bias_init: Any) -> NormedGates:
        """The gates of one of the two LSTMs."""
        return NormedGates(self.layer_norm, self.epsilon, dropout, bias_init, self.param_dtype, name=name)

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> Carry:
        """Zeros, (c, h, cc, hh)."""
        large, small = self.zeros(input_shape, self.features), self.zeros(input_shape, self.hyper_features)
        return large, large, small, small


class HyperLSTM(CellStack):
    """HyperLSTM: a small LSTM scales the rows of a large one's weights at each timestep, with layer normalization.

    Args:
        hyper_features: H, the units of the small LSTM; None for M / 4, rounded down, but at least 2.
        embedding: Z, the size of the embeddings between the two LSTMs; None for M / 16, rounded down.
        layer_norm: whether pre-activations and memory cells are normalized, in both LSTMs.
        epsilon: the number that is added to the variances.
        dropout: the probability that an entry of the candidate memory is dropped in training, anew at each timestep.
        hyper_dropout: the same in the small LSTM.
        forget_bias: initial bias of the forget gates, after the normalization.
        time_scale: for how many timesteps memory has to last; replaces ``forget_bias`` in the large LSTM.

    Example:
        >>> import jax
        >>> layer = HyperLSTM(features=16, hyper_features=8, embedding=2)
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((3, 10, 5)))
        >>> ys.shape
        (3, 10, 16)
    """

    hyper_features: int | None = None
    embedding: int | None = None
    layer_norm: bool = True
    epsilon: float = 1e-3
    dropout: float = 0.0
    hyper_dropout: float = 0.0
    forget_bias: float = 1.0
    time_scale: float | None = None

    @nn.nowrap
    def cell(self, index: int, deterministic: bool) -> nn.RNNCellBase:
        """A layer's cell."""
        return sharing(
            self,
            HyperLSTMCell,
            hyper_features=self.hyper_features or max(2, self.features // 4),
            embedding=self.embedding or max(1, self.features // 16),
            deterministic=deterministic,
            parent=None,
        )

    @nn.nowrap
    def scan_options(self) -> dict[str, Any]:
        """Dropout masks are resampled at every timestep."""
        return {"split_rngs": {"params": False, "dropout": True}}
