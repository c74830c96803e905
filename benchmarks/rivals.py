"""The models that the tLSTM is compared with, as contenders with equal core parameters that compute other functions.

The tests in ``tests/experiments/rivals`` check that each model computes what its paper describes. This module checks
that it has the nearest number of parameters and returns finite outputs and gradients that are not all 0.
``experiments.rivals`` is imported only when a contender is asked for; it needs jax, flax and optax.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from benchmarks.checking import Contender, Mismatch
from benchmarks.networks import inputs, parameters
from benchmarks.programs import Program, Result, compile_function, count, differentiated, temp_bytes
from benchmarks.tasks import Size, Task

GROUP = "rivals"
"""Stands for all rivals on the command line."""


@functools.cache
def contenders() -> dict[str, Contender]:
    """All rivals, by their names in ``--model`` of the experiments."""
    from experiments.rivals import RIVALS, arguments

    return {
        name: Contender(
            name,
            arguments.summary(rival).rstrip("."),
            network=None,
            build=functools.partial(build, name),
            check=functools.partial(check, name),
            shape=functools.partial(shape, name),
        )
        for name, rival in RIVALS.items()
    }


@functools.cache
def options(name: str, size: Size) -> Any:
    """The model's options, with the width at which its core parameters are nearest to the tLSTM's."""
    from experiments.running.models import ModelOptions

    model = ModelOptions(model=name)
    features = model.nearest_features(tlstm_parameters(size), size.in_features)
    return dataclasses.replace(model, features=features)


def tlstm_parameters(size: Size) -> int:
    """The number of parameters of the tLSTM, all of which are core parameters."""
    return count(parameters("tlstm", size))


def shape(name: str, size: Size) -> tuple[int, int]:
    """The number of channels and of layers."""
    model = options(name, size)
    return model.features, model.layers


def build(name: str, task: Task) -> Program:
    """The program of a rival; in training it includes what only training computes, such as batch statistics."""
    layer = options(name, task.size).layer().clone(dtype=task.precision.dtype)
    xs = jax.numpy.asarray(inputs(task.size).swapaxes(0, 1))
    variables = jax.jit(layer.init)(jax.random.key(1), xs)
    params = variables["params"]
    others = {collection: value for collection, value in variables.items() if collection != "params"}

    def forward(params: Any, xs: Any) -> Any:
        collections = {"params": params, **others}
        if not task.training:
            return layer.apply(collections, xs)
        rngs = {"dropout": jax.random.key(2)}
        return layer.apply(collections, xs, deterministic=False, rngs=rngs, mutable=list(others))[0]

    compiled, seconds = compile_function(differentiated(forward, task.training), (params, xs), task)

    def fetch(result: Result) -> Result:
        outputs, gradients = jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float32), result)
        return Result(outputs.swapaxes(0, 1), gradients)

    return Program(
        call=lambda: jax.block_until_ready(compiled(params, xs)),
        fetch=fetch,
        parameters=options(name, task.size).core_size(task.size.in_features),
        compile_seconds=seconds,
        temp_bytes=temp_bytes(compiled),
    )


def check(name: str, program: Program, actual: Result, task: Task) -> None:
    """Raises a Mismatch if a rival's size, outputs or gradients cannot be right."""
    size, model = task.size, options(name, task.size)
    features, target = model.features, tlstm_parameters(size)
    for other in (features - model.rival.features_multiple, features + model.rival.features_multiple):
        core = dataclasses.replace(model, features=other).core_size(size.in_features) if other > 0 else 0
        if program.parameters is None or abs(core - target) < abs(program.parameters - target):
            raise Mismatch(f"{program.parameters} parameters for the tLSTM's {target} are not the nearest number")
    expected = size.num_steps, size.batch_size, features
    if actual.outputs.shape != expected:
        raise Mismatch(f"outputs have shape {actual.outputs.shape} and not {expected}")
    for what, leaves in (("outputs", [actual.outputs]), ("gradients", jax.tree.leaves(actual.gradients))):
        if not all(np.isfinite(leaf).all() for leaf in leaves):
            raise Mismatch(f"{what} are not finite")
        if leaves and not any(leaf.any() for leaf in leaves):
            raise Mismatch(f"{what} are all 0")
