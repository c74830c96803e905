"""One run, from options to figure: what every task's command line does once it knows its task."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

import tlstm_jax as tl
from experiments.datasets import DataError
from experiments.running import devices, training
from experiments.running import workdir as wd
from experiments.running.checkpoints import CheckpointError, Checkpoints, checksum
from experiments.running.curves import learning_curves
from experiments.running.models import ModelOptions, count_parameters
from experiments.running.options import NO_MATTER, TrainOptions

STAYS = ("task", "num_symbols", "vocabulary", "model", "features", "memory_conv", "norm", "param_dtype")
"""What a run has in common with one from which it starts."""
STAYS_STACKED = (*STAYS, "num_layers", "shared")
"""The same for the sLSTM, whose layers cannot become more."""


class UsageError(ValueError):
    """An option that does not fit."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A task with a model.

    Args:
        name: the task's, in the default workdir.
        task: what is learnt.
        params: initial parameters.
        model: the model's options.
        network: the model, from inputs to predictions.
        config: what else decides the run's numbers, as JSON.
        headline: from the result of :func:`experiments.running.training.fit`, what one wants to read first.
    """

    name: str
    task: training.Task
    params: Any
    model: ModelOptions
    network: nn.Module
    config: dict[str, Any]
    headline: Callable[[dict[str, Any]], str]

    @property
    def title(self) -> str:
        """Task and model, for a figure."""
        return f"{self.name}, {self.model.title}"


def exit_status(body: Callable[[], int]) -> int:
    """What a command line returns to the shell: errors become one line, and 2; a stop can be gone on from."""
    try:
        return body()
    except (DataError, wd.WorkdirError, CheckpointError, UsageError) as error:
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


def run(build: Callable[[], Experiment], options: TrainOptions) -> int:
    """Trains in the workdir, or goes on there, and leaves a summary and a figure.

    Args:
        build: makes the experiment; a ValueError of it is the user's.
        options: how to train.
    """
    try:
        options.check()
        if options.distributed:  # before anything asks which devices there are
            devices.initialize(options.coordinator, options.num_processes, options.process_id)
        experiment = started(build(), options)
        config = recorded(experiment, options)
    except ValueError as error:
        raise UsageError(error) from error
    workdir = options.workdir or default_workdir(experiment, options)
    with contextlib.ExitStack() as held:
        if devices.is_first():
            held.enter_context(wd.claimed(workdir, config, overwrite=options.overwrite))
        devices.wait_for_all(f"claimed, {experiment.config.get('start_sha256')}")  # fails where these are not the same
        summary = wd.read_summary(workdir)
        if summary is None:
            summary = train(experiment, options, workdir)
        else:
            say(f"{workdir} holds this run, finished; --overwrite runs it again")
    say(
        f"{summary['title']}: {summary['headline']}, epoch {summary['best_epoch']} of {summary['epochs']}, "
        f"{summary['parameters']:,} parameters, {summary['seconds']:.0f} s; {workdir / wd.CURVES}"
    )
    return 0


def peek(arguments: Sequence[str], name: str) -> str | None:
    """The value of one option of a command line, on which the defaults of others depend."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(f"--{name}", nargs="?")
    value: str | None = getattr(parser.parse_known_args(arguments)[0], name)
    return value


def say(line: str) -> None:
    """Prints a line, of one process."""
    if devices.is_first():
        print(line)


def train(experiment: Experiment, options: TrainOptions, workdir: Path) -> dict[str, Any]:
    """The run itself; returns its summary."""
    parameters = count_parameters(experiment.params)
    say(f"{experiment.title}: {parameters:,} parameters, {jax.devices()[0].device_kind}, {workdir}")
    if options.start_from is not None:
        samples = experiment.config["start_samples"]
        say(f"starting with what {options.start_from} learnt from {samples:,} {experiment.task.unit}")
    result = training.fit(experiment.task, experiment.params, options, workdir)
    summary = summarize(experiment, result, parameters)
    if devices.is_first():
        with wd.writing(workdir / wd.CURVES) as path:
            learning_curves(path, result, experiment.task, experiment.title)
        wd.write_json(workdir / wd.SUMMARY, summary)
    return summary


def started(experiment: Experiment, options: TrainOptions) -> Experiment:
    """The same, but for the parameters to begin with, where the options name a run that has them.

    The configuration gets the checksum of that run's parameters and the samples behind them; where they lay decides no
    number of this one.

    Raises:
        UsageError: there are none, or they are of another task, or of a model that cannot become this one.
    """
    folder, new = options.start_from, experiment.model
    if folder is None:
        return experiment
    if options.workdir is not None and folder.resolve() == options.workdir.resolve():
        raise UsageError(f"start_from must not be the workdir, got {folder} for both: give --workdir another folder")
    try:
        there = wd.read_config(folder)
    except wd.WorkdirError as error:
        raise UsageError(f"start_from must be the workdir of a run: {error}") from error
    old = ModelOptions.recorded(there)
    check_related(folder, {**there, **dataclasses.asdict(old)}, {**experiment.config, **dataclasses.asdict(new)})
    like = jax.eval_shape(lambda: experiment.params)
    if new.model != "slstm":
        inputs = like["layer"]["input"]["kernel"].shape[0]
        like["layer"] = jax.eval_shape(lambda: tl.init_params(jax.random.key(0), inputs, old.config))
    params, history = tested(folder, like)
    found = {
        "start_sha256": checksum(params, {})[:12],
        "start_samples": training.best_of(history, experiment.task)["samples"] + there.get("start_samples", 0),
    }
    if new.model != "slstm":
        try:
            params = {**params, "layer": tl.resize(params["layer"], old.config, new.config)}
        except ValueError as error:
            raise UsageError(
                f"the model in {folder} (cfg) cannot become this one (new_cfg): {error} Give another --tensor-shape, "
                "or start from another run"
            ) from error
    initial = {name: getattr(old.config, name) for name in ("kernel_scale", "conveyor_bias")}  # of these parameters
    model = dataclasses.replace(new, **initial)
    return dataclasses.replace(experiment, params=params, model=model, config={**experiment.config, **found})


def check_related(folder: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Raises a UsageError if a run's configuration differs in more than that from which another can start."""
    for name in STAYS_STACKED if here["model"] == "slstm" else STAYS:
        if there.get(name) != here.get(name):
            raise UsageError(
                f"start_from must be a run with {name} {here.get(name)!s:.40}, got {there.get(name)!s:.40} in "
                f"{folder}: take another run, or give this one the options of that one, the tensor shape aside"
            )


def tested(folder: Path, like: Any) -> tuple[Any, list[training.Record]]:
    """The best parameters of the run there, whose shapes must be those of ``like``, and its history.

    Raises:
        UsageError: there are none that can be read, that have been tested and that have these shapes.
    """
    try:
        params, meta = best_so_far(folder, like)
    except CheckpointError as error:
        raise UsageError(
            f"start_from must hold a checkpoint that can be read, got {folder}, where all are damaged or not of "
            f"the model in its {wd.CONFIG}: take another run"
        ) from error
    if not meta["history"]:
        raise UsageError(f"start_from must be a run that has been tested once, got {folder}: let it train until then")
    for (path, leaf), wanted in zip(jax.tree.leaves_with_path(params), jax.tree.leaves(like), strict=True):
        if leaf.shape != wanted.shape:  # of the input's kernel, or of the head
            raise UsageError(
                f"start_from must be a run with {jax.tree_util.keystr(path, simple=True, separator='/')} of shape "
                f"{wanted.shape}, got {leaf.shape} in {folder}: take one with as many inputs and outputs as this"
            )
    return params, meta["history"]


def best_so_far(workdir: Path, like: Any) -> tuple[Any, dict[str, Any]]:
    """The best parameters that the run there has found, and the checkpoint's meta; nothing is changed there.

    Args:
        workdir: of a run, perhaps under way.
        like: a tree of the parameters' shapes and dtypes.

    Raises:
        UsageError: there is no checkpoint yet.
        CheckpointError: there is none that can be read, or it is of another model.
    """
    if (workdir / wd.CHECKPOINTS).is_dir():
        with Checkpoints(workdir / wd.CHECKPOINTS, read_only=True) as checkpoints:
            if checkpoints.latest_step is not None:
                restored, meta = checkpoints.restore({"best": like}, lambda line: print(line, file=sys.stderr))
                return restored["best"], meta
    raise UsageError(f"{workdir} holds no checkpoints yet: train first")


def recorded(experiment: Experiment, options: TrainOptions) -> dict[str, Any]:
    """Everything that decides the run's numbers."""
    train = dataclasses.asdict(options)
    for name in (*NO_MATTER, "start_from"):  # where it lies; what it holds is in the experiment's own
        del train[name]
    train["devices"] = devices.data_mesh(options.devices).size  # which decides the order of sums
    return {**experiment.config, **experiment.model.record, **train}


def default_workdir(experiment: Experiment, options: TrainOptions) -> Path:
    """A folder below runs/ named for the task, the model and the seed."""
    name = f"{experiment.name} {experiment.model.title} seed={options.seed}"
    if "start_sha256" in experiment.config:
        name += f" from={experiment.config['start_sha256']}"
    return Path("runs") / name.replace(" ", "-").replace("=", "")


def summarize(experiment: Experiment, result: dict[str, Any], parameters: int) -> dict[str, Any]:
    """What one wants to know of a finished run."""
    history, best = result["history"], result["best"]
    return {
        "title": experiment.title,
        "headline": experiment.headline(result),
        "parameters": parameters,
        "epochs": len(history),
        "best_epoch": best["epoch"],
        "samples": history[-1]["samples"],
        "solved": experiment.task.solved(history[-1]),
        **{name: value for name, value in best.items() if name.startswith("validation_")},
        **{name: value for name, value in result.items() if name.startswith("test_")},
        "seconds": round(sum(record["seconds"] for record in history), 1),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
