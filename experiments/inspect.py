"""Inside a trained model: its memory while it reads an example (figure 6 of the paper), and how far its inputs reach.

Draws memory.png and reach.png into WORKDIR/inspect, and keeps what is drawn in data.npz. The run may still be training.

Examples:
    python -m experiments.inspect WORKDIR
    python -m experiments.inspect WORKDIR --example 3 --timestep 40 --out FOLDER --data-file enwik8.gz
"""

from __future__ import annotations

import dataclasses
import functools
import math
import string
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from numpy.typing import NDArray

import tlstm_jax as tl
from experiments import addition, datasets, memorization, mnist
from experiments.datasets import DataError, texts
from experiments.reporting import inside_figures, lines
from experiments.reporting.inside_figures import Inside, Shown
from experiments.running import runs, symbols
from experiments.running import workdir as wd
from experiments.running.models import LastStepClassifier, ModelOptions, SymbolLabeler
from tlstm_jax import stacked

CHARACTERS = 100
"""Of a text, as many are an example."""
WORK = 2e11
"""Multiplications that may go into the gradients of an example; of at least :data:`FEWEST` outputs all the same."""
FEWEST = 3
READS = {"mnist": ("data_dir", "prepared_dir"), "wikipedia": ("data_file", "prepared_dir")}
"""The tasks that need data, and the options that say where it is."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Inside a trained model: its memory while it reads an example, and how far its inputs reach."""

    workdir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="WORKDIR")]
    """Of the run, of any task."""
    out: Path | None = None
    """Where the pictures and the data go. Default: the folder inspect in the workdir."""
    example: int = 0
    """Which test example, from 0; of a text, which hundred characters of its test part."""
    timestep: int | None = None
    """The output whose gradients to take, from 0. Default: as many outputs as take about a minute."""
    data_dir: Path | None = None
    """mnist: as for the run."""
    data_file: Path | None = None
    """wikipedia: as for the run."""
    prepared_dir: Path | None = None
    """mnist, wikipedia: as for the run."""


class Example(NamedTuple):
    """What a model reads, and the model.

    Args:
        network: the model.
        xs: what its layer gets, ``(T, R)``.
        shown: the same for people.
        symbols: inputs and targets, ``(2, T)``, of a task that labels symbols.
    """

    network: SymbolLabeler | LastStepClassifier
    xs: jax.Array
    shown: Shown
    symbols: NDArray[np.int32] | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = tyro.cli(Options, args=arguments, prog="python -m experiments.inspect")
    return runs.exit_status(lambda: run(options))


def run(options: Options) -> int:
    """Looks inside, draws, and says what is to be seen."""
    config = wd.read_config(options.workdir)
    if config["task"] not in EXAMPLES:
        raise runs.UsageError(f"task must be one of {', '.join(EXAMPLES)}, got {config['task']!r}")
    for name in ("data_dir", "data_file", "prepared_dir"):
        if getattr(options, name) is not None and name not in READS.get(config["task"], ()):
            raise runs.UsageError(f"{name} means nothing to {config['task']}: leave it out")
    model = ModelOptions.recorded(config)
    try:
        example = EXAMPLES[config["task"]](config, model, options)
    except KeyError as error:
        raise wd.WorkdirError(f"{options.workdir / wd.CONFIG} lacks {error}: restore it") from error
    params, state = trained(options.workdir, example)
    title = lines.title(options.workdir, config)
    print(f"{title}: {state}")
    inside = look(example, params, model, options.timestep)
    folder = options.out or options.workdir / wd.INSIDE
    write(folder, inside, example.shown, title)
    print(inside.summary())
    return 0


def generated(make: Callable[[dict[str, Any]], symbols.GeneratedTask]) -> Callable[..., Example]:
    """Examples of a task that makes its own data."""

    def example(config: dict[str, Any], model: ModelOptions, options: Options) -> Example:
        task = make(config)
        batch = symbols.held_out(task, config["seed"])
        number = numbered(options.example, symbols.NUM_TEST)
        both = np.stack([batch[name][number] for name in ("inputs", "targets")])
        digits = string.digits if config["task"] == "addition" else string.ascii_letters + string.digits + "+/"
        alphabet = ["-", *digits, *map(chr, range(0x100, 0x100 + task.num_symbols))][: task.num_symbols]
        end = int(np.flatnonzero(both[0] != symbols.BLANK).max()) + 1
        return labeled(model, both, alphabet, end)

    return example


def text(config: dict[str, Any], model: ModelOptions, options: Options) -> Example:
    """Some characters of the test part of a text, from a zero state."""
    corpus = texts.load(config["data"].split()[0], data_file=options.data_file, prepared_dir=options.prepared_dir)
    if corpus.sha256 != config["sha256"]:
        raise DataError(
            f"the run in {options.workdir} learnt from another text, {config['data']} of {config['characters']:,} "
            f"characters, sha256 {config['sha256'][:12]}.., got {corpus.name} of {len(corpus.text):,}, "
            f"{corpus.sha256[:12]}..: give it the same one"
        )
    begin = CHARACTERS * numbered(options.example, max(1, (len(corpus.test) - 1) // CHARACTERS))
    part = np.searchsorted(corpus.vocabulary, corpus.test[begin : begin + CHARACTERS + 1]).astype(np.int32)
    names = {ord(" "): "␣", ord("\n"): "↵"}
    alphabet = [names.get(byte, chr(byte) if 32 < byte < 127 else "·") for byte in corpus.vocabulary.tolist()]
    return labeled(model, np.stack([part[:-1], part[1:]]), alphabet, len(part) - 1)


def labeled(model: ModelOptions, both: NDArray[np.int32], alphabet: list[str], end: int) -> Example:
    """An example of symbols, each with a label."""
    inputs, targets = ([alphabet[symbol] for symbol in row] for row in both)
    xs = jax.nn.one_hot(both[0], len(alphabet))
    return Example(SymbolLabeler(model.layer(), len(alphabet)), xs, Shown(end, inputs, targets, tuple(alphabet)), both)


def image(config: dict[str, Any], model: ModelOptions, options: Options) -> Example:
    """A test image, pixel by pixel, in the run's order."""
    data = datasets.load(config["data"], data_dir=options.data_dir, prepared_dir=options.prepared_dir)
    number = numbered(options.example, len(data.test))
    order = config["permutation"] and np.array(config["permutation"])
    xs = mnist.sequences(jnp.asarray(data.test.images[number][None]), order, data.max_value)[0]
    return Example(LastStepClassifier(model.layer(), data.num_classes), xs, Shown(len(xs), pixels=np.asarray(xs[:, 0])))


EXAMPLES: dict[str, Callable[[dict[str, Any], ModelOptions, Options], Example]] = {
    "memorization": generated(lambda config: memorization.make(config["length"], config["num_symbols"])),
    "addition": generated(lambda config: addition.make(config["digits"])),
    "mnist": image,
    "wikipedia": text,
}
"""The tasks: from a run's configuration, its model and what was asked for to the example."""


def numbered(example: int, count: int) -> int:
    """The number, checked."""
    if not 0 <= example < count:
        raise runs.UsageError(f"example must be in 0..{count - 1}, got {example}")
    return example


def trained(workdir: Path, example: Example) -> tuple[Any, str]:
    """The best parameters so far, and what is to be known of them; nothing is changed in the workdir."""
    inputs = example.xs[None] if example.symbols is None else example.symbols[:1]
    shapes = jax.eval_shape(cast(nn.Module, example.network).init, jax.random.key(0), inputs)["params"]
    params, meta = runs.best_so_far(workdir, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes))
    summary = wd.read_summary(workdir)
    if summary is not None:
        return params, str(summary["headline"])
    if not meta["history"]:
        return params, "NOT FINISHED, and not tested yet: these are the initial parameters"
    last = meta["history"][-1]
    return params, f"NOT FINISHED: the best of the first {last['epoch']} epochs, {last['samples']:,} samples"


def look(example: Example, params: Any, model: ModelOptions, timestep: int | None) -> Inside:
    """Runs the model over the example and takes its gradients."""
    steps = len(example.xs)
    if timestep is not None and not 0 <= timestep < steps:
        raise runs.UsageError(f"timestep must be in 0..{steps - 1}, got {timestep}")
    outputs = spread(steps, affordable(model, params, steps)) if timestep is None else np.array([timestep])
    field = answers = None
    if model.model == "slstm":
        means = stack_memory(params["layer"], example.xs, model.stack_config)
        places = np.arange(1, model.num_layers + 1)[:, None]
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
    """What a row of figure 6 shows, of a tRNN's hidden state for want of memory cells."""
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
    """How many outputs' gradients are worth waiting for: each is M rows of a Jacobian, each row all timesteps back."""
    locations = model.num_layers if model.model == "slstm" else math.prod(model.tensor_shape)
    sets = 1 if model.model != "slstm" or model.shared else model.num_layers
    kernels = sum(leaf.size for leaf in jax.tree.leaves(params["layer"]) if leaf.ndim > 1) // sets
    return max(FEWEST, int(WORK / (steps * model.features * locations * kernels)))


def spread(steps: int, count: int) -> NDArray[np.int64]:
    """So many timesteps, or all, evenly spread, the last one among them."""
    count = min(count, steps)
    return steps - 1 - np.arange(count)[::-1] * steps // count


def write(folder: Path, inside: Inside, shown: Shown, title: str) -> None:
    """Writes the pictures and the data, and says which."""
    arrays: dict[str, Any] = inside.arrays()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise runs.UsageError(f"cannot write to {folder} ({error.strerror or error}): give --out a folder") from error
    with wd.writing(folder / "memory.png") as path:
        inside_figures.draw_memory(path, inside, shown, title)
    print(f"{folder / 'memory.png'}: {inside.what}, mean over channels, at {len(inside.places)} {inside.rows}")
    with wd.writing(folder / "reach.png") as path:
        inside_figures.draw_reach(path, inside, title)
    print(f"{folder / 'reach.png'}: gradients of {len(inside.outputs)} outputs")
    with wd.writing(folder / "data.npz") as path, path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    print(f"{folder / 'data.npz'}: {', '.join(arrays)}")


if __name__ == "__main__":
    sys.exit(main())
