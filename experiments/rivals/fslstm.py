"""The Fast-Slow LSTM: in each timestep, k cells update one fast state one after another, and one cell a slow state.

    F <- cell_1(x; F);   S <- slow(h_F; S);   F <- cell_2(h_S; F);   F <- cell_i(0; F), i = 3..k;   y = h_F

(Mujika, Meier and Steger, arXiv:1705.08639), F = (h, c) of M units and S of M_s. A cell, on [x, h_], is an LSTM with
layer normalization (eps 1e-3) of each gate and of the memory cell, and with zoneout:

    pre = [x, h_] W + b;   i, f, g, o = LN(each quarter of pre);   c' = s(f + 1) c_ + s(i) tanh(g);
    h' = s(o) tanh(LN(c'));   c = m . c' + (1 - m) . c_;   h likewise with another mask

where m is 1 for the units that are updated: a random mask in training, its mean in evaluation. The 1 of the
forget gate is the initial bias of its normalization here, which is the same. Cells 3..k have an input of one 0, whose
weights count: core parameters are [4M(R + M) + 14M] + [4M_s(M + M_s) + 14M_s] + [4M(M_s + M) + 14M] +
(k - 2)(4M^2 + 4M + 14M). The rows of W for the input and for the state are an orthogonal matrix each.

Results on enwik8 (table 1's rows): 1.290 (k = 2, 27M), 1.277 (k = 4, 27M), 1.245 (k = 4, M = 1200, M_s = 1500, 47M),
1.198 (two of the latter, their distributions averaged). Recipe: Adam with a learning rate of 1e-3, divided by 10 when
validation stalls, gradients clipped at 1, batches of 128, 100 timesteps of backpropagation, an embedding of 256,
dropout 0.25, zoneout 0.05 of h and 0.3 of c, 35 epochs. (The 0.95 and 0.7 in the code are probabilities of an update.)
Deviation: the embedding and the head, orthogonal there, are not part of the layer and start as the task has them.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.rivals.initializers import gate_bias_init, orthogonal
from experiments.rivals.layer import Carry, Cell, CellLayer, gate_norm, sharing


class ZoneoutLSTMCell(Cell):
    """An LSTM with layer normalization and zoneout.

    Args:
        zoneout_h: as in :class:`FSLSTM`.
        zoneout_c: as in :class:`FSLSTM`.
        forget_bias: as in :class:`FSLSTM`.
        time_scale: as in :class:`FSLSTM`.
        deterministic: whether states are averaged over all zoneout masks, instead of drawing a mask.
    """

    zoneout_h: float = 0.0
    zoneout_c: float = 0.0
    forget_bias: float = 1.0
    time_scale: float | None = None
    deterministic: bool = True

    @nn.compact
    def __call__(self, carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        """Maps ``(c, h)``, each (*batch, M), and x, (*batch, R), to ``((c, h), h)``."""
        c, h = carry
        in_features = x.shape[-1]

        def kernel(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
            sizes = (in_features, shape[0] - in_features)
            keys = jax.random.split(key)
            init = orthogonal()
            return jnp.concatenate([init(k, (n, shape[1]), dtype) for k, n in zip(keys, sizes, strict=True)])

        pre = self.dense(4 * self.features, "gates", kernel_init=kernel)(jnp.concatenate([x, h], axis=-1))
        pre = pre.reshape(*pre.shape[:-1], 4, self.features)
        bias = gate_bias_init("ifgo", self.forget_bias, self.time_scale)
        i, f, g, o = jnp.moveaxis(gate_norm("norm", bias, self.param_dtype)(pre), -2, 0)
        norm = nn.LayerNorm(1e-3, use_fast_variance=False, param_dtype=self.param_dtype, name="norm_c")
        new_c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
        new_h = nn.sigmoid(o) * jnp.tanh(norm(new_c))
        c, h = self.zoneout(c, new_c, self.zoneout_c), self.zoneout(h, new_h, self.zoneout_h)
        return (c, h), h

    def zoneout(self, old: jax.Array, new: jax.Array, rate: float) -> jax.Array:
        """Keeps a random fraction ``rate`` of the units of a state, (*batch, M), or averages over all masks."""
        if rate == 0:
            return new
        if self.deterministic:
            return old + (1 - rate) * (new - old)
        return jnp.where(jax.random.bernoulli(self.make_rng("dropout"), rate, new.shape), old, new)

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> Carry:
        """Zeros, (c, h)."""
        zeros = self.zeros(input_shape, self.features)
        return zeros, zeros


class FSLSTMCell(Cell):
    """A timestep of the layer.

    Args:
        num_layers: k.
        slow_features: as in :class:`FSLSTM`.
        dropout: as in :class:`FSLSTM`.
        zoneout_h: as in :class:`FSLSTM`.
        zoneout_c: as in :class:`FSLSTM`.
        forget_bias: as in :class:`FSLSTM`.
        time_scale: as in :class:`FSLSTM`.
        deterministic: whether dropout is off, and states are averaged over all zoneout masks.
    """

    num_layers: int = 4
    slow_features: int | None = None
    dropout: float = 0.0
    zoneout_h: float = 0.0
    zoneout_c: float = 0.0
    forget_bias: float = 1.0
    time_scale: float | None = None
    deterministic: bool = True

    @nn.compact
    def __call__(self, carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        """Maps ``(F, S)``, each (c, h), and x, (*batch, R), to the new ``(F, S)`` and y, (*batch, M)."""
        fast, slow = carry
        fast, h = self.cell("fast_0", self.features)(fast, self.drop(x))
        slow, h = self.cell("slow", self.num_slow)(slow, self.drop(h))
        fast, h = self.cell("fast_1", self.features)(fast, self.drop(h))
        nothing = jnp.zeros((*x.shape[:-1], 1), self.param_dtype)
        for index in range(2, self.num_layers):
            fast, h = self.cell(f"fast_{index}", self.features)(fast, nothing)
        return (fast, slow), self.drop(h)

    @property
    def num_slow(self) -> int:
        """M_s."""
        return self.features if self.slow_features is None else self.slow_features

    @nn.nowrap
    def cell(self, name: str, features: int) -> ZoneoutLSTMCell:
        """A new cell."""
        return ZoneoutLSTMCell(
            features,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            zoneout_h=self.zoneout_h,
            zoneout_c=self.zoneout_c,
            forget_bias=self.forget_bias,
            time_scale=self.time_scale,
            deterministic=self.deterministic,
            name=name,
        )

    @nn.nowrap
    def drop(self, z: jax.Array) -> jax.Array:
        """Applies dropout to the values passed from one cell to another; a cell's own state is not dropped."""
        return nn.Dropout(self.dropout, deterministic=self.deterministic)(z)

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> Carry:
        """Zeros, ``((c, h), (c, h))``."""
        fast, slow = (self.zeros(input_shape, features) for features in (self.features, self.num_slow))
        return (fast, fast), (slow, slow)


class FSLSTM(CellLayer):
    """The Fast-Slow LSTM: in each timestep, num_layers cells update a fast state, and one cell a slow state.

    The carry is ``((c, h), (c, h))`` of the fast and of the slow state.

    Args:
        num_layers: k, the number of fast cells.
        slow_features: the number of units of the slow state; None for the number of the fast state.
        dropout: the fraction of units that are 0 in training between cells, at the input, and at the output.
        zoneout_h: the fraction of the units of h that each cell leaves unchanged.
        zoneout_c: the fraction of the memory cells that each cell leaves unchanged.
        forget_bias: initial bias of the forget gates.
        time_scale: for how many timesteps memory has to last in each cell; replaces ``forget_bias``. The fast state is
            updated k times in each timestep, so that its memory lasts a k-th of it.

    Example:
        >>> import jax
        >>> layer = FSLSTM(features=8, num_layers=2, zoneout_h=0.05, zoneout_c=0.3)
        >>> xs, keys = jax.numpy.ones((3, 10, 5)), {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        >>> ys, variables = layer.init_with_output(keys, xs, deterministic=False)
        >>> ys.shape
        (3, 10, 8)
    """

    num_layers: int = 4
    slow_features: int | None = None
    dropout: float = 0.0
    zoneout_h: float = 0.0
    zoneout_c: float = 0.0
    forget_bias: float = 1.0
    time_scale: float | None = None

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        if self.num_layers < 2:
            raise ValueError(f"num_layers is the number of fast cells: give at least 2 instead of {self.num_layers}")

    @nn.nowrap
    def cell(self, deterministic: bool) -> nn.RNNCellBase:
        """The cell of all layers."""
        return sharing(self, FSLSTMCell, deterministic=deterministic, parent=None)

    @nn.nowrap
    def scan_options(self) -> dict[str, Any]:
        """Dropout and zoneout masks are resampled at every timestep."""
        return {"split_rngs": {"params": False, "dropout": True}}
