"""Figures of a model while it reads: its memory over time (the paper's figure 6), and the gradients of its outputs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.common.figures import STYLE, write_png

NEAR = 0.01
"""Gradients above this fraction of the largest count as an influence."""
READABLE = 130
"""The most timesteps for which the symbols are written above the figure."""


@dataclasses.dataclass(frozen=True)
class Shown:
    """An example to plot.

    Args:
        end: the number of timesteps with input; only blanks follow.
        inputs: the input symbol at each timestep, as a character.
        targets: the target symbol at each timestep, as a character.
        alphabet: the character of each symbol.
        pixels: the brightness at each timestep, ``(T,)``.
    """

    end: int
    inputs: list[str] | None = None
    targets: list[str] | None = None
    alphabet: tuple[str, ...] = ()
    pixels: NDArray[np.float32] | None = None


@dataclasses.dataclass(frozen=True)
class Inside:
    """Recordings of a model that reads T inputs.

    Args:
        kind: "tlstm", "trnn" or "slstm".
        memory: the mean over the channels of the memory cells at each row's location, ``(T + delay, L)``.
        places: the location of each row of the figure, counted from 1, ``(L, D - 1)``; the layer of an sLSTM.
        delay: the number of timesteps from an input to its output, L - 1.
        outputs: the timesteps t of the outputs that were differentiated.
        norms: the gradient norms ||d y_t / d x_s||, ``(len(outputs), T)``.
        field: where eq. 9 allows nonzero gradients, ``(len(outputs), T)``; None for an sLSTM.
        inputs: symbols or pixels, ``(T,)``.
        targets: the target symbols, ``(T,)``.
        answers: the symbols that the model predicts, ``(T,)``.
    """

    kind: str
    memory: NDArray[np.float32]
    places: NDArray[np.int64]
    delay: int
    outputs: NDArray[np.int64]
    norms: NDArray[np.float32]
    field: NDArray[np.bool_] | None
    inputs: NDArray[Any]
    targets: NDArray[np.int32] | None
    answers: NDArray[np.int32] | None

    @property
    def what(self) -> str:
        """The recorded quantity: a tRNN has no memory cells."""
        return "hidden state H" if self.kind == "trnn" else "memory cell C"

    @property
    def rows(self) -> str:
        """A name for the rows of the figure."""
        return "layers" if self.kind == "slstm" else "locations on the diagonal"

    @property
    def normalized(self) -> NDArray[np.float32]:
        """The memory, scaled to [0, 1]."""
        low, high = self.memory.min(), self.memory.max()
        return (self.memory - low) / np.where(high > low, high - low, 1)

    @property
    def lags(self) -> NDArray[np.int64]:
        """The lags t - s: negative for inputs after the output's own timestep t."""
        steps = self.norms.shape[1]
        return np.arange(self.outputs[0] - steps + 1, self.outputs[-1] + 1)

    @property
    def mean_norms(self) -> NDArray[np.float32]:
        """The mean of the gradient norms at each lag, over the outputs with an input at that lag; NaN without any."""
        at = self.outputs[:, None] - np.arange(self.norms.shape[1])
        found = [self.norms[at == lag] for lag in self.lags]
        return np.array([each.mean() if each.size else np.nan for each in found], np.float32)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The recordings by name, for a file."""
        found: dict[str, NDArray[Any] | None] = {
            "memory": self.memory,
            "memory_normalized": self.normalized,
            "locations": self.places,
            "inputs": self.inputs,
            "targets": self.targets,
            "answers": self.answers,
            "outputs": self.outputs,
            "gradient_norms": self.norms,
            "receptive_field_predicted": self.field,
            "lags": self.lags,
            "mean_gradient_norms": self.mean_norms,
        }
        return {name: array for name, array in found.items() if array is not None}

    def summary(self) -> str:
        """A line with the lag of the largest gradients, and whether eq. 9 holds."""
        norms = np.nan_to_num(self.mean_norms)
        farthest, strongest = 0, 0
        if norms.any():
            farthest, strongest = self.lags[norms > NEAR * norms.max()].max(), self.lags[norms.argmax()]
        reach = (
            f"gradients are largest at lag {strongest} and above {NEAR:.0%} of the largest up to lag {farthest}, "
            f"of {self.lags[-1]}"
        )
        if self.field is None:
            return f"{reach}; eq. 9 does not apply to an sLSTM, whose outputs have no delay"
        outside, zeros = int((self.norms[~self.field] > 0).sum()), int((self.norms[self.field] == 0).sum())
        if outside:
            violated = f"{outside} gradients outside it are not 0"
            return f"{reach}; the receptive field is NOT the one that eq. 9 predicts: {violated}"
        within = f", except that {zeros} of {int(self.field.sum())} gradients in it underflow to 0" if zeros else ""
        return f"{reach}; the receptive field is the one that eq. 9 predicts for L = {self.delay + 1}{within}"


def draw_memory(path: Path, inside: Inside, shown: Shown, title: str) -> None:
    """Draws the mean over channels of the memory, from the input's location to the output's, against time.

    Args:
        path: the PNG to write.
        inside: the recordings.
        shown: the example, drawn above: inputs when they enter, targets and answers when the outputs leave.
        title: the run's.
    """
    columns, rows = inside.memory.shape
    readable = shown.inputs is not None and columns <= READABLE
    above = 0.7 if readable else 0.25
    with mpl.rc_context(STYLE):
        size = (min(max(0.16 * columns + 2.2, 7), 16), above + 1.5 + 0.3 * max(rows, 3))
        figure = Figure(figsize=size, dpi=110, layout="constrained")
        figure.suptitle(f"{title}: {inside.what}, mean over channels")
        ratios = [above, size[1] - above - 1]
        strip, axes = figure.subplots(2, 1, sharex=True, height_ratios=ratios)
        if readable:
            write_symbols(strip, inside, shown)
        elif shown.pixels is not None:
            strip.imshow(shown.pixels[None], cmap="gray", aspect="auto")
            strip.set(yticks=[0], yticklabels=["pixel"])
        else:
            strip.set_axis_off()
        picture = axes.imshow(
            inside.normalized.T, aspect="auto", interpolation="nearest", cmap="viridis", vmin=0, vmax=1
        )
        ends = {"input ends": shown.end, "zeros from here": len(inside.inputs)}
        for (name, end), line in zip(ends.items(), ("--", ":"), strict=True):
            if end < columns and (name == "input ends" or end != shown.end):
                axes.axvline(end - 0.5, color="white", linestyle=line, linewidth=1.2)
                strip.axvline(end - 0.5, color="0.3", linestyle=line, linewidth=1.2)
                strip.annotate(
                    name,
                    (end - 0.5, 1),
                    (2, 1),
                    xycoords=("data", "axes fraction"),
                    textcoords="offset points",
                    fontsize="small",
                    color="0.3",
                    annotation_clip=False,
                )
        names = [",".join(map(str, place)) for place in inside.places.tolist()]
        ticks = range(0, rows, -(-rows // 20))
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
        axes.set(xlabel="timestep", ylabel="layer" if inside.kind == "slstm" else "location")
        axes.set(yticks=list(ticks), yticklabels=[names[i] for i in ticks])
        figure.colorbar(picture, ax=[strip, axes], label="scaled to 0..1", pad=0.01)
        write_png(figure, path)


def write_symbols(axes: Any, inside: Inside, shown: Shown) -> None:
    """Writes rows of symbols, wrong answers in red."""
    assert inside.answers is not None
    assert inside.targets is not None
    answers = [shown.alphabet[symbol] for symbol in inside.answers]
    right = inside.answers == inside.targets
    lines = (("input", shown.inputs, 0), ("target", shown.targets, inside.delay), ("answer", answers, inside.delay))
    for row, (name, line, delay) in enumerate(lines):
        for t, character in enumerate(line or ()):
            colour = "tab:red" if name == "answer" and not right[t] else "black"
            place = {"ha": "center", "va": "center", "family": "monospace", "parse_math": False}
            axes.text(t + delay, row, character, color=colour, **place)
    axes.set(ylim=(2.6, -0.6), yticks=range(3), yticklabels=[name for name, *_ in lines])
    axes.tick_params(length=0, labelbottom=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_reach(path: Path, inside: Inside, title: str) -> None:
    """Draws the gradient norms: on the left against the lag, on the right for each output and input.

    Args:
        path: the PNG to write.
        inside: the recordings.
        title: the run's.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.2), dpi=110, layout="constrained")
        figure.suptitle(f"{title}: gradients of the outputs with respect to the inputs")
        left, right = figure.subplots(1, 2)
        against_lag(left, inside)
        picture = field(right, inside)
        if picture is not None:
            figure.colorbar(picture, ax=right, label=r"$\log_{10}\,\|\partial y_t / \partial x_s\|$")
        write_png(figure, path)


def against_lag(axes: Any, inside: Inside) -> None:
    """Draws each output's gradient norms against the lag, and their mean."""
    inputs = np.arange(inside.norms.shape[1])
    positive = np.where(inside.norms > 0, inside.norms, np.nan)  # zeros have no logarithm
    for t, norms in zip(inside.outputs, positive, strict=True):
        axes.plot(t - inputs, norms, color="0.8", linewidth=0.6)
    mean = inside.mean_norms
    axes.plot(inside.lags, np.where(mean > 0, mean, np.nan), marker="." if len(mean) <= READABLE else None)
    if np.nansum(mean) > 0:
        near = NEAR * float(np.nanmax(mean))
        axes.set(yscale="log", ylim=(max(near * 1e-6, min(near, np.nanmin(positive)) / 2), None))
        axes.axhline(near, color="0.4", linestyle=":", linewidth=1)
        note(axes, f"{NEAR:.0%} of the largest mean", (0.99, near), "right", axes.get_yaxis_transform())
    low = max(inside.lags[0], -inside.delay - 1) - 0.5
    if low < -0.5:  # inputs after the one that is answered
        axes.axvspan(low, -0.5, color="0.93")
    axes.set(xlim=(min(low, -0.5), inside.lags[-1] + 0.5))
    axes.set(title="blue: mean over outputs, light gray: each output", ylabel=r"$\|\partial y_t / \partial x_s\|$")
    axes.set(xlabel="lag t - s" + (" (shaded: inputs after the one that is answered)" if low < -0.5 else ""))


def note(axes: Any, text: str, place: tuple[float, float], align: str, transform: Any) -> None:
    """Writes a small gray text just above the position ``place``."""
    offset = {"textcoords": "offset points", "xytext": (0, 3)}
    axes.annotate(text, place, xycoords=transform, ha=align, color="0.4", fontsize="small", **offset)


def field(axes: Any, inside: Inside) -> Any:
    """Draws all norms, with a row for each output, named by the timestep when it leaves, and the limit of eq. 9.

    Returns:
        The picture, for a colorbar; None if every norm is 0.
    """
    norms = inside.norms
    with np.errstate(divide="ignore"):
        logarithms = np.ma.masked_invalid(np.log10(norms))
    title, picture = "white: exactly 0", None
    if logarithms.count():
        top = logarithms.max()
        steps = np.arange(norms.shape[1] + 1) - 0.5
        edges = np.arange(len(norms) + 1) - 0.5
        picture = axes.pcolormesh(
            steps, edges, logarithms, cmap="viridis", vmin=max(logarithms.min(), top - 8), vmax=top
        )
        axes.invert_yaxis()
    if inside.field is not None:
        last = inside.field.sum(1) - 0.5
        axes.step([*last, last[-1]], np.arange(len(last) + 1) - 0.5, color="tab:red", linewidth=1.5)
        title = f"{title}; red: the last input in the receptive field, eq. 9"
    ticks = np.arange(0, len(norms), -(-len(norms) // 9))
    axes.set(yticks=ticks, yticklabels=inside.outputs[ticks] + inside.delay, title=title)
    axes.set(xlabel="timestep s of the input", ylabel="timestep when the output leaves, t + L - 1")
    return picture
