"""minGRU and minLSTM: gates that read the input alone, so that all timesteps are computed in parallel.

    minGRU:  z = s(x Wz + bz);                                        h = (1 - z) h_ + z g(x Wh + bh)
    minLSTM: f = s(x Wf + bf);  i = s(x Wi + bi);  f', i' = f, i / (f + i);   h = f' h_ + i' g(x Wh + bh)

(Feng et al., 2024, arXiv:2410.01201), a simple recent rival that is not in the paper. g is the identity; with
``positive`` it is that of the paper's version in log space, a + 1/2 if a >= 0 and s(a) else, which keeps h positive.
Core parameters of a layer: 2M(R + 1), and 3M(R + 1) for minLSTM.

h is linear in itself and is computed with an associative scan, in log(T) steps. Deviations: it is not computed in log
space, since all factors of h_ are between 0 and 1; h starts at 0 and not at g(0); the layers are stacked as those of
an LSTM, without the convolutions, normalization, residual connections and MLPs between them in the paper's language
model. As only higher layers can gate by what came before, there are three layers by default (UNVERIFIED: the number in
the paper's experiments).
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.rivals.initializers import gate_bias_init, per_gate
from experiments.rivals.layer import Carry, Rival, state_at_end
from experiments.rivals.linear import linear_recurrence


class MinGRU(Rival):
    """The GRU or LSTM whose gates read the input alone, computed in parallel over time (Feng et al., 2024).

    The carry is a tuple of h, (*batch, M), for each layer.

    Args:
        num_layers: L.
        cell: ``gru`` or ``lstm``.
        positive: whether candidates are made positive first, as in the paper's version in log space.
        forget_bias: initial bias of the forget gate, and of 1 - z in minGRU.
        time_scale: for how many timesteps memory has to last in each layer; replaces ``forget_bias``.

    Example:
        >>> import jax
        >>> layer = MinGRU(features=8, num_layers=1, cell="lstm")
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((3, 10, 5)))
        >>> ys.shape
        (3, 10, 8)
    """

    num_layers: int = 3
    cell: str = "gru"
    positive: bool = False
    forget_bias: float = 0.0
    time_scale: float | None = None

    def __post_init__(self) -> None:
        """Checks the options."""
        if self.cell not in ("gru", "lstm"):
            raise ValueError(f"cell is {self.cell!r}: give 'gru' or 'lstm'")
        super().__post_init__()

    def forward(
        self, xs: jax.Array, initial_carry: Carry | None, seq_lengths: jax.Array | None, deterministic: bool
    ) -> tuple[Carry, jax.Array]:
        """See :meth:`experiments.rivals.Rival.forward`."""
        carry = []
        for index in range(self.num_layers):
            f, i, a = self.gates(xs, index)
            if self.positive:
                a = jnp.where(a >= 0, a + 0.5, nn.sigmoid(a))
            start = (
                jnp.zeros((*a.shape[:-2], self.features), a.dtype) if initial_carry is None else initial_carry[index]
            )
            xs = linear_recurrence(f, i * a, start)
            carry.append(state_at_end(start, xs, seq_lengths))
        return tuple(carry), xs

    def gates(self, xs: jax.Array, index: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The factors of h_ and of the candidate, which sum to 1, and the candidate before g, each (*batch, T, M)."""
        if self.cell == "gru":
            forget = gate_bias_init("f", self.forget_bias, self.time_scale)
            z = self.dense(xs, 1, f"gates_{index}", lambda *arguments: -forget(*arguments))
            f, i = nn.sigmoid(-z), nn.sigmoid(z)
        else:
            bias = gate_bias_init("fi", self.forget_bias, self.time_scale)
            both = jnp.split(self.dense(xs, 2, f"gates_{index}", bias), 2, axis=-1)
            log_ratio = nn.log_sigmoid(both[0]) - nn.log_sigmoid(both[1])  # of f to i, without dividing by 0
            f, i = nn.sigmoid(log_ratio), nn.sigmoid(-log_ratio)
        return f, i, self.dense(xs, 1, f"candidate_{index}", nn.initializers.zeros)

    def dense(self, xs: jax.Array, gates: int, name: str, bias_init: Callable[..., jax.Array]) -> jax.Array:
        """A dense layer with Glorot initialization, (*batch, T, gates * M), in ``param_dtype``."""
        kernel_init = per_gate(nn.initializers.glorot_uniform(), gates)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dense = nn.Dense(gates * self.features, kernel_init=kernel_init, bias_init=bias_init, name=name, **dtypes)
        return dense(xs).astype(self.param_dtype)
