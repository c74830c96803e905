"""The task registry: one record per task, which sweep, report, inspect and the README's tables read.

How to add a task:

1. Write ``experiments/NAME.py`` with an ``Options`` dataclass, ``parse(arguments)``, ``build(options)``, which returns
   an :class:`experiments.running.experiment.Experiment` (data, model, initial parameters), ``main(arguments)`` and
   ``example(config, request)``, which returns one test example for ``experiments.inspect``. ``memorization.py`` is the
   shortest model to follow. Data loaders go to ``experiments/datasets/``.
2. Add a :class:`TaskInfo` to :data:`TASKS` below. The commands find the task there: none of them names it.
3. If the paper has numbers for it, add them to ``experiments/reporting/paper.py``.
4. Commit a small checkpoint under ``tests/experiments/fixtures/``; ``tests/experiments/test_fixtures.py`` resumes it.

This module imports no task: a task's module is imported when it is asked for.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, cast

from experiments.running.examples import Example, Request
from experiments.running.experiment import Experiment
from experiments.running.models import ModelOptions
from experiments.running.workdir import FORMER_TASKS

Config = Mapping[str, Any]
"""The contents of a run's config.json."""


class TaskModule(Protocol):
    """The interface of a task's module."""

    PAPER: Any
    """The options with the paper's values."""

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Runs the command line and returns the exit status."""
        ...

    def parse(self, arguments: Sequence[str]) -> Any:
        """Parses a command line into the module's ``Options``."""
        ...

    def build(self, options: Any) -> Experiment:
        """Builds the data, the model and the initial parameters from the module's ``Options``."""
        ...

    def example(self, config: Config, request: Request) -> Example:
        """Returns a test example of the run with this configuration."""
        ...


@dataclasses.dataclass(frozen=True)
class Smoke:
    """The small size of a task for ``reproduce --smoke``, which takes seconds.

    Args:
        task: options of the task.
        training: options of its training.
        needs: the option with the data that the task needs at this size, or "".
    """

    task: Mapping[str, Any]
    training: Mapping[str, Any]
    needs: str = ""


@dataclasses.dataclass(frozen=True)
class TaskInfo:
    """A task, as the commands see it.

    Args:
        name: the name of the module, of the command (``python -m experiments.NAME``), and in config.json.
        title: the name in headings.
        measure: the metric by which results are compared; the name of an entry in the metrics records.
        unit: the plural noun for training samples.
        depths: the depths L in the paper's figures.
        model: the default model options.
        setting: maps a run's configuration to the task with its size, for example "memorization n=20".
        setting_options: the options in a run's configuration that ``setting`` states in full.
        inputs: the number of input features with the default options; that of enwik8 for language.
        classes: maps a run's configuration to the number of classes, or of symbols, that its head tells apart.
        until_solved: whether the number of training samples until the task is solved is a result too.
        data_options: the command-line options for the paths of the task's data.
        smoke: the small size for ``reproduce --smoke``.
        paper_forget_bias: the paper's initial forget bias.
    """

    name: str
    title: str
    measure: Literal["accuracy", "bits"]
    unit: Literal["samples", "characters"]
    depths: tuple[int, ...]
    model: ModelOptions
    setting: Callable[[Config], str]
    setting_options: tuple[str, ...]
    inputs: int
    classes: Callable[[Config], int]
    smoke: Smoke
    until_solved: bool = False
    data_options: tuple[str, ...] = ()
    paper_forget_bias: float = 1.0

    def in_features(self, config: Config) -> int:
        """The number of input features of a run: one if the inputs are numbers, else one per symbol."""
        return 1 if self.inputs == 1 else self.classes(config)

    @property
    def higher_is_better(self) -> bool:
        """The direction of ``measure``."""
        return self.measure == "accuracy"

    @property
    def measure_title(self) -> str:
        """The measure in words, for the axis of a figure."""
        return {"accuracy": "accuracy", "bits": "bits per character"}[self.measure]

    def format(self, value: float) -> str:
        """Formats a value of the measure."""
        return f"{value:.1%}" if self.measure == "accuracy" else f"{value:.3f}"

    @property
    def former_names(self) -> tuple[str, ...]:
        """Names under which earlier versions recorded the task in config.json and in result lines."""
        return tuple(former for former, name in FORMER_TASKS.items() if name == self.name)

    @property
    def module(self) -> TaskModule:
        """The task's module, imported on first use."""
        return cast(TaskModule, importlib.import_module(f"experiments.{self.name}"))


def alphabet_size(vocabulary: Sequence[int] | str) -> int:
    """The number of symbols of a text, from the list of symbols or, in a result line, "200 items, sha256 ..."."""
    return int(vocabulary.split()[0]) if isinstance(vocabulary, str) else len(vocabulary)


def _order(config: Config) -> str:
    """The order of the pixels, as a part of the name of a setting."""
    if config.get("bit_reversal"):
        return " in bit-reversed order"
    return " permuted" if config["permutation"] else ""


MEMORIZATION = TaskInfo(
    name="memorization",
    title="Memorization",
    measure="accuracy",
    unit="samples",
    depths=(1, 4, 7, 10),
    model=ModelOptions(features=100, tensor_shape=(4,)),
    setting=lambda config: f"memorization n={config['length']}",
    setting_options=("length",),
    inputs=65,
    classes=lambda config: int(config["num_symbols"]),
    smoke=Smoke({"length": 2, "num_symbols": 4}, {"samples": 60, "check_every": 30}),
    until_solved=True,
)
"""With its default model, 10 symbols and --time-scale 0: solved after 33,500 samples (three seeds), in two and a half
minutes on one CPU core (docs/results.md)."""
ADDITION = TaskInfo(
    name="addition",
    title="Addition",
    measure="accuracy",
    unit="samples",
    depths=(1, 4, 7, 10),
    model=ModelOptions(features=100, tensor_shape=(4,)),
    setting=lambda config: f"addition n={config['digits']}",
    setting_options=("digits",),
    inputs=11,
    classes=lambda config: 11,
    smoke=Smoke({"digits": 1}, {"samples": 60, "check_every": 30}),
    until_solved=True,
)
"""With its default model, 2 digits and --time-scale 0: solved after 79,500 to 105,000 samples (three seeds), in 3 to 5
minutes on one core of a busy CPU."""
MNIST = TaskInfo(
    name="mnist",
    title="Sequential image classification",
    measure="accuracy",
    unit="samples",
    depths=(1, 3, 5),
    model=ModelOptions(),
    setting=lambda config: f"{config['data']}{_order(config)}",
    setting_options=("data", "bit_reversal"),  # the permutation itself is not in the setting's name
    inputs=1,
    classes=lambda config: 10,
    smoke=Smoke({"data": "digits", "data_dir": None}, {"epochs": 1, "batch_size": 500}),
    paper_forget_bias=4.0,
    data_options=("data_dir", "prepared_dir"),
)
LANGUAGE = TaskInfo(
    name="language",
    title="Language modeling",
    measure="bits",
    unit="characters",
    depths=(1, 2, 3, 4),
    model=ModelOptions(features=100, tensor_shape=(2,)),
    setting=lambda config: str(config["data"]),
    setting_options=("data",),
    inputs=205,
    classes=lambda config: alphabet_size(config["vocabulary"]),
    smoke=Smoke({"steps": 10}, {"epochs": 1, "batch_size": 20}, needs="data_file"),
    data_options=("data_file", "prepared_dir"),
)
MOST_STREAMS = 100
"""The number of parallel streams into which the validation and test texts are split, unless they are very short."""
TASKS = {info.name: info for info in (MEMORIZATION, ADDITION, MNIST, LANGUAGE)}
"""Every task by name."""


def find(name: str) -> TaskInfo:
    """The task with this name or former name.

    Raises:
        ValueError: there is no such task.
    """
    info = TASKS.get(FORMER_TASKS.get(name, name))
    if info is None:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {name!r}")
    return info
