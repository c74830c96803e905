"""The LSTM with batch normalization of the recurrence, whose statistics belong to a timestep.

    [i,f,g,o] = BN(h_ Wh; gh) + BN(x Wx; gx) + b;   c = s(f).c_ + s(i).tanh(g);   h = s(o).tanh(BN(c; gc, bc))
    BN(a; gain, shift) = gain.(a - mean)/sqrt(var + 1e-5) + shift

(Cooijmans, Ballas, Laurent, Gulcehre and Courville, Recurrent Batch Normalization, arXiv:1603.09025.) In training the
mean and the variance are over the batch, *at each timestep separately*; gains and shifts are the same at all timesteps.
In evaluation they are population estimates for the same timestep, and beyond the last timestep with an estimate, the
last estimate. The estimates are running means of the batches' moments with a rate of 0.01 that begin at mean 0 and
variance 1, as in the authors' code; the paper averages over the training set. The initial h and c are learned.

Initialization: **all gains are 0.1**, shifts 0, the forget gate's bias is 1; Wx is orthogonal; Wh is the identity for
the candidate g, and a matrix of orthonormal rows (M, 3M) for the three gates, as in the authors' code (the text says
the identity). Learned initial states start at 0.

On MNIST with the pixels in order, the first rows are black in every image: nothing varies within the batch, so that
its variance is 0, which makes gradients explode. There the authors add noise of deviation 0.1 to the initial h
(``state_noise=0.1``). Deviation: only in training here; what they do in evaluation is UNVERIFIED.

Core parameters of a layer: 4M(R + M) + 14M, and 2M for the initial state.

Results: MNIST 99.0 and permuted MNIST 95.4 (an LSTM with the same initialization: 98.9 and 90.2), where the
"permutation" was drawn with replacement, so that it lacks pixels: not comparable. text8 1.36 bits per character with
2000 units (LSTM 1.43), Penn Treebank by characters 1.32. MNIST's recipe: RMSprop with a learning rate of 1e-3 and a
decay of 0.5 in code (the text has a momentum of 0.9), the norm of the step clipped at 1, batches of 100, M = 100, 200
epochs.
"""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.rivals.initializers import gate_bias_init, orthogonal
from experiments.rivals.layer import Carry, Cell, Rival, sharing

EPSILON = 1e-5
GAIN = 0.1
"""The initial gains."""

Moments = dict[str, tuple[jax.Array, jax.Array]]
"""Means and variances of the normalized arrays: ``hidden`` and ``input``, (.., 4M), and ``memory``, (.., M)."""


class StepNorm(nn.Module):
    """A normalization over the batch, at one timestep.

    Args:
        shift: whether there is a shift.
        param_dtype: dtype of the parameters.
    """

    shift: bool
    param_dtype: Any

    @nn.compact
    def __call__(
        self, a: jax.Array, valid: jax.Array, population: tuple[jax.Array, jax.Array] | None
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Normalizes a, (*batch, n), and returns it with the mean and the variance, (n,), of training.

        Args:
            a: the array to normalize.
            valid: whether the statistics include a sequence, (*batch).
            population: the mean and the variance for each sequence, (*batch, n) each, in evaluation; None in training.
        """
        mean, var = moments(a, valid) if population is None else population
        scale = self.param("scale", nn.initializers.constant(GAIN), a.shape[-1:], self.param_dtype)
        at_mean, deviation, gain = (jnp.broadcast_to(z, a.shape) for z in (mean, jnp.sqrt(var + EPSILON), scale))
        y = gain * (a - at_mean) / deviation
        if self.shift:
            bias = self.param("bias", nn.initializers.zeros, a.shape[-1:], self.param_dtype)
            y = y + jnp.broadcast_to(bias, a.shape)
        return y, (mean, var)


def moments(a: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean and the variance, (n,) each, of the rows of a, (*batch, n), that are valid, (*batch)."""
    axes = tuple(range(a.ndim - 1))
    weights = jnp.broadcast_to(valid[..., None], a.shape).astype(a.dtype)
    count = jnp.maximum(weights.sum(axes), 1)
    mean = (weights * a).sum(axes) / count
    return mean, (weights * (a - jnp.broadcast_to(mean, a.shape)) ** 2).sum(axes) / count


class BNLSTMCell(Cell):
    """A timestep of one layer.

    Args:
        forget_bias: initial bias of the forget gate.
        time_scale: T of :func:`experiments.rivals.initializers.gate_bias_init`.
    """

    forget_bias: float = 1.0
    time_scale: float | None = None

    @nn.compact
    def __call__(self, carry: Carry, inputs: Any, population: Moments | None) -> tuple[Carry, Any]:
        """Maps ``(c, h, t)`` and ``(x, valid)`` to ``((c, h, t), (h, moments))``.

        c and h are (*batch, M); t, (*batch), is the number of previous timesteps; the carry of sequences that are not
        valid, (*batch), does not change. ``population`` are the population estimates, (steps, n); None in training,
        where the moments of the batch, (n,), are returned.
        """
        c, h, t = carry
        x, valid = inputs

        def norm(name: str, a: jax.Array) -> jax.Array:
            at = None
            if population is not None:
                index = jnp.minimum(t, population[name][0].shape[0] - 1)
                at = (population[name][0][index], population[name][1][index])
            y, found[name] = StepNorm(name == "memory", self.param_dtype, name=f"{name}_norm")(a, valid, at)
            return y

        found: Moments = {}
        m = self.features
        bias = gate_bias_init("ifgo", self.forget_bias, self.time_scale)
        a = norm("hidden", self.dense(4 * m, "hidden", use_bias=False, kernel_init=recurrent_init)(h))
        a = a + norm("input", self.dense(4 * m, "input", use_bias=False, kernel_init=orthogonal())(x))
        a = a + jnp.broadcast_to(self.param("bias", bias, (4 * m,), self.param_dtype), a.shape)
        i, f, g, o = jnp.split(a, 4, axis=-1)
        new_c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
        new_h = nn.sigmoid(o) * jnp.tanh(norm("memory", new_c))
        c, h = (jnp.where(valid[..., None], new, old) for new, old in ((new_c, c), (new_h, h)))
        return (c, h, t + valid), (h, found if population is None else None)

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> Carry:
        """Zeros, (c, h, t)."""
        zeros = self.zeros(input_shape, self.features)
        return zeros, zeros, jnp.zeros(input_shape[:-1], jnp.int32)


def recurrent_init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """The identity for the candidate, rows that are orthonormal over the other gates, in the order i, f, g, o."""
    m = shape[0]
    i, f, o = jnp.split(orthogonal()(key, (m, 3 * m), dtype), 3, axis=-1)
    return jnp.concatenate([i, f, jnp.eye(m, dtype=dtype), o], axis=-1)


class BNLSTMLayer(nn.Module):
    """One layer of :class:`BNLSTM`, with its population estimates and its learned initial state."""

    cell: BNLSTMCell
    max_steps: int | None
    momentum: float
    state_noise: float

    @nn.compact
    def __call__(
        self, xs: jax.Array, carry: Carry | None, valid: jax.Array, deterministic: bool
    ) -> tuple[Carry, jax.Array]:
        """Maps xs, (*batch, T, R), with ``valid``, (*batch, T), to the carry and to ys, (*batch, T, M)."""
        m, dtype, time = self.cell.features, self.cell.param_dtype, xs.ndim - 2
        if carry is None:
            zeros, _, t = self.cell.initialize_carry(jax.random.key(0), (*xs.shape[:-2], xs.shape[-1]))
            c, h = (
                zeros + jnp.broadcast_to(self.param(name, nn.initializers.zeros, (m,), dtype), zeros.shape)
                for name in ("c", "h")
            )
            if self.state_noise and not deterministic:
                h = h + self.state_noise * jax.random.normal(self.make_rng("dropout"), h.shape, dtype)
            carry = c, h, t
        steps = self.max_steps or xs.shape[-2]
        stored = {
            name: (
                self.variable("batch_stats", f"{name}_mean", jnp.zeros, (steps, n), dtype),
                self.variable("batch_stats", f"{name}_var", jnp.ones, (steps, n), dtype),
            )
            for name, n in (("hidden", 4 * m), ("input", 4 * m), ("memory", m))
        }
        population = {name: (jnp.asarray(mean.value), jnp.asarray(var.value)) for name, (mean, var) in stored.items()}
        before = carry[2].max(initial=0)
        scan: Any = nn.scan(
            lambda cell, carry, inputs, population: cell(carry, inputs, population),
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=(time, nn.broadcast),
            out_axes=(time, 0),
        )
        carry, (ys, found) = scan(self.cell, carry, (xs, valid), population if deterministic else None)
        if not deterministic and not self.is_initializing():
            seen = valid.any(tuple(range(time)))
            for name, variables in stored.items():
                for variable, new in zip(variables, found[name], strict=True):
                    variable.value = self.updated(variable.value, new, before, seen)
        return carry, ys

    def updated(self, old: jax.Array, new: jax.Array, before: jax.Array, seen: jax.Array) -> jax.Array:
        """The running means, (steps, n), after a batch.

        Args:
            old: the running means before.
            new: the batch's moments, (T, n).
            before: the number of timesteps before the batch's.
            seen: whether any sequence has not ended, (T,).
        """
        index = jnp.minimum(before + jnp.arange(len(new)), len(old) - 1)
        weights = jnp.broadcast_to(seen[:, None], new.shape).astype(old.dtype)
        count = jnp.zeros_like(old).at[index].add(weights)  # more than 1 only beyond the last timestep
        mean = jnp.zeros_like(old).at[index].add(weights * new) / jnp.maximum(count, 1)
        return jnp.where(count > 0, self.momentum * old + (1 - self.momentum) * mean, old)


class BNLSTM(Rival):
    """Batch-normalized LSTM: its statistics are over the batch, at each timestep separately.

    Training is with ``deterministic=False`` and ``mutable=["batch_stats"]``; the statistics are over the sequences that
    have not ended. All timesteps beyond the last estimate update the last one. The carry counts timesteps, so that
    a chunk uses the estimates of its timesteps; in training all sequences of a batch are assumed to be at the same one.

    Args:
        num_layers: L.
        max_steps: the number of timesteps that have population estimates; None for the number of timesteps
            of the inputs with which the layer is initialized.
        momentum: the fraction of a population estimate that remains after the update with a batch.
        state_noise: the deviation of the noise that is added to the initial h in training, which needs the rng
            ``dropout``; 0.1 for images with the pixels in order.
        forget_bias: initial bias of the forget gate.
        time_scale: for how many timesteps memory has to last; replaces ``forget_bias``.

    Example:
        >>> import jax
        >>> layer = BNLSTM(features=8)
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((3, 10, 5)))
        >>> ys.shape, variables["batch_stats"]["layer_0"]["memory_mean"].shape
        ((3, 10, 8), (10, 8))
    """

    num_layers: int = 1
    max_steps: int | None = None
    momentum: float = 0.99
    state_noise: float = 0.0
    forget_bias: float = 1.0
    time_scale: float | None = None

    batch_statistics: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum must be at least 0 and below 1, got {self.momentum}: give 0.99, for example.")
        super().__post_init__()

    @property
    def learns_start(self) -> bool:
        """True."""
        return True

    def forward(
        self, xs: jax.Array, initial_carry: Carry | None, seq_lengths: jax.Array | None, deterministic: bool
    ) -> tuple[Carry, jax.Array]:
        """See :meth:`experiments.rivals.Rival.forward`."""
        valid = jnp.ones(xs.shape[:-1], bool)
        if seq_lengths is not None:
            shape = xs.shape[:-1]
            steps = jnp.broadcast_to(jnp.arange(shape[-1]), shape)
            valid = steps < jnp.broadcast_to(seq_lengths[..., None], shape)
        carries = []
        for index in range(self.num_layers):
            cell = sharing(self, BNLSTMCell, parent=None)
            layer = BNLSTMLayer(cell, self.max_steps, self.momentum, self.state_noise, name=f"layer_{index}")
            start = None if initial_carry is None else initial_carry[index]
            carry, xs = layer(xs, start, valid, deterministic)
            carries.append(carry)
        return tuple(carries), xs
