"""The tanh network with a skip in time (sTANH).

    h = tanh(x W + h_ U + h_{t-s} U' + b)

(Zhang et al., arXiv:1602.08210.) A dilated layer is the same without h_ U. Core parameters: RM + 2M^2 + M, or
RM + M^2 + M if U' = U.

Whether the authors share U with U' is UNVERIFIED, so it is an option. s=21 on MNIST and 11 on permuted MNIST, and about
95 units, are UNVERIFIED too. Initialization: Glorot for W, and orthogonal matrices divided by sqrt(2) for U and U', so
that their sum neither shrinks nor grows states that are alike; this choice is ours. Known results on MNIST / permuted
MNIST: 98.1 / 94.0.

Since h_{t-s} is known for s timesteps at once, its products with U' are computed for blocks of s timesteps; only
h_ U is computed timestep by timestep.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.rivals.initializers import orthogonal
from experiments.rivals.layer import Carry, Rival, last_before_end


class STanh(Rival):
    """Tanh network whose state reads the states both 1 and s timesteps before.

    The carry is the last s states, oldest first, (*batch, s, M).

    Args:
        skip: s, the number of timesteps between a state and the earlier of the two states that it reads.
        shared: whether both states are multiplied by the same matrix.

    Example:
        >>> import jax
        >>> layer = STanh(features=8, skip=4)
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((2, 10, 5)))
        >>> ys.shape
        (2, 10, 8)
    """

    skip: int = 21
    shared: bool = False

    def forward(
        self, xs: jax.Array, initial_carry: Carry | None, seq_lengths: jax.Array | None, deterministic: bool
    ) -> tuple[Carry, jax.Array]:
        """See :meth:`experiments.rivals.Rival.forward`."""
        if self.skip < 2:
            raise ValueError(f"skip={self.skip}, but the state 1 timestep before is read anyway; give skip=2 or more")
        batch, time, m, s = xs.shape[:-2], xs.shape[-2], self.features, self.skip
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        inputs = nn.Dense(m, kernel_init=nn.initializers.glorot_uniform(), name="input", **dtypes)
        square = orthogonal(0.5**0.5)
        u = self.param("hidden", square, (m, m), self.param_dtype)
        v = u if self.shared else self.param("skipped", square, (m, m), self.param_dtype)
        before = initial_carry
        if before is None:
            before = jnp.zeros((*batch, s, m), self.param_dtype)

        def product(h: jax.Array, matrix: jax.Array) -> jax.Array:
            h, matrix = nn.dtypes.promote_dtype(h, matrix, dtype=self.dtype)
            return (h @ matrix).astype(self.param_dtype)

        def timestep(h: jax.Array, a: jax.Array) -> tuple[jax.Array, jax.Array]:
            h = jnp.tanh(a + product(h, u))
            return h, h

        def block(states: jax.Array, a: jax.Array) -> tuple[jax.Array, jax.Array]:
            """Maps the states of a block of timesteps, (s, *batch, M), and the next block's inputs to its states."""
            _, states = jax.lax.scan(timestep, states[-1], a + product(states, v))
            return states, states

        blocks = -(-time // s)
        a = jnp.moveaxis(inputs(xs).astype(self.param_dtype), -2, 0)
        a = jnp.pad(a, [(0, blocks * s - time)] + [(0, 0)] * (a.ndim - 1)).reshape(blocks, s, *batch, m)
        _, ys = jax.lax.scan(block, jnp.moveaxis(before, -2, 0), a)
        ys = jnp.moveaxis(ys.reshape(blocks * s, *batch, m)[:time], 0, -2)
        return last_before_end(jnp.concatenate([before, ys], axis=-2), seq_lengths, s), ys
