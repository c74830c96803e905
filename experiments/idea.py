"""Draw docs/idea.png: an input on its way through the tensor, from the corner where it enters to the opposite one.

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
from matplotlib.figure import Figure
from numpy.typing import NDArray

import tlstm_jax as tl
from experiments.common import commandline
from experiments.common.errors import UsageError
from experiments.common.figures import STYLE, write_png
from experiments.common.files import writing

AFTER = 2
"""Timesteps to draw after the one in which the output leaves."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Draw an input on its way through the tensor."""

    out: Path = Path("docs") / "idea.png"
    """The PNG to write."""
    size: int = 4
    """P: the tensor has P x P locations and the depth L = P."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    return commandline.exit_status(lambda: run(commandline.parse(Options, arguments, prog="experiments.idea")))


def run(options: Options) -> int:
    """Computes the gradients and draws them."""
    if not 2 <= options.size <= 8:
        raise UsageError(f"size must be in 2..8, got {options.size}")
    cfg = tl.TLSTMConfig(features=32, tensor_shape=(options.size, options.size), forget_bias=1.0, conveyor_bias=2.0)
    timesteps = cfg.depth + AFTER
    with writing(options.out) as path:
        draw(path, influence(cfg, timesteps), cfg)
    print(f"{options.out}: the influence of an input on each location during {timesteps} timesteps")
    return 0


def influence(cfg: tl.TLSTMConfig, num_timesteps: int) -> NDArray[Any]:
    """The gradient norms ||d h_{t, p} / d x_0|| of an untrained model, ``(num_timesteps, *tensor_shape)``."""
    params = tl.init_params(jax.random.key(0), 1, cfg)

    def states(x: jax.Array) -> jax.Array:
        xs = jnp.zeros((num_timesteps, 1)).at[0].set(x)
        return tl.inspect.record(params, xs, cfg, lambda now: now.h)[:num_timesteps]

    return np.asarray(jnp.linalg.norm(jax.jacfwd(states)(jnp.ones(1))[..., 0], axis=-1))


def draw(path: Path, values: NDArray[Any], cfg: tl.TLSTMConfig) -> None:
    """Writes a PNG with a grid of locations for each timestep, shaded by influence, and a key for the shades."""
    size = cfg.tensor_shape[0]
    shares = values / values.max(axis=(1, 2), keepdims=True)
    with mpl.rc_context({**STYLE, "font.size": 10}):
        figure = Figure(figsize=(1.75 * len(values) + 0.6, 2.7), dpi=120, layout="constrained")
        panels = figure.subplots(1, len(values))
        cmap = mpl.colormaps["Blues"].with_extremes(bad="0.95")
        norm = mpl.colors.PowerNorm(0.5, -0.03, 1.2)  # leaves out the palest and darkest blue
        for t, (axes, board) in enumerate(zip(panels, shares, strict=True)):
            picture = axes.imshow(np.ma.masked_equal(board, 0), cmap=cmap, norm=norm)
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
        key = figure.colorbar(picture, ax=panels[-1], aspect=12, ticks=[0, 0.25, 1], pad=0.08)
        key.ax.set(
            ylim=(0, 1), yticklabels=["0", "25%", "100%"], ylabel="share of the largest\ngradient of the timestep"
        )
        key.outline.set_visible(False)
        figure.suptitle(
            f"Influence of the input $x_t$ on {size} x {size} locations with one kernel; gray: none yet. "
            f"$y_t$ leaves after L - 1 = {cfg.delay} timesteps"
        )
        write_png(figure, path)


def arrow(axes: Any, text: str, to: tuple[float, float], of: tuple[float, float]) -> None:
    """Draws an arrow with a text at its tail."""
    style = {"arrowstyle": "-|>", "color": "tab:orange", "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate(text, to, of, arrowprops=style, ha="center", va="center", annotation_clip=False)


if __name__ == "__main__":
    sys.exit(main())
