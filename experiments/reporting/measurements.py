"""Markdown tables of the measurements in benchmarks/results/: speed, memory, depth, kernel counts, time scale."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.common.files import FileError, read_json

Rows = list[list[str]]
"""A table, the header first."""

TIMED_MODELS = {
    "2d": "2D tLSTM+CN",
    "3d": "3D tLSTM+CN",
    "2d-xla": '2D tLSTM+CN, kernel="xla"',
    "2d-mosaic": '2D tLSTM+CN, kernel="mosaic"',
    "stack-shared": "sLSTM",
    "stack-unshared": "sLSTM (unshared)",
    "wavefront-shared": "sLSTM, skewed",
    "wavefront-unshared": "sLSTM (unshared), skewed",
    "cudnn": "cuDNN LSTM (unshared)",
}
"""The models that ``benchmarks.depth`` times, named as in the titles of runs."""

DEPTHS = (1, 2, 4, 7, 10)
"""The depths that :func:`depth` shows."""

SPEED_COLUMNS = {
    "time / bare matrix products": ("floor", "{:.2f}"),
    "speedup over the reference": ("reference", "{:.2f} x"),
    "memory of the reference / ours": ("temp_bytes", "{:.1f} x"),
    "speedup over eager PyTorch, F.conv1d or F.conv2d": ("torch-conv", "{:.1f} x"),
    "speedup over eager PyTorch, one matrix product": ("torch-loop", "{:.1f} x"),
}
"""The ratios in :func:`speed`: the contender to compare with, and the number format."""


def speed(folder: Path) -> Rows:
    """Time of forward + backward for each size, and its ratio to every contender timed alternately with it."""
    rows = [["size", "ms", *SPEED_COLUMNS]]
    for timed in by_size(folder / "speed-cpu.json").values():
        ours = timed["auto"]
        ratios = {
            "temp_bytes": timed["reference"]["temp_bytes"] / ours["temp_bytes"],
            "floor": timed["auto"]["ratio_to_floor"],
            "reference": timed["reference"]["ratio_to_auto"],
            **{name: timed[name]["ratio_to_auto"] for name in ("torch-conv", "torch-loop")},
        }
        cells = (form.format(ratios[name]) for name, form in SPEED_COLUMNS.values())
        rows.append([size_of(ours), f"{ours['median_ms']:.0f}", *cells])
    return rows


def speed_of_rivals(folder: Path) -> Rows:
    """Time of forward + backward of every rival and of the tLSTM, the fastest first."""
    timed = [row for row in read(folder / "speed-cpu-rivals.json")["rows"] if "median_ms" in row]
    rows = [["model", "ms", "time / the tLSTM's"]]
    for row in sorted(timed, key=lambda row: float(row["median_ms"])):
        name = "**the tLSTM**" if row["contender"] == "auto" else f"`{row['contender']}`"
        time = row["median_ms"]
        rows.append([name, f"{time:.{0 if time >= 10 else 1}f}", f"{row['ratio_to_auto']:.2f}"])
    return rows


def by_size(path: Path) -> dict[str, dict[str, Any]]:
    """The timings of a run of ``benchmarks.speed``, by size and contender."""
    sizes: dict[str, dict[str, Any]] = {}
    for row in read(path)["rows"]:
        sizes.setdefault(row["size"], {})[row["contender"]] = row
    return sizes


def size_of(row: dict[str, Any]) -> str:
    """The tensor shape, channels, batch size and sequence length of a timing."""
    shape = "x".join(map(str, row["tensor_shape"]))
    return (
        f"{len(row['tensor_shape']) + 1}D, P={shape}, M={row['features']}, B={row['batch_size']}, T={row['num_steps']}"
    )


def peers(folder: Path) -> Rows:
    """Time of forward + backward of the alternatives at equal parameters and depth, as a multiple of ours."""
    rows = read(folder / "speed-cpu-peers.json")["rows"]
    sizes = {row["size"]: f"time / ours, {size_of(row)}" for row in rows if row["contender"] == "auto"}
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["contender"] != "auto":
            found.setdefault(row["summary"], {})[row["size"]] = f"{row['ratio_to_auto']:.2f}"
    return [["", *sizes.values()], *([name, *(cells.get(size, "") for size in sizes)] for name, cells in found.items())]


def depth(folder: Path) -> Rows:
    """Milliseconds of forward + backward per timestep for each model and depth."""
    timed = (row for row in read(folder / "depth-cpu.json")["rows"] if "ms_per_timestep" in row)
    rows = [row for row in timed if row["pass"] == "training"]
    depths = [number for number in DEPTHS if any(row["depth"] == number for row in rows)]
    found: dict[str, dict[int, str]] = {}
    for row in rows:
        name = TIMED_MODELS.get(row["model"], row["model"])
        found.setdefault(name, {})[row["depth"]] = f"{row['ms_per_timestep']:.2f}"
    header = ["ms per timestep", *(f"L = {number}" for number in depths)]
    return [header, *([name, *(cells.get(number, "") for number in depths)] for name, cells in found.items())]


def memory(folder: Path) -> Rows:
    """Temporary memory of training on the longest sequence measured."""
    rows = read(folder / "memory-cpu.json")["rows"]
    steps = max(row["num_steps"] for row in rows)
    remat = {"": "", "remat": ", `remat=True`", "remat sqrt": f", `remat={round(steps**0.5)}`"}
    return [
        [f"T = {steps:,}", "MB"],
        *(
            [f"{row['implementation']}{remat[row['remat']]}", f"{row['temp_bytes'] / 1e6:,.0f}"]
            for row in rows
            if row["num_steps"] == steps
        ),
    ]


def kernels(folder: Path) -> Rows:
    """GPU kernels per timestep, counted in the programs that XLA compiles for an H100."""
    rows = [["kernels per timestep", "forward", "forward + backward", "reference", 'kernel="mosaic"']]
    sizes: dict[str, dict[tuple[str, str], str]] = {}
    for row in read(folder / "gpu-kernels-h100.json")["results"]:
        longest = max(loop["timesteps"] for loop in row["loops"])  # shorter loops only flush the delayed outputs
        counts = [f"{loop['kernels_per_timestep']:.2g}" for loop in row["loops"] if loop["timesteps"] == longest]
        sizes.setdefault(row["size"], {})[row["implementation"], row["pass"]] = " + ".join(counts)
    for size, found in sizes.items():
        if not any(implementation == "flax LSTM" for implementation, _ in found):
            training = (found[implementation, "training"] for implementation in ("auto", "reference", "mosaic"))
            rows.append([size, found["auto", "forward"], *training])
    return rows


def time_scale(folder: Path) -> Rows:
    """Results with other factors of the time scale: a column for each pair of factors."""
    measured = [read(path)["rows"] for path in sorted(folder.glob("time-scale-*.json"))]
    if not measured:
        raise FileError(f"{folder} has no time-scale-*.json: run python -m benchmarks.time_scale")
    pairs = list(dict.fromkeys((row["gates"], row["transport"]) for rows in measured for row in rows))
    table = [["task, model, T", *(f"gates {gates:g} T, transport {transport:g} T" for gates, transport in pairs)]]
    for rows in measured:
        cells: dict[tuple[float, float], list[dict[str, Any]]] = {}
        for row in rows:
            cells.setdefault((row["gates"], row["transport"]), []).append(row)
        name = f"{rows[0]['task']}, T={rows[0]['time_scale']:g}"
        table.append([name, *(_outcome(cells.get(pair, [])) for pair in pairs)])
    return table


def _outcome(rows: list[dict[str, Any]]) -> str:
    """The mean over seeds, with its range, of the validation results, or of the samples until the task was solved.

    The test accuracies of a task that was never solved.
    """
    for name, form in (("validation_accuracy", "{:.1%}"), ("validation_bits", "{:.3f}"), ("samples", "{:,.0f}")):
        values = [row[name] for row in rows if name in row and (name != "samples" or row["solved"])]
        if values:
            few = "" if len(values) == len(rows) else f", {len(values)} of {len(rows)} seeds"
            mean, least, most = map(form.format, (sum(values) / len(values), min(values), max(values)))
            return f"{mean} ({least} to {most}){few}"
    accuracies = [row.get("test_accuracy", 0.0) for row in rows]
    return f"not solved: {min(accuracies):.1%} to {max(accuracies):.1%}" if rows else ""


def read(path: Path) -> Any:
    """The contents of a file of measurements.

    Raises:
        FileError: the file does not exist or is not JSON.
    """
    found = read_json(path)
    if found is None:
        raise FileError(f"{path} does not exist: run this in a checkout, or give --benchmarks a folder")
    return found


TABLES: dict[str, Callable[[Path], Rows]] = {
    "speed": speed,
    "peers": peers,
    "rivals-speed": speed_of_rivals,
    "kernels": kernels,
    "depth": depth,
    "memory": memory,
    "time-scale": time_scale,
}
"""Each table by its name in the pages; the argument is the folder of measurements."""
