"""The tasks that are timed: sizes, precisions, and the two passes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from tlstm_jax import TLSTMConfig


@dataclasses.dataclass(frozen=True)
class Precision:
    """How numbers are rounded.

    Args:
        name: as on the command line.
        matmul: ``jax.default_matmul_precision`` while a program is traced.
        dtype: of matrix products and hidden states. Parameters and inputs are float32 throughout.
        output_tolerance: largest distance from the float32 outputs, relative to their norm.
        gradient_tolerance: the same for every gradient.
    """

    name: str
    matmul: str | None
    dtype: Any
    output_tolerance: float
    gradient_tolerance: float

    @property
    def is_bfloat16(self) -> bool:
        """Whether products take bfloat16 operands."""
        return bool(self.dtype == jnp.bfloat16)


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("highest", "highest", jnp.float32, 1e-4, 1e-3),
        Precision("default", None, jnp.float32, 0.03, 0.1),  # TF32 on a GPU
        Precision("bfloat16", None, jnp.bfloat16, 0.03, 0.1),
    )
}


@dataclasses.dataclass(frozen=True)
class Size:
    """A tLSTM with kernel size 3 and channel normalization, and the sequences that it reads.

    Args:
        name: as on the command line.
        tensor_shape: P_1 .. P_{D-1}; their common value is the depth L.
        features: M.
        batch_size: B.
        num_steps: T.
        in_features: R. Small, since the input projection is outside the recurrence.
    """

    name: str
    tensor_shape: tuple[int, ...]
    features: int
    batch_size: int
    num_steps: int
    in_features: int = 10

    def config(self, dtype: Any = jnp.float32) -> TLSTMConfig:
        """The model."""
        return TLSTMConfig(self.features, self.tensor_shape, dtype=dtype)

    @property
    def depth(self) -> int:
        """L."""
        return self.config().depth

    @property
    def total_steps(self) -> int:
        """T + L - 1: the timesteps that are run to have T outputs."""
        return self.num_steps + self.config().delay

    @property
    def gemm(self) -> tuple[int, int, int]:
        """Rows, inner size and columns of one timestep's im2col product: ``prod(P) B, <K> M, 4M + <K>``."""
        cfg = self.config()
        return math.prod(self.tensor_shape) * self.batch_size, cfg.num_offsets * self.features, cfg.gate_features

    def flops(self, training: bool) -> int:
        """Floating-point operations of all im2col products, zero padding included: what the floor does."""
        return (3 if training else 1) * 2 * math.prod(self.gemm) * self.total_steps

    @property
    def title(self) -> str:
        """The size in the paper's letters."""
        shape = "x".join(map(str, self.tensor_shape))
        dims = len(self.tensor_shape) + 1
        return f"{dims}D P={shape} L={self.depth} M={self.features} B={self.batch_size} T={self.num_steps}"


@dataclasses.dataclass(frozen=True)
class Task:
    """One pass over one size at one precision; ``training`` is forward and backward, otherwise forward only."""

    size: Size
    precision: Precision
    training: bool

    @property
    def pass_name(self) -> str:
        """The name of the pass on the command line."""
        return "training" if self.training else "forward"


PASSES = {"training": True, "forward": False}

SIZES = {
    size.name: size
    for size in (
        Size("a", (4,), 100, 15, 45),
        Size("b", (4, 4), 100, 15, 45),
        Size("c", (4,), 64, 50, 200),
        Size("d", (3, 3), 100, 50, 196),
        *(Size(f"memorization-{p}", (p, p), 100, 15, 42, in_features=65) for p in (4, 7, 10)),
        *(Size(f"addition-{p}", (p, p), 400, 15, 49, in_features=11) for p in (4, 7, 10)),
        *(Size(f"mnist-{p}", (p, p), 100, 50, 784, in_features=1) for p in (1, 3, 5)),
        *(Size(f"wikipedia-{p}", (p, p), 522, 100, 50, in_features=205) for p in (2, 6)),
        Size("tiny", (2,), 8, 2, 5),
        Size("tiny-3d", (2, 2), 4, 3, 5),
    )
}
"""a to d are the sizes of the performance notes; the next four rows are the paper's tasks, with as many input features
as these have (wikipedia-2 is for machines on which L = 6 takes too long); the last two are for tests."""
