"""The dilated CNN, plain or as a gated WaveNet, and the temporal convolutional network (TCN).

    plain:   u <- relu(u[t] A_l + u[t - 2^l] B_l + b_l),  l = 0, 1, ..
    WaveNet: z = tanh(conv_l(u)) s(conv'_l(u));  u <- u + z Wres_l + bres_l;  skip += z Wskip_l + bskip_l
             with u = x W + b at first, and relu(relu(skip) Wout + bout) at last, which the head reads
    TCN:     u <- relu(r(u) + f(u)),  f = twice [conv_l -> relu -> dropout],  r = the identity, or x W + b for a change
             of the number of channels

where conv_l is causal, of k taps that are 2^l timesteps apart, and the TCN's has weight normalization: each output's
weights are g v / |v|.

Dilated CNN: the row of that name in Chang et al. (arXiv:1710.02224), 98.3 / 96.7 on MNIST / permuted MNIST. That it is
a plain stack of 10 layers with 2 taps and 50 channels is deduced from its size of 46K parameters alone, which is
UNVERIFIED itself: such a stack has 46,110 with the head. So is the activation. WaveNet: van den Oord et al.
(arXiv:1609.03499), without its conditioning. Core parameters of the plain stack: k R M + M + (L - 1) (k M^2 + M); of
the gated one: RM + M + L (2k M^2 + 2M + 2 (M^2 + M)) + M^2 + M, less M^2 + M as the last residual is not read.

TCN: Bai, Kolter and Koltun (arXiv:1803.01271). On MNIST k=7, 8 levels of 25 channels, dropout 0.05, Adam with 2e-3,
batches of 64, 20 epochs, no clipping: 99.0 / 97.2, with an order of the pixels that was not seeded; 66,910 parameters
with the head. Core parameters: k R M + 2M + (k M^2 + 2M) (2L - 1), and R M + M if R is not M.

Initialization: He's for the plain stack, Flax's default for the gated one. The TCN's authors ask for N(0, 0.01^2) for
all its kernels, but the weight normalization of their code replaces the two kernels of each level at the first step by
what PyTorch drew before, U(+-1 / sqrt(k R)) with g = |v|, as the authors confirmed (issue 1 of their repository). Their
results were obtained with it, and it is the default here; ``initial_scale=0.01`` is the one that they ask for.

The layers apply to whole sequences at once. They can continue sequences nonetheless: each convolution's carry is the
(k - 1) 2^l inputs before, (*batch, (k - 1) 2^l, C). An output sees 1 + (k - 1) (2^L - 1) inputs, and in the TCN
1 + 2 (k - 1) (2^L - 1): choose the depth for the length of the sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.rivals.initializers import uniform_init
from experiments.rivals.layer import Carry, Rival, last_before_end


def conv_by_product(
    us: jax.Array, kernel: jax.Array, *_: Any, rhs_dilation: Sequence[int] = (1,), precision: Any = None, **__: Any
) -> jax.Array:
    """The convolution of ``jax.lax.conv_general_dilated`` over time, without padding and strides, as one product.

    In a ``scan``, the gradient of a convolution's kernel is slow with XLA for CPUs, and training runs in one: an epoch
    took 5 to 13 times as long (``benchmarks/results/against-6963ee4-qrnn-cpu.json`` and two more).

    Args:
        us: (batch, T, C).
        kernel: (k, C, M).
        rhs_dilation: the distance d of the taps in timesteps.
        precision: of the product.

    Returns:
        (batch, T - (k - 1) d, M).
    """
    (dilation,), (taps, channels, features) = rhs_dilation, kernel.shape
    time = us.shape[-2] - (taps - 1) * dilation
    patches = [us[:, tap * dilation : tap * dilation + time] for tap in range(taps)]
    return jnp.matmul(jnp.concatenate(patches, axis=-1), kernel.reshape(taps * channels, features), precision=precision)


class CausalConv(nn.Module):
    """A causal convolution over time that can continue a sequence.

    :class:`flax.linen.Conv` would put zeros before each chunk, where the inputs of the chunk before belong, and the
    gains of :class:`flax.linen.WeightNorm` start as constants instead of as the lengths of the initial kernels.

    Args:
        features: M.
        kernel_size: k.
        dilation: the distance d of the taps in timesteps.
        dtype: dtype of the products.
        param_dtype: dtype of the parameters and of the results.
        kernel_init: initializer of the kernel, or of v, (k, C, M).
        bias_init: initializer of the bias, (M,).
        weight_norm: whether each output's weights are g v / |v|, where g is |v| at first.
    """

    features: int
    kernel_size: int
    dilation: int
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()
    bias_init: Callable[..., jax.Array] = nn.initializers.zeros
    weight_norm: bool = False

    @nn.compact
    def __call__(
        self, us: jax.Array, before: jax.Array | None, lengths: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Applies the convolution.

        Args:
            us: (*batch, T, C).
            before: the (k - 1) d inputs before, (*batch, (k - 1) d, C); None for zeros.
            lengths: the lengths of the sequences, (*batch); None for T.

        Returns:
            The last (k - 1) d inputs within the sequences, as ``before``, and the outputs, (*batch, T, M).
        """
        *batch, time, channels = us.shape
        context = (self.kernel_size - 1) * self.dilation
        shape = (self.kernel_size, channels, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        if self.weight_norm:
            norm = jnp.sqrt((kernel**2).sum((0, 1)))
            scale = self.param("scale", lambda key: norm)
            kernel = kernel * jnp.broadcast_to(scale / norm, shape)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
        if before is None:
            before = jnp.zeros((*batch, context, channels), us.dtype)
        us = jnp.concatenate([before, us], axis=-2)
        after = last_before_end(us, lengths, context)
        operand, kernel = nn.dtypes.promote_dtype(us, kernel, dtype=self.dtype)
        ys = conv_by_product(operand.reshape(-1, *us.shape[-2:]), kernel, rhs_dilation=(self.dilation,))
        ys = ys.reshape(*batch, time, self.features).astype(self.param_dtype)
        return after, ys + jnp.broadcast_to(bias, ys.shape)


class Convolutional(Rival):
    """The base class of the convolutional rivals; the carry is a dict of the carries of the convolutions by name."""

    @nn.nowrap
    def dense(self, us: jax.Array, name: str, **options: Any) -> jax.Array:
        """A dense layer for each timestep: the product is computed in ``dtype``, its result in ``param_dtype``."""
        layer = nn.Dense(self.features, name=name, dtype=self.dtype, param_dtype=self.param_dtype, **options)
        return layer(us).astype(self.param_dtype)

    def run(self, xs: jax.Array, conv: Callable[..., jax.Array], deterministic: bool) -> jax.Array:
        """The outputs for ``xs``, with ``conv(us, name, features, kernel_size, dilation, **options)``."""
        raise NotImplementedError

    def forward(
        self, xs: jax.Array, initial_carry: Carry | None, seq_lengths: jax.Array | None, deterministic: bool
    ) -> tuple[Carry, jax.Array]:
        """See :meth:`experiments.rivals.Rival.forward`."""
        carries = {}

        def conv(us: jax.Array, name: str, features: int, kernel_size: int, dilation: int, **options: Any) -> jax.Array:
            layer = CausalConv(
                features, kernel_size, dilation, dtype=self.dtype, param_dtype=self.param_dtype, name=name, **options
            )
            carries[name], ys = layer(us, None if initial_carry is None else initial_carry[name], seq_lengths)
            return ys

        ys = self.run(xs.astype(self.param_dtype), conv, deterministic)
        return carries, ys


def check_taps(kernel_size: int) -> None:
    """Raises a ValueError unless there are taps that look back."""
    if kernel_size < 2:
        raise ValueError(f"kernel_size must be at least 2, so that a layer looks back, got {kernel_size}.")


class DilatedCNN(Convolutional):
    """Dilated CNN: causal convolutions over 1, 2, 4, .. timesteps, or a gated WaveNet of them.

    Args:
        num_layers: L.
        kernel_size: the number of taps, k.
        gated: whether it is a WaveNet, of gated layers with residual connections and skips to the output.

    Example:
        >>> import jax
        >>> layer = DilatedCNN(features=8, num_layers=4)
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((2, 20, 5)))
        >>> ys.shape
        (2, 20, 8)
        >>> variables["params"]["conv_3"]["kernel"].shape
        (2, 8, 8)
    """

    num_layers: int = 10
    kernel_size: int = 2
    gated: bool = False

    def run(self, xs: jax.Array, conv: Callable[..., jax.Array], deterministic: bool) -> jax.Array:
        """The plain and the gated form."""
        check_taps(self.kernel_size)
        if not self.gated:
            us = xs
            for layer in range(self.num_layers):
                he = nn.initializers.he_normal()
                us = nn.relu(conv(us, f"conv_{layer}", self.features, self.kernel_size, 2**layer, kernel_init=he))
            return us
        us, skips = self.dense(xs, "into"), []
        for layer in range(self.num_layers):
            a, gate = jnp.split(conv(us, f"conv_{layer}", 2 * self.features, self.kernel_size, 2**layer), 2, axis=-1)
            z = jnp.tanh(a) * nn.sigmoid(gate)
            skips.append(self.dense(z, f"skip_{layer}"))
            if layer + 1 < self.num_layers:
                us = us + self.dense(z, f"res_{layer}")
        return nn.relu(self.dense(nn.relu(sum(skips)), "out"))


class TCN(Convolutional):
    """Temporal convolutional network: residual blocks of two weight-normed causal convolutions.

    Args:
        num_layers: the number of levels, with dilations 1, 2, 4, ..
        kernel_size: the number of taps, k.
        dropout: rate of the dropout after each convolution.
        initial_scale: standard deviation of the initial kernels of the convolutions; None for U(+-1 / sqrt(k R)).

    Example:
        >>> import jax
        >>> layer = TCN(features=8, num_layers=3)
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((2, 20, 5)))
        >>> ys.shape
        (2, 20, 8)
        >>> jax.tree.map(jax.numpy.shape, variables["params"]["second_2"])
        {'bias': (8,), 'kernel': (7, 8, 8), 'scale': (8,)}
    """

    num_layers: int = 8
    kernel_size: int = 7
    dropout: float = 0.05
    initial_scale: float | None = None

    def run(self, xs: jax.Array, conv: Callable[..., jax.Array], deterministic: bool) -> jax.Array:
        """Applies all levels."""
        check_taps(self.kernel_size)
        us = xs
        for level in range(self.num_layers):
            f = us
            for name in ("first", "second"):
                bound = (self.kernel_size * f.shape[-1]) ** -0.5
                uniform = uniform_init(bound)
                kernel = uniform if self.initial_scale is None else nn.initializers.normal(self.initial_scale)
                options = {"kernel_init": kernel, "bias_init": uniform, "weight_norm": True}
                f = nn.relu(conv(f, f"{name}_{level}", self.features, self.kernel_size, 2**level, **options))
                f = nn.Dropout(self.dropout, deterministic=deterministic)(f)
            if us.shape[-1] != self.features:
                us = self.dense(
                    us,
                    f"res_{level}",
                    kernel_init=nn.initializers.normal(0.01),
                    bias_init=uniform_init(us.shape[-1] ** -0.5),
                )
            us = nn.relu(us + f)
        return us
