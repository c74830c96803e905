"""Text from a trained model, one character after another.

The answer to a character leaves the tensor L - 1 timesteps after it, and only then is the next one known. So each
character costs L timesteps: one that stays in the state, and L - 1 that only wait for the answer, on a copy.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import numpy as np
from numpy.typing import NDArray

from experiments.running import runs
from experiments.running import workdir as wd
from experiments.running.models import SymbolLabeler
from experiments.running.options import TrainOptions


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The text to write.

    Args:
        count: of characters.
        prompt: what they follow.
        temperature: the logits' divisor; 0 for the likeliest character.
        seed: of the dice.
    """

    count: int
    prompt: str
    temperature: float
    seed: int


def run(
    build: Callable[[], runs.Experiment],
    options: TrainOptions,
    vocabulary: NDArray[np.uint8],
    wanted: Wanted,
) -> int:
    """Prints the prompt and what the best model of a run makes of it."""
    try:
        experiment = runs.started(build(), options)
        prompt = encoded(wanted, vocabulary)
    except ValueError as error:
        raise runs.UsageError(error) from error
    workdir = options.workdir or runs.default_workdir(experiment, options)
    wd.check_same(workdir, runs.recorded(experiment, options))
    params, _ = runs.best_so_far(workdir, experiment.params)
    symbols = generated(
        params, prompt, jax.random.key(wanted.seed), experiment.network, wanted.count, wanted.temperature
    )
    text = vocabulary[np.asarray(symbols)].tobytes().decode(errors="replace")
    print(wanted.prompt + text)
    return 0


def encoded(wanted: Wanted, vocabulary: NDArray[np.uint8]) -> NDArray[np.int32]:
    """The prompt's symbols.

    Raises:
        ValueError: it is empty or has bytes that the corpus does not have, or another wish cannot be met.
    """
    if wanted.count < 1:
        raise ValueError(f"generate must be at least 1, got {wanted.count}.")
    if not 0 <= wanted.temperature < float("inf"):
        raise ValueError(f"temperature must be 0 or a positive number, got {wanted.temperature}.")
    data = np.frombuffer(wanted.prompt.encode(), np.uint8)
    if not data.size:
        raise ValueError("prompt must have at least one character, got an empty one.")
    unknown = sorted({chr(byte) if byte < 128 else f"byte {byte:#x}" for byte in data[~np.isin(data, vocabulary)]})
    if unknown:
        raise ValueError(f"prompt has what the corpus never has, {', '.join(map(repr, unknown))}: leave that out.")
    return np.searchsorted(vocabulary, data).astype(np.int32)


@functools.partial(jax.jit, static_argnames=("labeler", "count", "temperature"))
def generated(
    params: Any, prompt: jax.Array, key: jax.Array, labeler: SymbolLabeler, count: int, temperature: float
) -> jax.Array:
    """``count`` symbols that follow the prompt, ``(count,)``.

    Args:
        params: of the labeler.
        prompt: symbols, ``(n,)``, n at least 1.
        key: a JAX PRNG key.
        labeler: the model.
        count: how many symbols.
        temperature: the logits' divisor; 0 for the likeliest symbol.
    """

    def answer(carry: Any, symbols: jax.Array) -> tuple[Any, jax.Array]:
        """The state after some symbols, without the timesteps that wait, and the logits for the one that follows."""
        carry, logits = cast(Any, labeler.apply({"params": params}, symbols[None], carry))
        return carry, logits[0, -1]

    def draw(logits: jax.Array, key: jax.Array) -> jax.Array:
        if not temperature:
            return logits.argmax(-1)
        return jax.random.categorical(key, logits / temperature)

    def one(before: tuple[Any, jax.Array], key: jax.Array) -> tuple[tuple[Any, jax.Array], jax.Array]:
        carry, logits = before
        symbol = draw(logits, key)
        return answer(carry, symbol[None]), symbol

    _, symbols = jax.lax.scan(one, answer(labeler.zero_carry(1), prompt), jax.random.split(key, count))
    return symbols
