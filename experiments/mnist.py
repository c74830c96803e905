"""Sequential image classification: one pixel a timestep, the class after the last (section 4.2 of the paper).

Examples:
    python -m experiments.mnist --data digits
    python -m experiments.mnist --data mnist --data-dir FOLDER --tensor-shape 3 3
    python -m experiments.mnist --permuted --model slstm
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments import datasets, training
from experiments import workdir as wd
from experiments.checkpoints import CheckpointError
from experiments.figures import learning_curves
from experiments.models import LastStepClassifier, ModelOptions, count_parameters

RECIPES = {
    "mnist": training.TrainOptions(),
    "digits": training.TrainOptions(
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
    model: Annotated[ModelOptions, tyro.conf.OmitArgPrefixes] = dataclasses.field(default_factory=ModelOptions)
    train: Annotated[training.TrainOptions, tyro.conf.OmitArgPrefixes] = dataclasses.field(
        default_factory=training.TrainOptions
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    try:
        try:
            data = datasets.load(options.data, data_dir=options.data_dir, prepared_dir=options.prepared_dir)
        except datasets.DataUnavailable as error:
            print(f"WARNING: {error}. GOING ON WITH --data digits INSTEAD OF MNIST.", file=sys.stderr)
            data = datasets.load("digits")
            options = dataclasses.replace(parse(arguments, instead="digits"), data="digits")
        return run(options, data)
    except (datasets.DataError, wd.WorkdirError, CheckpointError, UsageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except training.Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # outside the training loop, which has a checkpoint to write first
        print("stopped: run the same command again to go on", file=sys.stderr)
        return 128 + signal.SIGINT
    except training.Interrupted as stop:
        print(f"{stop}: run the same command again to go on", file=sys.stderr)
        return 128 + stop.signum


def parse(arguments: Sequence[str], instead: str | None = None) -> Options:
    """The options of a command line, with the defaults of the dataset that it names (or of another ``instead``)."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    peek.add_argument("--data", nargs="?")
    data: Any = instead or peek.parse_known_args(arguments)[0].data
    default = Options(data=data, train=RECIPES[data]) if data in RECIPES else Options()
    return tyro.cli(Options, args=arguments, default=default, prog="python -m experiments.mnist")


class UsageError(ValueError):
    """An option that does not fit."""


def run(options: Options, data: datasets.Dataset) -> int:
    """One run, from options to figure."""
    try:
        options.train.check()
        options.model.check()
        order = pixel_order(options, data.train.images[0].size)
        workdir = options.train.workdir or default_workdir(options)
        model = LastStepClassifier(options.model.layer(), data.num_classes)
        predict = make_predict(model, order, data.max_value)
        key = jax.random.key(options.train.seed)
        params = jax.jit(model.init)(key, jnp.zeros((1, 1, 1)))["params"]
    except ValueError as error:
        raise UsageError(error) from error
    wd.claim(workdir, recorded(options, order), overwrite=options.train.overwrite)
    title = f"{options.data}{' permuted' if options.permuted else ''}, {options.model.title}"
    summary = wd.read_summary(workdir)
    if summary is None:
        print(f"{title}: {count_parameters(params):,} parameters, {jax.devices()[0].device_kind}, {workdir}")
        task = training.Task(predict, data.train, data.validation, data.test)
        result = training.fit(task, params, options.train, workdir)
        summary = summarize(title, result, count_parameters(params))
        curves = workdir / wd.CURVES
        learning_curves(curves, result["history"], summary["best_epoch"], summary["test_accuracy"], title)
        wd.write_json(workdir / wd.SUMMARY, summary)
    else:
        print(f"{workdir} holds this run, finished; --overwrite runs it again")
    print(
        f"{summary['title']}: test accuracy {summary['test_accuracy']:.2%}, validation "
        f"{summary['validation_accuracy']:.2%} in epoch {summary['best_epoch']} of {summary['epochs']}, "
        f"{summary['parameters']:,} parameters, {summary['seconds']:.0f} s; {workdir / wd.CURVES}"
    )
    return 0


def pixel_order(options: Options, num_pixels: int) -> np.ndarray[Any, Any] | None:
    """The order in which the pixels of an image come, or None for scanlines."""
    if not options.permuted:
        return None
    if not 0 <= options.permutation_seed < 2**32:
        raise UsageError(f"permutation_seed must be in 0..2^32 - 1, got {options.permutation_seed}.")
    return np.random.RandomState(options.permutation_seed).permutation(num_pixels)


def make_predict(model: nn.Module, order: Any, max_value: int) -> Any:
    """``predict(params, images)``: uint8 images to sequences of one pixel in -1..1 a timestep, to logits."""

    def predict(params: Any, images: jax.Array) -> jax.Array:
        pixels = 2 * images.reshape(len(images), -1).astype(jnp.float32) / max_value - 1
        pixels = pixels if order is None else pixels[:, order]
        return model.apply({"params": params}, pixels[..., None])  # type: ignore[return-value] # nothing is mutable

    return predict


def recorded(options: Options, order: np.ndarray[Any, Any] | None) -> dict[str, Any]:
    """Everything that decides the run's numbers."""
    train = dataclasses.asdict(options.train)
    for name in ("workdir", "overwrite", "checkpoint_seconds"):
        del train[name]
    train["devices"] = training.data_mesh(options.train.devices).size  # which decides the order of sums
    return {
        "task": "mnist",
        "data": options.data,
        "permutation": None if order is None else order.tolist(),
        **dataclasses.asdict(options.model),
        **train,
    }


def default_workdir(options: Options) -> Path:
    """A folder below runs/ named for the data, the model and the seed."""
    name = f"{options.data}{'-permuted' if options.permuted else ''} {options.model.title} seed={options.train.seed}"
    return Path("runs") / name.replace(" ", "-").replace("=", "")


def summarize(title: str, result: dict[str, Any], parameters: int) -> dict[str, Any]:
    """What one wants to know of a finished run."""
    history, best = result["history"], result["best"]
    return {
        "title": title,
        "parameters": parameters,
        "epochs": len(history),
        "best_epoch": best["epoch"],
        "validation_accuracy": best["validation_accuracy"],
        "test_accuracy": result["test_accuracy"],
        "test_loss": result["test_loss"],
        "seconds": round(sum(record["seconds"] for record in history), 1),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }


if __name__ == "__main__":
    sys.exit(main())
