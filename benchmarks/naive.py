"""A straightforward tLSTM in Flax: ``nn.Conv`` for the convolution, ``nn.RNN`` for the loop, and plain autodiff."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.programs import Forward
from benchmarks.tasks import Task
from tlstm_jax import TLSTMConfig


class ConvTLSTMCell(nn.RNNCellBase):
    """One timestep, batch-major; the carry is (C, H). Its parameters are named as the library names them."""

    config: TLSTMConfig

    @nn.compact
    def __call__(self, carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        """The next carry and H at the output corner, from the carry and inputs ``(B, R)``."""
        cfg = self.config
        c, h = carry
        dims = len(cfg.tensor_shape)
        pads = ((0, 0), *cfg.padding, (0, 0))
        hcat = jnp.pad(h, pads)
        projected = nn.Dense(cfg.features, dtype=cfg.dtype, name="input")(x)
        hcat = hcat.at[:, *cfg.input_location].set(projected.astype(h.dtype))
        conv = nn.Conv(cfg.gate_features, cfg.kernel_shape, padding="VALID", dtype=cfg.dtype, name="hidden")
        a = conv(hcat).astype(c.dtype)
        g, i, f, o, q = jnp.split(a, [n * cfg.features for n in (1, 2, 3, 4)], axis=-1)
        q = nn.softmax(q)
        padded = jnp.pad(c, pads, mode="edge")
        mixed = sum(q[..., k, None] * padded[:, *window] for k, window in enumerate(cfg.windows))
        c = nn.tanh(g) * nn.sigmoid(i) + mixed * nn.sigmoid(f)
        axes = tuple(range(-dims - 1, 0))
        normalized = nn.LayerNorm(cfg.norm_epsilon, feature_axes=axes, name="norm")(c)  # a gain for each location
        h = (nn.tanh(normalized) * nn.sigmoid(o)).astype(h.dtype)
        return (c, h), h[:, *(-1,) * dims]

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> Any:
        """Zeros."""
        shape = (*input_shape[:-1], *self.config.tensor_shape, self.config.features)
        return jnp.zeros(shape), jnp.zeros(shape, self.config.dtype)

    @property
    def num_feature_axes(self) -> int:
        """The number of feature axes of the input."""
        return 1


def conv_forward(task: Task) -> Forward:
    """The cell in ``nn.RNN``, with L - 1 zero inputs at the end for the outputs that have not arrived yet."""
    cfg = task.size.config(task.precision.dtype)
    layer = nn.RNN(ConvTLSTMCell(cfg, parent=None), time_major=True)

    def forward(params: Any, xs: Any) -> Any:
        xs = jnp.pad(xs, ((0, cfg.delay), (0, 0), (0, 0)))
        return layer.apply({"params": {"cell": params}}, xs)[cfg.delay :]

    return forward
