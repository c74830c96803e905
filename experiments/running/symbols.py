"""What the generated tasks share: rows of symbols made from a seed, a label at every timestep, a run until solved."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

from experiments.running import runs, training
from experiments.running.devices import Batch
from experiments.running.models import ModelOptions, SymbolLabeler
from experiments.running.options import TrainOptions

BLANK = 0
"""The symbol that delimits and pads, ``-`` in the paper."""
NUM_TEST = 100
"""Test samples, as in the paper."""
SOLVED = 0.99
"""Of the answers' symbols: above it the task counts as solved."""

Generate = Callable[[np.random.Generator, int], tuple[NDArray[np.int32], NDArray[np.int32]]]
"""``(rng, rows)`` to inputs and targets, each ``(rows, T)``."""


@dataclasses.dataclass(frozen=True)
class SampleOptions(TrainOptions):
    """Training on fresh samples until the task is solved: over 99% of the answers' symbols right in the test."""

    batch_size: int = 15
    """Sequences in a batch, over all devices together."""
    steps_per_dispatch: int = 10
    """Send the device so many training steps at once, or as many below as divide the steps between two evaluations."""
    samples: int = 200_000
    """Give up at the first test after this many training samples, each seen once; the paper's cap is 5 million."""
    check_every: int = 1500
    """Training samples between two tests, rounded up to whole batches."""

    sizes: ClassVar = (*TrainOptions.sizes, "samples", "check_every")


@dataclasses.dataclass(frozen=True)
class GeneratedTask:
    """A task that makes its own data.

    Args:
        name: for title and workdir.
        num_symbols: the alphabet, the blank included.
        generate: the data.
        config: what decides it, for the record.
    """

    name: str
    num_symbols: int
    generate: Generate
    config: dict[str, Any]


def run(make: Callable[[], GeneratedTask], model: ModelOptions, default: ModelOptions, train: SampleOptions) -> int:
    """A run of a generated task; ``default`` is its own choice of model options."""

    def build() -> runs.Experiment:
        generated = make()
        chosen = model.resolved(default)
        labeler = SymbolLabeler(chosen.layer(), generated.num_symbols)
        init = jax.jit(labeler.init)
        return runs.Experiment(
            name=generated.name,
            task=labeling(labeler, generated, train),
            params=init(jax.random.key(train.seed), jnp.zeros((1, 1), jnp.int32))["params"],
            model=chosen,
            network=labeler,
            config=generated.config,
            headline=headline,
        )

    return runs.exit_status(lambda: runs.run(build, train))


def labeling(labeler: SymbolLabeler, generated: GeneratedTask, options: SampleOptions) -> training.Task:
    """Fresh samples for every batch, and a test on samples of their own."""
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
    """So many samples, always the same for a seed."""
    inputs, targets = generated.generate(np.random.default_rng(seed), count)
    return {"inputs": inputs, "targets": targets}


def held_out(generated: GeneratedTask, seed: int) -> Batch:
    """The test samples of the runs with this seed."""
    return samples(generated, NUM_TEST, seed, 1)


def solved(record: training.Record) -> bool:
    """Whether more than 99% of the answers' symbols are right."""
    return bool(record["test_accuracy"] > SOLVED)


def headline(result: dict[str, Any]) -> str:
    """The paper's measure: how many training samples it took."""
    last = result["history"][-1]
    found = (
        f"{result['test_accuracy']:.1%} of the answers' symbols, {result['test_answer_accuracy']:.0%} of the answers"
    )
    if solved(last):
        return f"solved after {last['samples']:,} training samples ({found})"
    return f"NOT solved after {last['samples']:,} training samples ({found} at best)"
