"""A grid of runs over models, depths and seeds of one task, each in a process and a workdir of its own.

The result of every run becomes a line of results/TASK.jsonl, which `python -m experiments.report` reads. Running the
same command again skips finished runs and resumes the others; a run that was stopped by --seconds-per-run is recorded
as unfinished until then. The output of a run goes to a .log file beside its workdir.

Examples:
    python -m experiments.sweep memorization --presets 2d+CN slstm --depths 1 4 8 -- --length 20 --forget-bias 6
    python -m experiments.sweep mnist --seeds 0 --seconds-per-run 600 --dry-run -- --data digits
    python -m experiments.sweep --collect runs/digits-2D-tLSTM+CN-L3-P3-M64-seed0
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, get_args

from experiments import tasks
from experiments.common import commandline
from experiments.common.commandline import tyro
from experiments.common.errors import CommandError, UsageError
from experiments.common.files import FileError
from experiments.reporting import lines, summary
from experiments.reporting.grid import Result, table
from experiments.running import workdir as wd
from experiments.running.models import ModelOptions, Preset
from experiments.running.progress import STOPPING, asked_to_stop

OURS = ("preset", "depth", "seed", "workdir", "overwrite")
"""Options that the sweep sets for its runs; the task's options cannot contain them."""
STOPPED = tuple(status for signum in STOPPING for status in (-signum, 128 + signum))
"""Exit statuses of a run that was asked to stop: before its training loop began, and after it saved a checkpoint."""
TELL = 60.0
"""Seconds between two reports on the running processes."""
POLL = 0.1
"""Seconds between two checks of the running processes."""
NAMES = "{" + ",".join(tasks.TASKS) + "}"


@dataclasses.dataclass(frozen=True)
class Options:
    """A grid of runs over models, depths and seeds of one task, each in a workdir of its own; can be resumed.

    Options of the task itself follow at the end, after `--`.
    """

    task: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar=NAMES)] = None
    """The task to run. Required, unless there is --collect."""
    presets: tuple[Preset, ...] = get_args(Preset)
    """Models of the paper."""
    depths: tuple[int, ...] = ()
    """L. Default: the depths of the paper's figures, 1 2 3 4 for language, 1 3 5 for mnist, else 1 4 7 10."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each model at each depth. The whole grid is run with the first seed, then with the next."""
    jobs: int = 1
    """Runs at a time."""
    seconds_per_run: float | None = None
    """Stop a run after this time, including its start. It saves a checkpoint, and the same command resumes it."""
    results: Path | None = None
    """The file of result lines. Default: results/TASK.jsonl."""
    folder: Path = Path("runs") / "sweep"
    """Folder for the workdirs."""
    equal_params: bool = True
    """Give every model as many recurrent parameters as the task's default model, unless the task's options say
    --features or --params. Without it, every model has the task's M."""
    dry_run: bool = False
    """Print the commands and run nothing."""
    collect: tuple[Path, ...] = ()
    """Run nothing: add result lines for these workdirs, of runs started by hand."""

    def check(self) -> None:
        """Raises a UsageError for options that do not fit."""
        if bool(self.collect) == (self.task is not None):
            raise UsageError("give a task to run, or --collect and workdirs, and not both")
        for name, least in (("depths", 1), ("seeds", 0)):
            if wrong := [n for n in getattr(self, name) if n < least]:
                raise UsageError(f"{name} must be at least {least}, got {wrong[0]}.")
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


class Run(NamedTuple):
    """A run of the grid."""

    preset: str
    depth: int
    seed: int
    workdir: Path
    command: list[str]

    @property
    def name(self) -> str:
        """The run in the sweep's messages."""
        return f"{self.preset} L={self.depth} seed {self.seed}"

    @property
    def log(self) -> Path:
        """The file with its output, beside the workdir, which must hold nothing but the run's own files."""
        return self.workdir.with_name(self.workdir.name + ".log")


class Ended(NamedTuple):
    """A run that has ended, with its result line; None if it failed or was stopped before it began."""

    run: Run
    line: lines.Line | None
    failed: bool


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


def default_path(task: str) -> Path:
    """The file of a task's result lines."""
    return Path("results") / f"{tasks.find(task).name}.jsonl"


def sweep(options: Options, rest: Sequence[str]) -> int:
    """Runs the grid; ``rest`` are the options of the task itself."""
    options.check()
    path = options.results or default_path(options.info.name)
    todo = grid(options, rest)
    lines.read(path)  # a damaged file must be reported now, not after the first run
    for line in sizes(options, rest):
        print(line, file=sys.stderr if options.dry_run else sys.stdout, flush=True)
    if options.dry_run:
        for run in todo:
            print(shlex.join(run.command) + ("  # finished" if (run.workdir / wd.SUMMARY).exists() else ""))
        return 0
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot create the folder {options.folder} ({error.strerror or error})") from error
    with asked_to_stop() as stop:
        ended = run_all(todo, options, path, stop)
    print_table(ended, options, path)
    if stop:
        print(f"stopped by {signal.Signals(stop[0]).name}: run the same command again to resume", file=sys.stderr)
        return 128 + stop[0]
    return int(any(each.failed for each in ended))


def grid(options: Options, rest: Sequence[str]) -> list[Run]:
    """All runs, seed by seed, so that a result of every model and depth is available early.

    Raises:
        UsageError: the task's options contain one that the sweep sets.
    """
    for word in rest:
        if word.startswith("--") and (name := word[2:].split("=")[0].replace("_", "-")) in OURS:
            raise UsageError(f"--{name} cannot follow --: the sweep sets it for every run")
    depths = options.depths or options.info.depths
    return [
        planned(options, rest, preset, depth, seed)
        for seed, depth, preset in dict.fromkeys(itertools.product(options.seeds, depths, options.presets))
    ]


def budget(options: Options, rest: Sequence[str]) -> int | None:
    """The size of the recurrent kernel that all models of the grid get; None if the options do not ask for one."""
    given = commandline.given_options(rest)
    if not options.equal_params or given & {"features", "params"}:
        return None
    return default_model(options, rest).recurrent_size


def default_model(options: Options, rest: Sequence[str]) -> ModelOptions:
    """The model of the task if nothing is said about it."""
    return options.info.module.PAPER.model if "--paper" in rest else options.info.model


def sizes(options: Options, rest: Sequence[str]) -> list[str]:
    """Lines that tell how many channels each model has."""
    size = budget(options, rest)
    if size is None:
        return [
            "the models keep the features or params of the task; their numbers of parameters are in the table below"
        ]
    found, default = [], default_model(options, rest)
    for preset in options.presets:
        depth = (options.depths or options.info.depths)[0]
        chosen = dataclasses.replace(default, preset=preset, depth=depth, params=str(size))
        model = chosen.resolved(default)
        found.append(f"{preset} M={model.features}: {model.recurrent_size:,}")
    return [f"parameters of the recurrent kernels, nearest to {size:,}: {'; '.join(found)}"]


def planned(options: Options, rest: Sequence[str], preset: str, depth: int, seed: int) -> Run:
    """A run of the grid. The name of its workdir contains its options, and a checksum of those of the task."""
    parts = [str(options.task), preset, f"L{depth}", f"seed{seed}"]
    told = [word for word in rest if word != "--any-environment"]  # with it, the same run is resumed
    if told:
        readable = re.sub(r"[^A-Za-z0-9.+]+", "-", " ".join(told)).strip("-")[:60]
        parts += [readable, hashlib.sha256(json.dumps(told).encode()).hexdigest()[:8]]
    given = ["--preset", preset, "--depth", str(depth), "--seed", str(seed)]
    if (size := budget(options, rest)) is not None:
        given += ["--params", str(size)]
        parts.append(f"params{size}")
    workdir = options.folder / "-".join(parts)
    given += ["--workdir", str(workdir)]
    return Run(preset, depth, seed, workdir, [sys.executable, "-m", f"experiments.{options.task}", *given, *rest])


def run_all(grid: Sequence[Run], options: Options, path: Path, stop: list[int]) -> list[Ended]:
    """Runs the unfinished runs, ``options.jobs`` at a time, and adds the result line of each as it ends.

    Args:
        grid: all runs.
        options: the sweep's options.
        path: the file of result lines.
        stop: the signals received so far. If there is one, the runs in progress are asked to stop, and no others
            are started.
    """
    limit = math.inf if options.seconds_per_run is None else options.seconds_per_run
    todo = collections.deque(grid)
    under_way: dict[subprocess.Popen[bytes], tuple[Run, float]] = {}
    asked: set[subprocess.Popen[bytes]] = set()
    ended = []
    told = time.monotonic()
    try:
        while under_way or (todo and not stop):
            while todo and not stop and len(under_way) < options.jobs:
                run = todo.popleft()
                if (run.workdir / wd.SUMMARY).exists():
                    ended.append(settle(run, 0, path, " (already finished)"))
                    continue
                try:
                    under_way[start(run)] = run, time.monotonic()
                    print(f"{run.name}: started, run {len(grid) - len(todo)} of {len(grid)}; {run.log}", flush=True)
                except CommandError as error:
                    print(f"{run.name}: FAILED: {error}", flush=True)
                    ended.append(Ended(run, None, failed=True))
            for process, (run, begin) in list(under_way.items()):
                if process.poll() is not None:
                    del under_way[process]
                    ended.append(settle(run, process.returncode, path))
                elif process not in asked and (stop or time.monotonic() - begin > limit):
                    if stop:
                        print(f"{run.name}: asked to stop", file=sys.stderr, flush=True)
                    asked.add(process)  # only once, since a second signal would prevent it from saving
                    process.terminate()
            if time.monotonic() - told > TELL:
                told = time.monotonic()
                for run, _ in under_way.values():
                    print(f"{run.name}: {last_words(run.log)}", flush=True)
            time.sleep(POLL if under_way else 0)
    except KeyboardInterrupt:  # a second Ctrl-C, which ends the runs that are still saving
        asked.clear()
        raise
    finally:
        for process in under_way.keys() - asked:
            process.terminate()
        for process in under_way:
            process.wait()
    return ended


def start(run: Run) -> subprocess.Popen[bytes]:
    """Starts a run in a session of its own, so that Ctrl-C in the terminal does not reach it: the sweep stops it.

    Raises:
        FileError: its log cannot be written.
        CommandError: the operating system does not start a process.
    """
    try:
        log = run.log.open("ab")
    except OSError as error:
        raise FileError(f"cannot write {run.log} ({error.strerror or error})") from error
    with log:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}  # so that an error is the last thing in the log
        try:
            return subprocess.Popen(
                run.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise CommandError(f"cannot start a process ({error.strerror or error})") from error


def settle(run: Run, status: int, path: Path, how: str = "") -> Ended:
    """Prints how a run ended and adds its line to the results."""
    if status not in (0, *STOPPED):
        print(f"{run.name}: FAILED with status {status}: {last_words(run.log)} ({run.log})", flush=True)
        return Ended(run, None, failed=True)
    if status and not (run.workdir / wd.CONFIG).exists():
        print(f"{run.name}: stopped before it began", flush=True)
        return Ended(run, None, failed=False)
    try:
        line = lines.collect(run.workdir)
    except CommandError as error:
        print(f"{run.name}: FAILED: {error}", flush=True)
        return Ended(run, None, failed=True)
    print(f"{run.name}: {summary.headline(line)}, {line.seconds:,.0f} s{how}", flush=True)
    try:
        lines.add(path, [line])
    except CommandError as error:  # the run's own files still hold the result
        print(f"{run.name}: FAILED to add its result line: {error}", flush=True)
        return Ended(run, line, failed=True)
    return Ended(run, line, failed=False)


def last_words(log: Path) -> str:
    """The last line that a failed run printed, without the box that tyro draws around errors."""
    try:
        text = log.read_text(errors="replace")
    except OSError as error:
        return f"no message ({error.strerror or error})"
    printed = [line.strip(" │╭╮╰╯─") for line in re.split(r"[\r\n]+", text)]
    return next((line for line in reversed(printed) if line and not line.startswith("For full helptext")), "no message")


def print_table(ended: Sequence[Ended], options: Options, path: Path) -> None:
    """Prints the results, a row per preset and a column per depth, then how many runs finished, stopped and failed."""
    results = [Result(each.run.preset, each.run.depth, each.line, each.failed) for each in ended]
    print(f"\n{options.info.title}\n{table(dict.fromkeys(options.presets), results)}")
    failed = sum(each.failed for each in ended)
    finished = sum(each.line is not None and each.line.finished and not each.failed for each in ended)
    print(f"\n{finished} runs finished, {len(ended) - finished - failed} cut short, {failed} failed; {path}")


if __name__ == "__main__":
    sys.exit(main())
