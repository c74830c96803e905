"""Whether the kernels of ``Fused(kernel="mosaic")`` can run here: on a GPU, or for tests in Pallas' interpreter."""

from __future__ import annotations

import contextlib

from benchmarks.tasks import Task
from tlstm_jax.fused import coverage

INTERPRETED = {"tiny", "tiny-3d"}
"""Sizes that are small enough for the interpreter."""


def unavailable(task: Task) -> str | None:
    """Why the kernels cannot run a task here, or None."""
    for expected, given, holds in coverage.environment_needs():
        if not holds:
            return f"the kernels need {expected}, this is {given}"
    if coverage.compute_capability() is None and task.size.name not in INTERPRETED:
        return "no GPU here"
    if task.size.features > coverage.MOST_FEATURES:
        return f"the kernels take at most {coverage.MOST_FEATURES} features"
    return None


def interpreted(detect_races: bool = False) -> contextlib.AbstractContextManager[None]:
    """A context in which kernels are traced for the interpreter if there is no GPU; it prints the races it detects."""
    if coverage.compute_capability() is not None:
        return contextlib.nullcontext()
    from jax._src import callback, effects
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams, force_gpu_interpret_mode

    effects.remat_allowed_effects.add_type(callback.OrderedIOEffect)  # an effect of the interpreter, not of the kernels
    return force_gpu_interpret_mode(InterpretGPUParams(detect_races=detect_races))
