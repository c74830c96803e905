"""The tables in README.md, from what was measured: results/*.jsonl and benchmarks/results/*.json.

Each table stands between two comments, ``<!-- table: NAME -->`` and ``<!-- end -->``; nothing there is typed by hand.

Examples:
    python -m experiments.readme
    python -m experiments.readme --check
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from experiments import report
from experiments.reporting import outcomes, tables
from experiments.reporting.depth_figures import TIMED
from experiments.running import runs
from experiments.running import workdir as wd

TABLE = re.compile(r"(<!-- table: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
SPEEDS = {
    "time of the bare matrix products": ("floor", "x {:.2f}"),
    "faster than the reference": ("reference", "{:.2f} x"),
    "less memory than it": ("temp_bytes", "{:.1f} x"),
    "faster than PyTorch, eager: F.conv1d, F.conv2d": ("torch-conv", "{:.1f} x"),
    "the same, one product": ("torch-loop", "{:.1f} x"),
}
"""Columns beside the milliseconds: what they compare with, and how."""

SHOWN_DEPTHS = (1, 2, 4, 7, 10)
"""Of those that :mod:`benchmarks.depth` times, enough to see how the time grows."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The tables in README.md, from what was measured."""

    readme: Path = Path("README.md")
    """The file whose tables to write."""
    results: Path = Path("results")
    """The folder of the result lines."""
    benchmarks: Path = Path("benchmarks") / "results"
    """The folder of the timings."""
    check: bool = False
    """Write nothing; exit with 1 if a table is not what was measured."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = tyro.cli(Options, args=arguments, prog="python -m experiments.readme")
    return runs.exit_status(lambda: run(options))


def run(options: Options) -> int:
    """Writes the tables, or compares."""
    try:
        text = options.readme.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise wd.WorkdirError(f"cannot read {options.readme} ({error}): give --readme a file") from error

    def table(found: re.Match[str]) -> str:
        if found["name"] not in TABLES:
            raise wd.WorkdirError(f"{options.readme} has a table {found['name']}, expected one of {', '.join(TABLES)}")
        return f"{found[1]}{tables.markdown(TABLES[found['name']](options))}\n{found[3]}"

    new = TABLE.sub(table, text)
    if options.check:
        if new != text:
            print(
                f"the tables in {options.readme} are not what was measured: run python -m experiments.readme",
                file=sys.stderr,
            )
        return int(new != text)
    with wd.writing(options.readme) as path:
        path.write_text(new)
    print(f"{options.readme}: {len(TABLE.findall(text))} tables")
    return 0


def learnt(options: Options) -> list[list[str]]:
    """The tLSTM with channel normalization and the stacked LSTM where both were run at the same depth."""
    rows = [["task", "L", "tLSTM+CN", "sLSTM, equal parameters"]]
    for setting, lines in outcomes.by_setting(report.read(report.sweeps(options.results))).items():
        models = outcomes.grouped(lines, lambda line: outcomes.told(line, "model"))
        for depth in sorted({*map(outcomes.depth, lines)}):
            for name in ("2D tLSTM+CN", "3D tLSTM+CN"):
                pair = [models.get(name, []), models.get("sLSTM", [])]
                deep = [[line for line in members if outcomes.depth(line) == depth] for members in pair]
                if all(deep):
                    ours, theirs = (outcomes.came_of(members, [*pair[0], *pair[1]], apart="<br>") for members in deep)
                    rows.append([setting, str(depth), f"{name.split()[0]}: {ours}", theirs])
    return rows


def speed(options: Options) -> list[list[str]]:
    """Forward and backward pass against everything that was timed in turns with it."""
    rows = [["size", "ms", *SPEEDS]]
    sizes: dict[str, dict[str, Any]] = {}
    for row in measured(options.benchmarks / "speed-cpu.json")["rows"]:
        sizes.setdefault(row["size"], {})[row["contender"]] = row
    for timed in sizes.values():
        ours = timed["auto"]
        ratios = {
            "temp_bytes": timed["reference"]["temp_bytes"] / ours["temp_bytes"],
            "floor": ours["ratio_to_floor"],
            **{name: timed[name]["ratio_to_auto"] for name in ("reference", "torch-conv", "torch-loop")},
        }
        rows.append(
            [
                sized(ours),
                f"{ours['median_ms']:.0f}",
                *(form.format(ratios[name]) for name, form in SPEEDS.values()),
            ]
        )
    return rows


def sized(row: dict[str, Any]) -> str:
    """The size that was timed."""
    shape = "x".join(map(str, row["tensor_shape"]))
    return (
        f"{len(row['tensor_shape']) + 1}D, P={shape}, M={row['features']}, B={row['batch_size']}, T={row['num_steps']}"
    )


def peers(options: Options) -> list[list[str]]:
    """Forward and backward pass of what one would use instead, against ours."""
    rows = measured(options.benchmarks / "speed-cpu-peers.json")["rows"]
    sizes = {row["size"]: f"times ours, {sized(row)}" for row in rows if row["contender"] == "auto"}
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["contender"] != "auto":
            found.setdefault(row["summary"], {})[row["size"]] = f"{row['ratio_to_auto']:.2f}"
    return [["", *sizes.values()], *([name, *(cells.get(size, "") for size in sizes)] for name, cells in found.items())]


def depth(options: Options) -> list[list[str]]:
    """Forward and backward pass over a timestep against L."""
    timed = (row for row in measured(options.benchmarks / "depth-cpu.json")["rows"] if "ms_per_timestep" in row)
    rows = [row for row in timed if row["pass"] == "training"]
    depths = [number for number in SHOWN_DEPTHS if any(row["depth"] == number for row in rows)]
    found: dict[str, dict[int, str]] = {}
    for row in rows:
        found.setdefault(TIMED.get(row["model"], row["model"]), {})[row["depth"]] = f"{row['ms_per_timestep']:.2f}"
    head = ["ms a timestep", *(f"L = {number}" for number in depths)]
    return [head, *([name, *(cells.get(number, "") for number in depths)] for name, cells in found.items())]


def memory(options: Options) -> list[list[str]]:
    """Temporaries of training on a long sequence."""
    rows = measured(options.benchmarks / "memory-cpu.json")["rows"]
    steps = max(row["num_steps"] for row in rows)
    every = {"": "", "remat": ", `remat=True`", "remat sqrt": f", `remat={round(steps**0.5)}`"}
    return [
        [f"T = {steps:,}", "MB"],
        *(
            [f"{row['implementation']}{every[row['remat']]}", f"{row['temp_bytes'] / 1e6:,.0f}"]
            for row in rows
            if row["num_steps"] == steps
        ),
    ]


def kernels(options: Options) -> list[list[str]]:
    """Kernels in a timestep, of what XLA compiles for a GPU."""
    rows = [["kernels in a timestep", "forward", "training", "reference, training"]]
    sizes: dict[str, dict[tuple[str, str], str]] = {}
    for row in measured(options.benchmarks / "gpu-kernels-h100.json")["results"]:
        most = max(loop["timesteps"] for loop in row["loops"])  # the other loops are of the outputs still under way
        counts = [f"{loop['kernels_per_timestep']:.0f}" for loop in row["loops"] if loop["timesteps"] == most]
        sizes.setdefault(row["size"], {})[row["implementation"], row["pass"]] = " + ".join(counts)
    for size, found in sizes.items():
        if not any(implementation == "flax LSTM" for implementation, _ in found):
            rows.append([size, found["auto", "forward"], found["auto", "training"], found["reference", "training"]])
    return rows


def measured(path: Path) -> Any:
    """A file of measurements.

    Raises:
        WorkdirError: it is not there, or damaged.
    """
    found = wd.read_json(path)
    if found is None:
        raise wd.WorkdirError(f"there is no {path}: run this in a checkout, or give --benchmarks a folder")
    return found


TABLES: dict[str, Callable[[Options], list[list[str]]]] = {
    **{"learnt": learnt, "speed": speed, "peers": peers},
    **{"kernels": kernels, "depth": depth, "memory": memory},
}
"""What can stand in the README."""


if __name__ == "__main__":
    sys.exit(main())
