"""The grid of a sweep: its options, and the runs that they define."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

from experiments import tasks
from experiments.common import commandline
from experiments.common.commandline import tyro
from experiments.common.errors import UsageError
from experiments.reporting import lines
from experiments.rivals import RIVALS
from experiments.running.models import ModelOptions, Preset
from experiments.running.options import parse_count

OURS = ("preset", "model", "depth", "seed", "workdir", "overwrite")
"""Options that the sweep sets for its runs; the task's options cannot contain them."""
NAMED = ("tlstm", "slstm", *RIVALS)
"""The models that --models accepts."""
NAMES = "{" + ",".join(tasks.TASKS) + "}"
DEPTHS = ", ".join(f"{' '.join(map(str, info.depths))} for {name}" for name, info in tasks.TASKS.items())


@dataclasses.dataclass(frozen=True)
class Options:
    """A grid of runs over models, depths and seeds of one task, each in its own workdir; can be resumed.

    Options of the task itself follow at the end, after `--`.
    """

    task: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar=NAMES)] = None
    """The task to run. Required, unless there is --collect."""
    presets: tuple[Preset, ...] = get_args(Preset)
    """Models of the paper."""
    models: tuple[str, ...] = ()
    """Models by the names of --model, each at its own default depth, instead of presets. all: the task's default tLSTM,
    the sLSTM, and every model that they are compared with."""
    depths: Annotated[
        tuple[int, ...], tyro.conf.arg(help=f"L. Default: the depths of the paper's figures, {DEPTHS}.")
    ] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each model at each depth. The whole grid is run with the first seed, then with the next."""
    learning_rates: tuple[float, ...] = ()
    """Learning rates of each model at each depth. Default: that of the task's options."""
    time_scales: tuple[float, ...] = ()
    """Time scales of each model at each depth. Default: that of the task's options."""
    together: bool = False
    """Train the runs whose models have one shape in one program, as many as fit in memory."""
    jobs: int = 1
    """Processes at a time, each with one run."""
    seconds_per_run: float | None = None
    """Stop a run after this time, including its start. It saves a checkpoint, and the same command resumes it."""
    results: Path | None = None
    """The file of result lines. Default: results/TASK.jsonl."""
    folder: Path = Path("runs") / "sweep"
    """Folder for the workdirs."""
    params: str | None = None
    """Core parameters (all but those of the head) of every model, such as 120K. Default: as --equal-params says."""
    equal_params: bool = True
    """Give every model as many core parameters as the task's default model, unless the task's options say --features or
    --params. Without it, every model has the task's M."""
    dry_run: bool = False
    """Print the commands and run nothing."""
    collect: tuple[Path, ...] = ()
    """Run nothing: add result lines for these workdirs, of runs started by hand."""

    def check(self) -> None:
        """Raises a UsageError for options that do not fit."""
        if wrong := [name for name in self.models if name not in ("all", *NAMED)]:
            raise UsageError(f"models must be all or of {', '.join(NAMED)}, got {wrong[0]}.")
        if self.models and (self.depths or self.presets != get_args(Preset)):
            raise UsageError("models have their own depths: leave out --presets and --depths, or run two sweeps")
        if bool(self.collect) == (self.task is not None):
            raise UsageError("give a task to run, or --collect and workdirs, and not both")
        for name, least in (("depths", 1), ("seeds", 0)):
            if wrong := [n for n in getattr(self, name) if n < least]:
                raise UsageError(f"{name} must be at least {least}, got {wrong[0]}.")
        if rates := [x for x in self.learning_rates if not (x > 0 and math.isfinite(x))]:
            raise UsageError(f"learning_rates must be positive numbers, got {rates[0]}.")
        if scales := [x for x in self.time_scales if not (x >= 0 and math.isfinite(x))]:
            raise UsageError(f"time_scales must be finite numbers of at least 0, got {scales[0]}.")
        if self.params is not None:
            try:
                parse_count(self.params)
            except ValueError as error:
                raise UsageError(error) from error
            if not self.equal_params:
                raise UsageError("params gives all models equally many parameters: leave out --no-equal-params")
        if self.together and (self.jobs > 1 or self.seconds_per_run is not None):
            raise UsageError("together is one process for all runs: leave out --jobs and --seconds-per-run")
        if self.jobs < 1:
            raise UsageError(f"jobs must be at least 1, got {self.jobs}.")
        if self.seconds_per_run is not None and not self.seconds_per_run > 0:
            raise UsageError(f"seconds_per_run must be a positive number, got {self.seconds_per_run}.")

    @property
    def info(self) -> tasks.TaskInfo:
        """The task to run.

        Raises:
            UsageError: there is no such task.
        """
        try:
            return tasks.find(str(self.task))
        except ValueError as error:
            raise UsageError(error) from error


class Model(NamedTuple):
    """A model of the grid: a preset at a depth, or one of --models, at its own default depth."""

    name: str
    depth: int | None

    @property
    def options(self) -> dict[str, Any]:
        """The options of the model."""
        return {"model": self.name} if self.depth is None else {"preset": self.name, "depth": self.depth}

    @property
    def title(self) -> str:
        """The model in messages."""
        return self.name if self.depth is None else f"{self.name} L={self.depth}"


class Run(NamedTuple):
    """A run of the grid."""

    model: Model
    seed: int
    workdir: Path
    command: list[str]
    differences: str = ""

    @property
    def name(self) -> str:
        """The run in the sweep's messages."""
        return f"{self.model.title} seed {self.seed}{self.differences}"

    @property
    def arguments(self) -> list[str]:
        """The options of the task in the command."""
        return self.command[3:]

    @property
    def log(self) -> Path:
        """The file with the run's output. It is beside the workdir, which must hold only files that runs write."""
        return self.workdir.with_name(self.workdir.name + ".log")


class Ended(NamedTuple):
    """A run that has ended. ``line`` is its result line; None if the run failed or was stopped before it began."""

    run: Run
    line: lines.Line | None
    failed: bool


def default_path(task: str) -> Path:
    """The file of a task's result lines."""
    return Path("results") / f"{tasks.find(task).name}.jsonl"


def grid(options: Options, rest: Sequence[str]) -> list[Run]:
    """All runs, seed by seed, so that a result of every model and depth is available early.

    Raises:
        UsageError: the task's options contain an option that the sweep sets.
    """
    ours = [
        *OURS,
        *(["learning-rate"] if options.learning_rates else []),
        *(["time-scale"] if options.time_scales else []),
    ]
    for word in rest:
        if word.startswith("--") and (name := word[2:].split("=")[0].replace("_", "-")) in ours:
            raise UsageError(f"--{name} cannot follow --: the sweep sets it for every run")
    axes = (
        options.seeds,
        models(options),
        options.learning_rates or (None,),
        options.time_scales or (None,),
    )
    return [planned(options, rest, *point) for point in dict.fromkeys(itertools.product(*axes))]


def models(options: Options) -> list[Model]:
    """The models of the grid, depth by depth; with --models, the models that can be trained on the task."""
    if not options.models:
        return [Model(preset, depth) for depth in options.depths or options.info.depths for preset in options.presets]
    chosen = dict.fromkeys(NAMED if "all" in options.models else options.models)
    able = [name for name in chosen if name not in RIVALS or options.info.name in RIVALS[name].tasks]
    if "all" not in options.models and able != [*chosen]:
        refused = next(name for name in chosen if name not in able)
        raise UsageError(f"models must be those that can be trained on {options.info.name}, got {refused}.")
    return [Model(name, None) for name in able]


def left_out(options: Options) -> list[str]:
    """A line with the models of --models all that cannot be trained on the task; none if all can."""
    task, chosen = options.info.name, {model.name for model in models(options)}
    if "all" not in options.models or not (missing := [name for name in NAMED if name not in chosen]):
        return []
    reasons = [f"{name}, only for {' and '.join(RIVALS[name].tasks)}" for name in missing]
    return [f"left out, since they cannot be trained on {task}: {'; '.join(reasons)}"]


def budget(options: Options, rest: Sequence[str]) -> int | None:
    """The number of core parameters that all models of the grid get; None if the options do not ask for one."""
    given = commandline.given_options(rest)
    if options.params is not None:
        if both := sorted(given & {"features", "params"}):
            raise UsageError(f"--{both[0]} cannot follow --: --params sets the size of every model")
        return parse_count(options.params)
    if not options.equal_params or given & {"features", "params"}:
        return None
    return default_model(options, rest).core_size(options.info.inputs)


def default_model(options: Options, rest: Sequence[str]) -> ModelOptions:
    """The task's default model."""
    return options.info.module.PAPER.model if "--paper" in rest else options.info.model


def sizes(options: Options, rest: Sequence[str]) -> list[str]:
    """Lines with the number of channels of each model."""
    size = budget(options, rest)
    if size is None:
        return [
            "the models keep the features or params of the task; their numbers of parameters are in the table below"
        ]
    found, default = [], default_model(options, rest)
    inputs = options.info.inputs
    first = {each.name: each for each in reversed(models(options))}  # each at its smallest depth
    for name in dict.fromkeys(each.name for each in models(options)):
        model = dataclasses.replace(default, params=str(size), **first[name].options).resolved(default, inputs=inputs)
        found.append(f"{name} M={model.features}: {model.core_size(inputs):,}")
    return [f"core parameters, nearest to {size:,} (with {inputs} input features): {'; '.join(found)}"]


def planned(
    options: Options,
    rest: Sequence[str],
    seed: int,
    model: Model,
    rate: float | None,
    time_scale: float | None,
) -> Run:
    """A run of the grid. The name of its workdir contains its options, and a checksum of the task's options."""
    parts = [str(options.task), model.name, *([] if model.depth is None else [f"L{model.depth}"]), f"seed{seed}"]
    told = [word for word in rest if word != "--any-environment"]  # it does not change which run is resumed
    if told:
        readable = re.sub(r"[^A-Za-z0-9.+]+", "-", " ".join(told)).strip("-")[:60]
        parts += [readable, hashlib.sha256(json.dumps(told).encode()).hexdigest()[:8]]
    given = [word for name, value in model.options.items() for word in (f"--{name}", str(value))]
    given += ["--seed", str(seed)]
    if (size := budget(options, rest)) is not None:
        given += ["--params", str(size)]
        parts.append(f"params{size}")
    differing = {"learning-rate": rate, "time-scale": time_scale}
    for name, value in differing.items():
        if value is not None:
            given += [f"--{name}", f"{value:g}"]
            parts.append(f"{name}{value:g}")
    differences = "".join(f" {name.replace('-', ' ')} {x:g}" for name, x in differing.items() if x is not None)
    workdir = options.folder / "-".join(parts)
    given += ["--workdir", str(workdir)]
    command = [sys.executable, "-m", f"experiments.{options.task}", *given, *rest]
    return Run(model, seed, workdir, command, differences)
