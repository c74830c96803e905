"""The LSTM with multiplicative integration: gates multiply a projection of the input by one of the state.

    pre = al . (x W) . (h_ U) + b1 . (h_ U) + b2 . (x W) + b;   [i,f,g,o] = pre
    c = s(f) c_ + s(i) tanh(g);   h = s(o) tanh(c)

(Wu et al., arXiv:1606.06630), where al, b1, b2 and b have a number for each of the 4M gates. Core parameters of a
layer: 4M(R + M) + 16M, and 8M more with layer normalization. With al = 0 and b1 = b2 = 1 it is the LSTM.

al, b1 and b2 start as 1 and b as 0, as in Caffe2's cell; the paper's values, al of 1 or 2 and b1 = b2 = 0.5, are
UNVERIFIED. Layer normalization is that of Caffe2's variant: all 4M pre-activations are normalized together, and the
forget gate's bias is added to the result. Deviation: its two matrices have no biases of their own.

Results: 1.44 on enwik8 (17M parameters; table 1's row) and on text8.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.rivals.initializers import gate_bias_init, orthogonal, per_gate
from experiments.rivals.layer import Carry, Cell, CellStack, lstm_gates, sharing


class MILSTMCell(Cell):
    """A timestep of one layer.

    Args:
        alpha: as in :class:`MILSTM`.
        beta_hidden: as in :class:`MILSTM`.
        beta_input: as in :class:`MILSTM`.
        layer_norm: as in :class:`MILSTM`.
        forget_bias: as in :class:`MILSTM`.
        time_scale: as in :class:`MILSTM`.
    """

    alpha: float = 1.0
    beta_hidden: float = 1.0
    beta_input: float = 1.0
    layer_norm: bool = False
    forget_bias: float = 1.0
    time_scale: float | None = None

    @nn.compact
    def __call__(self, carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        """Maps ``(c, h)``, each (*batch, M), and x, (*batch, R), to ``((c, h), h)``."""
        c, h = carry
        size = 4 * self.features
        glorot, square = (per_gate(init, 4) for init in (nn.initializers.glorot_uniform(), orthogonal()))
        wx = self.dense(size, "input", use_bias=False, kernel_init=glorot)(x)
        uh = self.dense(size, "hidden", use_bias=False, kernel_init=square)(h)

        def scale(name: str, value: float) -> jax.Array:
            number = self.param(name, nn.initializers.constant(value), (size,), self.param_dtype)
            return jnp.broadcast_to(number, wx.shape)

        gate_bias = gate_bias_init("ifgo", self.forget_bias, self.time_scale)
        zeros = nn.initializers.zeros
        bias = self.param("bias", zeros if self.layer_norm else gate_bias, (size,), self.param_dtype)
        pre = scale("alpha", self.alpha) * wx * uh + scale("beta_hidden", self.beta_hidden) * uh
        pre = pre + scale("beta_input", self.beta_input) * wx + jnp.broadcast_to(bias, wx.shape)
        if self.layer_norm:
            norm = nn.LayerNorm(1e-5, self.param_dtype, self.param_dtype, bias_init=gate_bias, use_fast_variance=False)
            pre = norm(pre)
        c, h = lstm_gates(pre, c)
        return (c, h), h

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> Carry:
        """Zeros, (c, h)."""
        zeros = self.zeros(input_shape, self.features)
        return zeros, zeros


class MILSTM(CellStack):
    """LSTM layers whose gates multiply a projection of the input by a projection of the state (MI-LSTM).

    Args:
        alpha: initial weights of the products of the two projections.
        beta_hidden: initial weights of the projection of the state.
        beta_input: initial weights of the projection of the input.
        layer_norm: whether the pre-activations of the gates are normalized, all together.
        forget_bias: initial bias of the forget gate.
        time_scale: for how many timesteps memory has to last; replaces ``forget_bias``.

    Example:
        >>> import jax
        >>> layer = MILSTM(features=8, layer_norm=True)
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((3, 10, 5)))
        >>> ys.shape
        (3, 10, 8)
    """

    alpha: float = 1.0
    beta_hidden: float = 1.0
    beta_input: float = 1.0
    layer_norm: bool = False
    forget_bias: float = 1.0
    time_scale: float | None = None

    @nn.nowrap
    def cell(self, index: int, deterministic: bool) -> nn.RNNCellBase:
        """A layer's cell."""
        return sharing(self, MILSTMCell, parent=None)
