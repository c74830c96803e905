"""Figures of the inside of a model: its memory over time (figure 6 of the paper), and the reach of its inputs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.common.figures import STYLE

NEAR = 0.01
"""Of the largest gradient; what is above it counts as reached."""
READABLE = 130
"""Timesteps, beyond which symbols would lie over each other."""


@dataclasses.dataclass(frozen=True)
class Shown:
    """An example for people.

    Args:
        end: timesteps of input, after which only blanks follow.
        inputs: a character for each timestep.
        targets: the same.
        alphabet: a character for each symbol.
        pixels: the brightness at each timestep.
    """

    end: int
    inputs: list[str] | None = None
    targets: list[str] | None = None
    alphabet: tuple[str, ...] = ()
    pixels: NDArray[np.float32] | None = None


@dataclasses.dataclass(frozen=True)
class Inside:
    """What was recorded of a model that reads T inputs.

    Args:
        kind: tlstm, trnn or slstm.
        memory: the mean over channels at each place, ``(T + delay, L)``.
        places: of each row of figure 6 its location, ``(L, D - 1)``, from 1; of an sLSTM its layer.
        delay: L - 1, after which an input's output leaves.
        outputs: the timesteps t of the outputs whose gradients were taken.
        norms: ||d y_t / d x_s||, ``(len(outputs), T)``.
        field: where eq. 9 lets it be other than 0, if eq. 9 concerns the model.
        inputs: symbols or pixels, ``(T,)``.
        targets: symbols.
        answers: the model's symbols.
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
        """What figure 6 shows of this kind of model."""
        return "hidden state H, for want of memory cells" if self.kind == "trnn" else "memory cell C"

    @property
    def rows(self) -> str:
        """What the rows of figure 6 are."""
        return "layers" if self.kind == "slstm" else "locations on the diagonal"

    @property
    def normalized(self) -> NDArray[np.float32]:
        """The memory in [0, 1]."""
        low, high = self.memory.min(), self.memory.max()
        return (self.memory - low) / np.where(high > low, high - low, 1)

    @property
    def lags(self) -> NDArray[np.int64]:
        """How far inputs lie behind an output's own, t - s; those that come later than it are below 0."""
        steps = self.norms.shape[1]
        return np.arange(self.outputs[0] - steps + 1, self.outputs[-1] + 1)

    @property
    def mean_norms(self) -> NDArray[np.float32]:
        """The mean of the gradient norms at each lag, over the outputs that have it; NaN if none has."""
        at = self.outputs[:, None] - np.arange(self.norms.shape[1])
        found = [self.norms[at == lag] for lag in self.lags]
        return np.array([each.mean() if each.size else np.nan for each in found], np.float32)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything that is drawn, by name."""
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
        """The numbers that matter, on a line."""
        norms = np.nan_to_num(self.mean_norms)
        farthest, strongest = 0, 0
        if norms.any():
            farthest, strongest = self.lags[norms > NEAR * norms.max()].max(), self.lags[norms.argmax()]
        reach = f"gradients are largest {strongest} timesteps back, and above {NEAR:.0%} of that up to {farthest} back"
        reach = f"{reach}, of {self.lags[-1]}"
        if self.field is None:
            return f"{reach}; eq. 9 does not concern an sLSTM, which answers at once"
        outside, zeros = int((self.norms[~self.field] > 0).sum()), int((self.norms[self.field] == 0).sum())
        if outside:
            return (
                f"{reach}; the receptive field is NOT the one that eq. 9 predicts: {outside} inputs are felt too early"
            )
        within = f", but for {zeros} of {int(self.field.sum())} gradients too small for a number" if zeros else ""
        return f"{reach}; the receptive field is the one that eq. 9 predicts for L = {self.delay + 1}{within}"


def draw_memory(path: Path, inside: Inside, shown: Shown, title: str) -> None:
    """Figure 6: the memory's mean over channels at the places from input to output, against time.

    Args:
        path: the PNG to write.
        inside: what was recorded.
        shown: what the model read, drawn above it: inputs when they enter, answers when they leave.
        title: of the run.
    """
    columns, rows = inside.memory.shape
    readable = shown.inputs is not None and columns <= READABLE
    above = 0.7 if readable else 0.25
    with mpl.rc_context(STYLE):
        size = (min(max(0.16 * columns + 2.2, 7), 16), above + 1.5 + 0.3 * max(rows, 3))
        figure = Figure(figsize=size, layout="constrained")
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
        figure.colorbar(picture, ax=[strip, axes], label="least to most", pad=0.01)
        figure.savefig(path, format="png", dpi=110)


def write_symbols(axes: Any, inside: Inside, shown: Shown) -> None:
    """Rows of symbols; a wrong answer is red."""
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
    """Gradient norms: on the left against the lag, on the right of every output and input, with what eq. 9 predicts.

    Args:
        path: the PNG to write.
        inside: what was recorded.
        title: of the run.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        figure.suptitle(f"{title}: how far inputs reach")
        left, right = figure.subplots(1, 2)
        against_lag(left, inside)
        picture = field(right, inside)
        if picture is not None:
            figure.colorbar(picture, ax=right, label=r"$\log_{10}\,\|\partial y_t / \partial x_s\|$; white: exactly 0")
        figure.savefig(path, format="png", dpi=110)


def against_lag(axes: Any, inside: Inside) -> None:
    """Each output's gradient norms, and their mean at each lag."""
    inputs = np.arange(inside.norms.shape[1])
    positive = np.where(inside.norms > 0, inside.norms, np.nan)  # no logarithm of the others
    for i, (t, norms) in enumerate(zip(inside.outputs, positive, strict=True)):
        axes.plot(t - inputs, norms, color="0.75", linewidth=0.6, label=None if i else "an output")
    mean = inside.mean_norms
    shape = {"color": "tab:blue", "marker": "." if len(mean) <= READABLE else None}
    axes.plot(inside.lags, np.where(mean > 0, mean, np.nan), label="mean over outputs", **shape)
    if np.nansum(mean) > 0:
        near = NEAR * np.nanmax(mean)
        axes.axhline(near, color="0.4", linestyle=":", linewidth=1, label=f"{NEAR:.0%} of the largest")
        axes.set(yscale="log", ylim=(max(near * 1e-6, np.nanmin(positive) / 2), None))
    low = max(inside.lags[0], -inside.delay - 5) - 0.5
    if low < -0.5:
        axes.axvspan(low, -0.5, color="0.93")
        if -low > 0.03 * inside.lags[-1]:
            place = {"rotation": 90, "ha": "center", "va": "center", "transform": axes.get_xaxis_transform()}
            axes.text(low / 2, 0.5, "inputs that come later", **place)
    axes.set(xlim=(min(low, -0.5), inside.lags[-1] + 0.5))
    axes.set(
        xlabel="lag t - s: timesteps from an input to the one that is answered",
        ylabel=r"$\|\partial y_t / \partial x_s\|$",
    )
    axes.legend(loc="best", framealpha=0.8, edgecolor="none")


def field(axes: Any, inside: Inside) -> Any:
    """All norms: a row for each output at the timestep when it leaves, and where eq. 9 says that its inputs end."""
    norms = inside.norms
    with np.errstate(divide="ignore"):
        logarithms = np.ma.masked_invalid(np.log10(norms))
    picture = None
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
        axes.step(
            [*last, last[-1]],
            np.arange(len(last) + 1) - 0.5,
            color="tab:red",
            linewidth=1.5,
            label="last input of the receptive field, eq. 9",
        )
        axes.legend(loc="upper right", framealpha=0.8, edgecolor="none")
    ticks = np.arange(0, len(norms), -(-len(norms) // 9))
    axes.set(yticks=ticks, yticklabels=inside.outputs[ticks] + inside.delay)
    axes.set(xlabel="timestep of the input, s", ylabel="timestep when the output leaves")
    return picture
