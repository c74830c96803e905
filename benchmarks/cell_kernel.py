"""Check that ``Fused(kernel="mosaic")`` is correct on this GPU, and time it against XLA's kernels.

First small models with every argument of a call (resets, lengths, states and their derivatives, bfloat16) are
compared with XLA's results. After a mismatch the command still times everything, but its exit status is 1.
Then sizes are timed; before that, each contender is checked against the reference. "us" is microseconds per
timestep of a call that is waited for, "queued us" of 16 calls that are started before the first is waited for, as in a
training loop. "/ xla" is the first time divided by the fastest time with XLA's kernels at that size and precision. The
last line says which kernel kernel=None should choose here. --parts runs only the checks or only the timings. Without a
GPU, --quick runs tiny sizes in an interpreter, as a test of the command.

Examples:
    python -m benchmarks.cell_kernel --out cell_kernel.json
    python -m benchmarks.cell_kernel --parts checks --out checks.json
    python -m benchmarks.cell_kernel --sizes a --precision default --unroll 1 8 --out cell_kernel.json
    python -m benchmarks.cell_kernel --quick --out cell_kernel.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import tlstm_jax as tl
from benchmarks import commandline, pallas
from benchmarks.checking import distance
from benchmarks.contenders import CONTENDERS, FLOOR, ours
from benchmarks.networks import IMPLEMENTATIONS
from benchmarks.race import Entry, describe, outcome, race
from benchmarks.record import number
from benchmarks.tasks import PASSES, PRECISIONS, SIZES, Task
from experiments.common.commandline import exit_status
from experiments.common.tables import aligned
from tlstm_jax.fused import coverage

MODULE = "benchmarks.cell_kernel"
CHECKS, TIMES = "checks", "times"
QUICK = {
    "sizes": ["tiny"],
    "models": ["2d"],
    "passes": ["training"],
    "precision": ["highest"],
    "unroll": [1],
    "repetitions": 1,
}
MODELS: dict[str, dict[str, Any]] = {
    "2d": {"tensor_shape": (3,)},
    "2d-wide": {"tensor_shape": (4,), "features": 300},
    "2d-plain": {"tensor_shape": (3,), "kernel_size": 2, "memory_conv": False, "norm": None},
    "3d": {"tensor_shape": (3, 3), "learn_carry": True},
    "3d-bfloat16": {"tensor_shape": (2, 2), "dtype": jnp.bfloat16},
    "2d-remat": {"tensor_shape": (3,), "remat": 2},
    "2d-checkpoint": {"tensor_shape": (3,), "checkpoint": True},
    "2d-default": {"tensor_shape": (3,), "features": 100, "by_default": True},
    "2d-vmap": {"tensor_shape": (3,), "features": 100, "by_default": True, "vmap": True},
}
"""The models to check, with 20 features unless given; ``checkpoint`` is a scan of two calls in jax.checkpoint, ``vmap``
two models in one program, which the kernels leave to XLA by default. ``by_default`` passes no choice of kernel, at the
precision at which one is made."""
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05, "TF32": 0.01}
"""The largest distance of a gradient relative to its norm, with precision "highest" except in TF32."""


class Verdict(NamedTuple):
    """The value that an option should have where it is None, or None if nothing was measured; and the reason."""

    choice: str | None
    reason: str


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    report = commandline.start_report(MODULE, arguments, options)
    with pallas.interpreted():
        for name in options.models if CHECKS in options.parts else ():
            row = check(name)
            report.add([row])  # one by one, so that a stopped command keeps its rows
            print(f"check {name}: {outcome(row) or row['distance']}", flush=True)
        for task in tasks(options) if TIMES in options.parts else ():
            on_gpu = coverage.compute_capability() is not None
            timed = race(entries(task, options.unroll), commandline.limits(options), queue=on_gpu)
            rows = with_ratios(timed, task)
            report.add(rows)
            show(rows, task)
    print(report.path)
    device = jax.devices()[0]
    found = verdict(report.rows, device.platform)
    print(f"None should choose {found.choice or 'xla'} on {device.device_kind}: {found.reason}")
    return 1 if report.failures else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command line."""
    parser = commandline.Parser(MODULE, __doc__)
    parser.add_names("--parts", (CHECKS, TIMES), [CHECKS, TIMES], "what to do")
    parser.add_names("--models", MODELS, list(MODELS), "what to check")
    parser.add_names("--sizes", SIZES, ["a", "d", "memorization-10"], "what to time, among " + " ".join(SIZES))
    text = "timesteps in one iteration of a loop (default: 1 8)"
    parser.add_argument("--unroll", type=commandline.positive_int, nargs="+", default=[1, 8], metavar="N", help=text)
    parser.add_race(["training", "forward"], repetitions=20, seconds=2.0)
    parser.set_defaults(precision=["default", "highest"])
    parser.add_quick(arguments, QUICK)
    return parser.parse(arguments)


def tasks(options: argparse.Namespace) -> Iterator[Task]:
    """Everything to be timed."""
    for size in options.sizes:
        for precision in options.precision:
            for each in options.passes:
                yield Task(SIZES[size], PRECISIONS[precision], PASSES[each])


def entries(task: Task, unrolls: Sequence[int]) -> dict[str, Entry]:
    """Both kernels with each number of timesteps in an iteration, and the bare products."""
    contenders = [
        ours(f"{name}-{unroll}", f"kernel={name!r}, unroll={unroll}", name, unroll=unroll)
        for unroll in unrolls
        for name in ("xla", "mosaic")
    ]
    return {contender.name: Entry(contender, task) for contender in (*contenders, CONTENDERS[FLOOR])}


def check(name: str) -> dict[str, Any]:
    """A row with the largest distance of a leaf of a model's results from XLA's, relative to the leaf's norm."""
    model = {"features": 20, **MODELS[name]}
    how = {option: model.pop(option, False) for option in ("remat", "checkpoint", "vmap", "by_default")}
    cfg, ours = tl.TLSTMConfig(**model), "auto" if how["by_default"] else "mosaic"
    dtype = "TF32" if how["by_default"] else jnp.dtype(cfg.dtype or jnp.float32).name
    row: dict[str, Any] = {"check": name, "dtype": dtype}
    if reason := pallas.unavailable(Task(SIZES["tiny"], PRECISIONS["highest"], training=True)):
        return row | {"unavailable": reason}
    try:
        (exact, _), (found, kernels) = (results(cfg, IMPLEMENTATIONS[name], **how) for name in ("xla", ours))
    except Exception as error:  # go on with the other checks and the times
        return row | {"error": describe(error)}
    distances = {path: distance(found[path], exact[path]) for path in exact}
    worst = max(distances, key=lambda path: np.nan_to_num(distances[path], nan=np.inf))
    row |= {"distance": distances[worst], "leaf": worst}
    if not distances[worst] <= TOLERANCE[dtype]:  # so that NaN does not pass
        row["error"] = f"{worst} is off by {distances[worst]:.2g} of its norm"
    elif how["by_default"] and coverage.compute_capability() == coverage.TIMED_CAPABILITY and kernels == how["vmap"]:
        row["error"] = (
            f"the program has {'' if kernels else 'no '}kernels, which it should {'not ' if kernels else ''}have"
        )
    return row


def results(
    cfg: tl.TLSTMConfig,
    implementation: Any,
    remat: int | bool = False,
    checkpoint: bool = False,
    vmap: bool = False,
    by_default: bool = False,
) -> tuple[dict[str, np.ndarray[Any, Any]], bool]:
    """Outputs, the last state, and all gradients, by name; and whether the program has our own kernels."""
    batch, steps, features = 3, 6, 4
    rng = np.random.default_rng(0)

    def draw(shape: tuple[int, ...], scale: float = 0.3) -> Any:
        return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)

    shapes = cfg.param_shapes(features)
    params = {group: {name: draw(shape) for name, shape in leaves.items()} for group, leaves in shapes.items()}
    xs, reset = draw((batch, steps, features), 1.0), jnp.asarray(rng.random((batch, steps)) < 0.3)
    state = None if cfg.learn_carry else jax.tree.map(lambda z: draw(z.shape), tl.init_state(cfg, (batch,)))
    lengths, weights = jnp.asarray([6, 4, 0]), [draw((cfg.features,), 1.0) for _ in range(3)]

    def run_once(params: Any, xs: Any, state: Any) -> Any:
        return tl.unroll(
            params,
            xs,
            cfg,
            initial_state=state,
            seq_lengths=lengths,
            reset=reset,
            remat=remat,
            implementation=implementation,
            unroll=1 if implementation == IMPLEMENTATIONS["xla"] else None,  # which compiles fastest
        )

    def loss(params: Any, xs: Any, state: Any) -> Any:
        if checkpoint:
            body = jax.checkpoint(lambda state, xs: run_once(params, xs, state))
            last, ys = jax.lax.scan(body, state, jnp.stack([xs, 2 * xs]))
        else:
            last, ys = run_once(params, xs, state)
        parts = [ys, *jax.tree.leaves(last)]
        total = sum(jnp.sum(part.astype(jnp.float32) @ w) for part, w in zip(parts, weights, strict=True))
        return total, {"outputs": ys, "state": last}

    with jax.default_matmul_precision("default" if by_default else "highest"):
        run = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
        arguments = (params, xs, state)
        if vmap:
            run, arguments = jax.vmap(run), jax.tree.map(lambda z: jnp.stack([z, 1.1 * z]), arguments)
        lowered = jax.jit(run).lower(*arguments)
    (_, values), gradients = lowered.compile()(*arguments)
    named = values | {"d": dict(zip(("params", "xs", "state"), gradients, strict=True))}
    leaves = jax.tree_util.tree_leaves_with_path(named)
    found = {jax.tree_util.keystr(path): np.asarray(leaf, np.float32) for path, leaf in leaves}
    return found, "mosaic_gpu" in lowered.as_text()


def with_ratios(rows: list[dict[str, Any]], task: Task) -> list[dict[str, Any]]:
    """The rows of a task with microseconds per timestep, compared with the fastest time with XLA's kernels."""
    medians = [row["median_ms"] for row in rows if row["contender"].startswith("xla") and "median_ms" in row]
    for row in rows:
        median = row.get("median_ms")
        for name, milliseconds in (("us", median), ("queued_us", row.get("queued_ms"))):
            per_timestep = None if milliseconds is None else 1e3 * milliseconds / task.size.total_steps
            row[f"{name}_per_timestep"] = per_timestep
        row["ratio_to_xla"] = median / min(medians) if median and medians else None
    return rows


def show(rows: Sequence[Mapping[str, Any]], task: Task) -> None:
    """Prints the rows of a task."""
    print(f"\n{task.size.name}: {task.size.title}, {task.pass_name}, {task.precision.name}")
    ran = [row for row in rows if not outcome(row)]
    columns = ("us_per_timestep", "queued_us_per_timestep", "ratio_to_xla", "compile_seconds")
    cells = [(row["contender"], *(number(row[column]) for column in columns)) for row in ran]
    print(aligned([("", "us", "queued us", "/ xla", "compile s"), *cells], numbers=True), flush=True)
    for row in rows:
        if outcome(row):
            print(f"{row['contender']}: {outcome(row)}", flush=True)


def verdict(rows: Sequence[Mapping[str, Any]], platform: str) -> Verdict:
    """The value that kernel=None should have on this platform: "mosaic" if it is correct and always faster."""
    of_kernel = [row for row in rows if "check" in row or row["contender"].startswith("mosaic")]
    failed = [
        f"check {row['check']}" if "check" in row else f"{row['contender']} at {row['size']}"
        for row in of_kernel
        if "error" in row
    ]
    if failed:
        return Verdict("xla", f"failed here: {', '.join(failed)}")
    best: dict[tuple[str, ...], float] = {}
    for row in of_kernel:
        if row.get("ratio_to_xla"):
            key = (row["size"], row["precision"], row["pass"])
            best[key] = min(row["ratio_to_xla"], best.get(key, np.inf))
    if not best and (reasons := [row["unavailable"] for row in of_kernel if "unavailable" in row]):
        return Verdict("xla", f"the kernel cannot run here: {reasons[0]}")
    if platform != "gpu" or not best:
        return Verdict(None, "the kernel has not been timed on a GPU here")
    slowest = max(best, key=lambda key: best[key])
    ratios = f"{min(best.values()):.2f} to {best[slowest]:.2f} of xla's time (most at {' '.join(slowest)})"
    if best[slowest] >= 1:
        return Verdict("xla", f"mosaic takes {ratios}")
    if not any("check" in row for row in rows):
        return Verdict(None, f"mosaic takes {ratios}, but was not checked")
    return Verdict("mosaic", f"it takes {ratios}")


if __name__ == "__main__":
    sys.exit(exit_status(main, resumable=False))
