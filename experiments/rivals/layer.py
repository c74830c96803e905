"""The base classes of all rivals: one interface, stacks of cells, and the initial biases of gates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from tlstm_jax import checks
from tlstm_jax.layout import Layout

Module = TypeVar("Module", bound=nn.Module)
Carry = Any
"""The state between two chunks of a sequence: a pytree of arrays ``(*batch, ..)``."""


POSITIVE = (
    *("features", "num_layers", "kernel_size", "width", "factors", "slow_features", "hyper_features", "embedding"),
    *("max_steps", "rows", "lags", "order", "num_modes"),
)
"""Fields that count something, of which there is at least one."""
NOT_NEGATIVE = ("bias_limit", "epsilon", "initial_scale", "input_std", "state_noise", "unitary_rate")
PROBABILITIES = ("dropout", "zoneout")
"""A field with one of these words in its name is a probability."""


class Rival(nn.Module):
    """A recurrent layer: maps ``xs`` of shape (*batch, T, R) to ``ys`` of shape (*batch, T, M).

    Subclasses implement :meth:`forward`. A layer without ``num_layers`` in its fields has one layer.
    Fields that a subclass adds are its own options, which the command line offers as ``--rival-options name=value``.

    Raises:
        ValueError: a field is out of its range, see :data:`POSITIVE`, :data:`NOT_NEGATIVE` and :data:`PROBABILITIES`.

    Args:
        features: M.
        dtype: dtype of matrix products; None infers it from their operands.
        param_dtype: dtype of the parameters, of the carry, and of everything except products.
    """

    features: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    carries: ClassVar[bool] = True
    """Whether the layer can continue a sequence: whether it takes ``initial_carry`` and returns a carry."""
    causal: ClassVar[bool] = True
    """Whether y_t depends only on x_1..x_t."""
    tasks: ClassVar[tuple[str, ...]] = ("memorization", "addition", "mnist", "language")
    """The tasks that the layer can be trained on."""
    outside_core: ClassVar[tuple[str, ...]] = ()
    """Submodules that are part of the head in other models; their parameters are not core parameters."""
    batch_statistics: ClassVar[bool] = False
    """Whether training takes statistics over the batch, from which rows of length 0 in ``seq_lengths`` are left out."""
    features_multiple: ClassVar[int] = 1
    """``features`` must be a multiple of this number."""
    fix_features: ClassVar[tuple[str, ...]] = ()
    """Fields that, if they are not None, allow one value of ``features`` alone, so that no budget can choose it."""

    def __post_init__(self) -> None:
        """Checks the ranges of the fields."""
        for name in self.__dataclass_fields__:
            given = getattr(self, name)
            if given is None:
                continue
            if name in POSITIVE and given < 1:
                raise ValueError(f"{name} must be at least 1, got {given}.")
            if name in NOT_NEGATIVE and not given >= 0:
                raise ValueError(f"{name} must not be negative, got {given}.")
            if any(word in name for word in PROBABILITIES) and not 0 <= given < 1:
                raise ValueError(f"{name} must be a probability below 1, got {given}: give 0.1, for example.")
        super().__post_init__()

    @nn.nowrap
    def num_constraints(self) -> int:
        """The number of stored parameters that the others determine; these do not count as parameters."""
        return 0

    @property
    def learns_start(self) -> bool:
        """Whether the carry at the beginning of a sequence is a parameter."""
        return False

    @nn.nowrap
    def optimizer(self, others: optax.GradientTransformation) -> optax.GradientTransformation:
        """The optimizer of a model with this layer: ``others``, unless the layer has parameters that need their own."""
        return others

    @nn.compact
    def __call__(
        self,
        xs: jax.Array,
        *,
        initial_carry: Carry | None = None,
        seq_lengths: jax.Array | None = None,
        return_carry: bool = False,
        deterministic: bool = True,
    ) -> Any:
        """Applies the layer.

        Args:
            xs: inputs, (*batch, T, R).
            initial_carry: the carry that a former call returned; None for the beginning of a sequence.
            seq_lengths: the number of timesteps of each sequence, (*batch) integers; the outputs after them are
                undefined, and the carry is the state after the last of them.
            return_carry: whether to return ``(carry, ys)`` instead of ``ys``.
            deterministic: whether dropout, zoneout and other behaviour for training is off. If it is on, it needs the
                rng ``dropout``, and ``mutable=["batch_stats"]`` where there are batch statistics.

        Returns:
            The outputs, (*batch, T, M), with the carry before them if ``return_carry``.

        Raises:
            ValueError: ``xs`` or ``seq_lengths`` has the wrong shape or dtype, a flag is no bool, or an argument is one
                that the layer does not support.
        """
        return_carry = checks.flag("return_carry", return_carry)
        deterministic = checks.flag("deterministic", deterministic)
        xs = checks.check_array("xs", xs)
        if xs.ndim < 2 or xs.shape[-1] == 0:
            raise ValueError(
                f"xs must have shape (*batch, T, R) with R of at least 1, got {xs.shape}: add axes with xs[None], or "
                f"xs[..., None] for one input a timestep."
            )
        if not self.carries and (initial_carry is not None or return_carry):
            raise ValueError(
                f"{type(self).__name__} has no carry, since it sees a sequence whole: call it on whole sequences, "
                f"without initial_carry and return_carry."
            )
        lengths, _ = checks.check_sequences(seq_lengths, None, Layout.of(xs.shape, time_major=False))
        carry, ys = self.forward(xs, initial_carry, lengths, deterministic)
        return (carry, ys) if return_carry else ys

    def forward(
        self, xs: jax.Array, initial_carry: Carry | None, seq_lengths: jax.Array | None, deterministic: bool
    ) -> tuple[Carry, jax.Array]:
        """The carry after the last timestep and the outputs, for arguments of ``__call__`` that were checked."""
        raise NotImplementedError


class Cell(nn.RNNCellBase):
    """A timestep of a layer, for :class:`flax.linen.RNN`.

    Args:
        features: M.
        dtype: dtype of matrix products; None infers it from their operands.
        param_dtype: dtype of the parameters, of the carry, and of everything except products.
    """

    features: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.nowrap
    def dense(self, features: int, name: str, **options: Any) -> Callable[[jax.Array], jax.Array]:
        """A dense layer with the cell's dtypes: the product is computed in ``dtype``, its result in ``param_dtype``."""
        dense = nn.Dense(features, name=name, dtype=self.dtype, param_dtype=self.param_dtype, **options)
        return lambda x: dense(x).astype(self.param_dtype)

    @nn.nowrap
    def zeros(self, input_shape: tuple[int, ...], features: int) -> jax.Array:
        """Zeros of the carry, (*batch, features), for inputs of shape (*batch, R)."""
        return jnp.zeros((*input_shape[:-1], features), self.param_dtype)

    @property
    def num_feature_axes(self) -> int:
        """1, as for all cells on vectors."""
        return 1


class CellLayer(Rival):
    """One layer, or all layers of a model in one cell, with :class:`flax.linen.RNN`.

    Subclasses implement :meth:`cell`, whose carry is the layer's.
    """

    @nn.nowrap
    def cell(self, deterministic: bool) -> nn.RNNCellBase:
        """A new cell, with ``parent=None``."""
        raise NotImplementedError

    @nn.nowrap
    def scan_options(self) -> dict[str, Any]:
        """More arguments for :class:`flax.linen.RNN`, for example ``split_rngs={"params": False, "dropout": True}``."""
        return {}

    def forward(
        self, xs: jax.Array, initial_carry: Carry | None, seq_lengths: jax.Array | None, deterministic: bool
    ) -> tuple[Carry, jax.Array]:
        """See :meth:`Rival.forward`."""
        rnn = nn.RNN(self.cell(deterministic), **self.scan_options(), name="rnn")
        return over_time(rnn, xs, initial_carry, seq_lengths)


class CellStack(Rival):
    """Layers of one kind of cell, each of which reads the outputs of the one below, with :class:`flax.linen.RNN`.

    Subclasses implement :meth:`cell`. The carry is a tuple of the carries of the layers.

    Args:
        num_layers: L.
    """

    num_layers: int = 1

    @nn.nowrap
    def cell(self, index: int, deterministic: bool) -> nn.RNNCellBase:
        """A new cell, with ``parent=None``, for the layer with this index."""
        raise NotImplementedError

    @nn.nowrap
    def scan_options(self) -> dict[str, Any]:
        """More arguments for :class:`flax.linen.RNN`, for example ``split_rngs={"params": False, "dropout": True}``."""
        return {}

    def start(self, index: int, batch_shape: tuple[int, ...]) -> Carry | None:
        """The carry at the beginning of sequences if it is learned, made with :meth:`learned`; None for the cell's."""
        return None

    def learned(self, name: str, shape: tuple[int, ...], batch_shape: tuple[int, ...]) -> jax.Array:
        """A parameter that starts at 0 and is the same for all sequences, (*batch_shape, *shape)."""
        return jnp.broadcast_to(self.param(name, nn.initializers.zeros, shape, self.param_dtype), batch_shape + shape)

    def forward(
        self, xs: jax.Array, initial_carry: Carry | None, seq_lengths: jax.Array | None, deterministic: bool
    ) -> tuple[Carry, jax.Array]:
        """See :meth:`Rival.forward`."""
        carries = []
        for index in range(self.num_layers):
            start = self.start(index, xs.shape[:-2])
            if initial_carry is not None:
                start = initial_carry[index]
            rnn = nn.RNN(self.cell(index, deterministic), **self.scan_options(), name=f"rnn_{index}")
            carry, xs = over_time(rnn, xs, start, seq_lengths)
            carries.append(carry)
        return tuple(carries), xs


def over_time(rnn: nn.RNN, xs: jax.Array, start: Carry | None, lengths: jax.Array | None) -> tuple[Carry, jax.Array]:
    """Applies :class:`flax.linen.RNN` to sequences with any number of batch axes.

    With lengths Flax's layer takes the last carry with one batch axis alone, and for a sequence of length 0 that of the
    last timestep of all; here such a sequence keeps the carry that it begins with.

    Args:
        rnn: the layer, of a cell on vectors.
        xs: inputs, (*batch, T, R).
        start: the carry before the first timestep, arrays (*batch, ..); None for that of the cell.
        lengths: the lengths of the sequences, (*batch); None for T.

    Returns:
        The carry after the last timestep of each sequence, arrays (*batch, ..), and the outputs, (*batch, T, M).
    """
    *batch, time, features = xs.shape
    rows = math.prod(batch)
    xs = xs.reshape(rows, time, features)
    if start is None:
        start = rnn.cell.initialize_carry(jax.random.key(0), (rows, features))
    else:
        start = jax.tree.map(lambda z: z.reshape(rows, *z.shape[len(batch) :]), start)
    lengths = None if lengths is None else lengths.reshape(rows)
    end, ys = rnn(xs, initial_carry=start, seq_lengths=lengths, return_carry=True)
    if lengths is not None:
        some = lengths > 0
        end = jax.tree.map(lambda z, old: jnp.where(some.reshape(rows, *[1] * (z.ndim - 1)), z, old), end, start)
    return jax.tree.map(lambda z: z.reshape(*batch, *z.shape[1:]), (end, ys))


def sharing(module: nn.Module, kind: type[Module], **others: Any) -> Module:
    """A new module of class ``kind``, with the values of the fields that it shares with ``module``.

    Args:
        module: a layer, or a cell that consists of cells.
        kind: the class of the new module.
        others: the values of other fields.
    """
    names = (kind.__dataclass_fields__.keys() & type(module).__dataclass_fields__.keys()) - {"parent", "name", *others}
    return kind(**{name: getattr(module, name) for name in names}, **others)


def lstm_gates(a: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The gates of an LSTM: c' = s(f) c + s(i) tanh(g), h = s(o) tanh(c').

    Args:
        a: the pre-activations in the order i, f, g, o, (*batch, 4M).
        c: the memory cells, (*batch, M).

    Returns:
        c' and h, each (*batch, M).
    """
    i, f, g, o = jnp.split(a, 4, axis=-1)
    c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
    return c, nn.sigmoid(o) * jnp.tanh(c)


def core_size(layer: Rival, inputs: int) -> int:
    """The number of core parameters of a layer with R = ``inputs``: all except those of the head."""
    xs = jax.ShapeDtypeStruct((1, 2, inputs), layer.param_dtype)
    params = jax.eval_shape(layer.init, jax.random.key(0), xs)["params"]
    core = {name: leaves for name, leaves in params.items() if name not in layer.outside_core}
    return sum(leaf.size for leaf in jax.tree.leaves(core)) - layer.num_constraints()


def gate_norm(name: str, bias_init: Callable[..., jax.Array], param_dtype: Any, epsilon: float = 1e-3) -> nn.LayerNorm:
    """Normalizes each gate's pre-activations over the units, (*batch, gates, M); within a compact method.

    Args:
        name: the name of the module.
        bias_init: initializer of the biases side by side, (gates * M,), for example from
            :func:`experiments.rivals.initializers.gate_bias_init`.
        param_dtype: dtype of the parameters.
        epsilon: the number that is added to the variances.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return bias_init(key, (shape[0] * shape[1],), dtype).reshape(shape)

    return nn.LayerNorm(
        epsilon,
        param_dtype=param_dtype,
        bias_init=init,
        feature_axes=(-2, -1),
        use_fast_variance=False,
        name=name,
    )


def last_before_end(states: jax.Array, lengths: jax.Array | None, count: int) -> jax.Array:
    """The last ``count`` states of sequences: a carry that holds the states, or inputs, of several timesteps.

    Args:
        states: the ``count`` states before the sequences, then those of all timesteps, (*batch, count + T, M).
        lengths: the lengths of the sequences, (*batch); None for T.
        count: the number of states to return.

    Returns:
        An array of shape (*batch, count, M), oldest first.
    """
    if lengths is None:
        return states[..., states.shape[-2] - count :, :]
    at = jnp.expand_dims(lengths, -1) + jnp.broadcast_to(jnp.arange(count), (*lengths.shape, count))
    return jnp.take_along_axis(states, at[..., None], axis=-2)


def state_at_end(start: jax.Array, states: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """The state after the last timestep of each sequence, (*batch, M).

    Args:
        start: the state before the first timestep, (*batch, M); returned for sequences without timesteps.
        states: the states after each timestep, (*batch, T, M).
        lengths: the lengths of the sequences, (*batch); None for T.
    """
    every = jnp.concatenate([start[..., None, :], states], axis=-2)
    return last_before_end(every, lengths, 1)[..., 0, :]
