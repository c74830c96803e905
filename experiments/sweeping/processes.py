"""The runs of a sweep, each in its own process."""

from __future__ import annotations

import collections
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.common.errors import CommandError
from experiments.common.files import FileError
from experiments.reporting import lines, summary
from experiments.running import workdir as wd
from experiments.running.progress import STOPPING
from experiments.sweeping.grid import Ended, Options, Run

STOPPED = tuple(status for signum in STOPPING for status in (-signum, 128 + signum))
"""Exit statuses of a run that was stopped before its training loop began, or after it saved a checkpoint."""
TELL = 60.0
"""Seconds between two reports on the running processes."""
POLL = 0.1
"""Seconds between two checks of the running processes."""


def run_all(grid: Sequence[Run], options: Options, path: Path, stop: list[int]) -> list[Ended]:
    """Runs the unfinished runs, ``options.jobs`` at a time, and adds the result line of each when it ends.

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
                for run, begin in under_way.values():
                    words = last_words(run.log) or "nothing printed yet: it may still be compiling"
                    print(f"{run.name}: running for {told - begin:.0f} s, {words}", flush=True)
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
    """Starts a run in its own session, so that Ctrl-C in the terminal does not reach it and only the sweep stops it.

    Raises:
        FileError: the log cannot be written.
        CommandError: the operating system cannot start a process.
    """
    try:
        log = run.log.open("ab")
    except OSError as error:
        raise FileError(f"cannot write {run.log} ({error.strerror or error})") from error
    with log:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}  # so that an error comes last in the log
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
        print(f"{run.name}: FAILED with status {status}: {last_words(run.log) or 'no message'} ({run.log})", flush=True)
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
    """The last line that a run has printed, without the box that tyro draws around errors; "" if there is none."""
    try:
        text = log.read_text(errors="replace")
    except OSError as error:
        return f"its log cannot be read ({error.strerror or error})"
    printed = [line.strip(" │╭╮╰╯─") for line in re.split(r"[\r\n]+", text)]
    return next((line for line in reversed(printed) if line and not line.startswith("For full helptext")), "")
