"""Addition: two integers, digit by digit, then their sum (section 4.1 of the paper).

Examples:
    python -m experiments.addition
    python -m experiments.addition --digits 15 --preset 3d+CN --depth 7 --features 400
    python -m experiments.addition --preset slstm --depth 4
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
"""With 2 digits: solved after 79,500 to 105,000 samples (three seeds), in 3 to 5 minutes on one core of a busy CPU."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Addition: two integers, digit by digit, then their sum.

    For 3 digits:
        input   - 1 2 3 - 9 0 0 - - - - -
        target  - - - - - - - - 1 0 2 3 -
    """

    digits: int = 2
    """Of each integer, n; a sequence takes 3n + 4 timesteps. The paper has 15."""
    paper: bool = False
    """Take the paper's values, its largest experiment's, where no option says otherwise."""
    model: Annotated[ModelOptions, tyro.conf.OmitArgPrefixes] = MODEL
    train: Annotated[symbols.SampleOptions, tyro.conf.OmitArgPrefixes] = dataclasses.field(
        default_factory=symbols.SampleOptions
    )


PAPER = Options(
    digits=15,
    paper=True,
    model=ModelOptions(features=400, tensor_shape=(10, 10), forget_bias=1.0, conveyor_bias=0.0),
    train=symbols.SampleOptions(samples=5_000_000),
)
"""The literal values."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    default = PAPER if "--paper" in arguments else Options()
    options = tyro.cli(Options, args=arguments, default=default, prog="python -m experiments.addition")
    return symbols.run(lambda: make(options.digits), options.model, default.model, options.train)


def make(digits: int) -> symbols.GeneratedTask:
    """The task. The first digit of an integer is not 0; a sum of only n digits is followed by one blank more.

    Raises:
        ValueError: there are no digits, or too many to be added in 64 bits.
    """
    if not 1 <= digits <= 18:
        raise ValueError(f"digits must be in 1..18, got {digits}.")

    def generate(rng: np.random.Generator, count: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        inputs, targets = np.full((2, count, 3 * digits + 4), symbols.BLANK, np.int32)
        smallest = 10 ** (digits - 1) if digits > 1 else 0
        terms = rng.integers(smallest, 10**digits, (2, count))
        inputs[:, 1 : digits + 1], inputs[:, digits + 2 : 2 * digits + 2] = symbols_of(terms, digits)
        totals = symbols_of(terms.sum(0), digits + 1)
        short = totals[:, 0] == ZERO  # one digit less
        totals[short] = np.pad(totals[short, 1:], ((0, 0), (0, 1)), constant_values=symbols.BLANK)
        targets[:, 2 * digits + 2 : 3 * digits + 3] = totals
        return inputs, targets

    return symbols.GeneratedTask(f"addition n={digits}", 11, generate, {"task": "addition", "digits": digits})


ZERO = 1
"""The symbol of the digit 0."""


def symbols_of(numbers: NDArray[np.int64], digits: int) -> NDArray[np.int32]:
    """So many decimal digits, along a last axis, most significant first, as symbols: the digit d is ZERO + d."""
    powers = 10 ** np.arange(digits - 1, -1, -1)
    return (numbers[..., None] // powers % 10 + ZERO).astype(np.int32)


if __name__ == "__main__":
    sys.exit(main())
