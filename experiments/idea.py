"""The picture of the idea: an input on its way through the tensor, from the corner where it enters to the opposite one.

Examples:
    python -m experiments.idea
    python -m experiments.idea --size 5 --out idea.png
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import tyro
from matplotlib.figure import Figure
from numpy.typing import NDArray

import tlstm_jax as tl
from experiments.common.figures import STYLE
from experiments.running import runs
from experiments.running import workdir as wd

AFTER = 2
"""Timesteps to show after the answer has left."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The picture of the idea: an input on its way through the tensor."""

    out: Path = Path("docs") / "idea.png"
    """The PNG to write."""
    size: int = 4
    """P: the tensor has P x P locations, and the depth P."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = tyro.cli(Options, args=arguments, prog="python -m experiments.idea")
    return runs.exit_status(lambda: run(options))


def run(options: Options) -> int:
    """Draws it."""
    if not 2 <= options.size <= 8:
        raise runs.UsageError(f"size must be in 2..8, got {options.size}")
    cfg = tl.TLSTMConfig(features=32, tensor_shape=(options.size, options.size), forget_bias=1.0, conveyor_bias=2.0)
    with wd.writing(options.out) as path:
        draw(path, felt(cfg, cfg.depth + AFTER), cfg)
    print(f"{options.out}: how much each location feels an input, {cfg.depth + AFTER} timesteps from its arrival on")
    return 0


def felt(cfg: tl.TLSTMConfig, num_timesteps: int) -> NDArray[Any]:
    """||d h_{t, p} / d x_0|| of an untrained model, ``(num_timesteps, *tensor_shape)``."""
    params = tl.init_params(jax.random.key(0), 1, cfg)

    def states(x: jax.Array) -> jax.Array:
        xs = jnp.zeros((num_timesteps, 1)).at[0].set(x)
        return tl.inspect.record(params, xs, cfg, lambda now: now.h)[:num_timesteps]

    return np.asarray(jnp.linalg.norm(jax.jacfwd(states)(jnp.ones(1))[..., 0], axis=-1))


def draw(path: Path, values: NDArray[Any], cfg: tl.TLSTMConfig) -> None:
    """A board for each timestep; on each the darkest is what feels the input most."""
    size, last = cfg.tensor_shape[0], len(values) - 1
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.75 * len(values), 2.5), layout="constrained")
        for t, (axes, board) in enumerate(zip(figure.subplots(1, last + 1), values, strict=True)):
            reached = board > 0
            shades = np.where(reached, 0.12 + 0.88 * (board / board.max()) ** 0.5, 0.0)
            axes.imshow(shades, cmap="Blues", vmin=-0.1, vmax=1.25)
            axes.set(xticks=np.arange(size + 1) - 0.5, yticks=np.arange(size + 1) - 0.5)
            axes.set(xticklabels=[], yticklabels=[], title="t" if t == 0 else f"t + {t}")
            axes.grid(color="white", linewidth=2)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            if t == 0:
                arrow(axes, "$x_t$", (0, 0), (-0.9, -0.9))
            if t == cfg.delay:
                arrow(axes, "", (size - 0.1, size - 0.1), (size - 1, size - 1))
                axes.text(size + 0.15, size + 0.1, "$y_t$", ha="center", va="center")
        figure.suptitle(
            f"{size} x {size} locations, one kernel: what feels the input $x_t$ (untrained 3D tLSTM, L = {cfg.depth})"
        )
        figure.savefig(path, format="png", dpi=120)


def arrow(axes: Any, text: str, to: tuple[float, float], of: tuple[float, float]) -> None:
    """An arrow, with a text at its tail."""
    style = {"arrowstyle": "-|>", "color": "tab:orange", "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate(text, to, of, arrowprops=style, ha="center", va="center", annotation_clip=False)


if __name__ == "__main__":
    sys.exit(main())
