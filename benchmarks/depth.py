"""The cost of depth: time per timestep and example against L, at a fixed number of parameters.

The paper's measure (figures 3 to 5, right): milliseconds for one forward and backward pass over one
timestep of one example, that is, the time of a pass divided by T B. The 2D tLSTM has M channels; the
3D tLSTM and the stacks of LSTM layers have the same number of parameters. "step" is a stream: the
milliseconds from an input to the output of that timestep, for one example, with the library called as
users call it; "jitted step" is the same inside a jitted function.

The last table, also in the .json file, has ratios of these times and the targets of the GPU kernel: for each tLSTM,
the time of a timestep (one of the T + L - 1 that run) at the greatest depth / at the smallest, and each stack's time /
the tLSTM's at the greatest depth.

A .csv file with the same numbers and, with matplotlib, a .png file are written next to the .json file.

Examples:
    python -m benchmarks.depth --quick
    python -m benchmarks.depth --depths 1 2 4 8 --models 2d stack-shared wavefront-shared
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import importlib.util
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import commandline, ratios
from benchmarks.contenders import BASE, CONTENDERS
from benchmarks.measure import Limits, Timing, interleave
from benchmarks.networks import Network, parameters
from benchmarks.programs import count
from benchmarks.race import Entry, outcome, race
from benchmarks.record import number
from benchmarks.stream import step_calls
from benchmarks.tasks import PASSES, PRECISIONS, Precision, Size, Task
from experiments.common.commandline import exit_status
from experiments.common.files import writing
from experiments.common.tables import aligned

MODULE = "benchmarks.depth"
TLSTMS = {f"{dims}d{kernel}": dims - 1 for kernel in ("", "-xla", "-mosaic") for dims in (2, 3)}
"""The number of tensorized dimensions; names that end in "-xla" or "-mosaic" use ``Fused(kernel=..)``."""
STACKS = ("stack-shared", "stack-unshared", "wavefront-shared", "wavefront-unshared", "cudnn")
STREAMED: dict[str, Network] = {"2d": "tlstm", "3d": "tlstm", "stack-shared": "shared", "stack-unshared": "unshared"}
STEP = "step"
TIMES = ("median_ms", "min_ms", "q1_ms", "q3_ms", "repetitions", "ms_per_timestep", "ms_per_timestep_and_example")
COLUMNS = ("model", "pass", "precision", "depth", "parameters", *TIMES)
QUICK = {
    "depths": [1, 4],
    "models": ["2d", "stack-shared", "wavefront-shared"],
    "passes": ["training", STEP],
    "repetitions": 5,
    "seconds": 1.0,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    report = commandline.start_report(MODULE, arguments, options)
    path = report.path
    limits = commandline.limits(options)
    for depth in options.depths:
        sizes = {model: size_of(model, depth, options) for model in options.models}
        for precision in (PRECISIONS[name] for name in options.precision):
            for each in options.passes:
                rows = stream(sizes, precision, limits) if each == STEP else passes(sizes, precision, each, limits)
                report.head["ratios"] = found = ratios.find([*report.rows, *rows], tuple(TLSTMS))
                report.add(rows)
                timed = [row for row in report.rows if not outcome(row)]
                write_csv(path.with_suffix(".csv"), timed)
                show(rows, f"L={depth}, {each}, {precision.name}")
    if found:
        print(f"\n{ratios.table(found)}")
    print(f"\n{path}\n{path.with_suffix('.csv')}")
    if timed and importlib.util.find_spec("matplotlib"):
        from benchmarks.figures import depth_figure

        title = f"M={options.features} B={options.batch_size} T={options.num_steps}, {jax.devices()[0].device_kind}"
        depth_figure(path.with_suffix(".png"), timed, title)
        print(path.with_suffix(".png"))
    elif timed:
        print("no figure without matplotlib: pip install matplotlib")
    return 1 if report.failures else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command line."""
    parser = commandline.Parser(MODULE, __doc__)
    models = (*TLSTMS, *STACKS)
    size = commandline.positive_int
    parser.add_argument("--depths", type=size, nargs="+", default=[1, 2, 4, 7, 10], metavar="L", help="L of each model")
    by_default = [model for model in models if not model.endswith(("-xla", "-mosaic"))]
    parser.add_names("--models", models, by_default, "what to compare")
    for name, default in (("features", 100), ("batch-size", 15), ("num-steps", 42)):
        parser.add_argument(f"--{name}", type=size, default=default, metavar="N", help=f"default: {default}")
    parser.add_race((*PASSES, STEP), repetitions=20, seconds=5.0)
    parser.add_quick(arguments, QUICK)
    return parser.parse(arguments)


def size_of(model: str, depth: int, options: argparse.Namespace) -> Size:
    """The size of a model; for a stack, the size of the tLSTM with the same depth and number of parameters."""
    dims = TLSTMS.get(model, 1)
    size = Size(f"{dims + 1}d-{depth}", (depth,) * dims, options.features, options.batch_size, options.num_steps)
    return size if dims == 1 else dataclasses.replace(size, features=same_parameters(size))


def same_parameters(size: Size) -> int:
    """The M at which a tLSTM has as many parameters as the 2D tLSTM with the M of ``size``.

    For both, the norm's gains and biases are counted for one location only: their number is all that grows with L.
    """

    def number_with(dims: int, features: int) -> int:
        cfg = dataclasses.replace(size, tensor_shape=(1,) * dims, features=features).config()
        groups = cfg.param_shapes(size.in_features).values()
        return sum(math.prod(shape) for group in groups for shape in group.values())

    target = number_with(1, size.features)
    return min(range(2, max(2, size.features) + 1), key=lambda m: abs(number_with(len(size.tensor_shape), m) - target))


def passes(sizes: Mapping[str, Size], precision: Precision, each: str, limits: Limits) -> list[dict[str, Any]]:
    """The rows of one pass over a sequence, for every model."""
    entries = {
        model: Entry(CONTENDERS[contender_of(model)], Task(size, precision, PASSES[each]))
        for model, size in sizes.items()
    }
    rows = race(entries, limits)
    for row in rows:
        row["model"] = row.pop("contender")
        if not outcome(row):
            row["ms_per_timestep"] = row["median_ms"] / row["num_steps"]
            row["ms_per_timestep_and_example"] = row["ms_per_timestep"] / row["batch_size"]
    return rows


def contender_of(model: str) -> str:
    """The name of a model's contender."""
    return (model.partition("-")[2] or BASE) if model in TLSTMS else model


def stream(sizes: Mapping[str, Size], precision: Precision, limits: Limits) -> list[dict[str, Any]]:
    """The rows of a stream, for every model that has one."""
    # A call is short, so there is time for many.
    many = dataclasses.replace(limits, repetitions=20 * limits.repetitions, warmup=10)
    with jax.default_matmul_precision(precision.matmul):
        calls = {
            (model, kind): call
            for model, size in sizes.items()
            if model in STREAMED
            for kind, call in step_calls(STREAMED[model], size, precision).items()
        }
        timings = interleave(calls, many)
    return [_step_row(model, kind, sizes[model], precision, timing) for (model, kind), timing in timings.items()]


def _step_row(model: str, kind: str, size: Size, precision: Precision, timing: Timing) -> dict[str, Any]:
    return {
        "model": model,
        "pass": kind,
        "precision": precision.name,
        "depth": size.depth,
        "parameters": count(parameters(STREAMED[model], size)),
        **dataclasses.asdict(timing),
        "ms_per_timestep": timing.median_ms,
        "ms_per_timestep_and_example": timing.median_ms,
    }


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the rows that have a time."""
    with writing(path) as new, new.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def show(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Prints the rows of a depth."""
    print(f"\n{title}")
    header = ("", "pass", "parameters", "median ms", "quartiles", "calls", "us per timestep", "us per t. and example")
    print(aligned([header, *(_cells(row) for row in rows if not outcome(row))], numbers=True), flush=True)
    for row in rows:
        if outcome(row):
            print(f"{row['model']}: {outcome(row)}", flush=True)


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [
        row["model"],
        row["pass"],
        f"{row['parameters']:,}",
        number(row["median_ms"]),
        f"{number(row['q1_ms'])}-{number(row['q3_ms'])}",
        str(row["repetitions"]),
        number(1e3 * row["ms_per_timestep"]),
        number(1e3 * row["ms_per_timestep_and_example"]),
    ]


if __name__ == "__main__":
    sys.exit(exit_status(main, resumable=False))
