"""HOT-RNN: an LSTM whose gates read products of several former states (Yu et al., arXiv:1711.00073).

    sv  = [h_{t-1}, .., h_{t-lags}, 1]                                           (S = lags M + 1)
    pre = x U + b + sum_{s1..sP} W(s1, .., sP) sv(s1) .. sv(sP)                   i, j, f, o of M each
    c   = s(f) c_ + s(i) tanh(j);   h = s(o) tanh(c)

The transition tensor W is a tensor train of P cores: core k has the shape (r_{k-1}, S, r_k), with r_0 = 1 and
r_P = 4M. It is contracted with one vector sv after the other, v_k = (v_{k-1} x sv) G_k, so that neither W nor the outer
product of the vectors is ever formed. Only the newest c is used. With P = 1 and one lag it is an LSTM.

Core parameters: 4RM + 4M + sum_k r_{k-1} S r_k.

Equations and gate order from the authors' public code, which adds 1 to f; here that is the initial bias. Deviations:
the cores start with normal entries of the variance 1 / (r_{k-1} S), the code's with Glorot's limits for one vector of
all entries, much smaller. UNVERIFIED: the paper's numbers of lags, order and ranks (here 2, 2 and 2); it forecasts time
series, and there are no results on the tasks here.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.rivals.initializers import gate_bias_init, per_gate
from experiments.rivals.layer import Carry, Cell, CellStack, sharing


class HOTCell(Cell):
    """A timestep of one layer.

    Args:
        lags: the number of former states that are read.
        order: P, the number of states that are multiplied with each other.
        ranks: r_1..r_{P-1}, or one number for all.
        forget_bias: initial bias of the forget gate.
        time_scale: T of :func:`experiments.rivals.initializers.gate_bias_init`.
    """

    lags: int = 2
    order: int = 2
    ranks: tuple[int, ...] = (2,)
    forget_bias: float = 1.0
    time_scale: float | None = None

    @nn.compact
    def __call__(self, carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        """Maps ``(c, hs)``, (*batch, M) and (*batch, lags M) from new to old, and x, (*batch, R), to ``(.., h)``."""
        if len(self.ranks) not in (1, self.order - 1) or min(self.ranks) < 1:
            raise ValueError(
                f"ranks must be positive, one number for all or one for each of the {self.order - 1} pairs of "
                f"neighboring cores, got {self.ranks} for order {self.order}."
            )
        c, hs = carry
        size = self.features
        bias = gate_bias_init("igfo", self.forget_bias, self.time_scale)
        glorot = per_gate(nn.initializers.glorot_uniform(), 4)
        pre = self.dense(4 * size, "input", kernel_init=glorot, bias_init=bias)(x)

        inner = self.ranks * (self.order - 1) if len(self.ranks) == 1 else self.ranks
        sv = jnp.concatenate([hs, jnp.ones((*hs.shape[:-1], 1), hs.dtype)], axis=-1)
        v = jnp.ones((*hs.shape[:-1], 1), hs.dtype)
        for k, rank in enumerate((*inner, 4 * size)):
            # (v x sv) G_k: a dense map whose rows are the pairs of a rank and an entry of sv
            pairs = (v[..., :, None] * sv[..., None, :]).reshape(*hs.shape[:-1], v.shape[-1] * sv.shape[-1])
            v = self.dense(rank, f"core_{k}", use_bias=False)(pairs)

        i, j, f, o = jnp.split(pre + v, 4, axis=-1)
        c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(j)
        h = nn.sigmoid(o) * jnp.tanh(c)
        return (c, jnp.concatenate([h, hs[..., :-size]], axis=-1)), h

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> Carry:
        """Zeros, (c, hs)."""
        return self.zeros(input_shape, self.features), self.zeros(input_shape, self.lags * self.features)


class HOTRNN(CellStack):
    """LSTM layers whose gates read products of several former states, through a tensor train.

    Args:
        lags: the number of former states that are read.
        order: the number of states that are multiplied with each other, and of cores.
        ranks: one rank for all, or one for each pair of neighboring cores.
        forget_bias: initial bias of the forget gate.
        time_scale: for how many timesteps memory has to last; replaces ``forget_bias``.

    Example:
        >>> import jax
        >>> layer = HOTRNN(features=8, lags=3, order=3)
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((3, 10, 5)))
        >>> ys.shape
        (3, 10, 8)
    """

    lags: int = 2
    order: int = 2
    ranks: tuple[int, ...] = (2,)
    forget_bias: float = 1.0
    time_scale: float | None = None

    @nn.nowrap
    def cell(self, index: int, deterministic: bool) -> nn.RNNCellBase:
        """A layer's cell."""
        return sharing(self, HOTCell, parent=None)
