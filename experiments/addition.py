"""Addition: two integers, digit by digit, then their sum (section 4.1 of the paper).

Examples:
    python -m experiments.addition
    python -m experiments.addition --digits 15 --preset 3d+CN --depth 7 --features 400
    python -m experiments.addition --preset slstm --depth 4
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

NUM_SYMBOLS = 11
"""The blank and the ten digits."""
ZERO = 1
"""The symbol of the digit 0."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Addition: two integers, digit by digit, then their sum.

    For 3 digits:
        input   - 1 2 3 - 9 0 0 - - - - -
        target  - - - - - - - - 1 0 2 3 -
    """

    digits: int = 2
    """Digits of each integer, n; a sequence takes 3n + 4 timesteps. 15 in the paper."""
    paper: bool = False
    """Take the values of the paper's largest experiment for the options that are not given."""
    model: ModelOptions = tasks.ADDITION.model
    train: symbols.SampleOptions = dataclasses.field(default_factory=symbols.SampleOptions)


PAPER = Options(
    digits=15,
    paper=True,
    model=ModelOptions(features=400, tensor_shape=(10, 10), forget_bias=1.0, conveyor_bias=0.0),
    train=symbols.SampleOptions(samples=5_000_000),
)
"""The paper's values."""


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
    return commandline.parse(Options, arguments, prog="experiments.addition", default=default)


def build(options: Options) -> Experiment:
    """Builds the data and the model.

    Raises:
        ValueError: an option does not fit.
    """
    default = PAPER if options.paper else Options()
    task, shortest = make(options.digits), time_scale(options.digits)
    model = options.model.resolved(default.model, lambda delay: shortest + delay, inputs=task.num_symbols)
    return symbols.build(task, model, options.train)


def time_scale(digits: int) -> int:
    """The number of timesteps that memory has to last if the outputs have no delay.

    The longest distance is from a digit of the first integer to the digit of the sum in the same place, 2n + 2
    timesteps later; counting both ends, it is 2n + 3.
    """
    return 2 * digits + 3


@functools.cache  # one object for the same sizes: with --data-on device it is a static argument of the compiled step
def make(digits: int) -> symbols.GeneratedTask:
    """The task. An integer does not begin with 0; a sum of only n digits is followed by one more blank.

    Raises:
        ValueError: the number of digits is below 1, or the sums do not fit into 64 bits.
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

    def generate_one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        least = np.zeros((2, digits), np.int32)
        least[:, 0] = digits > 1
        first, second = jax.random.randint(key, (2, digits), least, 10, jnp.int32)  # integers may not fit into 32 bits
        total = digits_of_sum(first, second)
        answer = jnp.append(total + ZERO, symbols.BLANK)
        answer = jnp.where(total[0] == 0, answer[1:], answer[:-1])  # one digit less
        blank = jnp.full(3 * digits + 4, symbols.BLANK, jnp.int32)
        inputs = blank.at[1 : digits + 1].set(first + ZERO).at[digits + 2 : 2 * digits + 2].set(second + ZERO)
        return inputs, blank.at[2 * digits + 2 : 3 * digits + 3].set(answer)

    config = {"task": tasks.ADDITION.name, "digits": digits}
    return symbols.GeneratedTask(tasks.ADDITION.setting(config), NUM_SYMBOLS, generate, generate_one, config)


def symbols_of(numbers: NDArray[np.int64], digits: int) -> NDArray[np.int32]:
    """The decimal digits of integers as symbols, most significant first, along a new last axis: d is ZERO + d."""
    powers = 10 ** np.arange(digits - 1, -1, -1)
    return (numbers[..., None] // powers % 10 + ZERO).astype(np.int32)


def digits_of_sum(first: jax.Array, second: jax.Array) -> jax.Array:
    """The n + 1 digits of the sum of two integers of n digits, each ``(n,)`` int32, most significant first.

    A place carries into the next if the first place, from it to the right, whose two digits do not add up to 9 has a
    sum of at least 10. So all carries are found at once, as in a carry-lookahead adder, without a loop over the places.
    """
    sums = first + second
    place = jnp.arange(len(sums), dtype=jnp.int32)[::-1] + 1  # from the right
    decides = jnp.where(sums == 9, 0, 2 * place + (sums >= 10))
    carries = jax.lax.cummax(decides, reverse=True) % 2
    return jnp.append(carries[:1], (sums + jnp.append(carries[1:], 0)) % 10)


def example(config: Mapping[str, Any], request: Request) -> Example:
    """A test example of a run; see :class:`experiments.tasks.TaskModule`."""
    return symbols.example(make(config["digits"]), config, request, string.digits)


if __name__ == "__main__":
    sys.exit(main())
