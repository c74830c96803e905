"""The floor: the matrix products of a tLSTM and nothing else.

Each of the T + L - 1 timesteps computes the im2col product and, in training, its two derivatives, with the
shapes that they have in the model. In the model, a sixth to two fifths of the factors are zero padding, so
the floor is not a strict bound.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.programs import Program, Result, compile_function, temp_bytes
from benchmarks.tasks import Task

ALIGNMENT = {"gpu": 64}
"""Inner size and columns are rounded up to a multiple of this, since XLA would otherwise pad the factors at every
timestep, in separate kernels. FLOP are counted without this padding."""


def build(task: Task) -> Program:
    """The floor of a task."""
    multiple = ALIGNMENT.get(jax.default_backend(), 1)
    rows, *sizes = task.size.gemm
    inner, columns = (-(-size // multiple) * multiple for size in sizes)
    rng = np.random.default_rng(2)

    def draw(*shape: int) -> jax.Array:
        # Scaled to a largest singular value of about 1, since training multiplies by the kernel repeatedly.
        return jnp.asarray(rng.normal(scale=1 / (inner**0.5 + columns**0.5), size=shape), task.precision.dtype)

    arguments = draw(rows, inner), draw(inner, columns)
    products = functools.partial(
        training_products if task.training else forward_products, num_steps=task.size.total_steps
    )
    compiled, seconds = compile_function(products, arguments, task)
    return Program(
        call=lambda: jax.block_until_ready(compiled(*arguments)),
        fetch=lambda result: Result(None, None),
        parameters=None,
        compile_seconds=seconds,
        temp_bytes=temp_bytes(compiled),
        start=lambda: compiled(*arguments),
    )


def forward_products(patches: Any, kernel: Any, num_steps: int) -> Any:
    """``patches @ kernel`` at every timestep."""

    def body(patches: Any, _: None) -> tuple[Any, None]:
        a = _product(patches, kernel, 1, 0)
        # One element of the product changes the next factor, so that the product cannot be moved out of the loop. The
        # barrier hides from the compiler that the other elements are not needed.
        return patches.at[0, 0].set(lax.optimization_barrier(a)[0, 0]), None

    return lax.scan(body, patches, None, num_steps)[0]


def training_products(patches: Any, kernel: Any, num_steps: int) -> Any:
    """``patches @ kernel`` and its derivatives; the derivative of the patches is the next timestep's factor."""

    def body(carry: tuple[Any, Any], _: None) -> tuple[Any, None]:
        patches, _ = carry
        a = _product(patches, kernel, 1, 0)
        return (_product(a, kernel, 1, 1), _product(patches, a, 0, 0)), None

    return lax.scan(body, (patches, jnp.zeros_like(kernel)), None, num_steps)[0]


def _product(a: Any, b: Any, axis: int, other_axis: int) -> Any:
    """The product over these axes."""
    return lax.dot_general(a, b, (((axis,), (other_axis,)), ((), ())))
