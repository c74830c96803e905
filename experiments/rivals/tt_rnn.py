"""LSTMs and GRUs whose matrices are factored: tensor trains, or a fixed smooth dictionary times a learned matrix.

    LSTM:  [i,f,g,o] = x W + h_ U + b;   c = s(f) c_ + s(i) tanh(g);   h = s(o) tanh(c)
    GRU:   [r,z] = s(x W + h_ U + b);    n = tanh(x Wn + r (h_ Un + bn) + b);   h = z h_ + (1 - z) n

``variant`` says which of the matrices are factored, and into which modes:

- ``tjandra`` (Tjandra et al., arXiv:1705.08052): W and U are tensor trains. Hidden units have the modes m1..md, the
  gates together m1..(4 md) or (3 md), and lie one after the other in the output's order. Entries of the matrices start
  with a standard deviation of 0.05.
- ``yang`` (Yang et al., arXiv:1707.01786): W alone, with the gates in the first mode, (4 m1)..md, and orthogonalized
  initial cores. U is dense, and the GRU's reset gate is applied to h: (r h_) Un. With few inputs there is nothing to
  save: R = 1 is an LSTM with a scalar of the input more. The original has hard sigmoids.
- ``onu`` (Onu et al., 2020): W and U, with modes of all 4M or 3M outputs together, and Glorot's variance. The public
  GRU mixes h_ and n with the reset gate instead of z; this one does not.
- ``denil`` (Denil et al., arXiv:1306.0543): W and U are :class:`experiments.rivals.low_rank.LowRankDense`. The paper
  has no recurrent networks; the low-rank matrix is the tensor train of a matrix that is not divided into modes.

Core parameters of a layer of ``tjandra``: sum_k r_{k-1} n_k m_k r_k for W and for U, with the last m_k times 4 or 3,
and 4M biases; 3M + M in the GRU. The originals have biases on both maps, which add up to one in all but n. With full
ranks the matrices are any matrices.

Our defaults: two modes, and ranks of a sixteenth of M, so that a layer is about 3.5 times as wide as the LSTM with
as many parameters, for any number of them (Tjandra's music models: four modes, ranks of 11). A step costs about sqrt(M)
times as many operations as the layer has parameters; more modes and small ranks make it wider and slower still. The
forget gate's bias, and z's, start at 1 (Tjandra: 0). Results on the tasks here: only Onu et al. have pMNIST,
UNVERIFIED.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.rivals.initializers import gate_bias_init, orthogonal, per_gate
from experiments.rivals.layer import Carry, Cell, CellStack, lstm_gates, sharing
from experiments.rivals.low_rank import LowRankDense
from experiments.rivals.tensor_train import TTDense, balanced_modes, check_modes, normal_cores, orthogonal_cores

VARIANTS = ("tjandra", "yang", "onu", "denil")
Map = Callable[[jax.Array], jax.Array]


class FactoredCell(Cell):
    """The base class of both cells: the maps from the input and from the hidden state to the gates.

    Args:
        variant: which matrices are factored, and how.
        num_modes: d, where no modes are given.
        ranks: r_1..r_{d-1}, or one number for all. Default: a sixteenth of M, rounded up.
        input_modes: n_1..n_d of the input.
        hidden_modes: m_1..m_d of the hidden units.
        smooth: whether the dictionary of ``denil`` is fixed.
        forget_bias: initial bias of the gate that keeps the state.
        time_scale: T of :func:`experiments.rivals.initializers.gate_bias_init`.
    """

    variant: str = "tjandra"
    num_modes: int = 2
    ranks: tuple[int, ...] | None = None
    input_modes: tuple[int, ...] | None = None
    hidden_modes: tuple[int, ...] | None = None
    smooth: bool = True
    forget_bias: float = 1.0
    time_scale: float | None = None

    gates: ClassVar[str] = "ifgo"

    @nn.nowrap
    def check(self, in_features: int) -> None:
        """Raises a ValueError for options that do not fit each other or the sizes."""
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {self.variant!r}.")
        given = [modes for modes in (self.input_modes, self.hidden_modes) if modes is not None]
        if self.variant == "denil" and given:
            raise ValueError(f"variant denil has no modes, got {given[0]}: leave them out.")
        if self.variant == "denil" and len(self.ranks or (1,)) != 1:
            raise ValueError(f"variant denil has one rank, got {self.ranks}: give one number.")
        if len(given) == 2 and len(given[0]) != len(given[1]):
            raise ValueError(f"input_modes and hidden_modes must be as many, got {given[0]} and {given[1]}.")
        if self.input_modes is not None:
            check_modes("input_modes", self.input_modes, in_features)
        if self.hidden_modes is not None:
            check_modes("hidden_modes", self.hidden_modes, self.features)

    @nn.nowrap
    def factored(self, name: Literal["input", "hidden"]) -> Map:
        """The factored map from the input or from the hidden state to all gates, without biases."""
        gates, dtypes = len(self.gates), {"dtype": self.dtype, "param_dtype": self.param_dtype}
        ranks = self.ranks or (-(-self.features // 16),)
        if self.variant == "denil":
            low_rank = LowRankDense(
                gates * self.features, ranks[0], smooth=self.smooth, use_bias=False, name=name, **dtypes
            )
            return lambda x: low_rank(x).astype(self.param_dtype)
        order = len(self.hidden_modes or self.input_modes or (1,) * self.num_modes)
        in_modes = self.input_modes if name == "input" else self.hidden_modes
        modes = self.hidden_modes or balanced_modes(self.features, order)
        whole = math.prod(modes)
        out_modes, init = {
            "tjandra": ((*modes[:-1], gates * modes[-1]), normal_cores(0.05)),
            "yang": ((gates * modes[0], *modes[1:]), orthogonal_cores),
            "onu": (None, normal_cores(None)),
        }[self.variant]
        train = TTDense(
            gates * (self.features if out_modes is None else whole),
            in_modes=in_modes,
            out_modes=out_modes,
            num_modes=order,
            ranks=ranks,
            use_bias=False,
            kernel_init=init,
            name=name,
            **dtypes,
        )

        def apply(x: jax.Array) -> jax.Array:
            y = train(x).astype(self.param_dtype)
            y = y.reshape(*x.shape[:-1], gates, y.shape[-1] // gates)[..., : self.features]
            return y.reshape(*x.shape[:-1], gates * self.features)

        return apply

    @nn.nowrap
    def hidden(self, features: int, name: str) -> Map:
        """A dense map from the hidden state, orthogonal for each gate."""
        init = per_gate(orthogonal(), features // self.features)
        return self.dense(features, name, use_bias=False, kernel_init=init)

    @nn.nowrap
    def biased(self, a: jax.Array, bias: jax.Array) -> jax.Array:
        """``a`` with a bias added to its last axis."""
        return a + jnp.broadcast_to(bias, a.shape)


class TTLSTMCell(FactoredCell):
    """A timestep of a layer of :class:`TTLSTM`; see :class:`FactoredCell`."""

    @nn.compact
    def __call__(self, carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        """Maps ``(c, h)``, each (*batch, M), and x, (*batch, R), to ``((c, h), h)``."""
        self.check(x.shape[-1])
        c, h = carry
        bias = self.param(
            "bias", gate_bias_init("ifgo", self.forget_bias, self.time_scale), (4 * self.features,), self.param_dtype
        )
        hidden = self.hidden(4 * self.features, "hidden") if self.variant == "yang" else self.factored("hidden")
        c, h = lstm_gates(self.biased(self.factored("input")(x) + hidden(h), bias), c)
        return (c, h), h

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> Carry:
        """Zeros, (c, h)."""
        zeros = self.zeros(input_shape, self.features)
        return zeros, zeros


class TTGRUCell(FactoredCell):
    """A timestep of a layer of :class:`TTGRU`; see :class:`FactoredCell`."""

    gates: ClassVar[str] = "rzn"

    @nn.compact
    def __call__(self, h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps h, (*batch, M), and x, (*batch, R), to ``(h, h)``."""
        self.check(x.shape[-1])
        size = self.features
        init = gate_bias_init("rfn", self.forget_bias, self.time_scale)  # z keeps, as a forget gate does
        bias = self.param("bias", init, (3 * size,), self.param_dtype)
        xr, xz, xn = jnp.split(self.biased(self.factored("input")(x), bias), 3, axis=-1)
        if self.variant == "yang":
            hr, hz = jnp.split(self.hidden(2 * size, "hidden")(h), 2, axis=-1)
            hn = self.hidden(size, "candidate")(nn.sigmoid(xr + hr) * h)
        else:
            hr, hz, hn = jnp.split(self.factored("hidden")(h), 3, axis=-1)
            hn = self.biased(hn, self.param("candidate_bias", nn.initializers.zeros, (size,), self.param_dtype))
            hn = nn.sigmoid(xr + hr) * hn
        z = nn.sigmoid(xz + hz)
        h = z * h + (1 - z) * jnp.tanh(xn + hn)
        return h, h

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> jax.Array:
        """Zeros, h."""
        return self.zeros(input_shape, self.features)


class FactoredStack(CellStack):
    """Layers of a factored cell."""

    variant: str = "tjandra"
    num_modes: int = 2
    ranks: tuple[int, ...] | None = None
    input_modes: tuple[int, ...] | None = None
    hidden_modes: tuple[int, ...] | None = None
    smooth: bool = True
    forget_bias: float = 1.0
    time_scale: float | None = None

    cell_type = FactoredCell
    fix_features: ClassVar[tuple[str, ...]] = ("hidden_modes",)

    @nn.nowrap
    def cell(self, index: int, deterministic: bool) -> nn.RNNCellBase:
        """A layer's cell; all but the first read hidden units."""
        return sharing(self, self.cell_type, input_modes=self.hidden_modes if index else self.input_modes, parent=None)


class TTLSTM(FactoredStack):
    """LSTM layers whose matrices are tensor trains (``tjandra``, ``yang``, ``onu``) or low-rank (``denil``).

    Args:
        variant: ``tjandra``: input and hidden matrices; ``yang``: the input's alone; ``onu``: both, with other modes;
            ``denil``: both are a fixed dictionary times a learned matrix.
        num_modes: the number of modes of the inputs and of the hidden units, if no modes are given.
        ranks: one rank for all, or one for each pair of neighboring cores; of ``denil`` the rank of the matrices.
            Default: a sixteenth of M, rounded up.
        input_modes: modes whose product is the number of inputs. Default: as equal as possible, padded.
        hidden_modes: modes whose product is M. Default: as equal as possible, padded.
        smooth: whether the dictionary of ``denil`` is fixed; else it is learned.
        forget_bias: initial bias of the forget gate.
        time_scale: for how many timesteps memory has to last; replaces ``forget_bias``.

    Example:
        >>> import jax
        >>> layer = TTLSTM(features=64, hidden_modes=(4, 4, 4), ranks=(3,))
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((3, 10, 5)))
        >>> ys.shape, sum(leaf.size for leaf in jax.tree.leaves(variables))
        ((3, 10, 64), 832)
    """

    cell_type = TTLSTMCell


class TTGRU(FactoredStack):
    """GRU layers whose matrices are tensor trains (``tjandra``, ``yang``, ``onu``) or low-rank (``denil``).

    Args:
        variant: ``tjandra``: input and hidden matrices; ``yang``: the input's alone; ``onu``: both, with other modes;
            ``denil``: both are a fixed dictionary times a learned matrix.
        num_modes: the number of modes of the inputs and of the hidden units, if no modes are given.
        ranks: one rank for all, or one for each pair of neighboring cores; of ``denil`` the rank of the matrices.
            Default: a sixteenth of M, rounded up.
        input_modes: modes whose product is the number of inputs. Default: as equal as possible, padded.
        hidden_modes: modes whose product is M. Default: as equal as possible, padded.
        smooth: whether the dictionary of ``denil`` is fixed; else it is learned.
        forget_bias: initial bias of the update gate z, which keeps h.
        time_scale: for how many timesteps memory has to last, T: z's bias is log u, u uniform in 1..2T; replaces
            ``forget_bias``.

    Example:
        >>> import jax
        >>> layer = TTGRU(features=60, num_modes=3, ranks=(4,))
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((3, 10, 5)))
        >>> ys.shape
        (3, 10, 60)
    """

    cell_type = TTGRUCell
