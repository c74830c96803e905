"""Memorization: random symbols, to be repeated once all have been seen (section 4.1 of the paper).

Examples:
    python -m experiments.memorization
    python -m experiments.memorization --length 20 --preset 2d+CN --depth 10 --batch-size 15 --learning-rate 0.002
    python -m experiments.memorization --preset slstm --depth 4
"""

from __future__ import annotations

import dataclasses
import functools
import string
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments import tasks
from experiments.common import commandline
from experiments.running import runs, symbols
from experiments.running.examples import Example, Request
from experiments.running.experiment import Experiment
from experiments.running.models import ModelOptions
from experiments.running.options import check_size


@dataclasses.dataclass(frozen=True)
class Options:
    """Memorization: random symbols, to be repeated once all have been seen.

    For 5 symbols:
        input   - a b c d e - - - - - -
        target  - - - - - - a b c d e -
    """

    length: int = 10
    """Symbols to remember, n; a sequence takes 2n + 2 timesteps. 20 in the paper."""
    num_symbols: int = 65
    """Size of the alphabet, including the blank."""
    paper: bool = False
    """Take the values of the paper's largest experiment for the options that are not given."""
    model: ModelOptions = tasks.MEMORIZATION.model
    train: symbols.SampleOptions = dataclasses.field(default_factory=lambda: symbols.SampleOptions(batch_size=5))


PAPER = Options(
    length=20,
    num_symbols=65,
    paper=True,
    model=ModelOptions(features=100, tensor_shape=(10, 10), forget_bias=1.0, conveyor_bias=0.0),
    train=symbols.SampleOptions(samples=5_000_000),
)
"""The paper's values. docs/results.md shows what a model with a forget bias of 1 learns."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    return commandline.exit_status(lambda: run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Trains as the command line says."""
    options = parse(arguments)
    return runs.run(lambda: build(options), options.train)


def parse(arguments: Sequence[str]) -> Options:
    """Parses a command line."""
    default = PAPER if "--paper" in arguments else Options()
    return commandline.parse(Options, arguments, prog="experiments.memorization", default=default)


def build(options: Options) -> Experiment:
    """Builds the data and the model.

    Raises:
        ValueError: an option does not fit.
    """
    default = PAPER if options.paper else Options()
    task = make(options.length, options.num_symbols)
    model = options.model.resolved(default.model, lambda delay: options.length + 1 + delay, inputs=task.num_symbols)
    return symbols.build(task, model, options.train)


@functools.cache  # one object for the same sizes: with --data-on device it is a static argument of the compiled step
def make(length: int, num_symbols: int) -> symbols.GeneratedTask:
    """The task.

    Raises:
        ValueError: a size is too large, the length is below 1, or there are fewer than 3 symbols.
    """
    check_size("length", length)
    check_size("num_symbols", num_symbols, least=0)
    if num_symbols < 3:
        raise ValueError(f"num_symbols must be at least 3, the blank and two others, got {num_symbols}.")

    def generate(rng: np.random.Generator, count: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        inputs, targets = np.full((2, count, 2 * length + 2), symbols.BLANK, np.int32)
        remembered = rng.integers(1, num_symbols, (count, length))
        inputs[:, 1 : length + 1] = targets[:, length + 1 : -1] = remembered
        return inputs, targets

    def generate_one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        remembered = jax.random.randint(key, (length,), 1, num_symbols, jnp.int32)
        blank = jnp.full(2 * length + 2, symbols.BLANK, jnp.int32)
        return blank.at[1 : length + 1].set(remembered), blank.at[length + 1 : -1].set(remembered)

    config = {"task": tasks.MEMORIZATION.name, "length": length, "num_symbols": num_symbols}
    return symbols.GeneratedTask(tasks.MEMORIZATION.setting(config), num_symbols, generate, generate_one, config)


def example(config: Mapping[str, Any], request: Request) -> Example:
    """A test example of a run; see :class:`experiments.tasks.TaskModule`."""
    task = make(config["length"], config["num_symbols"])
    return symbols.example(task, config, request, string.ascii_letters + string.digits + "+/")


if __name__ == "__main__":
    sys.exit(main())
