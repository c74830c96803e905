"""The memory of training: temporaries of the compiled forward and backward pass, against T.

Programs are compiled but not run, so T may be larger than the machine's memory allows. The numbers are
the compiler's for the local device and do not include parameters, inputs and outputs.
"remat" rematerializes every timestep, "remat sqrt" chunks of about the square root of T timesteps.

Examples:
    python -m benchmarks.memory --quick
    python -m benchmarks.memory --sizes b --num-steps 100 1000 10000
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import commandline
from benchmarks.networks import IMPLEMENTATIONS, parameters, tlstm_forward
from benchmarks.programs import compile_function, differentiated, temp_bytes
from benchmarks.race import describe, outcome
from benchmarks.record import number
from benchmarks.tasks import PRECISIONS, SIZES, Task
from experiments.common.commandline import exit_status
from experiments.common.tables import aligned

MODULE = "benchmarks.memory"
REMATS: dict[str, Callable[[int], int | bool]] = {
    "": lambda num_steps: False,
    "remat": lambda num_steps: True,
    "remat sqrt": lambda num_steps: math.isqrt(num_steps),
}
"""The argument ``remat`` of ``tlstm_jax.unroll``, for T."""
QUICK = {"sizes": ["a"], "num_steps": [100, 1000]}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    report = commandline.start_report(MODULE, arguments, options)
    for name, precision in itertools.product(options.sizes, options.precision):
        first = len(report.rows)
        for num_steps in options.num_steps:
            task = Task(dataclasses.replace(SIZES[name], num_steps=num_steps), PRECISIONS[precision], training=True)
            for implementation, remat in itertools.product(options.implementations, REMATS):
                report.add([measure(task, implementation, remat)])
        print(f"\n{name}: {SIZES[name].title}, but with other T; MB of temporaries, training, {precision}")
        show(report.rows[first:])
    print(report.path)
    return 1 if report.failures else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command line."""
    parser = commandline.Parser(MODULE, __doc__)
    parser.add_names("--sizes", SIZES, ["a", "b", "c", "d"], "among " + " ".join(SIZES))
    parser.add_names("--implementations", IMPLEMENTATIONS, ["reference", "fused"], "of tlstm_jax.unroll")
    lengths = [50, 200, 1000, 10000]
    text = f"T (default: {' '.join(map(str, lengths))})"
    parser.add_argument(
        "--num-steps", type=commandline.positive_int, nargs="+", default=lengths, metavar="T", help=text
    )
    parser.add_precision()
    parser.add_out()
    parser.add_quick(arguments, QUICK)
    return parser.parse(arguments)


def measure(task: Task, implementation: str, remat: str) -> dict[str, Any]:
    """One row; it has ``error`` instead of a result if the program does not compile, as in a race."""
    size = task.size
    row = {
        "size": size.name,
        "num_steps": size.num_steps,
        "precision": task.precision.name,
        "implementation": implementation,
        "remat": remat,
    }
    forward = tlstm_forward(task, IMPLEMENTATIONS[implementation], remat=REMATS[remat](size.num_steps))
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), parameters("tlstm", size))
    xs = jax.ShapeDtypeStruct((size.num_steps, size.batch_size, size.in_features), jnp.float32)
    try:
        compiled, seconds = compile_function(differentiated(forward, training=True), (params, xs), task)
    except Exception as error:  # go on with the other rows
        traceback.print_exc()
        return {**row, "error": describe(error)}
    return {**row, "temp_bytes": temp_bytes(compiled), "compile_seconds": seconds}


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints megabytes, a column for each T."""
    lengths = list(dict.fromkeys(row["num_steps"] for row in rows))
    table: dict[str, dict[int, str]] = {}
    for row in rows:
        cell = "error" if outcome(row) else number(row["temp_bytes"] / 1e6)
        table.setdefault(f"{row['implementation']} {row['remat']}".strip(), {})[row["num_steps"]] = cell
    header = ["", *(f"T={n}" for n in lengths)]
    body = [[name, *(cells[n] for n in lengths)] for name, cells in table.items()]
    print(aligned([header, *body], numbers=True), flush=True)
    for row in rows:
        if outcome(row):
            print(f"{row['implementation']} {row['remat']}, T={row['num_steps']}: {outcome(row)}")


if __name__ == "__main__":
    sys.exit(exit_status(main, resumable=False))
