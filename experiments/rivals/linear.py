"""QRNN and SRU: gates that read the inputs (almost) alone, so that the memory cells are linear in their past.

QRNN, quasi-recurrent network (Bradbury, Merity, Xiong and Socher, arXiv:1611.01576; read in salesforce/pytorch-qrnn)

    z = tanh(X * Wz + bz);   f = s(X * Wf + bf);   o = s(X * Wo + bo);   c = f c_ + (1-f) z;   h = s(o) c

with ``*`` a causal convolution over the last k inputs, zeros before the first. Core parameters of a layer: 3kRM + 3M.
Salesforce's F is the update, 1 - f here. In training zoneout multiplies the update by a mask that is not rescaled, in
evaluation by 1 - p. There is no special initialization. Only an LSTM's recipe for enwik8 is public beside it; the 1.336
BPC (26M) that is quoted for the QRNN is UNVERIFIED. PTB in characters: 1.187 (6 layers, 13.8M). Deviations: their code
has widths 1 and 2 and cuts the gradient to the input before a chunk; any width here, and no dropout between layers.

SRU, simple recurrent unit (Lei, Zhang, Wang, Dai and Artzi, arXiv:1709.02755; read in asappresearch/sru)

    u, a, b = x W;   f = s(a + vf c_ + bf);   r = s(b + vr c_ + br);   c = u + f (c_ - u)
    h = x' + r m (phi(c) - x');   x' = sqrt(1 + 2 exp(br0)) x, br0 the initial br; a fourth part of x W if R != M

with m a dropout mask of the sequence. Core parameters of a layer: 3RM + 4M, and RM more if R != M. The first version
has no vf and vr. Initialization: W uniform with variance 1/R, with half of that for f and r if they have vf and vr;
these uniform with variance 1/2; u's part times sqrt(1 - dropout); the fourth part scaled as x' is; bf 0; br -3 as in
the script for enwik8. Its recipe: 8 layers of 1312 or 10 of 1152 (37M), Noam schedule with 32,000 updates of warm-up,
gradients clipped at 0.3, dropout 0.2 to 0.3. BPC 1.21 (37M) and 1.19 (47M) are UNVERIFIED. Deviations: no layer
normalization, no projection.

Where memory is linear in its past, all timesteps are computed at once with :func:`jax.lax.associative_scan`.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.rivals.convolutional import conv_by_product
from experiments.rivals.initializers import gate_bias_init, per_gate, uniform_init
from experiments.rivals.layer import Carry, Rival, last_before_end, state_at_end


def linear_recurrence(f: jax.Array, u: jax.Array, start: jax.Array) -> jax.Array:
    """The states c = f c_ + u of all timesteps, with a parallel scan.

    Args:
        f: factors, (*batch, T, M).
        u: updates, (*batch, T, M).
        start: the state before the first timestep, (*batch, M).

    Returns:
        (*batch, T, M).
    """

    def compose(first: tuple[jax.Array, jax.Array], second: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return first[0] * second[0], second[0] * first[1] + second[1]

    factors, states = jax.lax.associative_scan(compose, (f, u), axis=f.ndim - 2)
    return factors * start[..., None, :] + states


class QRNN(Rival):
    """Quasi-recurrent network: causal convolutions compute all gates, and memory is linear in its past.

    The carry is a tuple with the memory cells, (*batch, M), and the last ``width - 1`` inputs of each layer.

    Args:
        num_layers: L.
        width: the number of timesteps that a gate reads, k.
        zoneout: the fraction of the updates of memory that are left out in training.
        forget_bias: initial bias of the forget gate.
        time_scale: for how many timesteps memory has to last; the forget gate's bias starts at log u, u uniform in
            1..2T, instead of at ``forget_bias``; the input gate is tied to it.

    Example:
        >>> import jax
        >>> layer = QRNN(features=8, num_layers=2)
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((3, 10, 5)))
        >>> ys.shape, variables["params"]["conv_0"]["kernel"].shape
        ((3, 10, 8), (2, 5, 24))
    """

    num_layers: int = 4
    width: int = 2
    zoneout: float = 0.0
    forget_bias: float = 0.0
    time_scale: float | None = None

    def forward(
        self, xs: jax.Array, initial_carry: Carry | None, seq_lengths: jax.Array | None, deterministic: bool
    ) -> tuple[Carry, jax.Array]:
        """See :meth:`experiments.rivals.Rival.forward`."""
        batch_shape = xs.shape[:-2]
        xs = xs.astype(self.param_dtype)
        carries = []
        for index in range(self.num_layers):
            if initial_carry is None:
                start = jnp.zeros((*batch_shape, self.features), self.param_dtype)
                before = jnp.zeros((*batch_shape, self.width - 1, xs.shape[-1]), self.param_dtype)
            else:
                start, before = initial_carry[index]
            history = jnp.concatenate([before, xs], axis=-2)
            conv = nn.Conv(
                3 * self.features,
                (self.width,),
                padding="VALID",
                kernel_init=per_gate(nn.initializers.lecun_normal(), 3),
                bias_init=gate_bias_init("zfo", self.forget_bias, self.time_scale),
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                conv_general_dilated=conv_by_product,
                name=f"conv_{index}",
            )
            z, f, o = jnp.split(conv(history).astype(self.param_dtype), 3, axis=-1)
            update = nn.sigmoid(-f)
            if self.zoneout and deterministic:
                update = (1 - self.zoneout) * update
            elif self.zoneout:
                update = update * jax.random.bernoulli(self.make_rng("dropout"), 1 - self.zoneout, update.shape)
            cs = linear_recurrence(1 - update, update * jnp.tanh(z), start)
            before = last_before_end(history, seq_lengths, self.width - 1)
            carries.append((state_at_end(start, cs, seq_lengths), before))
            xs = nn.sigmoid(o) * cs
        return tuple(carries), xs


class SRU(Rival):
    """Simple recurrent unit: gates read the input and their own memory cell, with a highway around each layer.

    The carry is a tuple with the memory cells of each layer, (*batch, M).

    Args:
        num_layers: L.
        peephole: whether the gates read their own memory cell, as in the final version; without it memory is linear in
            its past, as in the first version.
        tanh: whether the layer's output reads tanh(c) instead of c.
        dropout: the fraction of the outputs c that are replaced by the highway in training, the same in all timesteps.
        highway_bias: initial bias of the highway gate r, br.
        forget_bias: initial bias of the forget gate.
        time_scale: for how many timesteps memory has to last; the forget gate's bias starts at log u, u uniform in
            1..2T, instead of at ``forget_bias``; the input gate is tied to it.

    Example:
        >>> import jax
        >>> layer = SRU(features=8, num_layers=2)
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((3, 10, 5)))
        >>> ys.shape, [variables["params"][f"dense_{i}"]["kernel"].shape for i in range(2)]
        ((3, 10, 8), [(5, 32), (8, 24)])
    """

    num_layers: int = 6
    peephole: bool = True
    tanh: bool = False
    dropout: float = 0.0
    highway_bias: float = -3.0
    forget_bias: float = 0.0
    time_scale: float | None = None

    def forward(
        self, xs: jax.Array, initial_carry: Carry | None, seq_lengths: jax.Array | None, deterministic: bool
    ) -> tuple[Carry, jax.Array]:
        """See :meth:`experiments.rivals.Rival.forward`."""
        xs = xs.astype(self.param_dtype)
        carries = []
        for index in range(self.num_layers):
            if initial_carry is None:
                start = jnp.zeros((*xs.shape[:-2], self.features), self.param_dtype)
            else:
                start = initial_carry[index]
            cs, xs = self._layer(index, xs, start, deterministic)
            carries.append(state_at_end(start, cs, seq_lengths))
        return tuple(carries), xs

    def _layer(self, index: int, xs: jax.Array, start: jax.Array, deterministic: bool) -> tuple[jax.Array, jax.Array]:
        """The memory cells and the outputs of a layer, (*batch, T, M)."""
        alpha = math.sqrt(1 + 2 * math.exp(self.highway_bias))
        parts = 3 if xs.shape[-1] == self.features else 4
        dense = nn.Dense(
            parts * self.features,
            use_bias=False,
            kernel_init=self._kernel_init(alpha),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=f"dense_{index}",
        )
        u, f, r, *rest = jnp.split(dense(xs).astype(self.param_dtype), parts, axis=-1)
        skip = rest[0] if rest else alpha * xs
        f = f + self._vector(f"forget_bias_{index}", gate_bias_init("f", self.forget_bias, self.time_scale), f)
        r = r + self._vector(f"highway_bias_{index}", nn.initializers.constant(self.highway_bias), r)
        if self.peephole:
            init = uniform_init(math.sqrt(1.5))
            vf, vr = (self._vector(f"{gate}_peephole_{index}", init, start) for gate in ("forget", "highway"))

            def step(c: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
                u, f = inputs
                c = u + nn.sigmoid(f + vf * c) * (c - u)
                return c, c

            _, cs = jax.lax.scan(step, start, (jnp.moveaxis(u, -2, 0), jnp.moveaxis(f, -2, 0)))
            cs = jnp.moveaxis(cs, 0, -2)
            before = jnp.concatenate([start[..., None, :], cs[..., :-1, :]], axis=-2)
            r = r + vr[..., None, :] * before
        else:
            cs = linear_recurrence(nn.sigmoid(f), nn.sigmoid(-f) * u, start)
        outputs = (jnp.tanh(cs) if self.tanh else cs) - skip
        outputs = nn.Dropout(self.dropout, broadcast_dims=(-2,), name=f"dropout_{index}")(
            outputs, deterministic=deterministic
        )
        return cs, skip + nn.sigmoid(r) * outputs

    def _vector(self, name: str, init: Any, like: jax.Array) -> jax.Array:
        """A parameter of shape (M,), broadcast to the shape of ``like``."""
        return jnp.broadcast_to(self.param(name, init, (self.features,), self.param_dtype), like.shape)

    @nn.nowrap
    def _kernel_init(self, alpha: float) -> Any:
        """W as described in the module's docstring, (R, 3M) or (R, 4M)."""
        uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
        gates = math.sqrt(0.5) if self.peephole else 1.0

        def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
            scales = jnp.repeat(jnp.asarray([math.sqrt(1 - self.dropout), gates, gates, alpha], dtype), self.features)
            return uniform(key, shape, dtype) * jnp.broadcast_to(scales[: shape[-1]], shape)

        return init
