"""The Neural GPU: convolutional gated recurrent units, applied n times to a sequence of n timesteps.

The state s is (w, n, m) for a sequence of n timesteps. Its first row is the embedded input x We, the others are 0.
n times, L layers of CGRU with convolutions of 3x3 that keep the size transform it, and the first row is read:

    u = s'(conv_u(s) + 1);   r = s'(conv_r(s) + 1);   s <- u.s + (1-u).tanh(conv_c(r.s))
    s'(a) = clip(1.2 sigmoid(a) - 0.1, 0, 1)

(Kaiser and Sutskever, Neural GPUs Learn Algorithms, arXiv:1511.08228.) The improved form (Freivalds and Liepins,
Improving the Neural GPU Architecture for Algorithm Learning, arXiv:1702.08727, as in trax) has hard gates, with
s'(a) = clip(a, 0, 1) and clip(., -1, 1) for tanh, and diagonal gates: in u.s the first third of the channels comes from
the location to the left and the last third from that to the right. It is the nearest relative of a memory convolution
whose kernel is fixed.

Core parameters: 3L(9M^2 + M). The embedding, RM, is outside the core.

The model is not causal: every output depends on all inputs. It is compared on addition and memorization alone.

There is no ``time_scale``: all inputs are in the state from the first step on, and gates reach 1 exactly, where they
leave the state as it is. The constant 1 in the gates is the initial value of their biases here, which is the same
function, and the same training unless weights decay.

UNVERIFIED: the numbers of rows and layers, 4 and 2 here, and the initialization, Glorot's here. Left out: dropout,
noise on gradients, the relaxation of shared parameters, the cost of saturated gates, and the curriculum of lengths.
"""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.rivals.layer import Carry, Rival


def diagonal(s: jax.Array) -> jax.Array:
    """Moves the first third of the channels of s, (.., T, M), one location to the right, and the last to the left."""
    third = s.shape[-1] // 3
    right, stay, left = jnp.split(s, [third, s.shape[-1] - third], axis=-1)
    right = jnp.concatenate([jnp.zeros_like(right[..., :1, :]), right[..., :-1, :]], axis=-2)
    left = jnp.concatenate([left[..., 1:, :], jnp.zeros_like(left[..., :1, :])], axis=-2)
    return jnp.concatenate([right, stay, left], axis=-1)


def conv_by_product(s: jax.Array, kernel: jax.Array, *_: Any, precision: Any = None, **__: Any) -> jax.Array:
    """The convolution of ``nn.Conv`` for kernels of 3x3 that keep the size, as one product.

    In a ``scan``, the gradient of a convolution's kernel is slow with XLA for CPUs: training on memorization took 12
    times as long with it as with this product (``benchmarks/results/against-5f4a15e-neuralgpu-cpu.json``).

    Args:
        s: (batch, w, T, C).
        kernel: (3, 3, C, M).
        precision: of the product.

    Returns:
        (batch, w, T, M).
    """
    height, width = s.shape[-3:-1]
    padded = jnp.pad(s, ((0, 0), (1, 1), (1, 1), (0, 0)))
    neighbours = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    weights = kernel.reshape(-1, kernel.shape[-1])
    return jnp.matmul(jnp.concatenate(neighbours, axis=-1), weights, precision=precision)


class CGRUStep(nn.Module):
    """One transformation of the state by all layers.

    Args:
        num_layers: L.
        improved: whether the gates are hard and diagonal.
        dtype: dtype of the convolutions.
        param_dtype: dtype of the parameters and of the state.
    """

    num_layers: int
    improved: bool
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, s: jax.Array, step: jax.Array, lengths: jax.Array) -> tuple[jax.Array, None]:
        """Maps s, (*batch, w, T, M), to the next; for ``scan``.

        Args:
            s: the state.
            step: the number of previous transformations.
            lengths: the lengths of the sequences, (*batch). Beyond them the state remains 0, and after as many
                transformations it no longer changes.
        """
        m, old = s.shape[-1], s
        lengths = lengths[..., None, None, None]
        columns = jnp.arange(s.shape[-2]).reshape((1,) * (s.ndim - 2) + (-1, 1))
        inside = (columns < lengths).astype(s.dtype)
        for index in range(self.num_layers):
            u, r = jnp.split(self.gate(self.conv(2 * m, f"gates_{index}", nn.initializers.ones)(s)), 2, axis=-1)
            candidate = self.conv(m, f"candidate_{index}", nn.initializers.zeros)(r * s)
            candidate = jnp.clip(candidate, -1, 1) if self.improved else jnp.tanh(candidate)
            s = inside * (u * (diagonal(s) if self.improved else s) + (1 - u) * candidate)
        return jnp.where(step < lengths, s, old), None

    @nn.nowrap
    def conv(self, features: int, name: str, bias_init: Any) -> Any:
        """A convolution of 3x3 whose result is in ``param_dtype``."""
        conv = nn.Conv(
            features,
            (3, 3),
            kernel_init=nn.initializers.glorot_uniform(),
            bias_init=bias_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            conv_general_dilated=conv_by_product,
            name=name,
        )
        return lambda s: conv(s).astype(self.param_dtype)

    @nn.nowrap
    def gate(self, a: jax.Array) -> jax.Array:
        """s', which reaches 0 and 1."""
        return jnp.clip(a if self.improved else 1.2 * nn.sigmoid(a) - 0.1, 0, 1)


class NeuralGPU(Rival):
    """Neural GPU: convolutional gated units on the whole sequence, which they see before the first output.

    Args:
        num_layers: L, the number of units in a step.
        rows: w, the number of rows of the state.
        improved: whether it is the improved form, with hard and diagonal gates.

    Example:
        >>> import jax
        >>> layer = NeuralGPU(features=8)
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((3, 10, 5)))
        >>> ys.shape
        (3, 10, 8)
    """

    num_layers: int = 2
    rows: int = 4
    improved: bool = False

    carries: ClassVar[bool] = False
    causal: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...]] = ("memorization", "addition")
    outside_core: ClassVar[tuple[str, ...]] = ("embedding",)

    def forward(
        self, xs: jax.Array, initial_carry: Carry | None, seq_lengths: jax.Array | None, deterministic: bool
    ) -> tuple[Carry, jax.Array]:
        """See :meth:`experiments.rivals.Rival.forward`."""
        steps, batch = xs.shape[-2], xs.shape[:-2]
        lengths = jnp.full(batch, steps) if seq_lengths is None else seq_lengths
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        row = nn.Dense(self.features, use_bias=False, name="embedding", **types)(xs).astype(self.param_dtype)
        inside = jnp.broadcast_to(jnp.arange(steps), (*batch, steps)) < lengths[..., None]
        row = jnp.where(inside[..., None], row, jnp.zeros_like(row))[..., None, :, :]
        s = jnp.concatenate([row, jnp.zeros((*batch, self.rows - 1, steps, self.features), row.dtype)], axis=-3)
        scan: Any = nn.scan(
            CGRUStep, variable_broadcast="params", split_rngs={"params": False}, in_axes=(0, nn.broadcast)
        )
        s, _ = scan(self.num_layers, self.improved, **types, name="step")(s, jnp.arange(steps), lengths)
        return None, s[..., 0, :, :]
