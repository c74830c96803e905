"""Sequential image classification: one pixel per timestep, the class after the last (section 4.2 of the paper).

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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import datasets, tasks
from experiments.common import commandline
from experiments.running import runs
from experiments.running.devices import Batch
from experiments.running.examples import Example, Request
from experiments.running.experiment import Experiment
from experiments.running.models import ModelOptions
from experiments.running.networks import LastStepClassifier, apply, initialized
from experiments.running.options import EpochOptions
from experiments.running.task import Objective, Sums, Task, by_accuracy

RECIPES = {
    "mnist": EpochOptions(),
    "digits": EpochOptions(
        batch_size=32, learning_rate=6e-3, schedule="cosine", weight_decay=0.5, epochs=40, patience=40
    ),
}
"""The default training options of each dataset: for mnist the paper's batch size, learning rate and schedule; for
digits the options with the best validation accuracy over ten seeds, all of which learn. (With a weight decay of 0.75
some seeds learn late or not at all, and more seeds at higher learning rates.)"""


@dataclasses.dataclass(frozen=True)
class Options:
    """Sequential image classification: one pixel per timestep, the class after the last.

    The defaults of the training options depend on the dataset: `--data digits --help` shows those of digits.
    """

    data: Literal["mnist", "digits"] = "mnist"
    """mnist: 28x28, 784 timesteps, prepared on first use. digits: scikit-learn's 8x8, 64 timesteps, no download."""
    data_dir: Path | None = None
    """A folder with the four idx files of MNIST, for machines without a network."""
    prepared_dir: Path | None = None
    """Folder with the prepared MNIST. Default: that of tensorflow-datasets."""
    permuted: bool = False
    """Permute the pixels of every image by one fixed permutation (pMNIST)."""
    permutation_seed: int = 92916
    """The permutation is numpy.random.RandomState(SEED).permutation(784); the default is the literature's."""
    bit_reversal: bool = False
    """Order the pixels by the reversed bits of their indices, as S4 and its successors do instead of permuting them."""
    paper: bool = False
    """Take the values of the paper's largest experiment for the options that are not given."""
    model: ModelOptions = tasks.MNIST.model
    train: EpochOptions = RECIPES["mnist"]


PAPER = Options(
    paper=True,
    model=ModelOptions(features=100, tensor_shape=(5, 5), forget_bias=4.0, conveyor_bias=0.0),
    train=RECIPES["mnist"],
)
"""The paper's values."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    return commandline.exit_status(lambda: run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Trains as the command line says, on digits if MNIST is not available."""
    options = parse(arguments)
    try:
        data = load(options)
    except datasets.DataUnavailable as error:
        print(f"WARNING: {error}. CONTINUING WITH --data digits INSTEAD OF MNIST.", file=sys.stderr)
        data = datasets.load("digits")
        options = dataclasses.replace(parse(arguments, instead="digits"), data="digits")
    return runs.run(lambda: build(options, data), options.train)


def parse(arguments: Sequence[str], instead: str | None = None) -> Options:
    """Parses a command line, with the defaults of the dataset that it names, or of ``instead``."""
    default = PAPER if "--paper" in arguments else Options()
    if (data := instead or commandline.peek(arguments, "data")) in RECIPES:
        default = dataclasses.replace(default, data=cast(Any, data), train=RECIPES[data])
    return commandline.parse(Options, arguments, prog="experiments.mnist", default=default)


def load(options: Options) -> datasets.Dataset:
    """Loads the dataset; errors are those of :func:`experiments.datasets.load`."""
    return datasets.load(options.data, data_dir=options.data_dir, prepared_dir=options.prepared_dir)


def build(options: Options, data: datasets.Dataset | None = None) -> Experiment:
    """Builds the data and the model.

    Args:
        options: the options.
        data: the dataset; None loads the one that the options name.

    Raises:
        ValueError: an option does not fit.
        DataError: the dataset cannot be loaded.
    """
    options.model.check_task(tasks.MNIST.name)
    data = load(options) if data is None else data
    length = data.train.images[0].size
    # the recipe of the digits was chosen without a time scale (docs/choosing.md)
    time_scale = 0 if options.data == "digits" else length
    model = options.model.resolved((PAPER if options.paper else Options()).model, lambda delay: time_scale, inputs=1)
    order = pixel_order(options, length)
    network = LastStepClassifier(model.layer(), data.num_classes)
    config = {
        "task": tasks.MNIST.name,
        "data": options.data,
        "permutation": None if order is None else list(order),
        **({"bit_reversal": True} if options.bit_reversal else {}),
    }
    return Experiment(
        name=tasks.MNIST.setting(config),
        task=classification(network, order, data, options.train),
        params=initialized(network, options.train.seed, jnp.zeros((1, length, 1))),
        model=model,
        network=network,
        config=config,
        headline=lambda result: (
            f"test accuracy {result['test_accuracy']:.2%}, validation {result['best']['validation_accuracy']:.2%}"
        ),
    )


@dataclasses.dataclass(frozen=True)
class Classification(Objective):
    """The cross entropy and the accuracy of the class of each image.

    Args:
        network: a classifier.
        order: a permutation of the pixels, or None for scanlines.
        max_value: the largest value of a pixel.
    """

    order: tuple[int, ...] | None
    max_value: int

    def prepare(self, data: dict[str, jax.Array], batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Adds the images and labels at the ``index`` of each row."""
        index = batch["index"]
        return {**batch, **{name: z.at[index].get(mode="promise_in_bounds") for name, z in data.items()}}

    def sums(self, params: Any, batch: Any, carry: Any, key: jax.Array | None) -> tuple[Sums, Any, dict[str, Any]]:
        """See :meth:`Objective.sums`."""
        weights = batch["weights"]
        xs = sequences(batch["images"], self.order, self.max_value)
        logits, changed = apply(self.network, params, xs, rows=weights, key=key)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        correct = logits.argmax(-1) == batch["labels"]
        found = {
            "loss": ((losses * weights).sum(), weights.sum()),
            "accuracy": ((correct * weights).sum(), weights.sum()),
        }
        return found, carry, changed


def classification(
    network: LastStepClassifier, order: tuple[int, ...] | None, data: datasets.Dataset, options: EpochOptions
) -> Task:
    """Epochs of shuffled images, with early stopping on the validation accuracy.

    Raises:
        ValueError: the batch size exceeds the number of training images.
    """
    if options.batch_size > len(data.train):
        raise ValueError(
            f"batch_size must be at most {len(data.train)}, the training images of {data.name}, "
            f"got {options.batch_size}."
        )
    steps_per_epoch = math.ceil(len(data.train) / options.batch_size)

    splits = (data.train, data.validation, data.test)
    begins = np.cumsum([0, *map(len, splits)], dtype=np.int32)

    def evaluated(number: int) -> list[Batch]:
        size = 4 * options.batch_size  # larger than for training, since there are no residuals to keep
        index = np.arange(begins[number], begins[number + 1], dtype=np.int32)
        return [{"index": index[i : i + size]} for i in range(0, len(index), size)]

    @functools.lru_cache(maxsize=1)
    def shuffled(epoch: int) -> Any:
        return np.random.default_rng([options.seed, epoch]).permutation(len(data.train)).astype(np.int32)

    def batch(step: int) -> Batch:
        epoch, index = divmod(step, steps_per_epoch)
        return {"index": shuffled(epoch)[index * options.batch_size : (index + 1) * options.batch_size]}

    return Task(
        objective=Classification(network, order, data.max_value),
        batch=batch,
        steps_per_epoch=steps_per_epoch,
        samples_per_epoch=len(data.train),
        epochs=options.epochs,
        patience=options.patience,
        evaluated={"validation": evaluated(1), "test": evaluated(2)},
        data={name: np.concatenate([getattr(split, name) for split in splits]) for name in ("images", "labels")},
        rank=by_accuracy("validation"),
        shorter="--data digits takes minutes" if data.name == "mnist" else "",
    )


def pixel_order(options: Options, num_pixels: int) -> tuple[int, ...] | None:
    """The order of the pixels of an image, or None for scanlines."""
    if options.bit_reversal:
        if options.permuted:
            raise ValueError("permuted and bit_reversal are two orders of the pixels: give one of them.")
        bits = (num_pixels - 1).bit_length()
        reversed_bits = (int(f"{number:0{bits}b}"[::-1], base=2) for number in range(2**bits))
        return tuple(index for index in reversed_bits if index < num_pixels)
    if not options.permuted:
        return None
    if not 0 <= options.permutation_seed < 2**32:
        raise ValueError(f"permutation_seed must be in 0..2^32 - 1, got {options.permutation_seed}.")
    return tuple(np.random.RandomState(options.permutation_seed).permutation(num_pixels).tolist())


def sequences(images: jax.Array, order: Sequence[int] | None, max_value: int) -> jax.Array:
    """Maps uint8 images ``(N, H, W)`` to sequences ``(N, H W, 1)``: one pixel per timestep, scaled to -1..1.

    ``order`` is a permutation of the pixels, or None for scanlines.
    """
    pixels = 2 * images.reshape(len(images), -1).astype(jnp.float32) / max_value - 1
    return (pixels if order is None else pixels[:, np.array(order)])[..., None]


def example(config: Mapping[str, Any], request: Request) -> Example:
    """A test image, pixel by pixel in the run's order; see :class:`experiments.tasks.TaskModule`."""
    data = datasets.load(config["data"], data_dir=request.data_dir, prepared_dir=request.prepared_dir)
    number = request.checked(len(data.test))
    xs = sequences(jnp.asarray(data.test.images[number][None]), config["permutation"], data.max_value)[0]
    network = LastStepClassifier(ModelOptions.recorded(config).layer(), data.num_classes)
    return Example(network, xs, len(xs))


if __name__ == "__main__":
    sys.exit(main())
