"""Memorization: random symbols, to be repeated once all have been seen (section 4.1 of the paper).

Examples:
    python -m experiments.memorization
    python -m experiments.memorization --length 20 --preset 2d+CN --depth 8 --forget-bias 6
    python -m experiments.memorization --preset slstm --depth 4
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray

from experiments.running import symbols
from experiments.running.models import ModelOptions

MODEL = ModelOptions(features=100, tensor_shape=(4,), forget_bias=4.0)
"""With 10 symbols: solved after 33,500 samples (three seeds), two and a half minutes on one CPU core (RESULTS.md)."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Memorization: random symbols, to be repeated once all have been seen.

    For 5 symbols:
        input   - a b c d e - - - - - -
        target  - - - - - - a b c d e -
    """

    length: int = 10
    """Symbols to remember, n; a sequence takes 2n + 2 timesteps. The paper has 20."""
    num_symbols: int = 65
    """The alphabet, the blank included."""
    paper: bool = False
    """Take the paper's values, its largest experiment's, where no option says otherwise."""
    model: Annotated[ModelOptions, tyro.conf.OmitArgPrefixes] = MODEL
    train: Annotated[symbols.SampleOptions, tyro.conf.OmitArgPrefixes] = dataclasses.field(
        default_factory=lambda: symbols.SampleOptions(batch_size=5)
    )


PAPER = Options(
    length=20,
    num_symbols=65,
    paper=True,
    model=ModelOptions(features=100, tensor_shape=(10, 10), forget_bias=1.0, conveyor_bias=0.0),
    train=symbols.SampleOptions(samples=5_000_000),
)
"""The literal values; see RESULTS.md for what a forget bias of 1 learns here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    default = PAPER if "--paper" in arguments else Options()
    options = tyro.cli(Options, args=arguments, default=default, prog="python -m experiments.memorization")
    return symbols.run(lambda: make(options.length, options.num_symbols), options.model, default.model, options.train)


def make(length: int, num_symbols: int) -> symbols.GeneratedTask:
    """The task.

    Raises:
        ValueError: there is nothing to remember.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}.")
    if num_symbols < 3:
        raise ValueError(f"num_symbols must be at least 3, the blank and two others, got {num_symbols}.")

    def generate(rng: np.random.Generator, count: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        inputs, targets = np.full((2, count, 2 * length + 2), symbols.BLANK, np.int32)
        remembered = rng.integers(1, num_symbols, (count, length))
        inputs[:, 1 : length + 1] = targets[:, length + 1 : -1] = remembered
        return inputs, targets

    config = {"task": "memorization", "length": length, "num_symbols": num_symbols}
    return symbols.GeneratedTask(f"memorization n={length}", num_symbols, generate, config)


if __name__ == "__main__":
    sys.exit(main())
