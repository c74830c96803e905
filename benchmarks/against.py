"""Compare with another checkout: the same program from both, in separate processes, timed in turns.

By default the program is a forward and backward pass of ``tlstm_jax.unroll`` with the default options. With ``--run``
it is a command of the experiments, and the time of an epoch is measured, including evaluations.

Examples:
    git worktree add --detach ../former fc4447a
    python -m benchmarks.against ../former --sizes a b c d --repetitions 30
    python -m benchmarks.against ../former --repetitions 5 --run memorization --samples 6000 --check-every 1000
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from benchmarks import commandline
from benchmarks.measure import Elapsed, Limits, Timing, interleave
from benchmarks.record import ROOT, commit, number
from benchmarks.tasks import SIZES, Size
from experiments.common.commandline import exit_status, user_path
from experiments.common.errors import CommandError
from experiments.common.tables import aligned

MODULE = "benchmarks.against"
NAMES = ("ours", "theirs")
PROGRAM = """
import json, sys, time
import jax, numpy as np
import tlstm_jax as tl
assert tl.__file__.startswith(sys.argv[1]), tl.__file__
size = json.loads(sys.argv[2])
cfg = tl.TLSTMConfig(size["features"], tuple(size["tensor_shape"]))
params = tl.init_params(jax.random.key(0), size["in_features"], cfg)
shape = (size["batch_size"], size["num_steps"], size["in_features"])
xs = jax.numpy.asarray(np.random.default_rng(0).normal(size=shape), jax.numpy.float32)
loss = lambda params, xs: (tl.unroll(params, xs, cfg)[1] ** 2).sum()
step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(params, xs).compile()
memory = step.memory_analysis()
print(json.dumps({"temp_bytes": memory and memory.temp_size_in_bytes}), flush=True)
for line in sys.stdin:
    begin = time.perf_counter()
    jax.block_until_ready(step(params, xs))
    print(json.dumps(time.perf_counter() - begin), flush=True)
"""
"""Times one call for each line that it reads. It uses only functions that every version of the library has."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    report = commandline.start_report(MODULE, arguments, options)
    checkouts = dict(zip(NAMES, (ROOT, options.checkout), strict=True))
    report.head["commits"] = {name: commit(path) for name, path in checkouts.items()}
    if options.run:
        report.add([epochs(checkouts, options.run, options.repetitions)])
    else:
        limits = Limits(options.repetitions, options.seconds, warmup=2)
        for size in options.sizes:
            report.add([passes(checkouts, SIZES[size], limits)])
    columns = ("what", "ours_ms", "theirs_ms", "ratio", "repetitions")
    rows = [[number(x) if isinstance(x := row[name], float) else str(x) for name in columns] for row in report.rows]
    print(aligned([("", "ours ms", "theirs ms", "ours / theirs", "calls"), *rows], numbers=True))
    print(report.path)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command line."""
    parser = commandline.Parser(MODULE, __doc__)
    parser.add_argument("checkout", type=user_path, metavar="CHECKOUT", help="the root of another checkout")
    parser.add_names("--sizes", SIZES, ["a", "b", "c", "d"], "among " + " ".join(SIZES))
    text = "timed calls or runs of each, at most (default: 30)"
    parser.add_argument("--repetitions", type=commandline.positive_int, default=30, metavar="N", help=text)
    text = "time for the calls of each (default: 20)"
    parser.add_argument("--seconds", type=commandline.positive_float, default=20.0, metavar="S", help=text)
    parser.add_out()
    text = "a command of the experiments with its options, in place of --sizes; the last option"
    parser.add_argument("--run", nargs=argparse.REMAINDER, default=[], metavar="TASK", help=text)
    parser.add_quick(arguments, {"sizes": ["tiny"], "repetitions": 3, "seconds": 1.0})
    options = parser.parse(arguments)
    options.checkout = options.checkout.resolve()
    if not (options.checkout / "tlstm_jax").is_dir():
        parser.error(f"argument CHECKOUT: there is no tlstm_jax in {options.checkout}")
    return options


def passes(checkouts: Mapping[str, Path], size: Size, limits: Limits) -> dict[str, Any]:
    """A row: forward and backward pass of a size."""
    with contextlib.ExitStack() as held:
        programs = {name: held.enter_context(started(path, size)) for name, path in checkouts.items()}
        timings = interleave({name: program.call for name, program in programs.items()}, limits)
    memory = {f"{name}_temp_bytes": program.facts["temp_bytes"] for name, program in programs.items()}
    return {**compared(f"{size.name}: {size.title}", timings), **memory}


def epochs(checkouts: Mapping[str, Path], command: Sequence[str], repetitions: int) -> dict[str, Any]:
    """A row: the median time of a run's epochs, except for the first, which compiles."""
    seconds: dict[str, list[float]] = {name: [] for name in checkouts}
    for _ in range(repetitions):
        for name, path in checkouts.items():
            seconds[name].append(epoch(path, command))
    return compared(" ".join(command), {name: Timing.of(each) for name, each in seconds.items()})


def compared(what: str, timings: Mapping[str, Timing]) -> dict[str, Any]:
    """The times of both, and the ratio of their medians."""
    ours, theirs = (timings[name] for name in NAMES)
    medians = {f"{name}_ms": timings[name].median_ms for name in NAMES}
    quartiles = {f"{name}_quartiles_ms": [timings[name].q1_ms, timings[name].q3_ms] for name in NAMES}
    ratio = ours.median_ms / theirs.median_ms
    return {"what": what, **medians, **quartiles, "ratio": ratio, "repetitions": ours.repetitions}


@dataclasses.dataclass(frozen=True)
class Apart:
    """A program in another process, which imports the library of its checkout (that of ``benchmarks.apart`` has ours).

    Args:
        process: reads a line for each call and answers with its seconds.
        facts: the JSON that it prints before the first call.
    """

    process: subprocess.Popen[str]
    facts: dict[str, Any]

    def call(self) -> Elapsed:
        """One call."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            failed(self.process)
        return Elapsed(answer(self.process))


@contextlib.contextmanager
def started(checkout: Path, size: Size) -> Iterator[Apart]:
    """The program of a checkout, compiled."""
    command = [sys.executable, "-c", PROGRAM, str(checkout), json.dumps(dataclasses.asdict(size))]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=checkout, env=environment(checkout), text=True, **pipes) as process:
        try:
            yield Apart(process, answer(process))
        finally:
            process.kill()


def answer(process: subprocess.Popen[str]) -> Any:
    """The next line that a process prints, as JSON."""
    assert process.stdout is not None
    return json.loads(process.stdout.readline() or failed(process))


def failed(process: subprocess.Popen[str]) -> NoReturn:
    """Raises a CommandError with the last messages of a process that has ended."""
    assert process.stderr is not None
    raise CommandError(f"the program of a checkout has ended: {process.stderr.read()[-2000:]}")


def epoch(checkout: Path, command: Sequence[str]) -> float:
    """The median seconds of the epochs of a run in a new workdir, without the first."""
    with tempfile.TemporaryDirectory() as folder:
        task, *rest = command
        words = [sys.executable, "-m", f"experiments.{task}", *rest, "--workdir", f"{folder}/run"]
        ended = subprocess.run(
            words, cwd=checkout, env=environment(checkout), capture_output=True, text=True, check=False
        )
        if ended.returncode:
            raise CommandError(f"the run of {checkout} failed: {ended.stderr[-2000:]}")
        records = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    if len(records) < 2:
        raise CommandError(f"the run of {checkout} has {len(records)} epoch and needs 2: the first compiles")
    return statistics.median(record["seconds"] for record in records[1:])


def environment(checkout: Path) -> dict[str, str]:
    """The environment in which the packages of a checkout are found before those that are installed."""
    return {**os.environ, "PYTHONPATH": str(checkout)}


if __name__ == "__main__":
    sys.exit(exit_status(main, resumable=False))
