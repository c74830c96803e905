"""The tasks that generate their own data: sequences of symbols from a seed, with a target symbol at every timestep."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

from experiments.running.devices import Batch
from experiments.running.examples import Example, Request, labeled
from experiments.running.experiment import Experiment
from experiments.running.models import ModelOptions
from experiments.running.networks import SymbolLabeler, apply, initialized
from experiments.running.options import KEY_TYPE, LATER, TrainOptions
from experiments.running.task import Objective, Record, Sums, Task, by_accuracy

BLANK = 0
"""The symbol that delimits and pads, ``-`` in the paper."""
NUM_TEST = 100
"""Test samples, as in the paper."""
SOLVED = 0.99
"""The task is solved when the accuracy on the symbols of the answers is above this."""
TRAIN, TEST = 0, 1
"""The numbers of the splits, which are part of the seeds of samples."""
MOST_NUMBERS = 2**31
"""The number of training samples that an int32 can count."""

Generate = Callable[[np.random.Generator, int], tuple[NDArray[np.int32], NDArray[np.int32]]]
"""Maps ``(rng, rows)`` to inputs and targets, each ``(rows, T)``."""
GenerateOne = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
"""Maps a key of jax.random to the inputs and the targets of one sample, each ``(T,)`` int32."""


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
    data_on: Literal["host", "device"] = "host"
    """Where samples are made: with NumPy by the host, or with jax.random by the device, inside the training step, so
    that a fast device does not wait. The samples differ, their distribution does not. Those of the device depend on
    --seed and their number alone, not on --batch-size, the kind of device or how many there are."""

    sizes: ClassVar = (*TrainOptions.sizes, "samples", "check_every")


@dataclasses.dataclass(frozen=True, eq=False)
class GeneratedTask:
    """A task that generates its own data. An instance is equal only to itself, as functions are.

    Args:
        name: the task with its size, for titles and workdirs.
        num_symbols: the size of the alphabet, including the blank.
        generate: generates samples with NumPy.
        generate_one: generates a sample of the same distribution with JAX.
        config: the configuration that determines the data, as recorded.
    """

    name: str
    num_symbols: int
    generate: Generate
    generate_one: GenerateOne
    config: dict[str, Any]

    def from_numbers(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Adds the inputs and targets of the samples that :func:`numbered` names to a batch."""

        def sample(seed: jax.Array, split: jax.Array, number: jax.Array) -> tuple[jax.Array, jax.Array]:
            key = jax.random.key(seed, impl=KEY_TYPE)
            return self.generate_one(jax.random.fold_in(jax.random.fold_in(key, split), number))

        inputs, targets = jax.vmap(sample)(batch["seed"], batch["split"], batch["number"])
        return {**batch, "inputs": inputs, "targets": targets}


def build(generated: GeneratedTask, model: ModelOptions, train: SampleOptions) -> Experiment:
    """The experiment of a task with a model, whose options are resolved.

    Raises:
        ValueError: an option does not fit.
    """
    model.check_task(generated.config["task"])
    labeler = SymbolLabeler(model.layer(), generated.num_symbols)
    task = labeling(labeler, generated, train)
    length = generated.generate(np.random.default_rng(0), 1)[0].shape[1]
    return Experiment(
        name=generated.name,
        task=task,
        params=initialized(labeler, train.seed, jnp.zeros((1, length), jnp.int32)),
        model=model,
        network=labeler,
        config=dict(generated.config),  # a copy, since runs share the task
        headline=headline,
    )


@dataclasses.dataclass(frozen=True)
class Labeling(Objective):
    """The cross entropy of all symbols, and the accuracies of the answers' symbols and of whole answers.

    Args:
        network: a labeler.
        complete: adds the inputs and targets to a batch that the host has numbered; None if the host makes them.
    """

    complete: Callable[[Mapping[str, jax.Array]], dict[str, jax.Array]] | None = None

    def prepare(self, data: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """See :meth:`Objective.prepare`."""
        return batch if self.complete is None else self.complete(batch)

    def sums(self, params: Any, batch: Any, carry: Any, key: jax.Array | None) -> tuple[Sums, Any, dict[str, Any]]:
        """See :meth:`Objective.sums`."""
        (_, logits), changed = apply(self.network, params, batch["inputs"], rows=batch["weights"], key=key)
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
        return found, carry, changed


def labeling(labeler: SymbolLabeler, generated: GeneratedTask, options: SampleOptions) -> Task:
    """New samples for every batch, evaluated on fixed test samples.

    Raises:
        ValueError: the device is to make more samples than it can count.
    """
    on_device = options.data_on == "device"
    steps_per_epoch = math.ceil(min(options.check_every, options.samples) / options.batch_size)
    samples_per_epoch = steps_per_epoch * options.batch_size

    def batch(step: int) -> Batch:
        if on_device:
            return numbered(options.seed, TRAIN, step * options.batch_size, options.batch_size)
        return samples(generated, options.batch_size, options.seed, TRAIN, step)

    epochs = math.ceil(options.samples / samples_per_epoch)
    if on_device and epochs * samples_per_epoch > MOST_NUMBERS:
        raise ValueError(
            f"samples must be at most {MOST_NUMBERS} with --data-on device, which numbers them, after rounding up to "
            f"whole evaluations of {samples_per_epoch}, got {options.samples}: give fewer, or --data-on host."
        )
    return Task(
        objective=Labeling(labeler, generated.from_numbers if on_device else None),
        batch=batch,
        steps_per_epoch=steps_per_epoch,
        samples_per_epoch=samples_per_epoch,
        epochs=epochs,
        patience=epochs,
        evaluated={
            "test": [numbered(options.seed, TEST, 0, NUM_TEST) if on_device else held_out(generated, options.seed)]
        },
        rank=by_accuracy("test"),
        solved=solved,
    )


def samples(generated: GeneratedTask, count: int, *seed: int) -> Batch:
    """A batch of samples that the host makes, determined by the seed."""
    inputs, targets = generated.generate(np.random.default_rng(seed), count)
    return {"inputs": inputs, "targets": targets}


def numbered(seed: int, split: int, first: int, count: int) -> Batch:
    """A batch of samples that the device makes: each row has the seed, the split and the number of a sample."""
    return {
        "seed": np.full(count, seed, np.uint32),
        "split": np.full(count, split, np.int32),
        "number": np.arange(first, first + count, dtype=np.int32),
    }


def held_out(generated: GeneratedTask, seed: int, data_on: str = "host") -> Batch:
    """The test samples of the runs with a seed, made by the host or by the device."""
    if data_on == "host":
        return samples(generated, NUM_TEST, seed, TEST)
    return cast(Batch, jax.device_get(jax.jit(generated.from_numbers)(numbered(seed, TEST, 0, NUM_TEST))))


def example(generated: GeneratedTask, config: Mapping[str, Any], request: Request, characters: str) -> Example:
    """A test example of a run, with its configuration; ``characters`` stand for the symbols after the blank."""
    batch = held_out(generated, config["seed"], config.get("data_on", LATER["data_on"]))
    number = request.checked(NUM_TEST)
    both = np.stack([batch[name][number] for name in ("inputs", "targets")])
    others = map(chr, range(0x100, 0x100 + generated.num_symbols))  # for alphabets larger than ``characters``
    alphabet = ("-", *characters, *others)[: generated.num_symbols]
    end = int(np.flatnonzero(both[0] != BLANK).max()) + 1
    labeler = SymbolLabeler(ModelOptions.recorded(config).layer(), generated.num_symbols)
    return labeled(labeler, both, alphabet, end)


def solved(record: Record) -> bool:
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
