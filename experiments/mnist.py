"""Sequential image classification: one pixel a timestep, the class after the last (section 4.2 of the paper).

Examples:
    python -m experiments.mnist --data digits
    python -m experiments.mnist --data mnist --data-dir FOLDER --tensor-shape 3 3
    python -m experiments.mnist --permuted --preset slstm --depth 3
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from experiments import datasets
from experiments.running import runs, training
from experiments.running.devices import Batch
from experiments.running.models import LastStepClassifier, ModelOptions
from experiments.running.options import EpochOptions

RECIPES = {
    "mnist": EpochOptions(),
    "digits": EpochOptions(
        batch_size=32, learning_rate=8e-3, schedule="cosine", weight_decay=0.75, epochs=40, patience=40
    ),
}
"""Defaults of training for each dataset: for mnist the paper's batch, rate and schedule, for digits what did best."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Sequential image classification: one pixel a timestep, the class after the last.

    Training has defaults of its own for each dataset: `--data digits --help` shows those for digits.
    """

    data: Literal["mnist", "digits"] = "mnist"
    """mnist: 28x28, 784 timesteps, prepared on first use. digits: scikit-learn's 8x8, 64 timesteps, no download."""
    data_dir: Path | None = None
    """A folder with the four idx files of MNIST, for machines without a network."""
    prepared_dir: Path | None = None
    """Where the prepared MNIST is kept. Default: the folder of tensorflow-datasets."""
    permuted: bool = False
    """Shuffle the pixels by one fixed permutation (pMNIST)."""
    permutation_seed: int = 92916
    """The permutation is numpy.random.RandomState(SEED).permutation(784), by default the literature's."""
    paper: bool = False
    """Take the paper's values, its largest experiment's, where no option says otherwise."""
    model: Annotated[ModelOptions, tyro.conf.OmitArgPrefixes] = dataclasses.field(default_factory=ModelOptions)
    train: Annotated[EpochOptions, tyro.conf.OmitArgPrefixes] = dataclasses.field(default_factory=EpochOptions)


PAPER = Options(
    paper=True, model=ModelOptions(features=100, tensor_shape=(5, 5), conveyor_bias=0.0), train=RECIPES["mnist"]
)
"""The literal values."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return runs.exit_status(lambda: run(arguments))


def run(arguments: Sequence[str]) -> int:
    """One run, on digits where MNIST is not to be had."""
    options = parse(arguments)
    try:
        data = datasets.load(options.data, data_dir=options.data_dir, prepared_dir=options.prepared_dir)
    except datasets.DataUnavailable as error:
        print(f"WARNING: {error}. GOING ON WITH --data digits INSTEAD OF MNIST.", file=sys.stderr)
        data = datasets.load("digits")
        options = dataclasses.replace(parse(arguments, instead="digits"), data="digits")
    return runs.run(functools.partial(build, options, data), options.train)


def parse(arguments: Sequence[str], instead: str | None = None) -> Options:
    """The options of a command line, with the defaults of the dataset that it names (or of another ``instead``)."""
    default = PAPER if "--paper" in arguments else Options()
    if (data := instead or runs.peek(arguments, "data")) in RECIPES:
        default = dataclasses.replace(default, data=cast(Any, data), train=RECIPES[data])
    return tyro.cli(Options, args=arguments, default=default, prog="python -m experiments.mnist")


def build(options: Options, data: datasets.Dataset) -> runs.Experiment:
    """The task and the model.

    Raises:
        ValueError: an option does not fit.
    """
    chosen = options.model.resolved((PAPER if options.paper else Options()).model)
    order = pixel_order(options, data.train.images[0].size)
    model = LastStepClassifier(chosen.layer(), data.num_classes)
    return runs.Experiment(
        name=f"{options.data}{' permuted' if options.permuted else ''}",
        task=classification(make_predict(model, order, data.max_value), data, options.train),
        params=jax.jit(model.init)(jax.random.key(options.train.seed), jnp.zeros((1, 1, 1)))["params"],
        model=chosen,
        network=model,
        config={"task": "mnist", "data": options.data, "permutation": None if order is None else order.tolist()},
        headline=lambda result: (
            f"test accuracy {result['test_accuracy']:.2%}, validation {result['best']['validation_accuracy']:.2%}"
        ),
    )


def classification(predict: Any, data: datasets.Dataset, options: EpochOptions) -> training.Task:
    """Epochs of shuffled images, early stopping on the validation accuracy.

    Raises:
        ValueError: a batch has more rows than there are images.
    """
    if options.batch_size > len(data.train):
        raise ValueError(
            f"batch_size must be at most {len(data.train)}, the training images of {data.name}, "
            f"got {options.batch_size}."
        )
    steps_per_epoch = math.ceil(len(data.train) / options.batch_size)

    def sums(params: Any, batch: dict[str, jax.Array], carry: Any) -> tuple[training.Sums, Any]:
        logits, weights = predict(params, batch["images"]), batch["weights"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        correct = logits.argmax(-1) == batch["labels"]
        found = {
            "loss": ((losses * weights).sum(), weights.sum()),
            "accuracy": ((correct * weights).sum(), weights.sum()),
        }
        return found, carry

    def evaluated(split: datasets.Split) -> list[Batch]:
        size = 4 * options.batch_size  # no gradients to keep, so more fits
        return [rows(split[i : i + size]) for i in range(0, len(split), size)]

    @functools.lru_cache(maxsize=1)
    def order(epoch: int) -> Any:
        return np.random.default_rng([options.seed, epoch]).permutation(len(data.train))

    def batch(step: int) -> Batch:
        epoch, index = divmod(step, steps_per_epoch)
        return rows(data.train[order(epoch)[index * options.batch_size : (index + 1) * options.batch_size]])

    return training.Task(
        sums=sums,
        batch=batch,
        steps_per_epoch=steps_per_epoch,
        samples_per_epoch=len(data.train),
        epochs=options.epochs,
        patience=options.patience,
        evaluated={"validation": evaluated(data.validation), "test": evaluated(data.test)},
        rank=training.by_accuracy("validation"),
    )


def rows(split: datasets.Split) -> Batch:
    """Images and labels, a row each."""
    return {"images": split.images, "labels": split.labels}


def pixel_order(options: Options, num_pixels: int) -> np.ndarray[Any, Any] | None:
    """The order in which the pixels of an image come, or None for scanlines."""
    if not options.permuted:
        return None
    if not 0 <= options.permutation_seed < 2**32:
        raise ValueError(f"permutation_seed must be in 0..2^32 - 1, got {options.permutation_seed}.")
    return np.random.RandomState(options.permutation_seed).permutation(num_pixels)


def make_predict(model: nn.Module, order: Any, max_value: int) -> Any:
    """``predict(params, images)``: uint8 images to :func:`sequences`, to logits."""

    def predict(params: Any, images: jax.Array) -> jax.Array:
        xs = sequences(images, order, max_value)
        return model.apply({"params": params}, xs)  # type: ignore[return-value] # nothing is mutable

    return predict


def sequences(images: jax.Array, order: Any, max_value: int) -> jax.Array:
    """uint8 images ``(N, H, W)`` to ``(N, H W, 1)``: one pixel in -1..1 a timestep, in the order given or scanlines."""
    pixels = 2 * images.reshape(len(images), -1).astype(jnp.float32) / max_value - 1
    return (pixels if order is None else pixels[:, order])[..., None]


if __name__ == "__main__":
    sys.exit(main())
