"""The configuration of a tLSTM: its sizes and options, and the geometry that follows from them."""

from __future__ import annotations

import abc
import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any, Literal, cast

import jax.numpy as jnp

from tlstm_jax.checks import check_config, finite, flag, float_dtype, matmul_precision, positive, positive_size, sizes
from tlstm_jax.typing import Array, PrecisionLike

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

    @abc.abstractmethod
    def param_shapes(self, in_features: int) -> dict[str, Any]:
        """The shape of every parameter, as a nested dict."""

    def carry_shapes(self) -> dict[str, Any]:
        """The shapes of the parameter group ``carry``, in a dict of that one name; empty without a learned carry."""
        shape = (*self.tensor_shape, self.features)
        names = ("h",) if self.cell == "rnn" else ("c", "h")
        return {"carry": dict.fromkeys(names, shape)} if self.learn_carry else {}

    def computation_dtype(self, inputs: Array) -> Any:
        """``dtype``, or the dtype to which inputs and parameters promote."""
        return self.dtype if self.dtype is not None else jnp.promote_types(inputs.dtype, self.param_dtype)

    @property
    def hidden_dtype(self) -> Any:
        """The dtype of the initial hidden state when no inputs are at hand."""
        return self.param_dtype if self.dtype is None else self.dtype

    @staticmethod
    def memory_dtype(computation_dtype: Any) -> Any:
        """The dtype of C, the gates and the norm."""
        return jnp.promote_types(computation_dtype, jnp.float32)


@dataclasses.dataclass(frozen=True)
class TLSTMConfig(Recurrent):
    """Sizes and options of a Tensorized LSTM. Hashable, so it can be a static argument of ``jax.jit``.

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
        dtype: dtype of the computation; None infers it from inputs and parameters. The memory cell,
            the gates and the norm are kept in at least float32.
        param_dtype: dtype of the parameters.
        precision: precision of the matrix products, as in ``jax.lax.dot``: None, ``"default"``, ``"high"``,
            ``"highest"`` (or another name of a ``jax.lax.Precision``), a ``jax.lax.Precision``, or a pair of these.
        learn_carry: whether the initial carry is a parameter, group ``carry`` of :func:`tlstm_jax.init_params`.
            Sequences without a given initial state, and those after a reset, start from it instead of zeros.

    Raises:
        ValueError: a size is not positive, a kernel size is below 2, the dimensions give different
            depths (eq. 9), or an option has an invalid value.

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
        }
        for name, value in normalized.items():  # one canonical form, so that equal configurations have equal hashes
            object.__setattr__(self, name, value)
        depths = self._depths
        if len(set(depths)) > 1:
            raise ValueError(
                f"every dimension must give the same depth (eq. 9), but tensor_shape={tensor_shape} with "
                f"kernel_size={kernel_size} gives depths {depths}: change a size so that "
                "ceil(2 P / (K - K mod 2)) agrees."
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
        """For each kernel offset, the slices of the padded tensor that give the shifted one."""
        starts = ([step + below for step, (below, _) in zip(s, self.padding, strict=True)] for s in self.offsets)
        return tuple(tuple(slice(s, s + p) for s, p in zip(start, self.tensor_shape, strict=True)) for start in starts)

    @property
    def input_taps(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """The locations that read the input: (k, location) for each kernel offset that leads from a location to it."""
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


class Unset:
    """Type of :data:`UNSET`, which stands in a layer's signature for a field of the configuration that is not given."""

    def __repr__(self) -> str:
        return "<unset>"

    def __reduce__(self) -> str:
        return "UNSET"  # copies and pickles are this very instance


UNSET = Unset()
"""Not given; the default of :class:`TLSTMConfig` holds. (None would not do: it is a value of ``norm``.)"""


def given_fields(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of :class:`TLSTMConfig` that were given among a layer's arguments."""
    values = {field.name: arguments[field.name] for field in dataclasses.fields(TLSTMConfig)}
    return {name: value for name, value in values.items() if value is not UNSET}


def resolve_config(layer: str, config: TLSTMConfig | int | None, given: Mapping[str, Any]) -> TLSTMConfig:
    """The configuration of a layer that takes either ``config`` or the fields of one.

    Args:
        layer: name of the layer, for messages.
        config: the configuration, or features, or None.
        given: the fields that were given, as from :func:`given_fields`.

    Raises:
        ValueError: both were given, neither was given, or a value is invalid.
    """
    if isinstance(config, int) and "features" not in given:  # in first place, as for Flax's cells
        config, given = None, {"features": config, **given}
    if config is None:
        if missing := [name for name in ("features", "tensor_shape") if name not in given]:
            raise ValueError(
                f"{layer} needs features and tensor_shape, or config=TLSTMConfig(..), got neither config nor "
                f"{' nor '.join(missing)}."
            )
        return TLSTMConfig(**given)
    checked = check_config("config", config, TLSTMConfig)
    if given:
        raise ValueError(
            f"{layer} takes either config or the fields of one, got both config and {', '.join(given)}: "
            "leave one of them out, or change the configuration with dataclasses.replace(config, ..)."
        )
    return checked
