"""Where the kernels of ``Fused(kernel="mosaic")`` run: on a GPU, or for tests in Pallas' interpreter."""

from __future__ import annotations

import contextlib

import jax

from benchmarks.tasks import Task
from tlstm_jax.fused.coverage import LEAST_CAPABILITY, MOST_FEATURES, compute_capability

INTERPRETED = {"tiny", "tiny-3d"}
"""Sizes at which the interpreter has an end."""


def unavailable(task: Task) -> str | None:
    """Why the kernels cannot run a task here, or None."""
    if tuple(map(int, jax.__version__.split(".")[:2])) < (0, 11):
        return f"the kernels need jax 0.11 or later, this is {jax.__version__}"
    capability = compute_capability()
    if capability is None and task.size.name not in INTERPRETED:
        return "no GPU here"
    if capability is not None and capability < LEAST_CAPABILITY:
        return f"the kernels need compute capability {LEAST_CAPABILITY}, this is {capability}"
    if task.size.features > MOST_FEATURES:
        return f"the kernels take at most {MOST_FEATURES} features"
    return None


def interpreted() -> contextlib.AbstractContextManager[None]:
    """Without a GPU, has kernels that are traced meanwhile run in the interpreter."""
    if compute_capability() is not None:
        return contextlib.nullcontext()
    from jax._src import callback, effects
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams, force_gpu_interpret_mode

    effects.remat_allowed_effects.add_type(callback.OrderedIOEffect)  # the interpreter's own, which kernels do not have
    return force_gpu_interpret_mode(InterpretGPUParams())
