"""Runs a sweep in this process: runs whose models have the same shape are trained in one program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from experiments.common.errors import CommandError, Interrupted, UsageError
from experiments.running import runs, steps, together
from experiments.running import workdir as wd
from experiments.running.members import Member
from experiments.sweeping.grid import Ended, Options, Run
from experiments.sweeping.processes import settle


def run_together(grid: Sequence[Run], options: Options, path: Path) -> tuple[list[Ended], int]:
    """Trains the runs, population by population, and adds the result line of each when it ends.

    Args:
        grid: all runs.
        options: the sweep's options.
        path: the file of result lines.

    Returns:
        The runs that have ended or failed, and the signal that stopped the sweep, or 0.
    """
    ended: dict[Path, Ended] = {}
    by_workdir = {run.workdir: run for run in grid}
    members = []
    for run in grid:
        try:
            members.append(member(run, options))
        except CommandError as error:
            print(f"{run.name}: FAILED: {error}", flush=True)
            ended[run.workdir] = Ended(run, None, failed=True)
    for population, trial in parts(members):
        tell(population, trial, by_workdir)

        def end(number: int, population: Sequence[Member] = population) -> None:
            workdir = population[number].workdir
            ended[workdir] = settle(by_workdir[workdir], 0, path)

        try:
            diverged = runs.train(population, end)
            failed = {population[number].workdir: str(error) for number, error in diverged.items()}
        except Interrupted as stopped:
            for each in population:
                if each.workdir not in ended:
                    ended[each.workdir] = settle(by_workdir[each.workdir], 128 + stopped.signum, path)
            return list(ended.values()), stopped.signum
        except CommandError as error:
            failed = {each.workdir: str(error) for each in population if each.workdir not in ended}
        for workdir, message in failed.items():
            print(f"{by_workdir[workdir].name}: FAILED: {message}", flush=True)
            ended[workdir] = Ended(by_workdir[workdir], None, failed=True)
    return list(ended.values()), 0


def member(run: Run, options: Options) -> Member:
    """Builds a run of the grid in this process.

    Raises:
        UsageError: an option does not fit.
    """
    module = options.info.module
    given = module.parse(run.arguments)
    if given.train.distributed:
        raise UsageError("distributed cannot be combined with --together: leave out one of them")
    return runs.plan(lambda: module.build(given), given.train)


def parts(members: Sequence[Member]) -> Iterator[tuple[list[Member], together.Trial | None]]:
    """The populations, as large as the memory allows, each with a compiled step if it is to be trained.

    The compiled steps of one shape are released before the next shape.
    """
    for group in together.populations(members):
        if all((each.workdir / wd.SUMMARY).exists() for each in group):
            yield group, None
        else:
            yield from together.divided(group, together.memory_limit())
            steps.release()


def tell(population: Sequence[Member], trial: together.Trial | None, by_workdir: dict[Path, Run]) -> None:
    """Prints which runs are trained together, and on a CPU, whether one process per run would be faster."""
    names = ", ".join(by_workdir[each.workdir].name for each in population)
    print(f"{len(population)} together: {names}", flush=True)
    todo = [each for each in population if not (each.workdir / wd.SUMMARY).exists()]
    if trial is None or len(todo) < 2 or jax.default_backend() != "cpu":
        return
    both, alone = trial.seconds(), len(population) * together.Trial(population[:1]).seconds()
    line = f"a step of all takes {1e3 * both:.0f} ms, and one after the other {1e3 * alone:.0f} ms"
    if both > alone:
        line += ": on this CPU one process a run is faster, without --together and with --jobs"
    print(line, flush=True)
