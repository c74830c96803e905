"""The iRNN: a plain recurrent network of rectified linear units that starts as the identity.

    h = relu(x W + h_ U + b);   U = I and b = 0 at the beginning

(Le, Jaitly and Hinton, arXiv:1504.00941). The initialization is the trick: without inputs, the state and its gradient
stay as they are for any number of timesteps. W starts as N(0, 0.001^2), and as Glorot's in the code of Arjovsky et al.
(arXiv:1511.06464). Core parameters of a layer: M(R + M) + M. It is :class:`flax.linen.SimpleCell`.

Table 3: 97.0% on MNIST, 82.0% on pMNIST. Recipe, UNVERIFIED: SGD with a learning rate of 1e-8, gradients clipped at 1,
batches of 16, a million steps, M = 100. Keras' example: RMSprop with a learning rate of 1e-6, 93% after 900 epochs.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.rivals.layer import CellStack


class IRNN(CellStack):
    """Rectified linear units whose recurrent matrix starts as the identity.

    It has no forget gate and needs no ``time_scale``: its memory initially lasts for any number of timesteps.

    Args:
        input_std: standard deviation of the initial input weights; None for Glorot initialization.

    Example:
        >>> import jax
        >>> layer = IRNN(features=8)
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((3, 10, 5)))
        >>> ys.shape
        (3, 10, 8)
    """

    input_std: float | None = 0.001

    @nn.nowrap
    def cell(self, index: int, deterministic: bool) -> nn.RNNCellBase:
        """A layer's cell, which maps h, (*batch, M), and x, (*batch, R), to ``(h, h)``."""

        def relu(a: jax.Array) -> jax.Array:
            return nn.relu(a.astype(self.param_dtype))  # also the carry

        normal, glorot = nn.initializers.normal, nn.initializers.glorot_uniform()
        return nn.SimpleCell(
            self.features,
            activation_fn=relu,
            kernel_init=glorot if self.input_std is None else normal(self.input_std),
            recurrent_kernel_init=lambda key, shape, dtype: jnp.eye(shape[0], dtype=dtype),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            parent=None,
        )
