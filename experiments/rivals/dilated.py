"""Dilated recurrent networks: levels whose states skip over more and more timesteps, of tanh cells, GRUs or LSTMs.

    level l: state_t = Cell(h^{l-1}_t; state_{t-s_l}),  s_l = 1, 2, 4, .. ;  the first s_l steps start from 0

(Chang et al., arXiv:1710.02224.) The cells are

    RNN:  h = tanh(x W + h_ U + b)
    GRU:  [r,z] = s(x W + h_ U + b);  n = tanh(x Wn + (r h_) Un + bn);  h = z h_ + (1 - z) n
    LSTM: as in :mod:`experiments.rivals.lstm`

where h_ is the state s_l timesteps before. The tanh cell is :class:`flax.linen.SimpleCell`. The GRU is not Flax's but
TensorFlow's, which the authors used: the reset gate multiplies the state before the matrix does, and both gates have an
initial bias of 1. Core parameters of a level that reads R inputs: M(R + M) + M times 1, 3 or 4. 9 levels of a GRU with
20 units and one input are 21,000, with 50 units 129,000.

A level folds time modulo s into the batch, so that a sequence takes T / s steps one after another. If the first
dilation is greater than 1, no output depends on all inputs; then the outputs are the last s_1 ones side by side, as in
the authors' code. Each level's carry is its last s_l states, oldest first, (*batch, s_l, M).

Initialization: Glorot for inputs and orthogonal for states, and the head's from N(0, 1) in the authors' code, which is
not done here. Recipe on MNIST: RMSprop with 1e-3 and a decay of 0.9, batches of 128, 30K iterations, the pixels' order
from the seed 92916. Known results on MNIST / permuted MNIST: GRU 99.2 / 94.6; tanh 98.0 / 96.1 as a later paper prints
it; those of 9 levels with 20 units (tanh 97.7 / 95.5, LSTM 98.9 / 95.4, GRU 99.0 / 94.4) are UNVERIFIED.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.rivals.initializers import gate_bias_init, orthogonal, per_gate
from experiments.rivals.layer import Carry, Cell, Rival, sharing
from experiments.rivals.lstm import LSTMCell


class GRUCell(Cell):
    """A timestep of a GRU whose reset gate multiplies the state before the matrix does, unlike Flax's.

    Args:
        forget_bias: initial bias of both gates: not to reset, and not to update.
        time_scale: T of :func:`experiments.rivals.initializers.gate_bias_init` for the gate z that keeps the state.
    """

    forget_bias: float = 1.0
    time_scale: float | None = None

    @nn.compact
    def __call__(self, carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        """Maps h, (*batch, M), and x, (*batch, R), to ``(h, h)``."""
        glorot, square = nn.initializers.glorot_uniform(), orthogonal()

        def bias(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
            reset = jnp.full((self.features,), self.forget_bias, dtype)
            keep = gate_bias_init("f", self.forget_bias, self.time_scale)(key, (self.features,), dtype)
            return jnp.concatenate([reset, keep])

        gates = self.dense(2 * self.features, "gates_input", kernel_init=per_gate(glorot, 2), bias_init=bias)(x)
        gates = gates + self.dense(2 * self.features, "gates_hidden", use_bias=False, kernel_init=per_gate(square, 2))(
            carry
        )
        r, z = jnp.split(nn.sigmoid(gates), 2, axis=-1)
        n = self.dense(self.features, "new_input", kernel_init=glorot)(x)
        n = n + self.dense(self.features, "new_hidden", use_bias=False, kernel_init=square)(r * carry)
        h = z * carry + (1 - z) * jnp.tanh(n)
        return h, h

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> Carry:
        """Zeros, h."""
        return self.zeros(input_shape, self.features)


def fold(xs: jax.Array, rows: int) -> jax.Array:
    """Folds time modulo ``rows`` into the batch, padding its end: (*batch, T, ..) to (*batch, rows, T / rows, ..)."""
    *batch, time, features = xs.shape
    steps = -(-time // rows)
    xs = jnp.pad(xs, [(0, 0)] * len(batch) + [(0, steps * rows - time), (0, 0)])
    return jnp.swapaxes(xs.reshape(*batch, steps, rows, features), -2, -3)


def unfold(xs: jax.Array, time: int) -> jax.Array:
    """The inverse of :func:`fold`: (*batch, rows, T / rows, ..) to (*batch, T, ..)."""
    *batch, rows, steps, features = xs.shape
    return jnp.swapaxes(xs, -2, -3).reshape(*batch, steps * rows, features)[..., :time, :]


def dilated(
    cell: nn.RNNCellBase, xs: jax.Array, dilation: int, start: Carry | None, lengths: jax.Array
) -> tuple[Carry, jax.Array]:
    """Applies a cell to the states ``dilation`` timesteps before.

    Args:
        cell: a bound cell, whose carry is arrays of shape (*batch, M).
        xs: (*batch, T, R).
        dilation: s.
        start: the last s states before the sequences, oldest first, arrays of shape (*batch, s, M); None for zeros.
        lengths: the lengths of the sequences, (*batch).

    Returns:
        The last s states within the sequences, as ``start``, and the outputs, (*batch, T, M).
    """
    time, batch = xs.shape[-2], xs.shape[:-2]
    if start is None:
        start = cell.initialize_carry(jax.random.key(0), (*batch, dilation, xs.shape[-1]))
    rows = max(1, min(dilation, time))  # states beyond time are not read
    times = fold(jnp.arange(-(-time // rows) * rows)[:, None], rows)
    inside = jnp.broadcast_to(times, (*batch, *times.shape)) < jnp.expand_dims(lengths, (-1, -2, -3))

    def step(cell: nn.RNNCellBase, carry: Carry, inputs: tuple[jax.Array, jax.Array]) -> tuple[Carry, jax.Array]:
        x, keep = inputs
        new, y = cell(carry, x)
        return jax.tree.map(lambda a, b: jnp.where(keep, a, b), new, carry), y

    axis = len(batch) + 1
    before, inputs = jax.tree.map(lambda z: z[..., :rows, :], start), (fold(xs, rows), inside)
    if inside.shape[axis] == 1:  # spares a loop, which takes longer to compile
        carry, ys = step(cell, before, jax.tree.map(lambda z: jnp.squeeze(z, axis), inputs))
        ys = jnp.expand_dims(ys, axis)
    else:
        scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False}, in_axes=axis, out_axes=axis)
        carry, ys = scan(cell, before, inputs)
    at = (jnp.expand_dims(lengths, -1) + jnp.broadcast_to(jnp.arange(dilation), (*batch, dilation))) % dilation

    def last(new: jax.Array, old: jax.Array) -> jax.Array:
        states = jnp.concatenate([new, old[..., rows:, :]], axis=-2)
        return jnp.take_along_axis(states, at[..., None], axis=-2)

    return jax.tree.map(last, carry, start), unfold(ys, time)


def powers_of_two(num_layers: int, dilations: tuple[int, ...] | None) -> tuple[int, ...]:
    """The dilations of the levels, 1, 2, 4, .. unless given, checked."""
    if dilations is None:
        return tuple(2**level for level in range(num_layers))
    if len(dilations) != num_layers or min(dilations, default=0) < 1:
        raise ValueError(
            f"dilations={dilations} are not num_layers={num_layers} positive numbers, one for each level; "
            f"give as many as levels, or None for 1, 2, 4, .."
        )
    return dilations


class Dilated(Rival):
    """Levels of a cell with dilations; subclasses implement :meth:`cell`.

    Args:
        num_layers: the number of levels.
        dilations: s_1, s_2, .. of the levels; None for 1, 2, 4, ..
    """

    num_layers: int = 9
    dilations: tuple[int, ...] | None = None

    @nn.nowrap
    def cell(self, dilation: int, name: str) -> nn.RNNCellBase:
        """A new cell with a name, for the level with this dilation; the last part of its carry is its output."""
        raise NotImplementedError

    def forward(
        self, xs: jax.Array, initial_carry: Carry | None, seq_lengths: jax.Array | None, deterministic: bool
    ) -> tuple[Carry, jax.Array]:
        """See :meth:`experiments.rivals.Rival.forward`."""
        dilations = powers_of_two(self.num_layers, self.dilations)
        first = dilations[0]
        if dilations[-1] < first:
            raise ValueError(
                f"the last of dilations={dilations} is less than the first, whose number of outputs is read side by "
                f"side; begin with a smaller one"
            )
        batch, time = xs.shape[:-2], xs.shape[-2]
        lengths = jnp.full(batch, time) if seq_lengths is None else seq_lengths
        carries = []
        for level, dilation in enumerate(dilations):
            start = None if initial_carry is None else initial_carry[level]
            carry, xs = dilated(self.cell(dilation, f"cell_{level}"), xs, dilation, start, lengths)
            carries.append(carry)
        if first > 1:
            before = jnp.zeros((*batch, first - 1, self.features), xs.dtype)
            if initial_carry is not None:
                before = jax.tree.leaves(initial_carry[-1])[-1][..., dilations[-1] - first + 1 :, :]
            xs = jnp.concatenate([before, xs], axis=-2)
            xs = jnp.concatenate([xs[..., back : back + time, :] for back in range(first)], axis=-1)
        return tuple(carries), xs


class DilatedRNN(Dilated):
    """Dilated RNN: levels of tanh cells that read their states 1, 2, 4, .. timesteps before.

    Args:
        num_layers: the number of levels.
        dilations: the timesteps that each level skips; None for 1, 2, 4, ..

    Example:
        >>> import jax
        >>> layer = DilatedRNN(features=8, num_layers=2)
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((2, 10, 5)))
        >>> ys.shape
        (2, 10, 8)
    """

    @nn.nowrap
    def cell(self, dilation: int, name: str) -> nn.RNNCellBase:
        """A level's cell."""

        def tanh(a: jax.Array) -> jax.Array:
            return jnp.tanh(a.astype(self.param_dtype))  # also the carry

        return nn.SimpleCell(
            self.features,
            activation_fn=tanh,
            kernel_init=nn.initializers.glorot_uniform(),
            recurrent_kernel_init=orthogonal(),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )


class DilatedGRU(Dilated):
    """Dilated GRU: levels of GRUs that read their states 1, 2, 4, .. timesteps before.

    Args:
        num_layers: the number of levels.
        dilations: the timesteps that each level skips; None for 1, 2, 4, ..
        forget_bias: initial bias of both gates.
        time_scale: for how many timesteps memory has to last; divided by the dilation of each level; replaces
            ``forget_bias`` in the gate that keeps the state.

    Example:
        >>> import jax
        >>> layer = DilatedGRU(features=8, num_layers=2, dilations=(1, 8))
        >>> carry, ys = layer.init_with_output(jax.random.key(0), jax.numpy.ones((2, 10, 5)), return_carry=True)[0]
        >>> ys.shape, [states.shape for states in carry]
        ((2, 10, 8), [(2, 1, 8), (2, 8, 8)])
    """

    forget_bias: float = 1.0
    time_scale: float | None = None

    @nn.nowrap
    def cell(self, dilation: int, name: str) -> nn.RNNCellBase:
        """A level's cell."""
        return sharing(
            self, GRUCell, time_scale=None if self.time_scale is None else self.time_scale / dilation, name=name
        )


class DilatedLSTM(Dilated):
    """Dilated LSTM: levels of LSTMs that read their states 1, 2, 4, .. timesteps before.

    Args:
        num_layers: the number of levels.
        dilations: the timesteps that each level skips; None for 1, 2, 4, ..
        forget_bias: initial bias of the forget gate.
        time_scale: for how many timesteps memory has to last; divided by the dilation of each level; replaces
            ``forget_bias``.

    Example:
        >>> import jax
        >>> layer = DilatedLSTM(features=8, num_layers=2)
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((2, 10, 5)))
        >>> ys.shape
        (2, 10, 8)
    """

    forget_bias: float = 1.0
    time_scale: float | None = None

    @nn.nowrap
    def cell(self, dilation: int, name: str) -> nn.RNNCellBase:
        """A level's cell."""
        return sharing(
            self, LSTMCell, time_scale=None if self.time_scale is None else self.time_scale / dilation, name=name
        )
