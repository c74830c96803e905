"""The configuration of a tLSTM: its sizes and options, and the geometry that follows from them."""

from __future__ import annotations

import abc
import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, cast

import jax
import jax.numpy as jnp

from tlstm_jax.checks import (
    check_config,
    check_initial_values,
    finite,
    flag,
    float_dtype,
    matmul_precision,
    positive,
    positive_size,
    sizes,
    timesteps,
)
from tlstm_jax.typing import Array, PrecisionLike

C = TypeVar("C", bound="Recurrent")

CELLS = ("lstm", "rnn")
NORMS = ("channel", "layer", None)


class Recurrent(abc.ABC):
    """Base of the configurations of recurrent models with a state of shape ``(*tensor_shape, features)``.

    Matrix products, the hidden state and the outputs have the computation dtype. The memory cell, which
    sums over time, and everything that acts on it (gates, norm) have the memory dtype, which is the
    computation dtype promoted to at least float32.
    """

    features: int
    tensor_shape: tuple[int, ...]
    cell: str
    dtype: Any
    param_dtype: Any
    precision: PrecisionLike
    learn_carry: bool

    def to_dict(self) -> dict[str, Any]:
        """The configuration as a dict that ``json.dumps`` takes; :meth:`from_dict` reads it.

        Dtypes and precisions are given by name, such as ``"bfloat16"`` and ``"highest"``, and tuples as lists.

        Example:
            >>> import json, tlstm_jax as tl
            >>> cfg = tl.TLSTMConfig(features=8, tensor_shape=(3,), dtype="bfloat16")
            >>> text = json.dumps(cfg.to_dict())
            >>> tl.TLSTMConfig.from_dict(json.loads(text)) == cfg
            True
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {name: _to_json(value) for name, value in fields.items()}

    @classmethod
    def from_dict(cls: type[C], fields: Mapping[str, Any]) -> C:
        """The configuration that :meth:`to_dict` wrote; fields that are missing have their defaults.

        Raises:
            ValueError: ``fields`` is not a mapping, has a key that is not a field, lacks a field that has no default,
                or a value is invalid.
        """
        known = {field.name: field.default for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if not isinstance(fields, Mapping):
            raise ValueError(f"fields must be a dict, such as to_dict returns, got {type(fields).__name__}.")
        if unknown := sorted(map(str, fields.keys() - known.keys())):
            raise ValueError(f"{cls.__name__} has no field {', '.join(unknown)}: its fields are {', '.join(known)}.")
        if missing := [
            name for name, default in known.items() if default is dataclasses.MISSING and name not in fields
        ]:
            raise ValueError(
                f"{cls.__name__} needs {' and '.join(missing)}, got only {', '.join(fields) or 'nothing'}."
            )
        return cls(**fields)

    @abc.abstractmethod
    def param_shapes(self, in_features: int) -> dict[str, Any]:
        """The shape of every parameter, as a nested dict."""

    def carry_shapes(self) -> dict[str, Any]:
        """A dict with the shapes of the parameter group ``carry``; empty without a learned carry."""
        shape = (*self.tensor_shape, self.features)
        names = ("h",) if self.cell == "rnn" else ("c", "h")
        return {"carry": dict.fromkeys(names, shape)} if self.learn_carry else {}

    def computation_dtype(self, inputs: Array) -> Any:
        """``dtype``, or the dtype to which those of the inputs and ``param_dtype`` promote."""
        return self.dtype if self.dtype is not None else jnp.promote_types(inputs.dtype, self.param_dtype)

    @property
    def hidden_dtype(self) -> Any:
        """The dtype of the initial hidden state when no inputs are at hand."""
        return self.param_dtype if self.dtype is None else self.dtype

    @staticmethod
    def memory_dtype(computation_dtype: Any) -> Any:
        """The dtype of C, the gates and the norm."""
        dtype = jnp.dtype(computation_dtype)
        return jnp.dtype(jnp.float32) if dtype.itemsize < 4 else dtype


def _to_json(value: Any) -> Any:
    """``value``, the normalized value of a field, with dtypes and precisions by name and tuples as lists."""
    if isinstance(value, tuple):
        return [_to_json(part) for part in value]
    if isinstance(value, jax.lax.Precision):
        return value.name.lower()
    return jnp.dtype(value).name if isinstance(value, type) else value


@dataclasses.dataclass(frozen=True)
class TLSTMConfig(Recurrent):
    """Sizes and options of a Tensorized LSTM. Hashable, so it can be a static argument of ``jax.jit``.

    :meth:`to_dict` and :meth:`from_dict` convert to and from a dict for JSON.

    Args:
        features: M, channels at each location. Determines the number of kernel parameters.
        tensor_shape: ``(P_1, .., P_{D-1})``, locations along each tensorized dimension: ``(P,)`` is
            the paper's 2D tLSTM, ``(P, P)`` its 3D tLSTM. Adds no kernel parameters. An int means ``(P,)``.
        kernel_size: K, at least 2, an int or one for each dimension. 2 reads a location and its
            neighbor towards the input; 3 or more add feedback connections.
        cell: ``"lstm"`` (eqs. 14-19), or ``"rnn"`` for the tRNN (eqs. 5-8), which has no memory cell.
        memory_conv: whether to use the memory-cell convolution (eqs. 16-17); False is the paper's
            tLSTM-M (eqs. 10-13). Ignored by the tRNN.
        norm: ``"channel"`` (eqs. 20-21), ``"layer"`` or None. It acts only on the path to the hidden
            state (eq. 31). ``"layer"`` computes statistics over all locations, so that earlier outputs
            depend on later inputs; the other two keep outputs causal.
        norm_epsilon: added to the variance.
        kernel_scale: variance of the initial recurrent kernel times its fan-in, <K> M.
        forget_bias: initial bias of the forget gate.
        conveyor_bias: initial bias of the memory kernel's logit (eq. 16) for the offset farthest towards
            the input. A positive value makes memory first travel from the input's corner to the output's, at the
            speed of eq. 9, instead of spreading over all neighbors. Not in the paper.
        dtype: dtype of the computation; None is the one to which the inputs' dtype and ``param_dtype`` promote. The
            memory cell, the gates and the norm are kept in at least float32.
        param_dtype: dtype of the initial parameters. Given ones of another dtype are cast; the computation stays.
        precision: precision of the matrix products, as in ``jax.lax.dot``: None, ``"default"``, ``"high"``,
            ``"highest"`` (or another name of a ``jax.lax.Precision``), a ``jax.lax.Precision``, or a pair of these.
        learn_carry: whether the initial carry is a parameter, group ``carry`` of :func:`tlstm_jax.init_params`.
            Sequences without a given initial state, and those after a reset, start from it instead of zeros.
        time_scale: T, for how many timesteps memory has to last; sets the initial biases of the input gate, the forget
            gate and the memory kernel (below). With None, ``forget_bias`` and ``conveyor_bias`` apply; their defaults,
            1 and 0, are the paper's values, except that for images the paper uses a forget bias of 4.

    Raises:
        ValueError: a size is not positive, a kernel size is below 2, the dimensions give different
            depths (eq. 9), the norm would take its statistics over a single value, or an option has an invalid value.

    With ``time_scale=T`` memory lasts for about T timesteps before training. The forget gate of each channel has the
    bias log u and its input gate -log u, with u uniform in 1..2T: a gate of bias log u keeps u / (u + 1) of the memory,
    which then has a time constant of about u (chrono initialization, https://arxiv.org/abs/1804.11188). The biases of
    the memory kernel make memory move along each dimension by v = (P - 1) / (0.85 T - 1) locations per timestep on
    average: from the input's corner to the output's there are P - 1 locations, which take (P - 1) / v timesteps, 0.85 T
    with both ends, so that memory arrives shortly before it is needed. 5% of the kernel is spread evenly over all
    offsets. A kernel moves memory by at most floor(K/2) locations per timestep, which limits v for T near L; and for T
    much larger than P memory arrives sooner, because the spread alone carries it across 3 locations in about 75
    timesteps. Neither bias is in the paper. As evidence, ``tensor_shape=(10,)`` has learned to repeat 20 symbols after
    43,500 to 54,000 samples with T=30 (five seeds), and with a forget bias of 4 gets at most 46% of them right after
    84,000 (two seeds); see the page "Choosing P, K and M" of the guide.

    Example:
        >>> import tlstm_jax as tl
        >>> cfg = tl.TLSTMConfig(features=100, tensor_shape=(3, 3))
        >>> cfg.depth, cfg.kernel_size, cfg.num_offsets
        (3, (3, 3), 9)
        >>> tl.TLSTMConfig(features=100, tensor_shape=(4, 3))
        Traceback (most recent call last):
            ...
        ValueError: every dimension must give the same depth (eq. 9), but tensor_shape=(4, 3) with \
kernel_size=(3, 3) gives depths (4, 3): change a size so that ceil(2 P / (K - K mod 2)) agrees.
    """

    features: int
    tensor_shape: tuple[int, ...]
    kernel_size: int | tuple[int, ...] = 3
    cell: Literal["lstm", "rnn"] = "lstm"
    memory_conv: bool = True
    norm: Literal["channel", "layer"] | None = "channel"
    norm_epsilon: float = 1e-6
    kernel_scale: float = 1.0
    forget_bias: float = 1.0
    conveyor_bias: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: PrecisionLike = None
    learn_carry: bool = False
    time_scale: float | None = None

    def __post_init__(self) -> None:
        tensor_shape = sizes("tensor_shape", self.tensor_shape)
        kernel_size = sizes("kernel_size", self.kernel_size, ndim=len(tensor_shape), at_least=2)
        if not isinstance(self.cell, str) or self.cell not in CELLS:
            raise ValueError(f'cell must be "lstm" or "rnn" (the tRNN), got {self.cell!r}.')
        if not isinstance(self.norm, str | None) or self.norm not in NORMS:
            raise ValueError(f'norm must be "channel", "layer" or None, got {self.norm!r}.')
        normalized = {
            "features": positive_size("features", self.features),
            "tensor_shape": tensor_shape,
            "kernel_size": kernel_size,
            "memory_conv": flag("memory_conv", self.memory_conv),
            "norm_epsilon": positive("norm_epsilon", self.norm_epsilon),
            "kernel_scale": positive("kernel_scale", self.kernel_scale),
            "forget_bias": finite("forget_bias", self.forget_bias),
            "conveyor_bias": finite("conveyor_bias", self.conveyor_bias),
            "dtype": None if self.dtype is None else float_dtype("dtype", self.dtype),
            "param_dtype": float_dtype("param_dtype", self.param_dtype),
            "precision": matmul_precision("precision", self.precision),
            "learn_carry": flag("learn_carry", self.learn_carry),
            "time_scale": timesteps("time_scale", self.time_scale),
        }
        for name, value in normalized.items():  # one canonical form, so that equal configurations have equal hashes
            object.__setattr__(self, name, value)
        self._check_norm()
        check_initial_values(self)
        check_time_scale({name: value for name, value in vars(self).items() if value != DEFAULTS.get(name)}, self.cell)
        depths = self._depths
        if len(set(depths)) > 1:
            raise ValueError(
                f"every dimension must give the same depth (eq. 9), but tensor_shape={tensor_shape} with "
                f"kernel_size={kernel_size} gives depths {depths}: change a size so that "
                "ceil(2 P / (K - K mod 2)) agrees."
            )

    def _check_norm(self) -> None:
        """A single value minus its mean is 0: the norm would make every output 0."""
        count = self.features * (math.prod(self.tensor_shape) if self.norm == "layer" else 1)
        if self.norm is not None and count == 1:
            raise ValueError(
                f'norm="{self.norm}" needs more than one value to normalize, got features={self.features} with '
                f"tensor_shape={self.tensor_shape}, whose outputs would all be 0: use norm=None or more features."
            )

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """K_1, .., K_{D-1}: ``kernel_size`` with one entry for each dimension."""
        return cast(tuple[int, ...], self.kernel_size)

    @property
    def _depths(self) -> tuple[int, ...]:
        return tuple(math.ceil(2 * p / (k - k % 2)) for p, k in zip(self.tensor_shape, self.kernel_shape, strict=True))

    @property
    def depth(self) -> int:
        """L (eq. 9): the number of timesteps from an input to the output that answers it, counting both."""
        return self._depths[0]

    @property
    def delay(self) -> int:
        """L - 1: the number of timesteps by which an output lags its input."""
        return self.depth - 1

    @property
    def num_offsets(self) -> int:
        """<K>: the number of kernel offsets."""
        return math.prod(self.kernel_shape)

    @property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """Padding below and above along each dimension that keeps the size of the tensor.

        Offset k - floor(K/2), k = 0..K-1, reaches floor(K/2) below and K - 1 - floor(K/2) above.
        """
        return tuple((k // 2, k - 1 - k // 2) for k in self.kernel_shape)

    @property
    def input_location(self) -> tuple[int, ...]:
        """Index in the padded hidden state of hcat location (1, .., 1), which holds the input (eq. 5)."""
        return tuple(below - 1 for below, _ in self.padding)

    @property
    def offsets(self) -> tuple[tuple[int, ...], ...]:
        """s_k: the kernel's offsets, row-major; dimension d has -floor(K/2) .. K - 1 - floor(K/2)."""
        return tuple(itertools.product(*(range(-below, above + 1) for below, above in self.padding)))

    @property
    def windows(self) -> tuple[tuple[slice, ...], ...]:
        """For each kernel offset, the slices of the padded tensor that give the shifted tensor."""
        starts = ([step + below for step, (below, _) in zip(s, self.padding, strict=True)] for s in self.offsets)
        return tuple(tuple(slice(s, s + p) for s, p in zip(start, self.tensor_shape, strict=True)) for start in starts)

    @property
    def input_taps(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """The locations that read the input: (k, location) if kernel offset k leads from the location to the input."""
        taps = ((k, tuple(-1 - step for step in offset)) for k, offset in enumerate(self.offsets))
        return tuple(
            (k, location)
            for k, location in taps
            if all(0 <= at < size for at, size in zip(location, self.tensor_shape, strict=True))
        )

    @property
    def has_memory_kernel(self) -> bool:
        """Whether every location computes a memory kernel Q (eqs. 16-17)."""
        return self.cell == "lstm" and self.memory_conv

    @property
    def gate_features(self) -> int:
        """Channels of the pre-activation A: g, i, f, o and q (4M + <K>), without q (4M), or the tRNN's M."""
        if self.cell == "rnn":
            return self.features
        return 4 * self.features + (self.num_offsets if self.memory_conv else 0)

    def param_shapes(self, in_features: int) -> dict[str, Any]:
        """The shape of every parameter, as a nested dict (see :func:`tlstm_jax.init_params`)."""
        m, a = self.features, self.gate_features
        shapes: dict[str, Any] = {
            "input": {"kernel": (in_features, m), "bias": (m,)},
            "hidden": {"kernel": (*self.kernel_shape, m, a), "bias": (a,)},
        }
        if self.norm is not None:
            shapes["norm"] = {"scale": (*self.tensor_shape, m), "bias": (*self.tensor_shape, m)}
        return shapes | self.carry_shapes()


DEFAULTS: dict[str, Any] = {
    field.name: field.default for field in dataclasses.fields(TLSTMConfig) if field.default is not dataclasses.MISSING
}
"""The default of each field of :class:`TLSTMConfig` that has one."""
SET_BY_TIME_SCALE = ("forget_bias", "conveyor_bias")


def check_time_scale(given: Mapping[str, Any], cell: str) -> None:
    """Raises a ValueError for a ``time_scale`` given together with a field that it sets, or without memory cells."""
    if given.get("time_scale") is None:
        return
    if cell == "rnn":
        raise ValueError(
            f"time_scale sets for how long memory cells keep their values, and the tRNN has none: got "
            f'time_scale={given["time_scale"]} with cell="rnn". Leave time_scale out.'
        )
    for name in SET_BY_TIME_SCALE:
        if name in given:
            raise ValueError(
                f"time_scale sets {name}, got both time_scale={given['time_scale']} and {name}={given[name]}: leave "
                "one of them out."
            )


class Unset:
    """Type of :data:`UNSET`, which stands in a layer's signature for a field of the configuration that is not given."""

    def __repr__(self) -> str:
        return "<unset>"

    def __reduce__(self) -> str:
        return "UNSET"  # copying and unpickling return this same instance


UNSET = Unset()
"""Stands for a field that is not given and has the default of :class:`TLSTMConfig`. (None is a value of ``norm``.)"""


def given_fields(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of :class:`TLSTMConfig` that were given among a layer's arguments."""
    values = {field.name: arguments[field.name] for field in dataclasses.fields(TLSTMConfig)}
    return {name: value for name, value in values.items() if value is not UNSET}


def resolve_config(layer: str, config: TLSTMConfig | None, given: Mapping[str, Any]) -> TLSTMConfig:
    """The configuration of a layer that takes either ``config`` or the fields of one.

    Args:
        layer: name of the layer, for messages.
        config: the configuration, or None.
        given: the fields that were given, as from :func:`given_fields`.

    Raises:
        ValueError: both were given, neither was given, or a value is invalid.
    """
    if config is None:
        if missing := [name for name in ("features", "tensor_shape") if name not in given]:
            raise ValueError(
                f"{layer} needs features and tensor_shape, or config=TLSTMConfig(..), got neither config nor "
                f"{' nor '.join(missing)}: pass what is missing as a keyword."
            )
        check_time_scale(given, given.get("cell", "lstm"))
        return TLSTMConfig(**given)
    checked = check_config("config", config, TLSTMConfig)
    if given:
        raise ValueError(
            f"{layer} takes either config or the fields of one, got both config and {', '.join(given)}: "
            "leave one of them out, or change the configuration with dataclasses.replace(config, ..)."
        )
    return checked
