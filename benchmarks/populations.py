"""Many models in one program: a forward and backward pass of N models of one shape under ``jax.vmap``.

Each model has its own parameters and all have the same inputs. A small model leaves most of a GPU idle, so that
several of them take little longer than one.

Examples:
    python -m benchmarks.populations --quick
    python -m benchmarks.populations --sizes memorization-4 --members 1 12 48
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import commandline
from benchmarks.measure import Limits, interleave
from benchmarks.networks import inputs, parameters, tlstm_forward
from benchmarks.programs import compile_function, differentiated, temp_bytes
from benchmarks.race import describe, outcome
from benchmarks.record import number
from benchmarks.tasks import PRECISIONS, SIZES, Task
from experiments.common.commandline import exit_status
from experiments.common.tables import aligned

MODULE = "benchmarks.populations"
QUICK = {"sizes": ["a"], "members": [1, 4], "repetitions": 5, "seconds": 1.0}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    report = commandline.start_report(MODULE, arguments, options)
    limits = commandline.limits(options)
    for name, precision in itertools.product(options.sizes, options.precision):
        task = Task(SIZES[name], PRECISIONS[precision], training=True)
        first = len(report.rows)
        for members in options.members:
            report.add([measure(task, members, limits)])
        print(f"\n{name}: {task.size.title}, training, {precision}")
        show(report.rows[first:])
    print(report.path)
    return 1 if report.failures else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command line."""
    parser = commandline.Parser(MODULE, __doc__)
    parser.add_names("--sizes", SIZES, ["a", "b"], "among " + " ".join(SIZES))
    members, size = [1, 6, 48], commandline.positive_int
    text = f"models in a program (default: {' '.join(map(str, members))})"
    parser.add_argument("--members", type=size, nargs="+", default=members, metavar="N", help=text)
    text = "timed calls, at most (default: 20)"
    parser.add_argument("--repetitions", type=size, default=20, metavar="N", help=text)
    text = "time for them (default: 2)"
    parser.add_argument("--seconds", type=commandline.positive_float, default=2.0, metavar="S", help=text)
    parser.add_precision()
    parser.add_out()
    parser.add_quick(arguments, QUICK)
    return parser.parse(arguments)


def measure(task: Task, members: int, limits: Limits) -> dict[str, Any]:
    """One row: milliseconds of the program and of each member; ``error`` instead if it cannot be run."""
    row = {"size": task.size.name, "precision": task.precision.name, "members": members}
    one, xs = parameters("tlstm", task.size), jnp.asarray(inputs(task.size))
    # Slightly different members, so that nothing is computed once for all.
    factors = np.linspace(1, 1.01, members, dtype=np.float32)
    params = jax.tree.map(lambda leaf: jnp.stack([leaf * factor for factor in factors]), one)
    every = jax.vmap(differentiated(tlstm_forward(task, "auto"), training=True), in_axes=(0, None))
    try:
        compiled, seconds = compile_function(every, (params, xs), task)
        call = lambda: jax.block_until_ready(compiled(params, xs))  # noqa: E731
        timing = interleave({"population": call}, limits)["population"]
    except Exception as error:  # out of memory, for example; go on with the other rows
        traceback.print_exc()
        return {**row, "error": describe(error)}
    return {
        **row,
        **dataclasses.asdict(timing),
        "ms_per_member": timing.median_ms / members,
        "compile_seconds": seconds,
        "temp_bytes": temp_bytes(compiled),
    }


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints the rows of a size."""
    columns = ("median_ms", "ms_per_member", "compile_seconds")
    cells = [[str(row["members"]), *(number(row[name]) for name in columns)] for row in rows if not outcome(row)]
    print(aligned([("members", "median ms", "ms each", "compile s"), *cells], numbers=True), flush=True)
    for row in rows:
        if outcome(row):
            print(f"{row['members']} members: {outcome(row)}")


if __name__ == "__main__":
    sys.exit(exit_status(main, resumable=False))
