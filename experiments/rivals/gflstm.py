"""The gated-feedback LSTM: every layer reads the former state of all layers, through a gate for each pair of layers.

    q^{ij} = s(u w^{ij} + h* v^{ij}),   h* = [h^1..h^L]_{t-1},   u = h^{j-1}_t (x below the first layer)
    g^j = tanh(u W^j + b + sum_i q^{ij} (h^i_ U^{ij}));   c = s(f) c_ + s(i) g;   h = s(o) tanh(c)

(Chung et al., arXiv:1502.02367), where the gates i, f, o of layer j are a stacked LSTM's, from u and h^j_. With
q^{ij} = 1 for i = j and 0 else it is the stacked LSTM. Core parameters of layer j with ``in`` inputs:
3M(in + M) + 3M + M in + L M^2 + M + L(in + LM).

The global gates q are scalars as in the paper; public versions have one for each unit, ``gate="vector"``, which makes
the last term L(in + LM)M. The initialization is Flax's, UNVERIFIED to be the paper's: Glorot from the inputs,
orthogonal from states, and q starts near 1/2. Result on enwik8: 1.58 (20M parameters).
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.rivals.initializers import gate_bias_init, orthogonal, per_gate
from experiments.rivals.layer import Carry, Cell, CellLayer, sharing


class GFLSTMCell(Cell):
    """A timestep of all layers.

    Args:
        num_layers: L.
        gate: as in :class:`GFLSTM`.
        forget_bias: as in :class:`GFLSTM`.
        time_scale: as in :class:`GFLSTM`.
    """

    num_layers: int = 3
    gate: str = "scalar"
    forget_bias: float = 1.0
    time_scale: float | None = None

    @nn.compact
    def __call__(self, carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        """Maps ``(c, h)`` of each layer, each (*batch, M), and x, (*batch, R), to the new ones and h of the last."""
        m, num = self.features, self.num_layers
        glorot, square = nn.initializers.glorot_uniform(), orthogonal()
        bias = gate_bias_init("ifgo", self.forget_bias, self.time_scale)
        width = 1 if self.gate == "scalar" else m
        former = jnp.concatenate([h for _, h in carry], axis=-1)
        gates = self.dense(num * num * width, "gates_hidden", use_bias=False, kernel_init=per_gate(glorot, num * num))
        from_states = jnp.split(gates(former), num, axis=-1)  # for each layer j, (*batch, L * width)
        feedback = [  # of each layer i, to all layers
            self.dense(num * m, f"feedback_{i}", use_bias=False, kernel_init=per_gate(square, num))(h)
            for i, (_, h) in enumerate(carry)
        ]
        found, u = [], x
        for j, (c, h) in enumerate(carry):
            a = self.dense(4 * m, f"input_{j}", kernel_init=per_gate(glorot, 4), bias_init=bias)(u)
            i, f, g, o = jnp.split(a, 4, axis=-1)
            a = self.dense(3 * m, f"hidden_{j}", use_bias=False, kernel_init=per_gate(square, 3))(h)
            i, f, o = (gate + more for gate, more in zip((i, f, o), jnp.split(a, 3, axis=-1), strict=True))
            q = self.dense(num * width, f"gates_input_{j}", use_bias=False, kernel_init=per_gate(glorot, num))(u)
            q = nn.sigmoid(q + from_states[j])
            for gate, each in zip(jnp.split(q, num, axis=-1), feedback, strict=True):
                g = g + gate * each[..., j * m : (j + 1) * m]
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            u = nn.sigmoid(o) * jnp.tanh(c)
            found.append((c, u))
        return tuple(found), u

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> Carry:
        """Zeros, ``(c, h)`` of each layer."""
        zeros = self.zeros(input_shape, self.features)
        return ((zeros, zeros),) * self.num_layers


class GFLSTM(CellLayer):
    """Stacked LSTM layers that all read the former state of each other through gates (gated feedback).

    The carry is a tuple of ``(c, h)`` for each layer.

    Args:
        num_layers: L.
        gate: ``scalar`` for one gate for each pair of layers, or ``vector`` for one for each of their units.
        forget_bias: initial bias of the forget gates.
        time_scale: for how many timesteps memory has to last in each layer; replaces ``forget_bias``.

    Example:
        >>> import jax
        >>> layer = GFLSTM(features=8, num_layers=2)
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((3, 10, 5)))
        >>> ys.shape
        (3, 10, 8)
    """

    num_layers: int = 3
    gate: str = "scalar"
    forget_bias: float = 1.0
    time_scale: float | None = None

    def __post_init__(self) -> None:
        """Checks the options."""
        if self.gate not in ("scalar", "vector"):
            raise ValueError(f"gate is {self.gate!r}: give 'scalar' or 'vector'")
        super().__post_init__()

    @nn.nowrap
    def cell(self, deterministic: bool) -> nn.RNNCellBase:
        """The cell of all layers."""
        return sharing(self, GFLSTMCell, parent=None)
