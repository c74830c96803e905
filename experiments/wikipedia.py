"""Characters, one after another: the language model of section 4.3 of the paper, on enwik8 or on Python's own sources.

Examples:
    python -m experiments.wikipedia
    python -m experiments.wikipedia --generate 500 --prompt "def "
    python -m experiments.wikipedia --data enwik8 --data-file enwik8.gz --preset 3d+CN --depth 4 --params 10M
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from numpy.typing import NDArray

from experiments.datasets import texts
from experiments.running import generation, runs, training
from experiments.running.devices import Batch
from experiments.running.models import ModelOptions, SymbolLabeler
from experiments.running.options import EpochOptions

MODEL = ModelOptions(features=100, tensor_shape=(2,), forget_bias=1.0)
RECIPES = {
    "stdlib": EpochOptions(batch_size=100, epochs=3, learning_rate=2e-3),
    "enwik8": EpochOptions(batch_size=100, epochs=50),
}
"""Defaults of training for each corpus: for enwik8 the paper's, for stdlib some minutes."""
EVALUATED = ("validation", "test")
UNSCORED = -1
"""The target of a timestep that answers nothing."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Characters, one after another.

    Training has defaults of its own for each corpus: `--data enwik8 --help` shows those for enwik8.
    """

    data: Literal["stdlib", "enwik8"] = "stdlib"
    """stdlib: the sources of this Python's standard library, no download. enwik8: the Hutter prize's Wikipedia."""
    data_file: Path | None = None
    """enwik8 as it was downloaded, raw, .gz or .zip, whole or the beginning of it, for machines without a network."""
    prepared_dir: Path | None = None
    """Where the prepared enwik8 is kept. Default: the folder of tensorflow-datasets."""
    steps: int = 50
    """T: characters from each stream in a batch; gradients reach no further back, the state does."""
    generate: int | None = None
    """Train no more: write so many characters with the best parameters that the workdir's run has found so far."""
    prompt: str = "\n"
    """What the generated text follows."""
    temperature: float = 1.0
    """Of the generated text: below 1 likelier characters, 0 always the likeliest."""
    paper: bool = False
    """Take the paper's values, its largest experiment's, where no option says otherwise."""
    model: Annotated[ModelOptions, tyro.conf.OmitArgPrefixes] = MODEL
    train: Annotated[EpochOptions, tyro.conf.OmitArgPrefixes] = RECIPES["stdlib"]


PAPER = Options(
    data="enwik8",
    paper=True,
    model=ModelOptions(features=522, tensor_shape=(4, 4), forget_bias=1.0, conveyor_bias=0.0),
    train=RECIPES["enwik8"],
)
"""The literal values, L = 4 with 10 million parameters in the kernel."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return runs.exit_status(lambda: run(arguments))


def run(arguments: Sequence[str]) -> int:
    """One run, or a text from one."""
    default = PAPER if "--paper" in arguments else Options()
    if (data := runs.peek(arguments, "data")) in RECIPES:
        default = dataclasses.replace(default, data=cast(Any, data), train=RECIPES[data])
    options = tyro.cli(Options, args=arguments, default=default, prog="python -m experiments.wikipedia")
    corpus = texts.load(options.data, data_file=options.data_file, prepared_dir=options.prepared_dir)

    def build() -> runs.Experiment:
        return experiment(options, corpus, default.model)

    if options.generate is None:
        return runs.run(build, options.train)
    wanted = generation.Wanted(options.generate, options.prompt, options.temperature, options.train.seed)
    return generation.run(build, options.train, corpus.vocabulary, wanted)


def experiment(options: Options, corpus: texts.Corpus, default: ModelOptions) -> runs.Experiment:
    """The task and the model; ``default`` are the model options that need not be repeated.

    Raises:
        ValueError: an option does not fit.
    """
    chosen = options.model.resolved(default)
    labeler = SymbolLabeler(chosen.layer(), len(corpus.vocabulary))
    if options.steps < chosen.delay + 1:
        raise ValueError(
            f"steps must be at least the depth, {chosen.delay + 1}, so that a gradient finds its way from an output "
            f"to the input that it answers, got {options.steps}."
        )
    return runs.Experiment(
        name=corpus.name,
        task=language_modeling(labeler, chosen.delay, corpus, options),
        params=jax.jit(labeler.init)(jax.random.key(options.train.seed), jnp.zeros((1, 1), jnp.int32))["params"],
        model=chosen,
        network=labeler,
        config={
            "task": "wikipedia",
            "data": corpus.name,
            "characters": len(corpus.text),
            "sha256": corpus.sha256,
            "vocabulary": corpus.vocabulary.tolist(),
            "steps": options.steps,
        },
        headline=lambda result: (
            f"test {result['test_bits']:.4f} bits per character, validation {result['best']['validation_bits']:.4f}"
        ),
    )


def language_modeling(labeler: SymbolLabeler, delay: int, corpus: texts.Corpus, options: Options) -> training.Task:
    """Batches of parallel streams, the state carried from each to the next."""
    symbol = np.zeros(256, np.int32)
    symbol[corpus.vocabulary] = np.arange(len(corpus.vocabulary))
    rows, steps = options.train.batch_size, options.steps
    parts = {name: streams(symbol[getattr(corpus, name)], rows, steps, delay, name) for name in ("train", *EVALUATED)}
    inputs, targets = parts["train"]

    def batch(step: int) -> Batch:
        begin = step % steps_per_epoch * steps
        return {"inputs": inputs[:, begin : begin + steps], "targets": targets[:, begin : begin + steps]}

    def batches(inputs: NDArray[np.int32], targets: NDArray[np.int32]) -> list[Batch]:
        begins = range(0, inputs.shape[1], steps)
        return [{"inputs": inputs[:, i : i + steps], "targets": targets[:, i : i + steps]} for i in begins]

    def sums(params: Any, batch: dict[str, jax.Array], carry: Any) -> tuple[training.Sums, Any]:
        carry, logits = cast(Any, labeler.apply({"params": params}, batch["inputs"], carry, aligned=False))
        scored = (batch["targets"] != UNSCORED) * batch["weights"][:, None]
        targets = jnp.maximum(batch["targets"], 0)
        total = (optax.softmax_cross_entropy_with_integer_labels(logits, targets) * scored).sum()
        count = scored.sum()
        return {"loss": (total, count), "bits": (total / math.log(2), count)}, carry

    steps_per_epoch = inputs.shape[1] // steps
    return training.Task(
        sums=sums,
        batch=batch,
        steps_per_epoch=steps_per_epoch,
        samples_per_epoch=int((targets != UNSCORED).sum()),
        epochs=options.train.epochs,
        patience=options.train.patience,
        evaluated={name: batches(*parts[name]) for name in EVALUATED},
        rank=lambda record: -record["validation_bits"],
        carry=labeler.zero_carry,
        unit="characters",
        quantity="bits",
    )


def streams(
    symbols: NDArray[np.int32], rows: int, steps: int, delay: int, name: str
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """A text as inputs and targets of parallel streams, ``(rows, timesteps)`` each, a multiple of ``steps`` long.

    Row r has the r-th contiguous part of the text. The target at timestep t is the character after input
    t - ``delay``, since that is the one that output t answers; each character but the first of the text is the
    target of exactly one timestep.

    Raises:
        ValueError: there are fewer characters than rows.
    """
    answers = len(symbols) - 1
    if answers < rows:
        raise ValueError(
            f"batch_size must be at most {answers}, for the {len(symbols)} characters of the {name} part to give "
            f"each stream one to predict, got {rows}."
        )
    length = math.ceil(answers / rows)
    timesteps = math.ceil((length + delay) / steps) * steps
    inputs, targets = np.zeros((rows, timesteps), np.int32), np.full((rows, timesteps), UNSCORED, np.int32)
    for row in range(rows):
        part = symbols[row * length : (row + 1) * length + 1]
        answered = max(len(part) - 1, 0)  # rounding up may leave the last rows nothing
        inputs[row, :answered] = part[:answered]
        targets[row, delay : delay + answered] = part[1:]
    return inputs, targets


if __name__ == "__main__":
    sys.exit(main())
