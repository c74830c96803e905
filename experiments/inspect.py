"""Looks inside a trained model: its memory while it reads an example (figure 6 of the paper), and its receptive field.

Writes memory.png, reach.png and their data, data.npz, into WORKDIR/inspect. The run may still be training.

Examples:
    python -m experiments.inspect WORKDIR
    python -m experiments.inspect WORKDIR --example 3 --timestep 40 --out FOLDER --data-file enwik8.gz
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import tlstm_jax as tl
from experiments import tasks
from experiments.common import commandline
from experiments.common.commandline import tyro
from experiments.common.errors import UsageError
from experiments.common.files import writing
from experiments.reporting import inside_figures
from experiments.reporting.inside_figures import Inside, Shown
from experiments.running import workdir as wd
from experiments.running.examples import Example, Request
from experiments.running.models import PAPER_MODELS, ModelOptions
from experiments.running.pretrained import best_so_far
from tlstm_jax import stacked

WORK = 2e11
"""Multiplications to spend on the gradients of an example; limits the number of outputs that are differentiated."""
FEWEST = 3
"""The least number of outputs to differentiate, whatever the work."""
DATA_OPTIONS = ("data_dir", "data_file", "prepared_dir")


@dataclasses.dataclass(frozen=True)
class Options:
    """Looks inside a trained model: its memory while it reads an example, and its receptive field."""

    workdir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="WORKDIR")]
    """The workdir of the run, of any task."""
    out: Path | None = None
    """Folder for the figures and the data. Default: the folder inspect in the workdir."""
    example: int = 0
    """Index of the test example, from 0; for a text, the index of a part of a hundred characters."""
    timestep: int | None = None
    """The output whose gradients to take, from 0. Default: as many outputs as take about a minute."""
    data_dir: Path | None = None
    """As for the run, if its task has this option."""
    data_file: Path | None = None
    """As for the run, if its task has this option."""
    prepared_dir: Path | None = None
    """As for the run, if its task has this option."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    return commandline.exit_status(lambda: run(commandline.parse(Options, arguments, prog="experiments.inspect")))


def run(options: Options) -> int:
    """Records the model's memory and gradients, draws them, and prints a summary."""
    config = wd.read_config(options.workdir)
    model = ModelOptions.recorded(config)
    if model.rival is not None:
        raise UsageError(
            f"workdir must hold a run of {', '.join(PAPER_MODELS)}, whose memory cells can be drawn, got one of "
            f"{model.model} in {options.workdir}"
        )
    task, example = example_of(config, options)
    params, state = trained(options.workdir, example)
    title = f"{task.setting(config)}, {model.title}"
    print(f"{title}: {state}")
    inside = look(example, params, model, options.timestep)
    folder = options.out or options.workdir / wd.INSIDE
    write(folder, inside, shown(example), title)
    print(inside.summary())
    return 0


def example_of(config: dict[str, Any], options: Options) -> tuple[tasks.TaskInfo, Example]:
    """The task of a run with this configuration, and the example that the options ask for.

    Raises:
        UsageError: the task is unknown, an option does not belong to it, or there is no such example.
        WorkdirError: the configuration is incomplete.
        DataError: the task's data cannot be loaded, or is not the run's.
    """
    try:
        task = tasks.find(config["task"])
    except ValueError as error:
        raise UsageError(error) from error
    for name in DATA_OPTIONS:
        if getattr(options, name) is not None and name not in task.data_options:
            raise UsageError(f"{name} does not belong to {task.name}: leave it out")
    places = {name: getattr(options, name) for name in DATA_OPTIONS}
    try:
        return task, task.module.example(config, Request(options.example, options.workdir, **places))
    except KeyError as error:
        raise wd.WorkdirError(f"{options.workdir / wd.CONFIG} lacks {error}: restore it") from error


def shown(example: Example) -> Shown:
    """The example as the figures print it."""
    if example.symbols is None:
        return Shown(example.end, pixels=np.asarray(example.xs[:, 0]))
    inputs, targets = ([example.alphabet[symbol] for symbol in row] for row in example.symbols)
    return Shown(example.end, inputs, targets, example.alphabet)


def trained(workdir: Path, example: Example) -> tuple[Any, str]:
    """The best parameters so far and a line about them. Nothing is changed in the workdir."""
    inputs = example.xs[None] if example.symbols is None else example.symbols[:1]
    shapes = jax.eval_shape(cast(nn.Module, example.network).init, jax.random.key(0), inputs)["params"]
    params, meta = best_so_far(workdir, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes))
    summary = wd.read_summary(workdir)
    if summary is not None:
        return params, str(summary["headline"])
    if not meta["history"]:
        step = meta.get("best_step")  # earlier versions saved the initial parameters until the first evaluation
        which = "initial parameters" if step is None else f"parameters after step {step}"
        return params, f"NOT FINISHED, and not tested yet: these are the {which}"
    last = meta["history"][-1]
    return params, f"NOT FINISHED: the best of the first {last['epoch']} epochs, {last['samples']:,} samples"


def look(example: Example, params: Any, model: ModelOptions, timestep: int | None) -> Inside:
    """Runs the model over the example and takes its gradients."""
    steps = len(example.xs)
    if timestep is not None and not 0 <= timestep < steps:
        raise UsageError(f"timestep must be in 0..{steps - 1}, got {timestep}")
    outputs = spread(steps, affordable(model, params, steps)) if timestep is None else np.array([timestep])
    field = answers = None
    if model.model == "slstm":
        means = stack_memory(params["layer"], example.xs, model.stack_config)
        places = np.arange(1, model.layers + 1)[:, None]
    else:
        cfg = model.config
        means = tl.inspect.record(params["layer"], example.xs, cfg, lambda now: diagonal_means(now, cfg))
        indices = np.moveaxis(np.indices(cfg.tensor_shape), 0, -1) + 1
        places = np.asarray(tl.inspect.diagonal(cast(Any, indices), cfg))
        field = tl.inspect.receptive_field(cfg, steps, outputs)
    layer = {"params": params["layer"]}
    norms = tl.inspect.sensitivity(lambda xs: cast(Any, example.network.layer.apply(layer, xs)), example.xs, outputs)
    if example.symbols is not None:
        _, logits = cast(Any, example.network.apply({"params": params}, example.symbols[:1]))
        answers = np.asarray(logits[0].argmax(-1), np.int32)
    return Inside(
        kind=model.model,
        memory=np.asarray(means, np.float32),
        places=places,
        delay=model.delay,
        outputs=outputs,
        norms=np.asarray(norms, np.float32),
        field=field,
        inputs=np.asarray(example.xs[:, 0]) if example.symbols is None else example.symbols[0],
        targets=None if example.symbols is None else example.symbols[1],
        answers=answers,
    )


def diagonal_means(now: tl.inspect.Moment, cfg: tl.TLSTMConfig) -> jax.Array:
    """The rows of figure 6: channel means of the memory cells, or for a tRNN, which has none, of the hidden state."""
    return tl.inspect.channel_means(tl.inspect.diagonal(now.h if now.c is None else now.c, cfg))


@functools.partial(jax.jit, static_argnames="cfg")
def stack_memory(params: Any, xs: jax.Array, cfg: stacked.StackedLSTMConfig) -> jax.Array:
    """The mean over the channels of each layer's memory cells, ``(T, L)``."""

    def step(state: tl.TLSTMState, x: jax.Array) -> tuple[tl.TLSTMState, jax.Array]:
        state, _ = stacked.unroll(params, x[None], cfg, initial_state=state)
        return state, cast(jax.Array, state.c).mean(-1)

    like, _ = stacked.unroll(params, xs[:1], cfg)
    return jax.lax.scan(step, jax.tree.map(jnp.zeros_like, like), xs)[1]


def affordable(model: ModelOptions, params: Any, steps: int) -> int:
    """The number of outputs to differentiate: each takes M rows of a Jacobian, each row a backward pass over time."""
    locations = model.layers if model.model == "slstm" else math.prod(model.tensor_shape)
    sets = 1 if model.model != "slstm" or model.shared else model.layers
    kernels = sum(leaf.size for leaf in jax.tree.leaves(params["layer"]) if leaf.ndim > 1) // sets
    return max(FEWEST, int(WORK / (steps * model.features * locations * kernels)))


def spread(steps: int, count: int) -> NDArray[np.int64]:
    """``count`` evenly spaced timesteps, including the last one; all of them if there are fewer."""
    count = min(count, steps)
    return steps - 1 - np.arange(count)[::-1] * steps // count


def write(folder: Path, inside: Inside, shown: Shown, title: str) -> None:
    """Writes the figures and the data, and prints their names."""
    arrays: dict[str, Any] = inside.arrays()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {folder} ({error.strerror or error}): give --out a folder") from error
    with writing(folder / "memory.png") as path:
        inside_figures.draw_memory(path, inside, shown, title)
    print(f"{folder / 'memory.png'}: {inside.what}, mean over channels, at {len(inside.places)} {inside.rows}")
    with writing(folder / "reach.png") as path:
        inside_figures.draw_reach(path, inside, title)
    print(f"{folder / 'reach.png'}: gradients of {len(inside.outputs)} outputs")
    with writing(folder / "data.npz") as path, path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    print(f"{folder / 'data.npz'}: {', '.join(arrays)}")


if __name__ == "__main__":
    sys.exit(main())
