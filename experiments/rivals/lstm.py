"""The LSTM: layers that do not share parameters, and the variant of table 3.

    [i,f,g,o] = x Wx + h_ Wh + b;   c = s(f) c_ + s(i) tanh(g);   h = s(o) tanh(c)

(Hochreiter and Schmidhuber, 1997, with the forget gate of Gers et al.) Core parameters of a layer: 4M(R + M) + 4M.

Table 3's LSTM is that of Arjovsky et al. (arXiv:1511.06464), whose code differs from a plain one: the output gate also
reads the *new* memory cell through a dense matrix, o + c Vo, the initial state is learned, and Glorot initialization is
used for all matrices. Deviation: its gradients were clipped elementwise at 1; the training loop here clips their norm.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.rivals.initializers import gate_bias_init, orthogonal, per_gate
from experiments.rivals.layer import Carry, Cell, CellStack, lstm_gates, sharing


class LSTMCell(Cell):
    """A timestep of one layer.

    It is not Flax's cell, which has one initializer for the biases of all gates: here the forget gate's differs, and
    with a time scale the forget and the input gate start with biases of opposite sign. Table 3's output gate needs a
    cell of its own anyway.

    Args:
        output_peephole: whether the output gate reads the new memory cell, and all matrices start as Glorot's; else
            the recurrent ones are orthogonal, as in Flax.
        forget_bias: initial bias of the forget gate.
        time_scale: T of :func:`experiments.rivals.initializers.gate_bias_init`.
    """

    output_peephole: bool = False
    forget_bias: float = 1.0
    time_scale: float | None = None

    @nn.compact
    def __call__(self, carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        """Maps ``(c, h)``, each (*batch, M), and x, (*batch, R), to ``((c, h), h)``."""
        c, h = carry
        glorot = per_gate(nn.initializers.glorot_uniform(), 4)
        recurrent = glorot if self.output_peephole else per_gate(orthogonal(), 4)
        bias = gate_bias_init("ifgo", self.forget_bias, self.time_scale)
        a = self.dense(4 * self.features, "input", kernel_init=glorot, bias_init=bias)(x)
        a = a + self.dense(4 * self.features, "hidden", use_bias=False, kernel_init=recurrent)(h)
        if self.output_peephole:
            i, f, g, o = jnp.split(a, 4, axis=-1)
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            o = o + self.dense(self.features, "peephole", use_bias=False, kernel_init=nn.initializers.glorot_uniform())(
                c
            )
            h = nn.sigmoid(o) * jnp.tanh(c)
        else:
            c, h = lstm_gates(a, c)
        return (c, h), h

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> Carry:
        """Zeros, (c, h)."""
        zeros = self.zeros(input_shape, self.features)
        return zeros, zeros


class LSTM(CellStack):
    """LSTM layers, each with its own parameters; ``output_peephole`` is table 3's LSTM.

    Args:
        output_peephole: whether the output gate reads the new memory cell through a dense matrix, and the initial state
            is learned.
        forget_bias: initial bias of the forget gate.
        time_scale: for how many timesteps memory has to last; replaces ``forget_bias``.

    Example:
        >>> import jax
        >>> layer = LSTM(features=8, num_layers=2)
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((3, 10, 5)))
        >>> ys.shape
        (3, 10, 8)
    """

    output_peephole: bool = False
    forget_bias: float = 1.0
    time_scale: float | None = None

    @property
    def learns_start(self) -> bool:
        """True for table 3's variant."""
        return self.output_peephole

    @nn.nowrap
    def cell(self, index: int, deterministic: bool) -> nn.RNNCellBase:
        """A layer's cell."""
        return sharing(self, LSTMCell, parent=None)

    def start(self, index: int, batch_shape: tuple[int, ...]) -> Carry | None:
        """The learned initial state of table 3's variant."""
        if not self.output_peephole:
            return None
        return tuple(self.learned(f"{name}_{index}", (self.features,), batch_shape) for name in ("c", "h"))
