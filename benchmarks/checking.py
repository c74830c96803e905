"""Contenders, and the check that each computes the network that it claims to compute."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.apart import program_apart
from benchmarks.networks import Network, parameter_sets, parameters, reference, stack_config, stack_parameters
from benchmarks.programs import Program, Result, count
from benchmarks.tasks import Size, Task


class Mismatch(Exception):
    """A contender does not compute what it claims to."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to compute a network.

    Args:
        name: as on the command line.
        summary: a description in one line.
        network: the network that it claims to compute; None for the floor, which computes none, and for rivals.
        build: makes the program of a task.
        unavailable: the reason why it cannot run a task here, or None.
        pack: converts gradients of the parameters from the network's layout to the contender's;
            None if they cannot be compared.
        biases: bias vectors in each layer of a stack.
        check: checks the program and the result of a rival, whose network is not one of ``networks.py``.
        shape: the number of channels and layers at a size, if they differ from those of ``network``.
        apart: whether to build and call it in a separate process, because its framework would slow JAX in ours.
    """

    name: str
    summary: str
    network: Network | None
    build: Callable[[Task], Program]
    unavailable: Callable[[Task], str | None] = lambda task: None
    pack: Callable[[Any], Any] | None = lambda params: params
    biases: int = 1
    check: Callable[[Program, Result, Task], None] | None = None
    shape: Callable[[Size], tuple[int, int]] | None = None
    apart: bool = False


def build(contender: Contender, task: Task) -> Program:
    """Builds and checks the program of a contender, which is called once for the check.

    Raises:
        Mismatch: it does not compute its network, or has another number of parameters; the message says how far off
            it is.
    """
    program = program_apart(contender.build, task) if contender.apart else contender.build(task)
    try:
        actual = program.fetch(program.call())
        if contender.check is not None:
            contender.check(program, actual, task)
        if contender.network is not None:
            _check_parameters(contender.network, task.size, program.parameters, contender.biases)
            _check_result(actual, reference(contender.network, task.size), contender.pack, task)
    except BaseException:
        program.close()
        raise
    return program


def _check_result(actual: Result, wanted: Result, pack: Callable[[Any], Any] | None, task: Task) -> None:
    """Checks that the outputs and, in training, the gradients are those wanted."""
    if actual.outputs.shape != wanted.outputs.shape:
        raise Mismatch(f"outputs have shape {actual.outputs.shape} and not {wanted.outputs.shape}")
    found = distance(actual.outputs, wanted.outputs)
    if not found <= task.precision.output_tolerance:  # so that NaN does not pass
        raise Mismatch(f"outputs are off by {found:.2g} of their norm")
    if task.training and pack is not None:
        params, xs = wanted.gradients
        found = distance(actual.gradients, (pack(params), xs))
        if not found <= task.precision.gradient_tolerance:
            raise Mismatch(f"gradients are off by {found:.2g} of their norm")


def _check_parameters(network: Network, size: Size, actual: int | None, biases: int) -> None:
    """Checks the number of parameters: as stated, and for a stack, as near to the tLSTM's as its width allows."""
    target = count(parameters("tlstm", size))
    if network == "tlstm":
        stated = target
    else:
        cfg = stack_config(network, size)
        sets = parameter_sets(network, size)
        if (cfg.num_layers, len(set(cfg.layer_names))) != (size.depth, sets):
            raise Mismatch(f"{cfg.num_layers} layers, {len(set(cfg.layer_names))} parameter sets for L = {size.depth}")
        stated = stack_parameters(cfg.features, size.in_features, sets, biases)
        smaller, own, larger = (stack_parameters(cfg.features + i, size.in_features, sets) for i in (-1, 0, 1))
        if not smaller + own <= 2 * target <= own + larger:
            raise Mismatch(f"{own} parameters for the tLSTM's {target} are not the nearest number")
    if actual != stated:
        raise Mismatch(f"{actual} parameters and not {stated}")


def distance(actual: Any, wanted: Any) -> float:
    """Euclidean distance of two trees relative to the norm of the second."""
    difference = jax.tree.map(lambda a, b: a - b, actual, wanted)
    return _norm(difference) / max(_norm(wanted), 1e-6)


def _norm(tree: Any) -> float:
    return math.sqrt(sum(float(np.sum(np.square(leaf, dtype=np.float64))) for leaf in jax.tree.leaves(tree)))
