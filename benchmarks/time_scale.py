"""Vary the two constants of the time scale: the gates' longest time constant, and the time of the transport.

``TLSTMConfig(time_scale=T)`` sets the gates' time constants to 1..2T timesteps and carries memory across the tensor in
0.85T timesteps. Here the two factors are varied, in a grid or one at a time, on a task. Each run has a workdir, and the
same command resumes or skips it. Options of the task follow after ``--``.

Examples:
    python -m benchmarks.time_scale memorization --gates 1 2 4 --transport 0.4 0.85 1.7 --one-at-a-time -- --length 6
    python -m benchmarks.time_scale addition --gates 2 --transport 0.4 0.85 1.7 --together
    python -m benchmarks.time_scale mnist --gates 1 2 4 -- --data digits --time-scale 64
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import commandline
from benchmarks.record import Report, default_path
from experiments import tasks
from experiments.common.commandline import command_line, exit_status, user_path
from experiments.common.errors import UsageError
from experiments.common.tables import aligned
from experiments.running import runs
from experiments.running import workdir as wd
from experiments.running.experiment import Experiment
from experiments.running.members import Member
from tlstm_jax import biases
from tlstm_jax.config import TLSTMConfig

MODULE = "benchmarks.time_scale"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    options, rest = parse(arguments[:cut]), arguments[cut + 1 :]
    members = [planned(options, rest, *point) for point in points(options)]
    path = options.out or default_path(f"time-scale-{members[0].experiment.name.replace(' ', '-')}")
    report = Report(path, command_line(MODULE, arguments), {**commandline.recorded(options), "task_options": rest})
    for group in [members] if options.together else [[each] for each in members]:
        diverged = runs.train(group, ended=lambda number: None)
        report.add(row(each, number in diverged) for number, each in enumerate(group))
    print(aligned([list(report.rows[0]), *(list(map(str, each.values())) for each in report.rows)]))
    print(report.path)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command line."""
    parser = commandline.Parser(MODULE, __doc__)
    parser.add_argument("task", choices=list(tasks.TASKS), metavar="TASK", help=", ".join(tasks.TASKS))
    factor, ours = commandline.positive_float, {"gates": biases.LONGEST, "transport": biases.TRANSPORT}
    for name, about in (("gates", "longest time constant of the gates"), ("transport", "time of the transport")):
        text = f"{about}, relative to the task's time scale (default: the library's, {ours[name]:g})"
        parser.add_argument(f"--{name}", type=factor, nargs="+", default=[ours[name]], metavar="X", help=text)
    text = "vary each factor with the library's value of the other, instead of a grid"
    parser.add_argument("--one-at-a-time", action="store_true", help=text)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="(default: 0 1 2)")
    parser.add_argument("--together", action="store_true", help="train all runs in one program, as a GPU is faster")
    text = "folder for the workdirs (default: runs/time-scale)"
    parser.add_argument("--folder", type=user_path, default=Path("runs/time-scale"), metavar="FOLDER", help=text)
    parser.add_out()
    return parser.parse(arguments)


def points(options: argparse.Namespace) -> list[tuple[int, float, float]]:
    """The seed and the two factors of each run."""
    pairs = list(itertools.product(options.gates, options.transport))
    if options.one_at_a_time:
        pairs = [(gates, biases.TRANSPORT) for gates in options.gates]
        pairs += [(biases.LONGEST, transport) for transport in options.transport]
    return [(seed, *pair) for seed in options.seeds for pair in dict.fromkeys(pairs)]


def planned(options: argparse.Namespace, rest: Sequence[str], seed: int, gates: float, transport: float) -> Member:
    """A run of the task whose initial biases have these two factors.

    Raises:
        UsageError: an option does not fit.
    """
    module: Any = tasks.find(options.task).module
    task: Any = module.parse([*rest, "--seed", str(seed)])
    try:
        built = experiment(module, task, gates, transport)
    except ValueError as error:
        raise UsageError(error) from error
    folder = f"{built.name} {built.model.title} gates={gates:g} transport={transport:g} seed={seed}"
    workdir = options.folder / folder.replace(" ", "-").replace("=", "")
    return runs.plan(lambda: built, dataclasses.replace(task.train, workdir=workdir))


def experiment(module: Any, options: Any, gates: float, transport: float) -> Experiment:
    """The task's experiment with these initial biases instead of its own.

    Raises:
        ValueError: an option does not fit.
    """
    built: Experiment = module.build(options)
    if built.model.model != "tlstm" or not built.model.time_scale:
        raise ValueError(
            "this varies the start of a tLSTM with a time scale: leave out --model and --time-scale 0; digits and text "
            "have no time scale by default: give --time-scale 64, for example."
        )
    layer = built.params["layer"]
    bias = initial_bias(built.model.config, layer["hidden"]["bias"], options.train.seed, gates, transport)
    params = {**built.params, "layer": {**layer, "hidden": {**layer["hidden"], "bias": bias}}}
    config = {**built.config, "gates": gates, "transport": transport}
    return dataclasses.replace(built, params=params, config=config)


def initial_bias(cfg: TLSTMConfig, bias: jax.Array, seed: int, gates: float, transport: float) -> jax.Array:
    """The bias with the gates of time constants up to ``gates * T`` and a transport in ``transport * T`` timesteps."""
    m, scale = cfg.features, cfg.time_scale or 0.0
    i, f = biases.chrono_biases(jax.random.key(seed), m, gates * scale / biases.LONGEST, bias.dtype)
    bias = bias.at[m : 2 * m].set(i).at[2 * m : 3 * m].set(f)
    if cfg.has_memory_kernel:
        carried = dataclasses.replace(cfg, time_scale=max(1.0, transport * scale / biases.TRANSPORT))
        bias = bias.at[4 * m :].set(jnp.asarray(biases.transport_logits(carried), bias.dtype))
    return bias


def row(member: Member, diverged: bool) -> dict[str, Any]:
    """The result of a run: the samples until it was solved and, of the best parameters, the measure of the task."""
    summary = {} if diverged else wd.read_summary(member.workdir) or {}
    measure = tasks.find(member.config["task"]).measure
    found = {f"{split}_{measure}": summary.get(f"{split}_{measure}") for split in ("validation", "test")}
    return {
        "task": member.experiment.title,
        "time_scale": member.experiment.model.config.time_scale,
        "gates": member.config["gates"],
        "transport": member.config["transport"],
        "seed": member.options.seed,
        "solved": summary.get("solved", False),
        "samples": summary.get("samples"),
        **{name: round(value, 4) for name, value in found.items() if value is not None},
    }


if __name__ == "__main__":
    sys.exit(exit_status(main))
