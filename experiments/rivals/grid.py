"""The Grid LSTM: LSTMs along depth as well as along time, with or without priority of the depth.

    hD_0 = x Wh;  mD_0 = x Wm
    (hT^l, mT^l) = LSTM_T([hD^{l-1}, hT^l_]; mT^l_)
    (hD^l, mD^l) = LSTM_D([hD^{l-1}, hT^l* ]; mD^{l-1}),   hT^l* = hT^l with priority of the depth, else hT^l_
    y = hD^L

(Kalchbrenner, Danihelka and Graves, arXiv:1507.01526: the 2-LSTM.) hT and mT are the state and the memory along time,
separate for each layer; hD and mD, those along depth, are computed anew at each timestep. Both are LSTMs of
``[i,f,g,o] = [hD, hT] W + b``. In a *tied* network all layers share LSTM_T and LSTM_D; it is what is compared on the
algorithmic tasks, as the invariance along depth is credited with solving the addition of 15 digits.
Core parameters: 2RM + (1 if tied, else L) (16M^2 + 8M), or RM less without ``initial_memory``.

Initialization: Flax's default for the matrices, and 1 for the forget biases; both are UNVERIFIED. So are the layer
counts of the paper, 18 for addition and 43 for memorization, and the 6 layers of 1000 on enwik8 (1.47 bits per
character, 16.8M parameters), from which the default depth is taken. Recipe: Adam with 1e-3, batches of 15, at most 5M
fresh samples. Known results, tied: over 99% in the addition of 15 digits after 550K samples with M=400, and in the
memorization of 20 symbols after 150K with M=100.

A timestep takes L blocks one after another, so that its time grows with the depth.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.rivals.initializers import gate_bias_init
from experiments.rivals.layer import Carry, Cell, CellLayer, lstm_gates, sharing


class GridBlock(Cell):
    """The two LSTMs of a layer at one timestep.

    Args:
        priority: whether the LSTM along depth reads the new state along time.
        forget_bias: initial bias of both forget gates.
        time_scale: T of :func:`experiments.rivals.initializers.gate_bias_init` for the LSTM along time.
    """

    priority: bool = True
    forget_bias: float = 1.0
    time_scale: float | None = None

    @nn.compact
    def __call__(self, depth: Carry, time: Carry) -> tuple[Carry, Carry]:
        """Maps ``(hD, mD)`` of the layer below and ``(hT, mT)`` of the last timestep, all (*batch, M), to new ones."""
        (h_depth, m_depth), (h_time, m_time) = depth, time
        time_bias = gate_bias_init("ifgo", self.forget_bias, self.time_scale)
        depth_bias = gate_bias_init("ifgo", self.forget_bias, None)
        time_lstm = self.dense(4 * self.features, "time", bias_init=time_bias)
        depth_lstm = self.dense(4 * self.features, "depth", bias_init=depth_bias)

        m_time, h_new = lstm_gates(time_lstm(jnp.concatenate([h_depth, h_time], axis=-1)), m_time)
        h_read = h_new if self.priority else h_time
        m_depth, h_depth = lstm_gates(depth_lstm(jnp.concatenate([h_depth, h_read], axis=-1)), m_depth)
        return (h_depth, m_depth), (h_new, m_time)


class GridLSTMCell(Cell):
    """A timestep of all layers.

    Args:
        num_layers: L.
        tied: whether all layers share their parameters; else each array of the blocks has a leading axis L.
        priority: whether the LSTM along depth reads the new state along time.
        initial_memory: whether mD_0 = x Wm, else 0.
        read_memory: whether the output is [hD^L, mD^L] instead of hD^L.
        forget_bias: initial bias of all forget gates.
        time_scale: T of :func:`experiments.rivals.initializers.gate_bias_init` for the LSTMs along time.
    """

    num_layers: int = 6
    tied: bool = True
    priority: bool = True
    initial_memory: bool = True
    read_memory: bool = False
    forget_bias: float = 1.0
    time_scale: float | None = None

    @nn.compact
    def __call__(self, carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        """Maps ``(hT, mT)``, each (*batch, L, M), and x, (*batch, R), to the new ones and y, (*batch, M)."""
        h = self.dense(self.features, "state", use_bias=False)(x)
        m = self.dense(self.features, "memory", use_bias=False)(x) if self.initial_memory else jnp.zeros_like(h)
        layers = nn.scan(
            GridBlock,
            variable_axes={} if self.tied else {"params": 0},
            variable_broadcast="params" if self.tied else False,
            split_rngs={"params": not self.tied},
            in_axes=-2,
            out_axes=-2,
            length=self.num_layers,
        )(
            self.features,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            priority=self.priority,
            forget_bias=self.forget_bias,
            time_scale=self.time_scale,
            name="layers",
        )
        (h, m), carry = layers((h, m), carry)
        return carry, jnp.concatenate([h, m], axis=-1) if self.read_memory else h

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> Carry:
        """Zeros, (hT, mT)."""
        zeros = jnp.zeros((*input_shape[:-1], self.num_layers, self.features), self.param_dtype)
        return zeros, zeros


class GridLSTM(CellLayer):
    """Grid LSTM: LSTMs along depth and along time, whose parameters all layers share unless ``tied=False``.

    The carry is ``(hT, mT)``, each (*batch, L, M).

    Args:
        num_layers: L.
        tied: whether all layers share their parameters.
        priority: whether the LSTM along depth reads the new state along time, else that of the timestep before.
        initial_memory: whether the memory along depth starts as a product of the input, else as 0.
        read_memory: whether the outputs are the states *and* memories at the top, (*batch, T, 2M).
        forget_bias: initial bias of all forget gates.
        time_scale: for how many timesteps memory has to last; replaces ``forget_bias`` in the LSTMs along time.

    Example:
        >>> import jax
        >>> layer = GridLSTM(features=8, num_layers=3)
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((2, 10, 5)))
        >>> ys.shape
        (2, 10, 8)
        >>> jax.tree.map(jax.numpy.shape, variables["params"]["rnn"]["cell"]["layers"]["time"])
        {'bias': (32,), 'kernel': (16, 32)}
    """

    num_layers: int = 6
    tied: bool = True
    priority: bool = True
    initial_memory: bool = True
    read_memory: bool = False
    forget_bias: float = 1.0
    time_scale: float | None = None

    @nn.nowrap
    def cell(self, deterministic: bool) -> nn.RNNCellBase:
        """The cell of all layers."""
        return sharing(self, GridLSTMCell, parent=None)
