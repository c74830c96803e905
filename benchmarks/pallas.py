"""Where the kernels of ``Fused(kernel="mosaic")`` run: on a GPU, or for tests in Pallas' interpreter."""

from __future__ import annotations

import contextlib

from benchmarks.tasks import Task
from tlstm_jax.fused import coverage

INTERPRETED = {"tiny", "tiny-3d"}
"""Sizes at which the interpreter has an end."""


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
    """Without a GPU, has kernels that are traced meanwhile run in the interpreter, which prints the races it sees."""
    if coverage.compute_capability() is not None:
        return contextlib.nullcontext()
    from jax._src import callback, effects
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams, force_gpu_interpret_mode

    effects.remat_allowed_effects.add_type(callback.OrderedIOEffect)  # the interpreter's own, which kernels do not have
    return force_gpu_interpret_mode(InterpretGPUParams(detect_races=detect_races))
