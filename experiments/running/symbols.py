"""The tasks that generate their own data: sequences of symbols from a seed, with a target symbol at every timestep."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

from experiments.running import training
from experiments.running.devices import Batch
from experiments.running.examples import Example, Request, labeled
from experiments.running.experiment import Experiment
from experiments.running.models import ModelOptions, SymbolLabeler
from experiments.running.options import TrainOptions

BLANK = 0
"""The symbol that delimits and pads, ``-`` in the paper."""
NUM_TEST = 100
"""Test samples, as in the paper."""
SOLVED = 0.99
"""The task is solved when the accuracy on the symbols of the answers is above this."""

Generate = Callable[[np.random.Generator, int], tuple[NDArray[np.int32], NDArray[np.int32]]]
"""Maps ``(rng, rows)`` to inputs and targets, each ``(rows, T)``."""


@dataclasses.dataclass(frozen=True)
class SampleOptions(TrainOptions):
    """Training on new samples until the task is solved: over 99% of the answers' symbols correct in the test."""

    batch_size: int = 15
    """Sequences in a batch, over all devices together."""
    steps_per_dispatch: int = 10
    """Training steps per call of the compiled function, at most; a divisor of the steps per evaluation is used."""
    samples: int = 200_000
    """Stop at the first evaluation after this many training samples, each seen once; 5 million in the paper."""
    check_every: int = 1500
    """Training samples between evaluations, rounded up to whole batches."""

    sizes: ClassVar = (*TrainOptions.sizes, "samples", "check_every")


@dataclasses.dataclass(frozen=True)
class GeneratedTask:
    """A task that generates its own data.

    Args:
        name: the task with its size, for titles and workdirs.
        num_symbols: the size of the alphabet, including the blank.
        generate: generates samples.
        config: the configuration that determines the data, as recorded.
    """

    name: str
    num_symbols: int
    generate: Generate
    config: dict[str, Any]


def build(generated: GeneratedTask, model: ModelOptions, train: SampleOptions) -> Experiment:
    """The experiment of a task with a model, whose options are resolved.

    Raises:
        ValueError: an option does not fit.
    """
    labeler = SymbolLabeler(model.layer(), generated.num_symbols)
    init = jax.jit(labeler.init)
    return Experiment(
        name=generated.name,
        task=labeling(labeler, generated, train),
        params=init(jax.random.key(train.seed), jnp.zeros((1, 1), jnp.int32))["params"],
        model=model,
        network=labeler,
        config=generated.config,
        headline=headline,
    )


def labeling(labeler: SymbolLabeler, generated: GeneratedTask, options: SampleOptions) -> training.Task:
    """New samples for every batch, evaluated on fixed test samples."""
    steps_per_epoch = math.ceil(min(options.check_every, options.samples) / options.batch_size)
    samples_per_epoch = steps_per_epoch * options.batch_size

    def sums(params: Any, batch: dict[str, jax.Array], carry: Any) -> tuple[training.Sums, Any]:
        _, logits = cast(Any, labeler.apply({"params": params}, batch["inputs"]))
        targets, weights = batch["targets"], batch["weights"][:, None]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets) * weights
        answer = (targets != BLANK) * weights
        right = (logits.argmax(-1) == targets) * answer
        whole = (right.sum(-1) == answer.sum(-1)) * batch["weights"]
        found = {
            "loss": (losses.sum(), weights.sum() * targets.shape[1]),
            "accuracy": (right.sum(), answer.sum()),
            "answer_accuracy": (whole.sum(), batch["weights"].sum()),
        }
        return found, carry

    epochs = math.ceil(options.samples / samples_per_epoch)
    return training.Task(
        sums=sums,
        batch=lambda step: samples(generated, options.batch_size, options.seed, 0, step),
        steps_per_epoch=steps_per_epoch,
        samples_per_epoch=samples_per_epoch,
        epochs=epochs,
        patience=epochs,
        evaluated={"test": [held_out(generated, options.seed)]},
        rank=training.by_accuracy("test"),
        solved=solved,
    )


def samples(generated: GeneratedTask, count: int, *seed: int) -> Batch:
    """A batch of samples, determined by the seed."""
    inputs, targets = generated.generate(np.random.default_rng(seed), count)
    return {"inputs": inputs, "targets": targets}


def held_out(generated: GeneratedTask, seed: int) -> Batch:
    """The test samples of the runs with a seed."""
    return samples(generated, NUM_TEST, seed, 1)


def example(generated: GeneratedTask, config: Mapping[str, Any], request: Request, characters: str) -> Example:
    """A test example of a run, with its configuration; ``characters`` stand for the symbols after the blank."""
    batch = held_out(generated, config["seed"])
    number = request.checked(NUM_TEST)
    both = np.stack([batch[name][number] for name in ("inputs", "targets")])
    others = map(chr, range(0x100, 0x100 + generated.num_symbols))  # for alphabets larger than ``characters``
    alphabet = ("-", *characters, *others)[: generated.num_symbols]
    end = int(np.flatnonzero(both[0] != BLANK).max()) + 1
    labeler = SymbolLabeler(ModelOptions.recorded(config).layer(), generated.num_symbols)
    return labeled(labeler, both, alphabet, end)


def solved(record: training.Record) -> bool:
    """Whether more than 99% of the answers' symbols are correct."""
    return bool(record["test_accuracy"] > SOLVED)


def headline(result: dict[str, Any]) -> str:
    """The paper's measure, the number of training samples until solved, and the test metrics."""
    last = result["history"][-1]
    found = (
        f"{result['test_accuracy']:.1%} of the answers' symbols, {result['test_answer_accuracy']:.0%} of the answers"
    )
    if solved(last):
        return f"solved after {last['samples']:,} training samples ({found})"
    return f"NOT solved after {last['samples']:,} training samples ({found} at best)"
