"""Draw docs/memory_kernel.png: the memory kernel at one location of a tLSTM that has learned to memorize.

Trains a 2D tLSTM on memorization, in about a minute on one CPU core, and draws the mean weights (eq. 16) with which the
location mixes the memory cell of the location before it, its own, and that of the location after it.

Examples:
    python -m experiments.memory_kernel
    python -m experiments.memory_kernel --seed 2 --location 2 --out kernel.png
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import optax
from matplotlib.figure import Figure
from numpy.typing import NDArray

import tlstm_jax as tl
from experiments import tasks
from experiments.common import commandline
from experiments.common.errors import UsageError
from experiments.common.figures import STYLE, End, label_ends, settle_layout, write_png
from experiments.common.files import writing
from experiments.running import symbols
from experiments.running.networks import SymbolLabeler

BATCH_SIZE = 32
STEPS = 100
"""Training steps between two evaluations, in one call of the compiled function."""
SEQUENCES = 1500
"""Sequences over which the memory kernel is averaged; the accuracy is measured on the same ones."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Draw the memory kernel of a model that has learned to memorize."""

    out: Path = Path("docs") / "memory_kernel.png"
    """The PNG to write."""
    length: int = 5
    """Symbols to remember."""
    num_symbols: int = 17
    """Size of the alphabet, including the blank."""
    locations: int = 4
    """P, which is also the depth L."""
    location: int = 3
    """The location to draw, from 1."""
    features: int = 48
    """M: channels at each location."""
    seed: int = 1
    """Seed for initialization and data."""
    samples: int = 100_000
    """Training samples at most."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    return commandline.exit_status(lambda: run(commandline.parse(Options, arguments, prog="experiments.memory_kernel")))


def run(options: Options) -> int:
    """Trains, records the memory kernel and draws it."""
    if options.locations < 2 or options.features < 2:
        raise UsageError(f"locations and features must be at least 2, got {options.locations} and {options.features}")
    if not 1 <= options.location <= options.locations:
        raise UsageError(f"location must be in 1..{options.locations}, got {options.location}")
    try:
        task = cast(Any, tasks.MEMORIZATION.module).make(options.length, options.num_symbols)
    except ValueError as error:
        raise UsageError(error) from error
    cfg = tl.TLSTMConfig(features=options.features, tensor_shape=(options.locations,), forget_bias=4.0)
    unseen = symbols.samples(task, SEQUENCES, options.seed, 1)
    params, samples, accuracy = train(task, cfg, unseen, options)
    solved = accuracy > symbols.SOLVED
    print(f"{accuracy:.1%} of the symbols are correct after {samples:,} training samples")
    if not solved:
        raise UsageError("memorization is not solved: give another --seed or more --samples")
    weights = memory_kernel(params["layer"], cfg, np.eye(task.num_symbols)[unseen["inputs"]], options.location - 1)
    with writing(options.out) as path:
        draw(path, weights, cfg, options)
    print(f"{options.out}: the memory kernel at location {options.location}, mean of {SEQUENCES} sequences")
    return 0


def train(task: symbols.GeneratedTask, cfg: tl.TLSTMConfig, unseen: Any, options: Options) -> tuple[Any, int, float]:
    """Trains until solved or ``options.samples``; returns the parameters, the samples used and the accuracy."""
    model = SymbolLabeler(tl.linen.TLSTM(cfg, return_carry=True), task.num_symbols)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.exponential_decay(5e-3, 1000, 0.5)))
    params = model.init(jax.random.key(options.seed), jnp.zeros((1, 1), jnp.int32))["params"]
    opt_state = optimizer.init(params)

    def logits(params: Any, inputs: jax.Array) -> jax.Array:
        return cast(Any, model.apply({"params": params}, inputs))[1]

    def step(carry: Any, batch: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        def loss(params: Any) -> jax.Array:
            inputs, targets = batch
            return optax.softmax_cross_entropy_with_integer_labels(logits(params, inputs), targets).mean()

        params, opt_state = carry
        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    @jax.jit
    def steps(params: Any, opt_state: Any, inputs: Any, targets: Any) -> tuple[Any, Any, jax.Array]:
        (params, opt_state), _ = jax.lax.scan(step, (params, opt_state), (inputs, targets))
        right = logits(params, unseen["inputs"]).argmax(-1) == unseen["targets"]
        return params, opt_state, right.mean(where=unseen["targets"] != symbols.BLANK)

    samples, accuracy = 0, 0.0
    while samples < options.samples and accuracy <= symbols.SOLVED:
        batch = symbols.samples(task, STEPS * BATCH_SIZE, options.seed, 0, samples)
        batches = (batch[name].reshape(STEPS, BATCH_SIZE, -1) for name in ("inputs", "targets"))
        params, opt_state, found = steps(params, opt_state, *batches)
        samples, accuracy = samples + STEPS * BATCH_SIZE, float(found)
    return params, samples, accuracy


def memory_kernel(params: Any, cfg: tl.TLSTMConfig, xs: Any, place: int) -> NDArray[Any]:
    """The mean over the batch of the kernel Q at a location, ``(T + L - 1, K)``, with ``xs`` as ``(batch, T, R)``."""
    xs = jnp.asarray(xs, jnp.float32)
    return np.asarray(tl.inspect.record(params, xs, cfg, lambda now: cast(jax.Array, now.q)[:, place].mean(0)))


def draw(path: Path, weights: NDArray[Any], cfg: tl.TLSTMConfig, options: Options) -> None:
    """Writes a PNG with the weights at every timestep, and when symbols arrive and answers leave."""
    length, place, end = options.length, options.location - 1, len(weights) - 1
    spans = (  # the first and the last timestep
        (1 + place, length + place, "0.93", f"symbols reach location {options.location}"),
        (length + 1 + cfg.delay, 2 * length + cfg.delay, "moccasin", "answers leave"),
    )
    names = (("location before: memory moves on", "C0"), ("own: memory stays", "C1"), ("location after", "C2"))
    with mpl.rc_context({**STYLE, "font.size": 10}):
        figure = Figure(figsize=(9, 2.6), dpi=120, layout="constrained")
        axes = figure.subplots()
        for first, last, color, text in spans:
            axes.axvspan(first - 0.4, last + 0.4, color=color, linewidth=0, zorder=0)
            axes.text((first + last) / 2, 1.06, text, ha="center", color="0.3")
        for column, (name, color) in zip(weights.T, names, strict=True):
            axes.plot(column, marker=".", color=color, label=name)
        axes.set(xlabel="timestep", ylabel="weight", ylim=(-0.04, 1.04), xlim=(-0.3, end + 0.3))
        settle_layout(figure)
        lasts = zip(weights[-1], names, strict=True)
        label_ends(axes, [End(end, float(last), name, color) for last, (name, color) in lasts])
        write_png(figure, path)


if __name__ == "__main__":
    sys.exit(main())
