"""A grid of runs over models, depths and seeds of one task, each in its own workdir.

Each run is a process; with --together, one program trains all runs whose models have the same shape.

The result of every run becomes a line of results/TASK.jsonl, which `python -m experiments.report` reads. Running the
same command again skips finished runs and resumes the others; a run that was stopped by --seconds-per-run is recorded
as unfinished until then. The output of a run goes to a .log file beside its workdir.

Examples:
    python -m experiments.sweep memorization --presets 2d+CN slstm --depths 1 4 8 -- --length 20 --forget-bias 6
    python -m experiments.sweep mnist --seeds 0 --seconds-per-run 600 --dry-run -- --data digits
    python -m experiments.sweep memorization --presets 2d+CN --time-scales 7 14 28 --together
    python -m experiments.sweep --collect runs/digits-2D-tLSTM+CN-L3-P3-M64-seed0
"""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.common import commandline
from experiments.common.errors import UsageError
from experiments.common.files import FileError
from experiments.reporting import lines, summary
from experiments.reporting.grid import Result, table
from experiments.running import workdir as wd
from experiments.running.progress import asked_to_stop
from experiments.sweeping.grid import Ended, Options, Run, default_path, grid, left_out, sizes
from experiments.sweeping.processes import run_all
from experiments.sweeping.together import run_together


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    return commandline.exit_status(lambda: run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Runs the grid, or collects results."""
    own, rest = arguments, []
    if "--" in arguments:
        own, rest = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    options = commandline.parse(Options, own, prog="experiments.sweep")
    return collect(options) if options.collect else sweep(options, rest)


def collect(options: Options) -> int:
    """Adds result lines for runs that were started by hand."""
    options.check()
    collected = [lines.collect(workdir) for workdir in options.collect]
    for line in collected:  # only once all could be read
        path = options.results or default_path(line.task)
        lines.add(path, [line])
        print(f"{line.title}, seed {line.seed}: {summary.headline(line)}; {path}")
    return 0


def sweep(options: Options, rest: Sequence[str]) -> int:
    """Runs the grid; ``rest`` are the options of the task itself."""
    options.check()
    path = options.results or default_path(options.info.name)
    todo = grid(options, rest)
    check_first(options, todo)
    lines.read(path)  # a damaged file must be reported now, not after the first run
    for line in [*left_out(options), *sizes(options, rest)]:
        print(line, file=sys.stderr if options.dry_run else sys.stdout, flush=True)
    if options.dry_run:
        for run in todo:
            print(shlex.join(run.command) + ("  # finished" if (run.workdir / wd.SUMMARY).exists() else ""))
        return 0
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot create the folder {options.folder} ({error.strerror or error})") from error
    if options.together:
        ended, signum = run_together(todo, options, path)
    else:
        with asked_to_stop() as stop:
            ended = run_all(todo, options, path, stop)
        signum = stop[0] if stop else 0
    print_table(ended, options, path)
    if signum:
        print(f"stopped by {signal.Signals(signum).name}: run the same command again to resume", file=sys.stderr)
        return 128 + signum
    return int(any(each.failed for each in ended))


def check_first(options: Options, todo: Sequence[Run]) -> None:
    """Parses commands as the runs will, so that an option that no run takes is reported once and before all runs.

    An option that only some models have fails the others' runs alone.
    """
    refused = None
    for run in {run.model.name: run for run in reversed(todo)}.values():
        try:
            options.info.module.parse(run.arguments)
            return
        except UsageError as error:
            refused = error
    if refused is not None:
        raise refused


def print_table(ended: Sequence[Ended], options: Options, path: Path) -> None:
    """Prints the results, a row per model and a column per depth, then how many runs finished, stopped and failed."""
    results = [Result(each.run.model.name, each.run.model.depth or 0, each.line, each.failed) for each in ended]
    print(f"\n{options.info.title}\n{table(dict.fromkeys(each.run.model.name for each in ended), results)}")
    failed = sum(each.failed for each in ended)
    finished = sum(each.line is not None and each.line.finished and not each.failed for each in ended)
    print(f"\n{finished} runs finished, {len(ended) - finished - failed} cut short, {failed} failed; {path}")


if __name__ == "__main__":
    sys.exit(main())
