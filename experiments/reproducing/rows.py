"""The populations to train for the paper's tables and figures, by priority.

The settings are the paper's: model, batch, data, test. A population is trained with the learning rates 0.001, which is
the paper's, and 0.002, or those of a rival's own recipe, and with three seeds. ``samples`` and ``epochs`` are ours,
since the paper's limit, 5 million samples, would take days: a run that has not solved its task after ``samples`` is
recorded as not solved within that number.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from experiments import tasks
from experiments.running.models import ModelOptions, Preset

SEEDS = (0, 1, 2)
RATES = (0.001, 0.002)
ON_DEVICE = {"data_on": "device"}
FIGURES = tuple(preset for preset in get_args(Preset) if preset != "2d+CN")
"""The models in the paper's figures."""


@dataclasses.dataclass(frozen=True)
class Data:
    """Paths of the datasets that are read from files.

    Args:
        images: the folder with the idx files of MNIST.
        text: enwik8, or its beginning.
    """

    images: Path | None = None
    text: Path | None = None


@dataclasses.dataclass(frozen=True)
class Population:
    """Runs that are trained together.

    Args:
        row: the number of the row in ``--rows``.
        name: a description in one line.
        task: the name of their task.
        options: the ``Options`` of each run, as defined in the task's module.
        needs: the name of the option with the data that the runs need, or "".
    """

    row: int
    name: str
    task: str
    options: tuple[Any, ...]
    needs: str = ""

    @property
    def model(self) -> ModelOptions:
        """The model's options, resolved except for the time scale, which does not affect shapes."""
        info = tasks.find(self.task)
        return self.options[0].model.resolved(dataclasses.replace(info.model, time_scale=0.0), inputs=info.inputs)


ROWS = {
    1: "memorization, 20 of 65 symbols (table 2)",
    2: "addition, 15 digits (table 2)",
    3: "MNIST and permuted MNIST (table 3)",
    4: "figures 4 and 5: every model against the depth L",
    5: "figure 3's setting on the beginning of enwik8: every model against L, at 1M parameters, then 10M",
    6: "the models that table 2 quotes, in rows 1 and 2",
    7: "the models that table 3 quotes, and the TCN, in row 3",
}
FIGURES_ROW = 4
"""The row of figures 4 and 5, to which the runtime against L belongs."""
TEXTS_ROW = 5
"""The row of figure 3."""
ORDER = (1, 2, 3, 6, 7, 4, 5)
"""The rows by priority."""
TABLE_3: dict[str, dict[str, Any]] = {
    "lstm": {"rival_options": ("output_peephole=true",)},
    "irnn": {"rates": (0.0001, 0.0005)},
    "urnn": {"features": 1024},
    "full-urnn": {"rates": (0.0001, 0.001)},
    "stanh": {"rates": (0.0002, 0.001)},
    "bnlstm": {"unpermuted": ("state_noise=0.1",)},
    "dilated-gru": {},
    "dilated-cnn": {},
    "tcn": {},
}
"""The rivals of row 7, each with its own options. The learning rates are about the originals', and lower where a matrix
is applied 784 times without gates; the uRNN has its published width, 512 complex units, since its parameters are
linear in M. The BN-LSTM needs noise where all images begin with the same black rows."""


def populations(data: Data, *, smoke: bool = False) -> list[Population]:
    """All populations, by priority.

    Args:
        data: the paths of the data.
        smoke: make everything small enough to run in seconds: small models, few samples, the digits instead of MNIST.
    """
    found = [*memorization(), *addition(), *images(data), *rivals(), *image_rivals(data), *depths(data), *texts(data)]
    if not smoke:
        return found
    rest = [each for each in found if each.row not in (FIGURES_ROW, TEXTS_ROW)]
    at_one_depth = {(each.row, each.task, each.options[0].model.preset): each for each in found if each not in rest}
    return [small(each) for each in (*rest, *at_one_depth.values())]


def memorization() -> Iterator[Population]:
    """Row 1."""
    make = maker(1, "memorization", {"length": 20}, {"batch_size": 15, "samples": 200_000, **ON_DEVICE})
    equal = core_size("memorization", preset="3d+CN", depth=7, features=100)
    ours = (("3d+CN", 7), ("3d+CN", 10), ("2d+CN", 10))
    for preset, depth in ours:
        yield make("time scale", preset=preset, depth=depth, features=100)
    yield make("time scale", model="slstm", num_layers=1, params=equal)
    for depth in (7, 10):
        yield make("time scale", preset="slstm", depth=depth, params=equal)
    for preset, depth in ours:  # last: few of these are solved, so that they take the most time
        yield make("paper's start", preset=preset, depth=depth, features=100)


def addition() -> Iterator[Population]:
    """Row 2."""
    make = maker(2, "addition", {"digits": 15}, {"batch_size": 15, "samples": 400_000, **ON_DEVICE})
    for features in (100, 400):  # the state of the larger ones may be too large to be kept
        equal = core_size("addition", preset="3d+CN", depth=7, features=features)
        for depth in (7, 10):
            yield make("time scale", preset="3d+CN", depth=depth, features=features)
        yield make("time scale", preset="slstm", depth=7, params=equal)
        yield make("time scale", model="slstm", num_layers=1, params=equal)


def images(data: Data) -> Iterator[Population]:
    """Row 3."""
    equal = core_size("mnist", preset="3d+CN", depth=3, features=100)
    for permuted in (False, True):
        given = {"data": "mnist", "data_dir": data.images, "permuted": permuted}
        make = maker(3, "mnist", given, {"batch_size": 50, "epochs": 20}, needs="data_dir")
        for preset, depth in (("3d+CN", 3), ("3d+CN", 5), ("2d+CN", 3)):
            yield make("time scale", preset=preset, depth=depth, features=100)
        yield make("time scale", preset="slstm", depth=3, params=equal)
        yield make("time scale", model="slstm", num_layers=1, params=equal)


def rivals() -> Iterator[Population]:
    """Row 6: one LSTM layer, a stack as deep as the tLSTM, and the tied Grid LSTM, as many parameters as the tLSTM."""
    tasks_of_table = (
        ("memorization", {"length": 20}, (100,), 200_000),
        ("addition", {"digits": 15}, (100, 400), 400_000),
    )
    for task, given, sizes, samples in tasks_of_table:
        make = maker(6, task, given, {"batch_size": 15, "samples": samples, **ON_DEVICE})
        for features in sizes:
            equal = core_size(task, preset="3d+CN", depth=7, features=features)
            for model, layers in (("lstm", 1), ("lstm", 7), ("grid", 7)):
                yield make("time scale", model=model, num_layers=layers, params=equal)


def image_rivals(data: Data) -> Iterator[Population]:
    """Row 7."""
    equal = core_size("mnist", preset="3d+CN", depth=3, features=100)
    for permuted in (False, True):
        given = {"data": "mnist", "data_dir": data.images, "permuted": permuted}
        make = maker(7, "mnist", given, {"batch_size": 50, "epochs": 20}, needs="data_dir")
        for model, own in TABLE_3.items():
            size = {} if "features" in own else {"params": equal}
            options = dict(own)
            if (noise := options.pop("unpermuted", None)) and not permuted:
                options["rival_options"] = noise
            yield make("time scale", model=model, **size, **options)


def depths(data: Data) -> Iterator[Population]:
    """Row 4."""
    train = {"batch_size": 15, "samples": 200_000, **ON_DEVICE}
    makers = [
        (maker(FIGURES_ROW, "memorization", {"length": 20}, train), "memorization", 100),
        (maker(FIGURES_ROW, "addition", {"digits": 15}, train), "addition", 400),
        (
            maker(FIGURES_ROW, "mnist", {"data": "mnist", "data_dir": data.images}, {"epochs": 5}, needs="data_dir"),
            "mnist",
            100,
        ),
    ]
    for make, task, features in makers:
        for depth in tasks.find(task).depths:
            equal = core_size(task, preset="2d", depth=depth, features=features)
            for preset in FIGURES:
                yield make("time scale", preset=preset, depth=depth, params=equal)


def texts(data: Data) -> Iterator[Population]:
    """Row 5."""
    given = {"data": "enwik8", "data_file": data.text}
    make = maker(TEXTS_ROW, "language", given, {"batch_size": 100, "epochs": 20}, needs="data_file")
    for params, depth in itertools.product(("1M", "10M"), (1, 2, 3, 4)):
        for preset in FIGURES:
            yield make("time scale", preset=preset, depth=depth, params=params)


def maker(
    row: int, task: str, given: dict[str, Any], train: dict[str, Any], needs: str = ""
) -> Callable[..., Population]:
    """Returns a function that makes a population of a task from the start and the options of the model."""
    info = tasks.find(task)

    def make(start: str, rates: Sequence[float] = RATES, **model: Any) -> Population:
        defaults = type(info.module.PAPER)(**given)
        recipe = {**train, "steps_per_dispatch": 50, "checkpoint_seconds": 30.0}
        chosen = dataclasses.replace(info.model, **model, **initial(task, model.get("preset", ""), start))
        members = tuple(
            dataclasses.replace(
                defaults,
                model=chosen,
                train=dataclasses.replace(defaults.train, seed=seed, learning_rate=rate, **recipe),
            )
            for seed, rate in itertools.product(SEEDS, rates)
        )
        name, layers = model.get("preset") or "LSTM, one layer", model.get("depth")
        if chosen.rival is not None:
            name, layers = chosen.name, model.get("num_layers")
        depth = f" L={layers}" if layers else ""
        setting = info.setting({**dataclasses.asdict(members[0]), "permutation": given.get("permuted")})
        started = "" if "time_scale" in chosen.meaningless else f", {start}"
        return Population(row, f"{setting}, {name}{depth} {sized(model)}{started}", task, members, needs)

    return make


def sized(model: dict[str, Any]) -> str:
    """The size of a model in its population's name."""
    return f"M={model['features']}" if "features" in model else f"{model['params']} core parameters"


def initial(task: str, preset: str, start: str) -> dict[str, Any]:
    """The options for the initial biases: the task's time scale, or the paper's."""
    if start == "time scale" or preset == "trnn":
        return {}
    return {
        "time_scale": 0.0,
        "forget_bias": tasks.find(task).paper_forget_bias,
        "conveyor_bias": 0.0,
    }


def core_size(task: str, **model: Any) -> str:
    """The number of core parameters of a model, as an option."""
    info = tasks.find(task)
    return str(dataclasses.replace(info.model, **model).resolved(info.model).core_size(info.inputs))


def small(population: Population) -> Population:
    """The same models with few channels, little depth, short sequences and two runs."""
    smoke, shrunk = tasks.find(population.task).smoke, []
    for options in population.options[::5]:
        train = dataclasses.replace(options.train, **smoke.training)
        model = options.model
        size = {"params": None, "features": 4, "depth": model.depth and min(model.depth, 2)}
        if "num_layers" in getattr(model.rival, "__dataclass_fields__", ()):
            size["num_layers"] = min(model.layers, 2)
        model = dataclasses.replace(model, **size)
        given = {**smoke.task, "model": model, "train": train}
        shrunk.append(dataclasses.replace(options, **given))
    name = small_name(population.name)
    return dataclasses.replace(population, name=name, options=tuple(shrunk), needs=smoke.needs)


def halves(population: Population) -> list[Population]:
    """Splits a population in two, the first and the second half of the runs."""
    half = (len(population.options) + 1) // 2
    parts = (population.options[:half], population.options[half:])
    return [
        dataclasses.replace(population, name=f"{population.name}, part {number}", options=part)
        for number, part in enumerate(parts, 1)
    ]


def small_name(name: str) -> str:
    """The name of a small population, which may share --out with the full-size ones."""
    return f"small: {name}"


def chosen(found: Sequence[Population], rows: Sequence[int]) -> list[Population]:
    """The populations of the given row numbers, in the order of the rows."""
    return [each for number in rows for each in found if each.row == number]
