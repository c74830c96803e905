"""A run of an experiment: workdir, training, summary and figure. Every task's command line calls :func:`run`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from experiments.common.errors import UsageError
from experiments.common.files import write_json, writing
from experiments.running import devices, training
from experiments.running import workdir as wd
from experiments.running.curves import learning_curves
from experiments.running.experiment import Experiment
from experiments.running.models import count_parameters
from experiments.running.options import TrainOptions
from experiments.running.pretrained import started


def run(build: Callable[[], Experiment], options: TrainOptions) -> int:
    """Trains in the workdir, resuming the run there if there is one, and writes a summary and a figure.

    Args:
        build: builds the experiment, after the options are checked and the devices known.
        options: how to train.

    Returns:
        The exit status, 0.

    Raises:
        UsageError: an option does not fit: a ValueError of ``build``, say.
        CommandError: as :func:`experiments.running.training.fit`, or the workdir cannot be used.
        Interrupted: as :func:`experiments.running.training.fit`.
    """
    try:
        options.check()
        if options.distributed:  # before anything asks for the devices
            devices.initialize(options.coordinator, options.num_processes, options.process_id)
        experiment = started(build(), options)
        workdir = experiment.workdir(options)
        if not options.overwrite and (config := wd.recorded_here(workdir)):
            experiment = experiment.as_recorded(experiment, config)
        config = experiment.recorded(options)
    except ValueError as error:
        raise UsageError(error) from error
    with contextlib.ExitStack() as held:
        if devices.is_first():
            overwrite, any_environment = options.overwrite, options.any_environment
            held.enter_context(wd.claimed(workdir, config, overwrite=overwrite, any_environment=any_environment))
        devices.wait_for_all(f"claimed, {experiment.config.get('start_sha256')}")  # fails where these differ
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


def say(line: str) -> None:
    """Prints a line, in the first process only."""
    if devices.is_first():
        print(line)


def train(experiment: Experiment, options: TrainOptions, workdir: Path) -> dict[str, Any]:
    """Trains, writes figure and summary, and returns the summary."""
    parameters = count_parameters(experiment.params)
    say(f"{experiment.title}: {parameters:,} parameters, {jax.devices()[0].device_kind}, {workdir}")
    if options.start_from is not None:
        samples = experiment.config["start_samples"]
        say(f"starting from the parameters of {options.start_from}, after {samples:,} {experiment.task.unit}")
    result = training.fit(experiment.task, experiment.params, options, workdir)
    summary = summarize(experiment, result, parameters)
    if devices.is_first():
        with writing(workdir / wd.CURVES) as path:
            learning_curves(path, result, experiment.task, experiment.title)
        write_json(workdir / wd.SUMMARY, summary)
    return summary


def summarize(experiment: Experiment, result: dict[str, Any], parameters: int) -> dict[str, Any]:
    """The contents of summary.json."""
    history, best = result["history"], result["best"]
    return {
        "title": experiment.title,
        "headline": experiment.headline(result),
        "parameters": parameters,
        "epochs": len(history),
        "best_epoch": best["epoch"],
        "samples": history[-1]["samples"],
        **({} if experiment.task.solved is None else {"solved": experiment.task.solved(history[-1])}),
        **{name: value for name, value in best.items() if name.startswith("validation_")},
        **{name: value for name, value in result.items() if name.startswith("test_")},
        "seconds": round(sum(record["seconds"] for record in history), 1),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
