"""Multiplicative recurrent networks: inputs choose the transition of the state by scaling it in between two matrices.

mLSTM (Krause et al., arXiv:1609.07959), in which h reaches the gates through m alone:

    m = (x Wmx) . (h_ Wmh);   [i,f,g,o] = x Wx + m Wm + b;   c = s(f) c_ + s(i) tanh(g);   h = s(o) tanh(c)

The first runs had a linear candidate, g instead of tanh(g), and h = tanh(c s(o)). Core parameters of a layer:
5M(R + M) + 4M, and 10M more with weight normalization, whose gains start as the lengths of the columns. All matrices
start orthogonal, those of the four gates separately; the forget gate's bias starts at 3.

Results: enwik8 1.42 (the linear candidate; 1900 units, 20M parameters, which is table 1's row) and 1.24 (46M); text8
1.40 and 1.27. Recipe of the latter: an embedding of 400, M = 2800, weight normalization, dropout 0.2 of h and 0.5 of
the embedding, each mask fixed within 200 timesteps of backpropagation, batches of 100, Adam with a learning rate from
1e-3 linearly to 7e-5, no clipping. Deviation: the embedding and the head are not part of the layer, so that they start
as the task has them.

mRNN (Sutskever, Martens and Hinton, 2011), with F factors:

    f = (x A) . (h_ B);   h = tanh(f C + x W + b)

Core parameters: 2RM + 2M^2 + M at F = M. Result: 1.60 on another split of Wikipedia (1500 units, Hessian-free). Irsoy
and Cardie's (arXiv:1412.6577) has dense inputs and adds h_ U, UNVERIFIED. The initialization is Flax's, not the
paper's: Glorot from the inputs, orthogonal from the state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.rivals.initializers import gate_bias_init, orthogonal, per_gate
from experiments.rivals.layer import Carry, Cell, CellStack, lstm_gates, sharing

ORTHOGONAL = orthogonal()


class NormedDense(nn.Module):
    """A dense layer with weight normalization (arXiv:1602.07868): columns of unit length, times gains.

    It is not :class:`flax.linen.WeightNorm`, whose gains start as constants: here they start as the lengths of the
    initial columns, so that the layer starts as it would without them.

    Args:
        features: the number of outputs.
        use_bias: whether to add a bias.
        dtype: dtype of the product; None infers it from its operands.
        param_dtype: dtype of the parameters.
        kernel_init: initializer of the columns.
        bias_init: initializer of the bias.
    """

    features: int
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Callable[..., jax.Array] = ORTHOGONAL
    bias_init: Callable[..., jax.Array] = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x, (*batch, n), to (*batch, features)."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), self.param_dtype)
        length = jnp.linalg.norm(kernel, axis=0, keepdims=True)
        gain = self.param("gain", lambda key: length[0])
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel * (gain[None] / length), bias, dtype=self.dtype)
        y = x @ kernel
        return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


class MultiplicativeLSTMCell(Cell):
    """A timestep of one layer.

    Args:
        weight_norm: as in :class:`MultiplicativeLSTM`.
        linear_candidate: as in :class:`MultiplicativeLSTM`.
        dropout: as in :class:`MultiplicativeLSTM`.
        input_dropout: the fraction of x that is dropped.
        forget_bias: as in :class:`MultiplicativeLSTM`.
        time_scale: as in :class:`MultiplicativeLSTM`.
        deterministic: whether dropout is off.
    """

    weight_norm: bool = False
    linear_candidate: bool = False
    dropout: float = 0.0
    input_dropout: float = 0.0
    forget_bias: float = 3.0
    time_scale: float | None = None
    deterministic: bool = True

    @nn.nowrap
    def product(self, features: int, name: str, **options: Any) -> Callable[[jax.Array], jax.Array]:
        """A dense layer as :meth:`dense` makes it, or one with weight normalization."""
        if not self.weight_norm:
            return self.dense(features, name, **options)
        normed = NormedDense(features, name=name, dtype=self.dtype, param_dtype=self.param_dtype, **options)
        return lambda x: normed(x).astype(self.param_dtype)

    @nn.compact
    def __call__(self, carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        """Maps ``(c, h)``, each (*batch, M), and x, (*batch, R), to ``((c, h), h)``."""
        c, h = carry
        x = nn.Dropout(self.input_dropout, deterministic=self.deterministic)(x)
        gates = per_gate(ORTHOGONAL, 4)
        bias = gate_bias_init("ifgo", self.forget_bias, self.time_scale)
        m = self.product(self.features, "factor_input", use_bias=False, kernel_init=ORTHOGONAL)(x)
        m = m * self.product(self.features, "factor_hidden", use_bias=False, kernel_init=ORTHOGONAL)(h)
        a = self.product(4 * self.features, "input", kernel_init=gates, bias_init=bias)(x)
        a = a + self.product(4 * self.features, "factor", use_bias=False, kernel_init=gates)(m)
        if self.linear_candidate:
            i, f, g, o = jnp.split(a, 4, axis=-1)
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * g
            h = jnp.tanh(c * nn.sigmoid(o))
        else:
            c, h = lstm_gates(a, c)
        h = nn.Dropout(self.dropout, deterministic=self.deterministic)(h)
        return (c, h), h

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> Carry:
        """Zeros, (c, h)."""
        zeros = self.zeros(input_shape, self.features)
        return zeros, zeros


class MultiplicativeLSTM(CellStack):
    """LSTM layers whose recurrent matrix is chosen by the inputs (Krause's mLSTM).

    Args:
        weight_norm: whether the four matrices have weight normalization.
        linear_candidate: whether the candidate for the memory is linear and h is tanh(c s(o)), as in table 1's runs.
        dropout: the fraction of the units whose h is 0 in training, for the layer above and for the next timestep.
        input_dropout: the fraction of the inputs that are 0 in training. Both masks are the same in all timesteps.
        forget_bias: initial bias of the forget gate.
        time_scale: for how many timesteps memory has to last; replaces ``forget_bias``.

    Example:
        >>> import jax
        >>> layer = MultiplicativeLSTM(features=8, weight_norm=True, dropout=0.2)
        >>> xs, keys = jax.numpy.ones((3, 10, 5)), {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        >>> ys, variables = layer.init_with_output(keys, xs, deterministic=False)
        >>> ys.shape
        (3, 10, 8)
    """

    weight_norm: bool = False
    linear_candidate: bool = False
    dropout: float = 0.0
    input_dropout: float = 0.0
    forget_bias: float = 3.0
    time_scale: float | None = None

    @nn.nowrap
    def cell(self, index: int, deterministic: bool) -> nn.RNNCellBase:
        """A layer's cell."""
        return sharing(
            self,
            MultiplicativeLSTMCell,
            input_dropout=0.0 if index else self.input_dropout,
            deterministic=deterministic,
            parent=None,
        )

    @nn.nowrap
    def scan_options(self) -> dict[str, Any]:
        """The masks of all timesteps are drawn with the same key."""
        return {"split_rngs": {"params": False, "dropout": False}}


class MultiplicativeRNNCell(Cell):
    """A timestep of one layer.

    Args:
        factors: as in :class:`MultiplicativeRNN`.
        additive: as in :class:`MultiplicativeRNN`.
    """

    factors: int | None = None
    additive: bool = False

    @nn.compact
    def __call__(self, carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        """Maps h, (*batch, M), and x, (*batch, R), to ``(h, h)``."""
        glorot = nn.initializers.glorot_uniform()
        factors = self.features if self.factors is None else self.factors
        f = self.dense(factors, "factor_input", use_bias=False, kernel_init=glorot)(x)
        f = f * self.dense(factors, "factor_hidden", use_bias=False, kernel_init=ORTHOGONAL)(carry)
        a = self.dense(self.features, "factor", use_bias=False, kernel_init=ORTHOGONAL)(f)
        a = a + self.dense(self.features, "input", kernel_init=glorot)(x)
        if self.additive:
            a = a + self.dense(self.features, "hidden", use_bias=False, kernel_init=ORTHOGONAL)(carry)
        h = jnp.tanh(a)
        return h, h

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> Carry:
        """Zeros, h."""
        return self.zeros(input_shape, self.features)


class MultiplicativeRNN(CellStack):
    """Plain recurrent layers whose recurrent matrix is chosen by the inputs (Sutskever's mRNN).

    It has no gates, and therefore no ``time_scale``.

    Args:
        factors: F, the rank of the recurrent matrices; None for M.
        additive: whether h also has a matrix that all inputs share, as Irsoy and Cardie's (UNVERIFIED).

    Example:
        >>> import jax
        >>> layer = MultiplicativeRNN(features=8, factors=4)
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((3, 10, 5)))
        >>> ys.shape
        (3, 10, 8)
    """

    factors: int | None = None
    additive: bool = False

    @nn.nowrap
    def cell(self, index: int, deterministic: bool) -> nn.RNNCellBase:
        """A layer's cell."""
        return sharing(self, MultiplicativeRNNCell, parent=None)
