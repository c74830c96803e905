"""Fills the paper's tables: trains populations by priority, until all are complete or a budget of time is spent.

The same command continues where it stopped, also on another machine: its complete state is in --out, in few files.
Runs with results there, or in --results, are not repeated.

Examples:
    python -m experiments.reproduce --plan
    python -m experiments.reproduce --budget 840 --out reproduced --data-dir mnist --data-file enwik8
    python -m experiments.reproduce --smoke --out reproduced
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from experiments import tasks
from experiments.common import commandline
from experiments.common.errors import CommandError, Interrupted, UsageError
from experiments.common.files import FileError, writing
from experiments.reporting import lines, summary
from experiments.reproducing import archive, rows
from experiments.reproducing.rows import Population
from experiments.running import runs, steps, together
from experiments.running.members import Member
from experiments.running.networks import count_parameters

RESULTS = "results.jsonl"
RUNTIME = "runtime against L (benchmarks.depth)"
DEPTH = {
    False: "--depths 1 10 4 7 --passes training",
    True: "--depths 1 2 --models 2d --features 8 --batch-size 2 --num-steps 5 --repetitions 2 --passes training",
}
"""The options of ``benchmarks.depth``, without and with --smoke."""
RESERVE = 20.0
"""Seconds of the budget that are reserved for saving."""
LEAST = 60.0
"""A population is started only if at least this many seconds are left."""
KEEP = 60.0
"""Seconds between two copies of the state into --out."""
EXHAUSTED = "RESOURCE_EXHAUSTED"
"""The text in XLA's error when the memory is too small."""
COPIES = 4
"""Arrays of the parameters' size in a run's state: the parameters, two moments, and the best parameters."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    return commandline.exit_status(lambda: run(arguments))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line; this command runs where tyro is not installed."""
    parser = argparse.ArgumentParser(
        "python -m experiments.reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    path = commandline.user_path
    parser.add_argument("--out", metavar="FOLDER", type=path, help="folder of the results and the state")
    parser.add_argument("--budget", metavar="SECONDS", type=float, help="when to stop. Default: when all is done")
    told = "; ".join(f"{number}: {title}" for number, title in rows.ROWS.items())
    parser.add_argument(
        "--rows", metavar="ROW", type=int, nargs="+", default=[*rows.ORDER], help=f"what to run, in this order. {told}"
    )
    parser.add_argument("--data-dir", metavar="FOLDER", type=path, help="folder with the four idx files of MNIST")
    parser.add_argument("--data-file", metavar="FILE", type=path, help="enwik8, or its beginning")
    parser.add_argument(
        "--results",
        metavar="FOLDER",
        type=path,
        default=Path("results"),
        help="runs with a result line in this folder are left out. Default: results",
    )
    parser.add_argument(
        "--any-environment",
        action="store_true",
        help="resume runs that were begun in an environment of another precision or platform, too",
    )
    parser.add_argument("--plan", action="store_true", help="print what would run, with a timed step, and run nothing")
    parser.add_argument("--smoke", action="store_true", help="everything at a size of seconds")
    options = parser.parse_args(arguments)
    if unknown := [number for number in options.rows if number not in rows.ROWS]:
        raise UsageError(f"rows must be among {', '.join(map(str, rows.ROWS))}, got {unknown[0]}")
    if options.out is None and not options.plan:
        raise UsageError("out is required: the folder of the results and the state")
    if options.data_dir is not None and not options.data_dir.is_dir():
        raise UsageError(
            f"data_dir must be a folder with the idx files of MNIST, got {options.data_dir}, which is none"
        )
    if options.data_file is not None and not options.data_file.exists():
        raise UsageError(f"data_file must be enwik8 or its beginning, got {options.data_file}, which does not exist")
    if options.results != Path("results") and not options.results.is_dir():
        raise UsageError(f"results must be a folder, got {options.results}, which is none")
    if options.budget is not None and not options.budget > 0:
        raise UsageError(f"budget must be a positive number of seconds, got {options.budget:g}")
    return options


def run(arguments: Sequence[str] | None) -> int:
    """Runs the populations until all are complete or the budget is spent."""
    options = parse(arguments)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two processes share the device, see RUNTIME
    data = rows.Data(options.data_dir, options.data_file)
    todo = rows.chosen(rows.populations(data, smoke=options.smoke), options.rows)
    with tempfile.TemporaryDirectory(prefix="reproduce-") as scratch:
        session = Session(options, Path(scratch))
        if options.plan:
            for population in todo:
                print(session.planned(population), flush=True)
            return 0
        session.restore()
        for population in todo:
            if population.name in session.finished:
                print(f"{population.name}: complete", flush=True)
                continue
            if option := session.lacks(population):
                print(f"{population.name}: left out, it needs {option}", flush=True)
                continue
            if session.left < LEAST and not options.smoke:
                print(f"{population.name}: not begun, {max(0.0, session.left):.0f} s are left", flush=True)
                break
            session.train(population)
            if session.stopped:
                break
        else:
            if any(population.row == rows.FIGURES_ROW for population in todo) and session.left > LEAST:
                session.measure_runtime()
    complete = sum(population.name in session.finished for population in todo)
    more = "" if complete == len(todo) else "; the same command continues"
    print(f"{complete} of {len(todo)} populations are complete{more}", flush=True)
    return 1 if session.failed else 0


class Session:
    """One call of the command.

    Args:
        options: the command line.
        scratch: a folder for workdirs.
    """

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self.scratch, self.stopped, self.failed = scratch, False, False
        self._options = options
        self._end = float("inf") if options.budget is None else time.monotonic() + options.budget - RESERVE
        self.finished: list[str] = [] if options.plan else archive.read(options.out)["finished"]
        self._unfinished: list[Path] = []
        committed = sorted(options.results.glob("*.jsonl")) if options.results.is_dir() else []
        own = [] if options.out is None else [options.out / RESULTS]
        self._known = {line.id for line in lines.read_all([*committed, *own]) if line.finished}

    @property
    def left(self) -> float:
        """The seconds that are left for training."""
        return self._end - time.monotonic()

    def restore(self) -> None:
        """Restores the state of an earlier call, which is kept until its populations are complete.

        These may not be among the rows of this call, and a population that fails here may be resumed elsewhere.
        """
        archive.restore(self._options.out, self.scratch)
        self._unfinished = [path for path in self.scratch.iterdir() if path.is_dir()]

    def folder(self, population: Population) -> Path:
        """The folder of a population's workdirs."""
        return self.scratch / re.sub(r"[^A-Za-z0-9.+]+", "-", population.name)

    def members(self, population: Population) -> list[Member]:
        """The runs of a population that have no result yet, or all of its runs if its state is resumed.

        Raises:
            CommandError: the data cannot be loaded.
        """
        module = tasks.find(population.task).module
        folder, found = self.folder(population), []
        anywhere = self._options.any_environment
        for number, given in enumerate(population.options):
            own = dataclasses.replace(given, **self._small_text(population))
            train = dataclasses.replace(own.train, workdir=folder / f"run-{number}", any_environment=anywhere)
            own = dataclasses.replace(own, train=train)
            member = runs.plan(lambda own=own: module.build(own), own.train)  # type: ignore[misc]
            if folder.exists() or lines.identity(member.config) not in self._known:
                found.append(member)
        return found

    def _small_text(self, population: Population) -> dict[str, Any]:
        if not (self._options.smoke and population.needs == "data_file"):
            return {}
        path = self.scratch / "text"
        if not path.exists():
            path.write_bytes(b"<mediawiki" + Path(argparse.__file__).read_bytes()[:6000])
        return {"data": "enwik8", "data_file": path}

    def lacks(self, population: Population) -> str:
        """The option with a population's data, if it is not given."""
        given = not population.needs or self._options.smoke or getattr(self._options, population.needs) is not None
        return "" if given else f"--{population.needs.replace('_', '-')}"

    def planned(self, population: Population) -> str:
        """A line with the number of runs of a population, and the time and the state that training it would take."""
        if option := self.lacks(population):
            return f"{population.name}: left out, it needs {option}"
        try:
            members = self.members(population)
            if not members:
                return f"{population.name}: has results"
            seconds = most_seconds(members)
        except CommandError as error:
            return f"{population.name}: cannot run: {error}"
        size = state_bytes(members)
        otherwise = "in parts" if can_be_divided(members) else "not at all"
        whole = f"; its state is too large to be kept, so it runs within one budget or {otherwise}"
        return (
            f"{population.name}: {len(members)} runs of {count_parameters(members[0].experiment.params):,} parameters, "
            f"at most {seconds:,.0f} s, state {size / 2**20:.0f} MB{whole if size > archive.MOST_BYTES else ''}"
        )

    def train(self, population: Population) -> None:
        """Trains a population, or resumes it, until it is complete or the budget is spent."""
        folder = self.folder(population)
        if any(half.name in self.finished or self.folder(half).exists() for half in rows.halves(population)):
            self._train_halves(population)  # as an earlier call did
            return
        try:
            members = self.members(population)
            if state_bytes(members) > archive.MOST_BYTES and (seconds := most_seconds(members)) > self.left:
                if can_be_divided(members):
                    print(f"{population.name}: in two halves, since its state is too large to be kept", flush=True)
                    self._train_halves(population)
                    return
                told = f"left out, its state is too large to be kept and it would take {seconds:,.0f} s"
                print(f"{population.name}: {told}", flush=True)
                return
            print(f"{population.name}: {len(members)} runs", flush=True)
            self._unfinished = [path for path in self._unfinished if path != folder] + [folder]
            if members:
                with self._limited(), self._kept():
                    self._train(members)
            self._complete(population)
        except jax.errors.JaxRuntimeError as error:
            if len(population.options) == 1 or EXHAUSTED not in str(error):
                raise
            print(f"{population.name}: its runs do not fit the memory together", flush=True)
            self._unfinished.remove(folder)
            self._train_halves(population)
        except Interrupted:
            if self.left > 0:
                raise  # by the user, not by the budget
            self.stopped = True
        except CommandError as error:
            self.failed = True
            print(f"{population.name}: FAILED: {error}", file=sys.stderr, flush=True)
        finally:
            self.keep()  # also if it was stopped or has failed
            steps.release()  # the next population has another shape

    def _train_halves(self, population: Population) -> None:
        """Trains the two halves of a population one after the other, each with its own state."""
        halves = rows.halves(population)
        for half in halves:
            if not self.stopped and half.name not in self.finished:
                self.train(half)
        if all(half.name in self.finished for half in halves):
            self._complete(population)

    def _complete(self, population: Population) -> None:
        self.finished.append(population.name)
        self._unfinished = [path for path in self._unfinished if path != self.folder(population)]
        self.keep()

    def _train(self, members: Sequence[Member]) -> None:
        """Trains runs together, and adds the result line of each when it ends."""

        def ended(number: int) -> None:
            line = lines.collect(members[number].workdir)
            lines.add(self._options.out / RESULTS, [line])
            self._known.add(line.id)
            told = f"seed {line.seed}, learning rate {line.options['learning_rate']:g}"
            print(f"{line.title}, {told}: {summary.headline(line)}", flush=True)

        for number, message in runs.train(members, ended).items():
            print(f"{members[number].experiment.title}, seed {members[number].options.seed}: {message}", flush=True)

    def measure_runtime(self) -> None:
        """Measures the runtime against L for the figures of row 4, in a separate process."""
        name = rows.small_name(RUNTIME) if self._options.smoke else RUNTIME
        if name in self.finished:
            return
        path = self.scratch / "depth.json"
        command = [sys.executable, "-m", "benchmarks.depth", "--out", str(path), *DEPTH[self._options.smoke].split()]
        print(f"{RUNTIME}: begun", flush=True)
        try:
            subprocess.run(command, timeout=None if self._end == float("inf") else max(1.0, self.left), check=True)
        except subprocess.TimeoutExpired:
            print(f"{RUNTIME}: not complete, the budget is spent", flush=True)
            return
        except subprocess.CalledProcessError as error:
            self.failed = True
            print(f"{RUNTIME}: FAILED with status {error.returncode}", file=sys.stderr, flush=True)
            return
        with writing(self._options.out / path.name) as copy:
            copy.write_bytes(path.read_bytes())
        self.finished.append(name)
        self.keep()

    def keep(self) -> None:
        """Copies the state of the unfinished populations into --out."""
        try:
            archive.save(self._options.out, self.finished, self.scratch, [p for p in self._unfinished if p.exists()])
        except archive.ArchiveError as error:
            print(f"WARNING: {error}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def _limited(self) -> Iterator[None]:
        """Asks the training to save and stop when the budget is spent."""
        if self._end == float("inf"):
            yield
            return

        def handler(signum: int, frame: Any) -> None:  # while the training loop has not set its own
            raise Interrupted("stopped while no training loop was running", signum)

        previous = signal.signal(signal.SIGTERM, handler)
        timer = threading.Timer(max(0.0, self.left), os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            signal.signal(signal.SIGTERM, previous)

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        """Copies the state from time to time, in case the machine is taken away before the budget is spent."""
        done = threading.Event()

        def copy() -> None:
            while not done.wait(KEEP):
                # a checkpoint was replaced meanwhile, or --out cannot be written now: the next copy may succeed
                with contextlib.suppress(OSError, FileError):
                    self.keep()

        thread = threading.Thread(target=copy)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def most_seconds(members: Sequence[Member]) -> float:
    """The seconds that runs take together if none ends early, estimated from a timed step.

    Raises:
        CommandError: the step does not fit in memory.
    """
    try:
        return together.Trial(members).seconds(repetitions=1) * members[0].task.num_steps
    except jax.errors.JaxRuntimeError as error:
        if EXHAUSTED not in str(error):
            raise
        raise CommandError("a step of all its runs does not fit the memory") from error


def can_be_divided(members: Sequence[Member]) -> bool:
    """Whether there are several runs, and the state of one is small enough to be kept."""
    return len(members) > 1 and state_bytes(members[:1]) <= archive.MOST_BYTES


def state_bytes(members: Sequence[Member]) -> int:
    """The approximate number of bytes of the state of runs."""
    return sum(4 * COPIES * count_parameters(member.experiment.params) for member in members)


if __name__ == "__main__":
    sys.exit(main())
