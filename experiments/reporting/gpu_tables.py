"""Markdown tables of the measurements on a GPU, some beside those on a CPU, and of all files of timings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.reporting.measurements import TIMED_MODELS, Rows, read, size_of

SHALLOW, DEEP = 1, 10
"""The depths that :func:`gpu_cpu` compares."""


def gpu_cpu(folder: Path) -> Rows:
    """Milliseconds of forward + backward per timestep at two depths, on a GPU and on a CPU."""
    timed = {device: training_times(folder / f"depth-{device}.json") for device in ("h200", "cpu")}
    columns = [(device, depth) for device in timed for depth in (SHALLOW, DEEP)]
    rows = [["ms per timestep", *(f"{device.upper()}, L={depth}" for device, depth in columns)]]
    models = dict.fromkeys(model for times in timed.values() for model, _ in times)
    for model in models:
        times = [timed[device].get((model, depth)) for device, depth in columns]
        rows.append([TIMED_MODELS.get(model, model), *("" if time is None else two_digits(time) for time in times)])
    return rows


def two_digits(number: float) -> str:
    """A number with two significant digits, zeros included."""
    return f"{number:#.2g}".removesuffix(".")


def training_times(path: Path) -> dict[tuple[str, int], float]:
    """Milliseconds of forward + backward per timestep, by model and depth."""
    rows = read(path)["rows"]
    return {
        (row["model"], row["depth"]): row["ms_per_timestep"]
        for row in rows
        if row["pass"] == "training" and "ms_per_timestep" in row
    }


def gpu_depth(folder: Path) -> Rows:
    """Milliseconds of forward + backward and of forward alone, per batch, at every depth timed on a GPU."""
    timed = [row for row in read(folder / "depth-h200.json")["rows"] if "median_ms" in row]
    header = [
        "ms per batch",
        *(f"{name}, L = {depth}" for name, depth in sorted({pass_and_depth(row) for row in timed})),
    ]
    found: dict[str, dict[str, str]] = {}
    for row in timed:
        name, depth = pass_and_depth(row)
        found.setdefault(row["model"], {})[f"{name}, L = {depth}"] = f"{row['median_ms']:.2f}"
    return [
        header,
        *([TIMED_MODELS.get(model, model), *(cells.get(x, "") for x in header[1:])] for model, cells in found.items()),
    ]


def pass_and_depth(row: dict[str, Any]) -> tuple[str, int]:
    """The pass and the depth of a timing, which name its column."""
    return {"training": "forward + backward"}.get(row["pass"], row["pass"]), row["depth"]


def gpu_speed(folder: Path) -> Rows:
    """Forward + backward of every contender on a GPU: milliseconds, ratio to ours, seconds to compile."""
    timed = [row for row in read(folder / "speed-h200.json")["rows"] if "median_ms" in row]
    (size,) = {row["size"] for row in timed}
    ours = next(row for row in timed if row["contender"] == "auto")
    return [
        [size_of(ours), "ms per batch", "time / ours", "compile seconds"],
        *(
            [row["summary"], f"{row['median_ms']:.2f}", f"{row['ratio_to_auto']:.2f}", f"{row['compile_seconds']:.1f}"]
            for row in timed
            if row["size"] == size
        ),
    ]


def gpu_cell_kernel(folder: Path) -> Rows:
    """Microseconds of forward + backward per timestep with XLA's kernels and with ours."""
    rows = [["us per timestep", "XLA", "the kernel", "kernel / XLA", "bare matrix products"]]
    for part in ("unroll", "kernel-3x3", "kernel-10x10"):
        timed = {row["contender"]: row for row in suite_rows(folder, part)}
        xla, ours, floor = (timed[name]["us_per_timestep"] for name in ("xla-8", "mosaic-8", "floor"))
        times = [f"{time:#.3g}".removesuffix(".") for time in (xla, ours, floor)]
        rows.append([size_of(timed["xla-8"]), *times[:2], f"{ours / xla:.2f}", times[2]])
    return rows


def gpu_kernel_depth(folder: Path) -> Rows:
    """Milliseconds of forward + backward per batch with our kernel and of LSTM stacks, at two depths."""
    found: dict[str, dict[int, float]] = {}
    for row in suite_rows(folder, "kernel-depth"):
        found.setdefault(row["model"], {})[row["depth"]] = row["median_ms"]
    ours = found["2d-mosaic"][DEEP]
    rows = [["ms per batch", f"L = {SHALLOW}", f"L = {DEEP}", f"time / ours, L = {DEEP}"]]
    for model, times in found.items():
        numbers = (times[SHALLOW], times[DEEP], times[DEEP] / ours)
        rows.append([TIMED_MODELS.get(model, model), *(f"{number:.2f}" for number in numbers)])
    return rows


def suite_rows(folder: Path, part: str) -> list[dict[str, Any]]:
    """The timings of a part of ``benchmarks.gpu_suite``."""
    (found,) = (each for each in read(folder / "suite-h100.json")["parts"] if each["name"] == part)
    return [row for row in found["results"]["rows"] if "median_ms" in row]


def timed_files(folder: Path) -> Rows:
    """Device, precision, versions and commit of every file of timings."""
    rows = [["file", "device", "precision", "jax", "Python", "commit"]]
    for path in sorted(folder.glob("*.json")):
        found = read(path)
        if "environment" in found:
            where = found["environment"]
            commit, _, dirty = (where["commit"] or "unknown").partition("-")
            device = f"{where['cpus']} CPU cores" if where["platform"] == "cpu" else where["device_kind"]
            options = [found["options"], *(each["results"]["options"] for each in found.get("parts", ()))]
            precisions = ", ".join(dict.fromkeys(name for each in options for name in each.get("precision", [])))
            name = commit[:7] + (f" ({dirty})" if dirty else "")
            rows.append([f"`{path.name}`", device, precisions or "default", where["jax"], where["python"], name])
    return rows


TABLES = {
    "gpu-cpu": gpu_cpu,
    "gpu-depth": gpu_depth,
    "gpu-speed": gpu_speed,
    "gpu-cell-kernel": gpu_cell_kernel,
    "gpu-kernel-depth": gpu_kernel_depth,
    "timed-files": timed_files,
}
"""Each table by its name in the pages; the argument is the folder of measurements."""
