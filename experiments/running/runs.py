"""Runs of experiments: workdir, training, summary and figure. Every task's command line calls :func:`run`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax

from experiments.common.errors import UsageError
from experiments.common.files import write_json, writing
from experiments.running import devices, training
from experiments.running import workdir as wd
from experiments.running.curves import learning_curves
from experiments.running.experiment import Experiment
from experiments.running.members import Member
from experiments.running.networks import count_parameters
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
        UsageError: an option does not fit, for example if ``build`` raises a ValueError.
        CommandError: as :func:`experiments.running.training.fit`, or the workdir cannot be used.
        Interrupted: as :func:`experiments.running.training.fit`.
    """
    try:
        options.check()
        if options.distributed:  # before anything asks for the devices
            devices.initialize(options.coordinator, options.num_processes, options.process_id)
    except ValueError as error:
        raise UsageError(error) from error
    train([plan(build, options)])
    return 0


def plan(build: Callable[[], Experiment], options: TrainOptions) -> Member:
    """Builds a run; if its workdir already holds one, builds that run as it was recorded.

    Raises:
        UsageError: an option does not fit.
    """
    try:
        options.check()
        experiment = started(build(), options)
        workdir = experiment.workdir(options)
        if not options.overwrite and (config := wd.recorded_here(workdir)):
            experiment = experiment.as_recorded(experiment, config)
        return Member(experiment, options, workdir, experiment.recorded(options))
    except ValueError as error:
        raise UsageError(error) from error


def train(members: Sequence[Member], ended: Callable[[int], None] | None = None) -> dict[int, training.Diverged]:
    """Trains runs in one program and writes the summary and the figure of each.

    Args:
        members: the runs; one, or several of the same :func:`experiments.running.together.shape`.
        ended: called with the index of a run when its files are complete, also for runs that had ended before.
            Without it the result of each run is printed.

    Returns:
        By index, the errors of the runs that diverged, if there are several runs.

    Raises:
        CommandError: as :func:`experiments.running.training.fit`, or a workdir cannot be used.
        Interrupted: as :func:`experiments.running.training.fit`.
    """
    with contextlib.ExitStack() as held:
        for each in members:
            if devices.is_first():
                claim = {name: getattr(each.options, name) for name in ("overwrite", "any_environment")}
                held.enter_context(wd.claimed(each.workdir, each.config, **claim))
            devices.wait_for_all(f"claimed, {each.config.get('start_sha256')}")  # fails if processes differ in it
        summaries = [wd.read_summary(each.workdir) for each in members]

        def end(number: int, summary: dict[str, Any]) -> None:
            if ended is None:
                conclude(members[number], summary)
            else:
                ended(number)

        def finished(number: int, result: dict[str, Any]) -> None:
            end(number, finish(members[number], result, len(members)))

        for number, (each, summary) in enumerate(zip(members, summaries, strict=True)):
            introduce(each, finished=summary is not None)
            if summary is not None:
                end(number, summary)
        return training.fit(members, finished) if None in summaries else {}


def introduce(member: Member, *, finished: bool) -> None:
    """Prints a line about a run that begins or resumes, or says that it is finished."""
    experiment, options = member.experiment, member.options
    if finished:
        say(f"{member.workdir} holds this run, finished; --overwrite runs it again")
        return
    parameters = count_parameters(experiment.params)
    say(f"{experiment.title}: {parameters:,} parameters, {jax.devices()[0].device_kind}, {member.workdir}")
    if options.start_from is not None:
        samples = experiment.config["start_samples"]
        say(f"starting from the parameters of {options.start_from}, after {samples:,} {experiment.task.unit}")


def finish(member: Member, result: dict[str, Any], together: int) -> dict[str, Any]:
    """Writes the figure and the summary of a run that is over, and returns the summary."""
    experiment, workdir = member.experiment, member.workdir
    summary = summarize(experiment, result, count_parameters(experiment.params), together)
    if devices.is_first():
        with writing(workdir / wd.CURVES) as path:
            learning_curves(path, result, experiment.task, experiment.title)
        write_json(workdir / wd.SUMMARY, summary)
    return summary


def conclude(member: Member, summary: dict[str, Any]) -> None:
    """Prints a finished run's result in one line."""
    say(
        f"{summary['title']}: {summary['headline']}, epoch {summary['best_epoch']} of {summary['epochs']}, "
        f"{summary['parameters']:,} parameters, {summary['seconds']:.0f} s; {member.workdir / wd.CURVES}"
    )


def say(line: str) -> None:
    """Prints a line, in the first process only."""
    if devices.is_first():
        print(line, flush=True)


def summarize(experiment: Experiment, result: dict[str, Any], parameters: int, together: int) -> dict[str, Any]:
    """The contents of summary.json. ``seconds`` is the program's time, which several runs may share."""
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
        **({} if together == 1 else {"trained_together": together}),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
