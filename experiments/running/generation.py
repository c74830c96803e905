"""Text from a trained model, one character after another.

The output for a character leaves the tensor L - 1 timesteps after it, and the next character is only known then. So
each character costs L timesteps: one that advances the state, and L - 1 on a copy of the state to complete
the output.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any, cast

import jax
import numpy as np
from numpy.typing import NDArray

from experiments.common.errors import UsageError
from experiments.running import workdir as wd
from experiments.running.experiment import Experiment
from experiments.running.networks import SymbolLabeler, apply
from experiments.running.options import TrainOptions
from experiments.running.pretrained import best_so_far, started, unevaluated_step


@dataclasses.dataclass(frozen=True)
class Request:
    """The text to generate.

    Args:
        count: the number of characters.
        prompt: the beginning of the text.
        temperature: sampling temperature; 0 takes the most likely character.
        seed: the seed of the sampling.
    """

    count: int
    prompt: str
    temperature: float
    seed: int


def run(
    build: Callable[[], Experiment],
    options: TrainOptions,
    vocabulary: NDArray[np.uint8],
    request: Request,
) -> int:
    """Prints the prompt and its continuation by the best parameters of the run in the workdir.

    If the run has not been evaluated yet, its latest parameters are used.

    Returns:
        The exit status, 0.

    Raises:
        UsageError: an option does not fit, or there is no checkpoint.
        CommandError: the workdir holds another run, or its checkpoints cannot be read.
    """
    try:
        experiment = started(build(), options)
        prompt = encoded(request, vocabulary)
    except ValueError as error:
        raise UsageError(error) from error
    workdir = experiment.workdir(options)
    if config := wd.recorded_here(workdir):
        experiment = experiment.as_recorded(experiment, config)
        if config.get("seed") != options.seed:
            raise UsageError(
                f"the run in {workdir} has seed {config.get('seed')}, got seed {options.seed}: give --seed "
                f"{config.get('seed')}; --sampling-seed changes the text that is sampled"
            )
    wd.check_same(workdir, experiment.recorded(options))
    params, meta = best_so_far(workdir, experiment.params)
    if not meta["history"]:
        print(f"not evaluated yet: the parameters after step {unevaluated_step(workdir, meta)}", file=sys.stderr)
    key, network = jax.random.key(request.seed), cast(SymbolLabeler, experiment.network)
    symbols = generated(params, prompt, key, network, request.count, request.temperature)
    text = vocabulary[np.concatenate([prompt, symbols])].tobytes()  # a character of several bytes may span both
    print(text.decode(errors="replace"))
    return 0


def encoded(request: Request, vocabulary: NDArray[np.uint8]) -> NDArray[np.int32]:
    """The prompt's symbols, ``(n,)``.

    Raises:
        ValueError: the prompt is empty or has bytes that the corpus does not have, or another value is invalid.
    """
    if request.count < 1:
        raise ValueError(f"generate must be at least 1, got {request.count}.")
    if not 0 <= request.temperature < float("inf"):
        raise ValueError(f"temperature must be 0 or a positive number, got {request.temperature}.")
    try:
        data = np.frombuffer(request.prompt.encode(errors="surrogateescape"), np.uint8)  # the bytes that were typed
    except UnicodeEncodeError as error:
        raise ValueError(f"prompt must be text that UTF-8 can encode, got {request.prompt!a:.80}.") from error
    if not data.size:
        raise ValueError("prompt must have at least one character, got an empty one.")
    unknown = sorted({chr(byte) if byte < 128 else f"byte {byte:#x}" for byte in data[~np.isin(data, vocabulary)]})
    if unknown:
        raise ValueError(
            f"prompt has characters that the corpus does not have, {', '.join(map(repr, unknown))}: leave them out."
        )
    return np.searchsorted(vocabulary, data).astype(np.int32)


@functools.partial(jax.jit, static_argnames=("labeler", "count", "temperature"))
def generated(
    params: Any, prompt: jax.Array, key: jax.Array, labeler: SymbolLabeler, count: int, temperature: float
) -> jax.Array:
    """Samples ``count`` symbols that follow the prompt, ``(count,)``.

    Args:
        params: the model's parameters.
        prompt: symbols, ``(n,)``, n at least 1.
        key: a JAX PRNG key.
        labeler: the model.
        count: the number of symbols.
        temperature: divides the logits; 0 takes the most likely symbol.
    """

    def answer(carry: Any, symbols: jax.Array) -> tuple[Any, jax.Array]:
        """The state after some symbols, before the timesteps of the delay, and the logits for the next symbol."""
        carry, logits = cast(Any, apply(labeler, params, symbols[None], carry)[0])
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
