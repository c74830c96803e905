"""Low-rank dense: a matrix with a fixed smooth factor (Denil et al., arXiv:1306.0543).

    y = (x U) V + b,   U (N, k) a fixed dictionary, V (k, M) learned

Weights of neighboring inputs resemble each other, so that few of them predict the others: U = K_na (K_aa + ridge I)^-1
interpolates the weights at k points a among the N inputs by kernel ridge regression, with a squared exponential kernel
between the positions. Parameters: kM, and M biases; N k more where U is learned as well, the plain low-rank layer.

The points are spread evenly over the inputs' order, the kernel's length is their distance, and the ridge is 1e-3:
UNVERIFIED, as is the paper's own choice. The order of hidden units means nothing before training; U then ties units
that are neighbors. V starts with normal entries of variance 1 / |U|^2, with which outputs have the inputs' variance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype

RIDGE = 1e-3
"""The number that is added to the diagonal of the kernel between the points."""


def smooth_dictionary(size: int, rank: int) -> np.ndarray:
    """U: each of ``size`` weights as a combination of those at ``rank`` points, (size, rank)."""
    scale = size / rank
    points = (np.arange(rank) + 0.5) * scale - 0.5

    def kernel(positions: np.ndarray) -> np.ndarray:
        return np.exp(-(((positions[:, None] - points) / scale) ** 2) / 2)

    return np.linalg.solve(kernel(points) + RIDGE * np.eye(rank), kernel(np.arange(size)).T).T


class LowRankDense(nn.Module):
    """A dense layer whose matrix is a fixed smooth dictionary times a learned matrix: (*batch, N) to (*batch, M).

    Args:
        features: M.
        rank: k; reduced to N if it is larger.
        smooth: whether U is the fixed dictionary; else it is learned, from normal entries.
        use_bias: whether b is added.
        bias_init: initializes b.
        dtype: dtype of the products; None infers it from their operands.
        param_dtype: dtype of the parameters.

    Example:
        >>> import jax
        >>> layer = LowRankDense(features=32, rank=5)
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((2, 64)))
        >>> ys.shape, jax.tree.map(jax.numpy.shape, variables["params"])
        ((2, 32), {'bias': (32,), 'kernel': (5, 32)})
    """

    features: int
    rank: int
    smooth: bool = True
    use_bias: bool = True
    bias_init: Callable[..., jax.Array] = nn.initializers.zeros
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer to x, (*batch, N)."""
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}.")
        size, rank = x.shape[-1], min(self.rank, x.shape[-1])
        if self.smooth:
            fixed = smooth_dictionary(size, rank)
            dictionary = jnp.asarray(fixed, self.param_dtype)
            square = float((fixed**2).sum())
        else:
            dictionary = self.param("dictionary", nn.initializers.lecun_normal(), (size, rank), self.param_dtype)
            square = float(rank)  # its expectation
        init = nn.initializers.normal(square**-0.5)
        x, dictionary, kernel, bias = promote_dtype(
            x,
            dictionary,
            self.param("kernel", init, (rank, self.features), self.param_dtype),
            self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None,
            dtype=self.dtype,
        )
        y = x @ dictionary @ kernel
        return y if bias is None else y + jnp.broadcast_to(bias, y.shape)
