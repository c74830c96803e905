"""What a tLSTM is: its sizes and options, and the geometry that follows from them."""

from __future__ import annotations

import abc
import dataclasses
import itertools
import math
from typing import Any, Literal, cast

import jax.numpy as jnp

from tlstm_jax.checks import finite, float_dtype, positive, positive_size, sizes
from tlstm_jax.typing import Array

CELLS = ("lstm", "rnn")
NORMS = ("channel", "layer", None)


class Recurrent(abc.ABC):
    """What every recurrent model here has: a state of ``(*tensor_shape, features)``, and how its dtypes follow.

    Matrix products, hidden state and outputs have the computation dtype. The memory cell, which
    sums over time, and what acts on it (gates, norm) have the memory dtype: the same, but float32
    at least.
    """

    features: int
    tensor_shape: tuple[int, ...]
    cell: str
    dtype: Any
    param_dtype: Any

    @abc.abstractmethod
    def param_shapes(self, in_features: int) -> dict[str, Any]:
        """The shape of every parameter, as a nested dict."""

    def computation_dtype(self, inputs: Array) -> Any:
        """``dtype``, or what inputs and parameters promote to."""
        return self.dtype if self.dtype is not None else jnp.promote_types(inputs.dtype, self.param_dtype)

    @property
    def hidden_dtype(self) -> Any:
        """The dtype of a fresh hidden state, before any inputs are known."""
        return self.param_dtype if self.dtype is None else self.dtype

    @staticmethod
    def memory_dtype(computation_dtype: Any) -> Any:
        """The dtype of C, gates and norms."""
        return jnp.promote_types(computation_dtype, jnp.float32)


@dataclasses.dataclass(frozen=True)
class TLSTMConfig(Recurrent):
    """Sizes and options of a Tensorized LSTM; hashable, so that it can be a static argument.

    Args:
        features: M, channels at each location. Decides the number of parameters.
        tensor_shape: ``(P_1, .., P_{D-1})``, locations along each tensorized dimension: ``(P,)``
            is the paper's 2D tLSTM, ``(P, P)`` its 3D. Costs no kernel parameters. An int is ``(P,)``.
        kernel_size: K, at least 2, an int or one for each dimension. 2 looks at a location and at
            its neighbour towards the input; 3 and more have feedback connections as well.
        cell: ``"lstm"`` (eqs. 14-19) or ``"rnn"``, the tRNN (eqs. 5-8), which has no memory cell.
        memory_conv: the memory-cell convolution (eqs. 16-17); False is the paper's tLSTM-M
            (eqs. 10-13). A tRNN has no memory and ignores it.
        norm: ``"channel"`` (eqs. 20-21), ``"layer"`` or None. It acts on the output of the hidden
            state only (eq. 31). ``"layer"`` takes its statistics over all locations at once, which
            mixes later inputs into earlier outputs; only the other two are separable.
        norm_epsilon: added to the variance.
        kernel_scale: variance of the initial recurrent kernel times its fan-in, <K> M.
        forget_bias: initial bias of the forget gate.
        conveyor_bias: initial bias of the memory kernel's logit (eq. 16) for the offset that leads farthest towards
            the input: above 0, memory first travels from the input's corner to the output's, at the speed of eq. 9,
            instead of spreading over all neighbours. Not in the paper.
        dtype: dtype of the computation; None infers it from inputs and parameters. The memory cell,
            the gates and the norm are kept in float32 at least.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: a size is not positive, a kernel size is below 2, the dimensions disagree about
            the depth (eq. 9), or an option is not one of those above.

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

    def __post_init__(self) -> None:
        tensor_shape = sizes("tensor_shape", self.tensor_shape)
        kernel_size = sizes("kernel_size", self.kernel_size, ndim=len(tensor_shape), at_least=2)
        if not isinstance(self.cell, str) or self.cell not in CELLS:
            raise ValueError(f'cell must be "lstm" or "rnn" (the tRNN), got {self.cell!r}.')
        if not isinstance(self.norm, str | None) or self.norm not in NORMS:
            raise ValueError(f'norm must be "channel", "layer" or None, got {self.norm!r}.')
        if not isinstance(self.memory_conv, bool):
            raise ValueError(f"memory_conv must be True or False, got {self.memory_conv!r}.")
        normalized = {
            "features": positive_size("features", self.features),
            "tensor_shape": tensor_shape,
            "kernel_size": kernel_size,
            "norm_epsilon": positive("norm_epsilon", self.norm_epsilon),
            "kernel_scale": positive("kernel_scale", self.kernel_scale),
            "forget_bias": finite("forget_bias", self.forget_bias),
            "conveyor_bias": finite("conveyor_bias", self.conveyor_bias),
            "dtype": None if self.dtype is None else float_dtype("dtype", self.dtype),
            "param_dtype": float_dtype("param_dtype", self.param_dtype),
        }
        for name, value in normalized.items():  # one canonical form, so that equal configs hash alike
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
        """L (eq. 9): timesteps from an input to the output that answers it, both counted."""
        return self._depths[0]

    @property
    def delay(self) -> int:
        """L - 1: how many timesteps after its input an output leaves."""
        return self.depth - 1

    @property
    def num_offsets(self) -> int:
        """<K>: the number of kernel offsets."""
        return math.prod(self.kernel_shape)

    @property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """Locations to pad below and above along each dimension so that the tensor keeps its size.

        Offset k - floor(K/2), k = 0..K-1, reaches floor(K/2) below and K - 1 - floor(K/2) above.
        """
        return tuple((k // 2, k - 1 - k // 2) for k in self.kernel_shape)

    @property
    def input_location(self) -> tuple[int, ...]:
        """Index of hcat location (1, .., 1), where the input goes, in the padded hidden state (eq. 5)."""
        return tuple(below - 1 for below, _ in self.padding)

    @property
    def offsets(self) -> tuple[tuple[int, ...], ...]:
        """s_k: the kernel's offsets, row-major; dimension d has -floor(K/2) .. K - 1 - floor(K/2)."""
        return tuple(itertools.product(*(range(-below, above + 1) for below, above in self.padding)))

    @property
    def windows(self) -> tuple[tuple[slice, ...], ...]:
        """For each kernel offset, the slices that cut the shifted tensor out of the padded one."""
        starts = ([step + below for step, (below, _) in zip(s, self.padding, strict=True)] for s in self.offsets)
        return tuple(tuple(slice(s, s + p) for s, p in zip(start, self.tensor_shape, strict=True)) for start in starts)

    @property
    def input_taps(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """Where the input is seen: (k, location) for each kernel offset that leads from a location to it."""
        taps = ((k, tuple(-1 - step for step in offset)) for k, offset in enumerate(self.offsets))
        return tuple(
            (k, location)
            for k, location in taps
            if all(0 <= at < size for at, size in zip(location, self.tensor_shape, strict=True))
        )

    @property
    def has_memory_kernel(self) -> bool:
        """Whether every location generates a memory kernel Q (eqs. 16-17)."""
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
        shapes = {
            "input": {"kernel": (in_features, m), "bias": (m,)},
            "hidden": {"kernel": (*self.kernel_shape, m, a), "bias": (a,)},
        }
        if self.norm is not None:
            shapes["norm"] = {"scale": (*self.tensor_shape, m), "bias": (*self.tensor_shape, m)}
        return shapes
