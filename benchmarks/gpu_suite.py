"""Run all measurements on a GPU in one command, in a few minutes.

Each part runs one of the other commands in a separate process, since XLA reads its flags only once and a part
that fails or takes too long must not affect the others. Parts run in the order of the table, the most important
first, until the budget is spent: in the first 180 seconds the cell kernel's checks, its times against depth and
at its largest size, then the other measurements that the last three lines need, then the tables of README.md and
docs/performance.md. (Every program is compared with the readable implementation before it is timed.) Most of the
time goes into compiling. The last three lines say which kernel and how many timesteps per iteration the default,
None, should choose on this device, and which XLA_FLAGS are faster, or why that was not measured.

The folder of the results has few files, since some machines return only few. suite.json has the status of each
part and, under "results", what its command writes when it runs by itself. suite.log has the printed tables.
running.json (and .csv) has the results so far of the part that is running.

Examples:
    python -m benchmarks.gpu_suite --out results --budget 500
    python -m benchmarks.gpu_suite --out results --parts depth precision --budget 200
    python -m benchmarks.gpu_suite --out results --smoke
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import commandline, gpu_verdict
from benchmarks.record import ROOT, number
from experiments.common.commandline import command_line, exit_status, user_path
from experiments.common.files import write_json
from experiments.common.tables import aligned

MODULE = "benchmarks.gpu_suite"
LEAST_SECONDS = 15.0
"""A part is not started with less time than this left."""
PROBE = "import json; from benchmarks.record import environment; print(json.dumps(environment()))"
"""Run in another process, since this one must leave the GPU to the parts."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One command.

    Args:
        name: as on the command line.
        module: the command.
        arguments: its options.
        seconds: its time limit.
        flags: to be added to XLA_FLAGS.
        oldest: the oldest jax for which the part makes sense.
    """

    name: str
    module: str
    arguments: str
    seconds: float
    flags: str = ""
    oldest: tuple[int, ...] = (0,)

    def command(self, out: Path, smoke: bool) -> list[str]:
        """The command line."""
        arguments = shlex.split(self.arguments) + (shlex.split(SMOKE[self.module]) if smoke else [])
        return [sys.executable, "-m", f"benchmarks.{self.module}", *arguments, "--out", str(out)]


SMOKE = {
    "cell_kernel": "--models 2d --sizes tiny --unroll 1 --precision highest --repetitions 1",
    "speed": "--sizes tiny --contenders auto floor --passes training --precision highest --repetitions 2",
    "depth": "--depths 1 2 --models 2d --features 8 --batch-size 2 --num-steps 5 --repetitions 2",
    "memory": "--sizes tiny --num-steps 5 --implementations reference",
    "kernel_times": "--sizes tiny --calls 1",
    "populations": "--sizes tiny --members 2 --repetitions 1",
}
"""Options that make a part tiny, for each command; the last of repeated options counts."""

COMMAND_BUFFER = "--xla_gpu_enable_command_buffer=+while,+conditional"
GRAPH = f"{COMMAND_BUFFER},+dynamic_slice_fusion --xla_gpu_graph_min_graph_size=1"
DOUBLE_BUFFER = "--xla_gpu_enable_while_loop_unrolling=WHILE_LOOP_UNROLLING_DOUBLE_BUFFER"
FLAGS: dict[str, tuple[str, tuple[int, ...]]] = {
    "none": ("", (0,)),
    "graph": (GRAPH, (0, 12)),  # older versions leave the backward loop out of the graph
    "command-buffer": (COMMAND_BUFFER, (0,)),
    "command-buffer-unrolled": (f"{COMMAND_BUFFER} --xla_gpu_command_buffer_unroll_loops=true", (0,)),
    "double-buffer": (DOUBLE_BUFFER, (0,)),
    "pdl": ("--xla_gpu_enable_pdl=true", (0,)),
}
"""XLA_FLAGS by name, with the oldest jax for which they make sense."""
STACKS = "stack-shared wavefront-shared cudnn"
TRAINING = "--passes training --seconds 0.8"
TF32 = f"--precision default {TRAINING}"
KERNEL = f"--parts times {TF32}"
PARTS = {
    part.name: part
    for part in (
        # Nothing is timed here, so autotuning is off, which shortens compilation.
        Part("kernel-check", "cell_kernel", "--parts checks", 60, "--xla_gpu_autotune_level=0"),
        # L = 10 first: two of the three ratios need only this depth.
        Part("kernel-depth", "depth", f"--depths 10 1 --models 2d-mosaic wavefront-shared cudnn {TF32}", 60),
        Part("kernel-10x10", "cell_kernel", f"--sizes memorization-10 --unroll 8 {KERNEL}", 60),
        # At this size the default is 8 timesteps per iteration, with XLA's kernels and with "mosaic".
        Part("unroll", "cell_kernel", f"--sizes a --unroll 1 3 8 {KERNEL}", 45),
        Part("kernel-3x3", "cell_kernel", f"--sizes d --unroll 8 {KERNEL}", 55),
        *(
            Part(f"flags-{name}", "speed", f"--sizes a --contenders xla mosaic {TF32}", 35, flags, oldest)
            for name, (flags, oldest) in FLAGS.items()
        ),
        Part("check", "speed", "--sizes tiny tiny-3d --contenders auto reference --passes training --seconds 0.1", 40),
        Part("depth", "depth", f"--depths 1 10 --models 2d 2d-xla {STACKS} {TRAINING}", 110),
        Part("speed", "speed", f"--sizes a --contenders auto xla reference floor conv {STACKS} {TRAINING}", 45),
        Part("profile", "kernel_times", "--sizes a --contenders xla mosaic --precision default --calls 5", 60),
        Part("depth-3d", "depth", f"--depths 1 10 --models 3d {TRAINING}", 60),
        Part("populations", "populations", "--sizes a --members 1 6 48", 60),
        Part("profile-3d", "kernel_times", "--sizes mnist-3 memorization-10 --precision default --calls 3", 90),
        Part("forward", "depth", f"--depths 1 10 --models 2d {STACKS} --passes forward --seconds 0.8", 60),
        Part("fused", "speed", f"--sizes a b --contenders auto fused-gates fused-states {TRAINING}", 90),
        Part(
            "precision",
            "speed",
            f"--sizes a b --precision default bfloat16 --contenders auto floor wavefront-shared cudnn {TRAINING}",
            100,
        ),
        Part("depths", "depth", f"--depths 4 7 2 --models 2d 3d {STACKS} {TRAINING}", 150),
        Part("step", "depth", "--depths 1 4 10 --models 2d 3d stack-shared --passes step", 40),
        Part("long", "speed", f"--sizes b c d --contenders auto reference floor cudnn {TRAINING}", 110),
        Part(
            "paper",
            "speed",
            "--sizes memorization-10 mnist-3 wikipedia-6 --precision default "
            "--contenders auto floor stack-shared cudnn --passes training",
            120,
        ),
        Part("memory", "memory", "--sizes b --num-steps 50 1000 10000", 60),
        Part("torch", "speed", "--sizes a --contenders auto torch-loop torch-shared torch-unshared", 60),
    )
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    start = time.monotonic()
    try:
        environment = probe()
    except subprocess.CalledProcessError:
        print("error: jax does not run here, as said above", file=sys.stderr)
        return 2
    if environment["platform"] != "gpu" and not options.smoke:
        print(f"error: this is a {environment['platform']} and no GPU: --smoke tries the suite here", file=sys.stderr)
        return 2
    summary: dict[str, Any] = {
        "command": command_line(MODULE, arguments),
        "environment": environment,
        "options": commandline.recorded(options),
        "parts": [],
    }
    for name in options.parts:
        left = options.budget - (time.monotonic() - start)
        print(f"\n==== {name}, {left:.0f} s left", flush=True)
        part = PARTS[name]
        if version(environment["jax"]) < part.oldest:
            reason = f"needs jax {'.'.join(map(str, part.oldest))}"
            skipped = {"name": name, "status": "skipped", "seconds": 0.0, "error": reason, "results": None}
            summary["parts"].append(skipped)
        else:
            summary["parts"].append(run(part, options.out, options.smoke, left))
        lines = gpu_verdict.verdict(summary["parts"], environment["platform"], environment["device_kind"])
        write_json(options.out / "suite.json", {**summary, "verdict": lines}, indent=1)
    show(summary["parts"])
    print(f"{options.out / 'suite.json'}\n")
    print("\n".join(lines), flush=True)
    return 1 if any(part["status"] == "failed" for part in summary["parts"]) else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command line."""
    parser = commandline.Parser(MODULE, __doc__)
    parser.add_argument("--out", type=user_path, required=True, metavar="DIR", help="folder of the results (required)")
    parser.add_names("--parts", PARTS, list(PARTS), "what to run")
    seconds = commandline.positive_float
    parser.add_argument("--budget", type=seconds, default=500.0, metavar="SECONDS", help="for all parts (default: 500)")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, on any device, to see that it works")
    options = parser.parse_args(arguments)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "suite.log").unlink(missing_ok=True)
    except OSError as error:
        parser.error(f"--out {options.out}: {error.strerror}")
    return options


def version(text: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(map(int, text.split(".")[:2]))


def probe() -> dict[str, Any]:
    """The environment, as a part will find it."""
    done = subprocess.run([sys.executable, "-c", PROBE], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def run(part: Part, folder: Path, smoke: bool, left: float) -> dict[str, Any]:
    """Runs a part; returns its status and the results that it has written."""
    out = folder.resolve() / "running.json"
    command = part.command(out, smoke)
    flags = f"{os.environ.get('XLA_FLAGS', '')} {part.flags}".strip()
    record = {"name": part.name, "command": shlex.join(["python", *command[1:]]), "xla_flags": flags}
    if left < LEAST_SECONDS:
        reason = f"{max(0.0, left):.0f} s were left"
        return {**record, "status": "skipped", "seconds": 0.0, "error": reason, "results": None}
    clear(folder)
    start = time.monotonic()
    status, printed = execute(command, flags, folder / "suite.log", min(part.seconds, left))
    seconds = time.monotonic() - start
    print(printed, flush=True)
    results = json.loads(out.read_text()) if out.exists() else None
    clear(folder)
    error = {"error": printed.rpartition("\n")[2]} if status == "failed" else {}
    return {**record, "status": status, "seconds": seconds, **error, "results": results}


def clear(folder: Path) -> None:
    """Removes the files of a part that has ended."""
    for file in folder.glob("running.*"):
        file.unlink()


def execute(command: Sequence[str], flags: str, log: Path, seconds: float) -> tuple[str, str]:
    """Runs a command and appends its output to the log; returns the status and the output."""
    environment = {**os.environ, "XLA_FLAGS": flags}
    with log.open("a+") as file:
        begin = file.tell()
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, timeout=seconds, check=False
            )
            status = "failed" if done.returncode else "done"
        except subprocess.TimeoutExpired:
            status = "cut off"
        file.seek(begin)
        return status, file.read().strip()


def show(parts: Sequence[dict[str, Any]]) -> None:
    """Prints the status of each part."""
    rows = [(part["name"], part["status"], number(part["seconds"], 2)) for part in parts]
    print()
    print(aligned([("part", "status", "seconds"), *rows], numbers=True), flush=True)


if __name__ == "__main__":
    sys.exit(exit_status(main, resumable=False))
