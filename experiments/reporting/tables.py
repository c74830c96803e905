"""Tables of result lines, as rows of text; the first row is the header."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.reporting import summary
from experiments.reporting.lines import Line
from experiments.reporting.measurements import Rows
from experiments.reporting.rivals import EQUAL, core_parameters, is_rival
from experiments.reporting.summary import Group
from experiments.running.models import ModelOptions
from experiments.tasks import TASKS


def configurations(lines: Sequence[Line]) -> Rows:
    """The results of one setting: a row for each configuration with a finished run."""
    groups = [group for group in summary.by_configuration(summary.in_order(lines)) if group.finished]
    if not groups:
        return []
    info = groups[0].info
    varied = summary.varied_options([line for group in groups for line in group.lines])
    until = ["samples until solved"] if info.until_solved else []
    header = ["model", "L", "M", "parameters", *(summary.SHORT_NAMES.get(name, name) for name in varied)]
    rows = [[*header, f"test {info.measure_title}", *until, "seeds"]]
    for group in groups:
        first, options = group.finished[0], summary.shown_options(group.first)
        rows.append(
            [
                first.model,
                str(first.depth),
                str(first.features),
                f"{first.parameters:,}",
                *(options.get(name, "") for name in varied),
                summary.results(group),
                *([summary.samples_until_solved(group)] if info.until_solved else []),
                summary.count_seeds(group),
            ]
        )
    return rows


def common(lines: Sequence[Line]) -> str:
    """A sentence with the options that are the same in all lines."""
    found = summary.common_options(lines)
    return f"All with {', '.join(f'{name}={value}' for name, value in found.items() if value)}."


def unfinished(lines: Sequence[Line]) -> Rows:
    """The runs that were cut short, of all settings."""
    rows = [["setting", "model", "options", "seed", "reached"]]
    for setting, members in summary.by_setting(lines).items():
        rows += [
            [setting, line.model_options.title, summary.label(line, members), str(line.seed), summary.cut_short(line)]
            for line in members
            if not line.finished
        ]
    return rows


def every_run(lines: Sequence[Line]) -> Rows:
    """The runs of one setting, a row each."""
    header = ["model", "seed", "options", "epochs", "samples", "result", "seconds", "parameters"]
    return [[*header, "device", "jax", "date"], *(run_row(line, lines) for line in lines)]


def run_row(line: Line, among: Sequence[Line]) -> list[str]:
    """A row of :func:`every_run`."""
    found = line.summary or {}
    return [
        line.model_options.title,
        str(line.seed),
        summary.label(line, among, ignore=("task", "seed")),
        str(line.history[-1]["epoch"] if line.history else 0),
        f"{line.samples:,}",
        summary.headline(line),
        f"{line.seconds:,.0f}",
        f"{line.parameters:,}" if line.parameters else "",
        ", ".join(line.devices) or str(found.get("device", "")),
        str(found.get("jax", "")),
        line.date,
    ]


def not_run(settings: dict[str, str], lines: Sequence[Line]) -> str:
    """A list of the models and depths in the paper's figures that have no runs.

    Args:
        settings: the task of each setting.
        lines: our runs.
    """
    items = []
    for setting, task in settings.items():
        have = {(line.model, line.depth) for line in lines if line.setting == setting}
        gaps: dict[str, list[str]] = {}  # models that lack the same depths
        for model in summary.model_names():
            if lacks := [str(depth) for depth in TASKS[task].depths if (model, depth) not in have]:
                gaps.setdefault(", ".join(lacks), []).append(model)
        everything = len(summary.model_names())
        named = [
            f"{'every model' if len(models) == everything else ', '.join(models)} at L={lacks}"
            for lacks, models in gaps.items()
        ]
        items.append(f"- {setting}: {'; '.join(named) or 'nothing'}")
    return "\n".join(items)


def learnt(lines: Sequence[Line]) -> Rows:
    """The best result of each setting, by a tLSTM or by a plain LSTM, beside the best of the other.

    The tLSTM has channel normalization. Both have the same size and are trained in the same batches and, in a task
    of epochs, for as many; what has no such counterpart is left out. A plain LSTM is one LSTM layer, which may have the
    peephole of the paper's table 3, or several layers that share their parameters or do not. The settings of a task in
    which neither solved it share a row.
    """
    rows = [["task", "tLSTM+CN", "best plain LSTM, recurrent parameters equal within 10%"]]
    unsolved: dict[str, list[list[str]]] = {}
    for setting, members in summary.by_setting(lines).items():
        plain = [line for line in members if line.model in PLAIN and line.finished]
        own = [line for line in members if line.model in OURS]
        paired = [line for line in own if any(comparable(other, line) for other in plain)]
        paired += [line for line in plain if any(comparable(other, line) for other in own if other.finished)]
        leader = best_of(paired, (*OURS, *PLAIN))
        if leader is None:
            continue
        alike = [line for line in members if comparable(line, leader.first)]
        ours, theirs = best_of(alike, OURS), best_of(alike, PLAIN)
        if ours is None or theirs is None:
            continue
        both = [*ours.lines, *theirs.lines]
        name = setting if ours.info.until_solved else f"{setting} ({ours.info.measure_title})"
        row = [name, *(best_cell(group, both) for group in (ours, theirs))]
        if ours.info.until_solved and not any(line.solved for line in both):
            unsolved.setdefault(ours.info.name, []).append(row)
        else:
            rows.append(row)
    joined = [["<br>".join(cells) for cells in zip(*same, strict=True)] for same in unsolved.values()]
    return [*rows, *joined]


OURS = ("2D tLSTM+CN", "3D tLSTM+CN")
"""The names of tLSTMs with channel normalization."""
PLAIN = ("sLSTM", "sLSTM (unshared)", "lstm", "lstm (output_peephole=true)")
"""The names of stacks of LSTM layers, and of one layer, with and without the peephole of the paper's table 3."""


def comparable(line: Line, other: Line) -> bool:
    """Whether two runs have the same batches and epochs, and as many recurrent parameters.

    If one is a rival, the core parameters are compared.
    """
    if any(line.options.get(name) != other.options.get(name) for name in ("batch_size", "epochs")):
        return False
    size = core_parameters if is_rival(line) or is_rival(other) else recurrent_size
    return max(size(line), size(other)) <= EQUAL * min(size(line), size(other))


def recurrent_size(line: Line) -> int:
    """The number of recurrent parameters of a run's model, which must not be a rival."""
    return ModelOptions.recorded(line.options).recurrent_size


def best_of(lines: Sequence[Line], models: Sequence[str]) -> Group | None:
    """The best complete group among models."""
    return summary.best(summary.by_configuration([line for line in lines if line.model in models]))


def best_cell(group: Group, among: Sequence[Line]) -> str:
    """A group's depth, M and parameters, the options in which it differs from others, and its result."""
    first = group.first
    kind = (
        first.model[:2]
        if "tLSTM" in first.model
        else first.model.removeprefix("sLSTM").removeprefix("lstm").strip(" ()")
    )
    sized = f"{kind} L={first.depth} M={first.features} ({(first.parameters or 0) / 1000:.0f}K)".strip()
    label = summary.label(first, among, (*summary.WITHIN_GROUP, "check_every"))
    return f"{sized}{f', {label}' if label else ''}: {summary.outcome(group)}"
