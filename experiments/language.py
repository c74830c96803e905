"""Language modeling, character by character (section 4.3 of the paper), on Python's standard library or on enwik8.

Examples:
    python -m experiments.language
    python -m experiments.language --generate 500 --prompt "def "
    python -m experiments.language --data enwik8 --data-file enwik8.gz --preset 3d+CN --depth 4 --params 10M
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

from experiments import tasks
from experiments.common import commandline
from experiments.datasets import DataError, texts
from experiments.running import generation, runs
from experiments.running.devices import Batch
from experiments.running.examples import Example, Request, labeled
from experiments.running.experiment import Experiment
from experiments.running.models import ModelOptions
from experiments.running.networks import SymbolLabeler, apply, initialized
from experiments.running.options import EpochOptions, check_size
from experiments.running.task import Objective, Sums, Task
from experiments.running.workdir import EVALUATION_STREAMS

RECIPES = {
    "stdlib": EpochOptions(batch_size=100, epochs=3, learning_rate=2e-3),
    "enwik8": EpochOptions(batch_size=100, epochs=50),
}
"""The default training options of each corpus: the paper's for enwik8; for stdlib, options that take minutes."""
EVALUATED = ("validation", "test")
SHORTEST_STREAM = 1000
"""The least number of characters of a stream in evaluation, if there is more than one stream."""
UNSCORED = -1
"""The target of a timestep whose output is not scored."""
EXAMPLE = 100
"""Characters in an example for ``experiments.inspect``."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Language modeling, character by character.

    The defaults of the training options depend on the corpus: `--data enwik8 --help` shows those of enwik8.
    """

    data: Literal["stdlib", "enwik8"] = "stdlib"
    """stdlib: the source files of Python's standard library, no download. enwik8: Wikipedia, of the Hutter prize."""
    data_file: Path | None = None
    """enwik8 or a prefix of it, plain, .gz or .zip, for machines without a network."""
    prepared_dir: Path | None = None
    """Folder with the prepared enwik8. Default: that of tensorflow-datasets."""
    steps: int = 50
    """T: characters of each stream in a batch, over which gradients are truncated; the state is carried on."""
    generate: int | None = None
    """Do not train: generate this many characters with the best parameters of the run in the workdir."""
    prompt: str = "\n"
    """The beginning of the generated text."""
    temperature: float = 1.0
    """Sampling temperature of the generated text; 0 takes the most likely character."""
    sampling_seed: int = 0
    """Seed of the generated text."""
    paper: bool = False
    """Take the values of the paper's largest experiment for the options that are not given."""
    model: ModelOptions = tasks.LANGUAGE.model
    train: EpochOptions = RECIPES["stdlib"]


PAPER = Options(
    data="enwik8",
    paper=True,
    model=ModelOptions(features=522, tensor_shape=(4, 4), forget_bias=1.0, conveyor_bias=0.0),
    train=RECIPES["enwik8"],
)
"""The paper's values, for L = 4 with 10 million parameters in the kernel."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    return commandline.exit_status(lambda: run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Trains, or generates text, as the command line says."""
    options = parse(arguments)
    corpus = load(options)
    if options.generate is None:
        return runs.run(lambda: build(options, corpus), options.train)
    request = generation.Request(options.generate, options.prompt, options.temperature, options.sampling_seed)
    return generation.run(lambda: build(options, corpus), options.train, corpus.vocabulary, request)


def parse(arguments: Sequence[str]) -> Options:
    """Parses a command line, with the defaults of the corpus that it names."""
    default = PAPER if "--paper" in arguments else Options()
    if (data := commandline.peek(arguments, "data")) in RECIPES:
        default = dataclasses.replace(default, data=cast(Any, data), train=RECIPES[data])
    return commandline.parse(Options, arguments, prog="experiments.language", default=default)


def load(options: Options) -> texts.Corpus:
    """Loads the corpus; errors are those of :func:`experiments.datasets.texts.load`."""
    return texts.load(options.data, data_file=options.data_file, prepared_dir=options.prepared_dir)


def build(options: Options, corpus: texts.Corpus | None = None) -> Experiment:
    """Builds the data and the model.

    Args:
        options: the options.
        corpus: the text; None loads the one that the options name.

    Raises:
        ValueError: an option does not fit.
        DataError: the corpus cannot be loaded.
    """
    corpus = load(options) if corpus is None else corpus
    default = PAPER if options.paper else Options()
    options.model.check_task(tasks.LANGUAGE.name)
    inputs = len(corpus.vocabulary)
    # no time scale: a short one makes little difference, and a long one slows learning (docs/choosing.md)
    model = options.model.resolved(default.model, forget_bias=1.0, inputs=inputs)
    labeler = SymbolLabeler(model.layer(), inputs)
    if options.steps < model.delay + 1:
        raise ValueError(
            f"steps must be at least the depth, {model.delay + 1}, so that gradients reach from an output to the "
            f"input that it answers, got {options.steps}."
        )
    check_size("steps", options.steps)
    config = {
        "task": tasks.LANGUAGE.name,
        "data": corpus.name,
        "characters": len(corpus.text),
        "sha256": corpus.sha256,
        "vocabulary": corpus.vocabulary.tolist(),
        "steps": options.steps,
    }

    def evaluating(experiment: Experiment, streams: int, name: str = corpus.name) -> Experiment:
        """The experiment with evaluation in this number of streams, and with this name of the corpus."""
        found: dict[str, Any] = {**config, "data": name}
        if streams != options.train.batch_size:
            found[EVALUATION_STREAMS] = streams
        return dataclasses.replace(
            experiment,
            name=tasks.LANGUAGE.setting(found),
            task=dataclasses.replace(experiment.task, evaluated=evaluated(corpus, streams, options.steps, model.delay)),
            config={**{key: x for key, x in experiment.config.items() if key != EVALUATION_STREAMS}, **found},
        )

    def as_recorded(experiment: Experiment, there: Mapping[str, Any]) -> Experiment:
        """Earlier versions evaluated in as many streams as the batch size, and called any text "enwik8 prefix"."""
        if there.get("sha256") != corpus.sha256:
            return experiment
        return evaluating(experiment, there.get(EVALUATION_STREAMS, there["batch_size"]), there["data"])

    experiment = Experiment(
        name=tasks.LANGUAGE.setting(config),
        task=language_modeling(labeler, model.delay, corpus, options),
        params=initialized(labeler, options.train.seed, jnp.zeros((1, options.steps), jnp.int32)),
        model=model,
        network=labeler,
        config=config,
        headline=lambda result: (
            f"test {result['test_bits']:.4f} bits per character, validation {result['best']['validation_bits']:.4f}"
        ),
        as_recorded=as_recorded,
    )
    return evaluating(experiment, evaluation_streams(len(corpus.test)))


@dataclasses.dataclass(frozen=True)
class Prediction(Objective):
    """The cross entropy of the next character, in nats and in bits; the carry is that of the labeler."""

    def sums(self, params: Any, batch: Any, carry: Any, key: jax.Array | None) -> tuple[Sums, Any, dict[str, Any]]:
        """See :meth:`Objective.sums`."""
        rows = batch["weights"]
        found, changed = apply(self.network, params, batch["inputs"], carry, aligned=False, rows=rows, key=key)
        carry, logits = found
        scored = (batch["targets"] != UNSCORED) * rows[:, None]
        targets = jnp.maximum(batch["targets"], 0)
        total = (optax.softmax_cross_entropy_with_integer_labels(logits, targets) * scored).sum()
        count = scored.sum()
        return {"loss": (total, count), "bits": (total / math.log(2), count)}, carry, changed


def language_modeling(labeler: SymbolLabeler, delay: int, corpus: texts.Corpus, options: Options) -> Task:
    """Batches of parallel streams; the state is carried from batch to batch. ``evaluated`` is empty."""
    rows, steps = options.train.batch_size, options.steps
    inputs, targets = streams(symbols(corpus, "train"), rows, steps, delay, "train")

    steps_per_epoch = inputs.shape[1] // steps

    def batch(step: int) -> Batch:
        begin = step % steps_per_epoch * steps
        return {"inputs": inputs[:, begin : begin + steps], "targets": targets[:, begin : begin + steps]}

    return Task(
        objective=Prediction(labeler),
        batch=batch,
        steps_per_epoch=steps_per_epoch,
        samples_per_epoch=int((targets != UNSCORED).sum()),
        epochs=options.train.epochs,
        patience=options.train.patience,
        evaluated={},  # see :func:`evaluated`
        rank=lambda record: -record["validation_bits"],
        carry=labeler.zero_carry,
        unit=tasks.LANGUAGE.unit,
        quantity=tasks.LANGUAGE.measure,
    )


def symbols(corpus: texts.Corpus, split: str) -> NDArray[np.int32]:
    """A split of a text as indices into its vocabulary, ``(N,)``."""
    symbol = np.zeros(256, np.int32)
    symbol[corpus.vocabulary] = np.arange(len(corpus.vocabulary))
    return symbol[getattr(corpus, split)]


def evaluation_streams(characters: int) -> int:
    """The number of streams in which a text of this length is evaluated, whatever the batch size.

    Each stream begins with a zero state. A fixed number of streams makes the results of different batch sizes
    comparable, and a short text is split into fewer, so that the beginnings are a small part of it.
    """
    return max(1, min(tasks.MOST_STREAMS, characters // SHORTEST_STREAM))


def evaluated(corpus: texts.Corpus, rows: int, steps: int, delay: int) -> dict[str, Sequence[Batch]]:
    """The batches of the validation and test texts, each split into ``rows`` parallel streams."""
    found: dict[str, Sequence[Batch]] = {}
    for name in EVALUATED:
        inputs, targets = streams(symbols(corpus, name), rows, steps, delay, name)
        begins = range(0, inputs.shape[1], steps)
        found[name] = [{"inputs": inputs[:, i : i + steps], "targets": targets[:, i : i + steps]} for i in begins]
    return found


def streams(
    symbols: NDArray[np.int32], rows: int, steps: int, delay: int, name: str
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Splits a text into parallel streams: inputs and targets, ``(rows, timesteps)``.

    The number of timesteps is a multiple of ``steps``. Row r is the r-th contiguous part of the text. The target at
    timestep t is the character after input t - ``delay``, the input that output t answers. Every character of the text
    except the first is the target of exactly one timestep.

    Raises:
        ValueError: there are fewer characters than rows.
    """
    answers = len(symbols) - 1
    if answers < rows:
        raise ValueError(
            f"batch_size must be at most {answers}, the number of characters to predict in the {name} part, got {rows}."
        )
    length = math.ceil(answers / rows)
    timesteps = math.ceil((length + delay) / steps) * steps
    inputs, targets = np.zeros((rows, timesteps), np.int32), np.full((rows, timesteps), UNSCORED, np.int32)
    for row in range(rows):
        part = symbols[row * length : (row + 1) * length + 1]
        answered = max(len(part) - 1, 0)  # because of rounding up, the last rows may be empty
        inputs[row, :answered] = part[:answered]
        targets[row, delay : delay + answered] = part[1:]
    return inputs, targets


def example(config: Mapping[str, Any], request: Request) -> Example:
    """A test example of a run, read from a zero state; see :class:`experiments.tasks.TaskModule`."""
    name: Literal["stdlib", "enwik8"] = "stdlib" if config["data"] == "stdlib" else "enwik8"
    corpus = texts.load(name, data_file=request.data_file, prepared_dir=request.prepared_dir)
    if corpus.sha256 != config["sha256"]:
        raise DataError(
            f"the run in {request.workdir} was trained on another text, {config['data']} of {config['characters']:,} "
            f"characters, sha256 {config['sha256'][:12]}.., got {corpus.name} of {len(corpus.text):,}, "
            f"{corpus.sha256[:12]}..: give it the same one"
        )
    begin = EXAMPLE * request.checked(max(1, (len(corpus.test) - 1) // EXAMPLE))
    part = np.searchsorted(corpus.vocabulary, corpus.test[begin : begin + EXAMPLE + 1]).astype(np.int32)
    names = {ord(" "): "␣", ord("\n"): "↵"}
    alphabet = [names.get(byte, chr(byte) if 32 < byte < 127 else "·") for byte in corpus.vocabulary.tolist()]
    labeler = SymbolLabeler(ModelOptions.recorded(config).layer(), len(alphabet))
    return labeled(labeler, np.stack([part[:-1], part[1:]]), tuple(alphabet), len(part) - 1)


if __name__ == "__main__":
    sys.exit(main())
