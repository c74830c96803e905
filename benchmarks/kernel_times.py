"""The time of every kernel in a forward and backward pass, measured with jax's profiler.

The first line of a size has the time of a pass without the profiler and, per timestep, the time in which kernels were
busy and the number of launches; the kernels that took longest follow. (While it runs, the profiler turns off command
buffers, so that a pass may launch more kernels than otherwise.)

Examples:
    python -m benchmarks.kernel_times
    python -m benchmarks.kernel_times --sizes a mnist-3 --precision default highest
    python -m benchmarks.kernel_times --contenders auto mosaic
"""

from __future__ import annotations

import argparse
import collections
import itertools
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import commandline
from benchmarks.contenders import BASE, CONTENDERS
from benchmarks.measure import Limits, interleave
from benchmarks.race import describe
from benchmarks.record import number
from benchmarks.tasks import PRECISIONS, SIZES, Task
from experiments.common.commandline import exit_status
from experiments.common.tables import aligned

MODULE = "benchmarks.kernel_times"
QUICK = {"sizes": ["a"], "calls": 2}
SHOWN = 16
"""Kernels of each size that are printed; the file has all."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    report = commandline.start_report(MODULE, arguments, options)
    for name, precision, contender in itertools.product(options.sizes, options.precision, options.contenders):
        row = profile(contender, Task(SIZES[name], PRECISIONS[precision], training=True), options.calls)
        report.add([row])
        show(row)
    print(report.path)
    return 1 if report.failures else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command line."""
    parser = commandline.Parser(MODULE, __doc__)
    sizes = ["a", "memorization-10", "mnist-3"]
    parser.add_names("--sizes", SIZES, sizes, "among " + " ".join(SIZES))
    parser.add_names("--contenders", CONTENDERS, [BASE], "what to profile, as benchmarks.speed names it")
    text = "calls that are profiled (default: 5)"
    parser.add_argument("--calls", type=commandline.positive_int, default=5, metavar="N", help=text)
    parser.add_precision()
    parser.add_out()
    parser.add_quick(arguments, QUICK)
    return parser.parse(arguments)


def profile(contender: str, task: Task, calls: int) -> dict[str, Any]:
    """One row: times and launches for each timestep; ``error`` instead if the pass cannot be run."""
    row = {
        "size": task.size.name,
        "title": task.size.title,
        "contender": contender,
        "precision": task.precision.name,
    }
    try:
        program = CONTENDERS[contender].build(task)
        timing = interleave({contender: program.call}, Limits(4 * calls, 1.0, warmup=5))[contender]
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                for _ in range(calls):
                    program.call()
            (trace,) = Path(folder).rglob("*.xplane.pb")
            kernels = collections.defaultdict[str, list[float]](list)
            for kernel, nanoseconds in events(trace):
                kernels[kernel].append(nanoseconds)
    except Exception as error:  # go on with the other sizes
        traceback.print_exc()
        return {**row, "error": describe(error)}
    each = calls * task.size.total_steps
    rows = [
        {"kernel": name, "us_per_timestep": sum(times) / 1e3 / each, "launches_per_timestep": len(times) / each}
        for name, times in sorted(kernels.items(), key=lambda item: -sum(item[1]))
    ]
    return {
        **row,
        "median_ms": timing.median_ms,
        "us_per_timestep": 1e3 * timing.median_ms / task.size.total_steps,
        "busy_us_per_timestep": sum(kernel["us_per_timestep"] for kernel in rows),
        "launches_per_timestep": sum(kernel["launches_per_timestep"] for kernel in rows),
        "kernels": rows,
    }


def events(trace: Path) -> Iterator[tuple[str, float]]:
    """Name and nanoseconds of everything that a GPU's streams ran; on a CPU, of XLA's operations."""
    for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
        for line in plane.lines:
            on_gpu = plane.name.startswith("/device:GPU") and (line.name or "").startswith("Stream")
            on_cpu = plane.name == "/host:CPU" and (line.name or "").startswith("tf_XLA")
            for event in line.events if on_gpu or on_cpu else ():
                if not (on_cpu and event.name.startswith(("end: ", "Threadpool"))):
                    yield event.name, event.duration_ns


def show(row: dict[str, Any]) -> None:
    """Prints a size."""
    print(f"\n{row['title']}, {row['contender']}, {row['precision']}: ", end="")
    if "error" in row:
        print(row["error"], flush=True)
        return
    print(
        f"{number(row['median_ms'])} ms, {number(row['us_per_timestep'])} us a timestep, kernels busy for "
        f"{number(row['busy_us_per_timestep'])}, {number(row['launches_per_timestep'])} launches a timestep"
    )
    columns = ("us_per_timestep", "launches_per_timestep")
    cells = [[each["kernel"][:100], *(number(each[name]) for name in columns)] for each in row["kernels"][:SHOWN]]
    print(aligned([("kernel", "us", "launches"), *cells], numbers=True), flush=True)


if __name__ == "__main__":
    sys.exit(exit_status(main, resumable=False))
