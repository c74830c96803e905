"""A contender at one size, built and ready to be called."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.tasks import Task

Forward = Callable[[Any, Any], Any]
"""``forward(params, xs)``: outputs for a sequence, in the layout of ``xs``."""


class Result(NamedTuple):
    """The result of one call.

    Attributes:
        outputs: ``(T, B, M)``, or batch-major for a batch-major contender.
        gradients: of the mean squared output with respect to ``(params, xs)``; None for the forward pass.
    """

    outputs: Any
    gradients: Any


@dataclasses.dataclass(frozen=True)
class Program:
    """A program that is ready to be called, with the facts for its row of results.

    Args:
        call: one pass; returns when the device is done.
        fetch: converts the result of ``call`` to float32 numpy arrays, with time-major outputs.
        parameters: the number of trained parameters.
        compile_seconds: time of lowering and compilation; None if that is not a separate step.
        temp_bytes: memory of the compiled program's temporaries.
        close: frees the program's resources; ``call`` must not be used after that.
        start: as ``call``, without waiting for the device; None if it cannot be done.
    """

    call: Callable[[], Any]
    fetch: Callable[[Any], Result]
    parameters: int | None
    compile_seconds: float | None = None
    temp_bytes: int | None = None
    close: Callable[[], None] = lambda: None
    start: Callable[[], Any] | None = None


def differentiated(forward: Forward, training: bool) -> Callable[[Any, Any], Result]:
    """The pass as one function to compile."""
    if not training:
        return lambda params, xs: Result(forward(params, xs), None)

    def loss(params: Any, xs: Any) -> tuple[jax.Array, jax.Array]:
        ys = forward(params, xs)
        return jnp.mean(jnp.square(ys.astype(jnp.float32))), ys

    def training_pass(params: Any, xs: Any) -> Result:
        (_, ys), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, xs)
        return Result(ys, gradients)

    return training_pass


def compile_function(function: Callable[..., Any], arguments: tuple[Any, ...], task: Task) -> tuple[Any, float]:
    """The function compiled ahead of time, and the seconds that compilation took."""
    start = time.perf_counter()
    with jax.default_matmul_precision(task.precision.matmul):
        compiled = jax.jit(function).lower(*arguments).compile()
    return compiled, time.perf_counter() - start


def temp_bytes(compiled: Any) -> int | None:
    """Bytes of temporaries; None if the compiler does not report them."""
    analysis = compiled.memory_analysis()
    return None if analysis is None else int(analysis.temp_size_in_bytes)


def count(params: Any) -> int:
    """The number of elements in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def jax_program(forward: Forward, params: Any, xs: Any, task: Task, *, batch_major: bool = False) -> Program:
    """A program of jax; ``params`` and ``xs`` are numpy arrays, ``xs`` time-major."""
    params = jax.tree.map(jnp.asarray, params)
    xs = jnp.asarray(xs.swapaxes(0, 1) if batch_major else xs)
    compiled, seconds = compile_function(differentiated(forward, task.training), (params, xs), task)

    def fetch(result: Result) -> Result:
        outputs, gradients = jax.tree.map(lambda leaf: np.asarray(leaf.astype(jnp.float32)), result)
        return Result(outputs.swapaxes(0, 1) if batch_major else outputs, gradients)

    return Program(
        call=lambda: jax.block_until_ready(compiled(params, xs)),
        fetch=fetch,
        parameters=count(params),
        compile_seconds=seconds,
        temp_bytes=temp_bytes(compiled),
        start=lambda: compiled(params, xs),
    )
