"""The networks that contenders compute: the tLSTM, and stacks of LSTM layers of the same size and depth.

Parameters and inputs are random numpy arrays, the same for every contender. A stack has the parameter
tree of ``tlstm_jax.stacked`` (Flax's own cells after an input projection to M, as in the paper, so that
all layers are alike), L layers for a tLSTM of depth L, and the M at which its total number of
parameters is nearest to the tLSTM's.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import tlstm_jax as tl
from benchmarks.programs import Forward, Result, count, jax_program
from benchmarks.tasks import PRECISIONS, Size, Task
from tlstm_jax import stacked
from tlstm_jax.options import Implementation

Network = Literal["tlstm", "shared", "unshared"]
"""``shared``: a stack whose layers have one parameter set; ``unshared``: one for each layer."""
IMPLEMENTATIONS: dict[str, Implementation] = {
    "auto": "auto",
    "reference": "reference",
    "fused": "fused",
    "fused-gates": tl.Fused(save="gates", kernel="xla"),
    "fused-states": tl.Fused(save="states", kernel="xla"),
    "fused-built": tl.Fused(patches="built", kernel="xla"),
    "xla": tl.Fused(kernel="xla"),
    "mosaic": tl.Fused(kernel="mosaic"),
}
"""The library's implementations, by name."""


@functools.lru_cache(maxsize=4)
def inputs(size: Size) -> np.ndarray[Any, Any]:
    """Random inputs, ``(T, B, R)``."""
    shape = (size.num_steps, size.batch_size, size.in_features)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@functools.lru_cache(maxsize=8)
def parameters(network: Network, size: Size) -> Any:
    """Random parameters.

    Kernels have half the usual initial scale: the state then forgets rounding errors, so
    that contenders can be compared in any precision. Biases and gains are random too, so that none of
    them can be mistaken for another.
    """
    cfg = size.config() if network == "tlstm" else stack_config(network, size)
    rng = np.random.default_rng(1)

    def draw(path: Any, shape: tuple[int, ...]) -> Any:
        name = path[-1].key
        spread = 0.5 * math.prod(shape[:-1]) ** -0.5 if name == "kernel" else 0.1
        return rng.normal(float(name == "scale"), spread, shape).astype(np.float32)

    return jax.tree.map_with_path(draw, cfg.param_shapes(size.in_features), is_leaf=lambda x: isinstance(x, tuple))


def stack_config(network: Network, size: Size, dtype: Any = jnp.float32) -> stacked.StackedLSTMConfig:
    """The stack of a size."""
    features = nearest_features(size, parameter_sets(network, size))
    return stacked.StackedLSTMConfig(features, size.depth, shared=network == "shared", dtype=dtype)


def features(network: Network | None, size: Size) -> int:
    """M of a network; None stands for the tLSTM's matrix products."""
    return size.features if network in ("tlstm", None) else stack_config(network, size).features


def parameter_sets(network: Network, size: Size) -> int:
    """The number of parameter sets of a stack."""
    return 1 if network == "shared" else size.depth


def stack_parameters(features: int, in_features: int, sets: int, biases: int = 1) -> int:
    """Parameters of the input projection and ``sets`` layers together; some libraries have two biases per layer."""
    return (in_features + 1) * features + sets * (8 * features**2 + 4 * biases * features)


def nearest_features(size: Size, sets: int) -> int:
    """The M at which a stack's number of parameters is nearest to the tLSTM's."""
    target = count(parameters("tlstm", size))
    most = math.ceil(math.sqrt(target / (8 * sets)))  # if layers had kernels only
    candidates = range(max(1, most - size.in_features - 2), most + 1)
    return min(candidates, key=lambda m: abs(stack_parameters(m, size.in_features, sets) - target))


def tlstm_forward(task: Task, implementation: Implementation, **options: Any) -> Forward:
    """The library's tLSTM; the implementation and the options are arguments of ``tlstm_jax.unroll``."""
    cfg = task.size.config(task.precision.dtype)
    return lambda params, xs: tl.unroll(params, xs, cfg, time_major=True, implementation=implementation, **options)[1]


def stack_forward(network: Network, task: Task) -> Forward:
    """The library's stack."""
    cfg = stack_config(network, task.size, task.precision.dtype)
    return lambda params, xs: stacked.unroll(params, xs, cfg, time_major=True)[1]


@functools.lru_cache(maxsize=3)
def reference(network: Network, size: Size) -> Result:
    """Outputs and gradients of the library's readable implementation, in float32."""
    task = Task(size, PRECISIONS["highest"], training=True)
    forward = tlstm_forward(task, "reference") if network == "tlstm" else stack_forward(network, task)
    program = jax_program(forward, parameters(network, size), inputs(size), task)
    return program.fetch(program.call())
