"""The speed of the tLSTM, side by side with the alternatives.

Before a contender is timed, its results are checked. Times are medians in milliseconds, of contenders
called in turns; "/ auto" is the time divided by that of this library with default options, "/ floor"
by that of the bare matrix products. "compile s" is lowering and compilation, "temp MB" the compiled
program's temporaries. Stacks of LSTM layers have the tLSTM's depth and number of parameters.
"ms a timestep" is the time divided by T.

The contender "rivals" stands for this library and all models of experiments/rivals, each at the width at which its
number of parameters is nearest to the tLSTM's; the name of such a model selects that model only.

Examples:
    python -m benchmarks.speed --quick
    python -m benchmarks.speed --sizes b d --contenders auto reference floor conv --passes training
    python -m benchmarks.speed --sizes a --contenders rivals --passes training
    python -m benchmarks.speed --sizes a --precision highest default bfloat16 --out results.json
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import commandline, rivals
from benchmarks.checking import Contender
from benchmarks.contenders import BASE, CONTENDERS, FLOOR
from benchmarks.race import Entry, outcome, race
from benchmarks.record import number
from benchmarks.tasks import PASSES, PRECISIONS, SIZES, Task
from experiments.common.commandline import exit_status
from experiments.common.tables import aligned

MODULE = "benchmarks.speed"
QUICK = {
    "sizes": ["a"],
    "contenders": [BASE, "reference", "fused", FLOOR, "stack-shared", "wavefront-shared"],
    "passes": ["training"],
    "repetitions": 5,
    "seconds": 1.0,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    report = commandline.start_report(MODULE, arguments, options)
    for name in options.sizes:
        for precision in options.precision:
            for each in options.passes:
                task = Task(SIZES[name], PRECISIONS[precision], PASSES[each])
                entries = {contender: Entry(find(contender), task) for contender in options.contenders}
                rows = with_ratios(race(entries, commandline.limits(options)), task)
                report.add(rows)
                show(rows, task)
    print(report.path)
    return 1 if report.failures else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command line."""
    who = "\n".join(f"    {name:20}{contender.summary}" for name, contender in CONTENDERS.items())
    parser = commandline.Parser(MODULE, f"{__doc__}\nContenders:\n{who}\n")
    parser.add_names("--sizes", SIZES, ["a", "b", "c", "d"], "among " + " ".join(SIZES))
    text = f"what to compare, the {rivals.GROUP} or one of them (default: {' '.join(CONTENDERS)})"
    default = list(CONTENDERS)
    parser.add_argument("--contenders", type=contender_name, nargs="+", default=default, metavar="NAME", help=text)
    parser.add_race(list(PASSES), repetitions=20, seconds=5.0)
    parser.add_quick(arguments, QUICK)
    options = parser.parse(arguments)
    groups = ([BASE, *rivals.contenders()] if name == rivals.GROUP else [name] for name in options.contenders)
    options.contenders = list(dict.fromkeys(itertools.chain(*groups)))
    return options


def contender_name(text: str) -> str:
    """The name of a contender, or of the group of rivals."""
    if text not in (*CONTENDERS, rivals.GROUP) and text not in rivals.contenders():
        known = ", ".join((*CONTENDERS, rivals.GROUP, *rivals.contenders()))
        raise argparse.ArgumentTypeError(f"{text!r} is none of {known}")
    return text


def find(name: str) -> Contender:
    """The contender with a name."""
    return CONTENDERS[name] if name in CONTENDERS else rivals.contenders()[name]


def with_ratios(rows: list[dict[str, Any]], task: Task) -> list[dict[str, Any]]:
    """The rows of a task, each compared with our own time and with the floor's."""
    medians = {row["contender"]: row["median_ms"] for row in rows if "median_ms" in row}
    base, floor = medians.get(BASE), medians.get(FLOOR)
    for row in rows:
        median = row.get("median_ms")
        row["ratio_to_auto"] = median / base if median and base else None
        row["ratio_to_floor"] = median / floor if median and floor else None
        row["ms_per_timestep"] = median / task.size.num_steps if median else None
        row["floor_gflops"] = task.size.flops(task.training) / floor / 1e6 if floor else None
    return rows


def show(rows: Sequence[Mapping[str, Any]], task: Task) -> None:
    """Prints the rows of a task."""
    gflops = rows[0]["floor_gflops"]
    speed = "" if gflops is None else f"; floor at {gflops:.0f} GFLOP/s"
    print(f"\n{task.size.name}: {task.size.title}, {task.pass_name}, {task.precision.name}{speed}")
    header = (
        "",
        "parameters",
        "median ms",
        "quartiles",
        "calls",
        "/ auto",
        "/ floor",
        "ms a timestep",
        "compile s",
        "temp MB",
    )
    print(aligned([header, *(_cells(row) for row in rows if not outcome(row))], numbers=True), flush=True)
    for row in rows:
        if outcome(row):
            print(f"{row['contender']}: {outcome(row)}", flush=True)


def _cells(row: Mapping[str, Any]) -> list[str]:
    memory = row["temp_bytes"]
    return [
        row["contender"],
        "" if row["parameters"] is None else f"{row['parameters']:,}",
        number(row["median_ms"]),
        f"{number(row['q1_ms'])}-{number(row['q3_ms'])}",
        str(row["repetitions"]),
        number(row["ratio_to_auto"]),
        number(row["ratio_to_floor"]),
        number(row["ms_per_timestep"], 2),
        number(row["compile_seconds"], 2),
        number(None if memory is None else memory / 1e6),
    ]


if __name__ == "__main__":
    sys.exit(exit_status(main, resumable=False))
