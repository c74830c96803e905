"""Tables of result lines, in Markdown, and sentences that name what is not in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from experiments.reporting import outcomes, paper
from experiments.reporting.outcomes import by_configuration
from experiments.reporting.results import Line

EVERY_RUN = (
    "model",
    "seed",
    "options",
    "epochs",
    "samples",
    "result",
    "seconds",
    "parameters",
    "device",
    "jax",
    "date",
)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table, the first row on top."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])


def paper_table(table: paper.Table, settings: dict[str, list[Line]]) -> list[str]:
    """A table of the paper with our runs of the same settings beside, and what is not there."""
    ours = {setting: outcomes.grouped(outcomes.in_order(settings[setting]), name_of) for setting in table.settings}
    lines = sorted((line for setting in table.settings for line in settings[setting]), key=outcomes.place)
    names = [*table.rows, *map(name_of, lines)]
    rows = [["model", *(f"{setting}, {whose}" for setting in table.settings for whose in ("the paper", "ours"))]]
    for name in dict.fromkeys(names):
        row = [name]
        for i, setting in enumerate(table.settings):
            row.append(table.rows[name][i] if name in table.rows else "")
            row.append(cell(ours[setting].get(name, []), settings[setting]))
        rows.append(row)
    foreign = [name for name in table.rows if name.split(" L=")[0] not in outcomes.model_names()]
    gaps = {name: [setting for setting in table.settings if name not in ours[setting]] for name in table.rows}
    named = [f"{name} ({', '.join(where)})" for name, where in gaps.items() if where and name not in foreign]
    return [
        markdown(rows),
        f"Not run here: {'; '.join(named) or 'nothing'}. "
        f"Numbers of others, which the paper quotes: {', '.join(foreign)}.",
    ]


def name_of(line: Line) -> str:
    """Model and L, as the paper's tables have them."""
    return f"{outcomes.told(line, 'model')} L={outcomes.depth(line)}"


def cell(lines: Sequence[Line], among: Sequence[Line]) -> str:
    """What came of the runs of a model at a depth, those that differ in more than the seed one below the other."""
    groups = by_configuration(lines)
    return "<br>".join(f"{outcomes.sizes(group[0], among)}: {outcomes.outcome(group)}" for group in groups)


def depth_table(lines: Sequence[Line]) -> str:
    """Models against L, in one setting."""
    depths = sorted({*map(outcomes.depth, lines)})
    rows = [["model", *(f"L={depth}" for depth in depths)]]
    for name, members in outcomes.grouped(outcomes.in_order(lines), lambda line: name_and_sizes(line, lines)).items():
        points = outcomes.grouped(members, outcomes.depth)
        rows.append([name, *("<br>".join(map(outcomes.outcome, by_configuration(points.get(n, [])))) for n in depths)])
    return markdown(rows)


def name_and_sizes(line: Line, among: Sequence[Line]) -> str:
    """What of a line its depth and its seed do not tell."""
    return f"{outcomes.told(line, 'model')}, {outcomes.sizes(line, among)}"


def missing(table: paper.Table, settings: dict[str, list[Line]]) -> str:
    """What there is not of every preset at every L: the paper's, or in settings of our own, those that were run."""
    sentences = ["Not run here:", ""]
    for setting, lines in settings.items():
        depths: Iterable[int] = sorted({*map(outcomes.depth, lines)})
        if setting in table.settings:
            depths = paper.DEPTHS[table.tasks[table.settings.index(setting)]]
        have = {(outcomes.told(line, "model"), outcomes.depth(line)) for line in lines}
        gaps: dict[str, list[str]] = {}  # the models that lack the same depths
        for model in outcomes.model_names():
            if lacks := [str(depth) for depth in depths if (model, depth) not in have]:
                gaps.setdefault(", ".join(lacks), []).append(model)
        everything = len(outcomes.model_names())
        named = [
            f"{'every model' if len(models) == everything else ', '.join(models)} at L={lacks}"
            for lacks, models in gaps.items()
        ]
        sentences.append(f"- {setting}: {'; '.join(named) or 'nothing'}")
    return "\n".join(sentences)


def learning(lines: Sequence[Line]) -> list[str]:
    """A table for each setting of the runs that tell which options make it learn, a column for each such option."""
    parts = []
    for setting, members in outcomes.by_setting(lines).items():
        same = outcomes.common(members)
        varied = list(dict.fromkeys(name for line in members for name in outcomes.options(line) if name not in same))
        rows = [["model", *varied, "in the end", "solved"]]
        for group in by_configuration(members):
            values = outcomes.options(group[0])
            rows.append([model_of(group[0]), *(values.get(name, "") for name in varied), *learnt(group)])
        parts += [f"### {setting}", markdown(rows), options_of_all(members)]
    return parts


def learnt(lines: Sequence[Line]) -> tuple[str, str]:
    """The measure in the end, or where a run was cut short, and the samples until solved."""
    found = [value for line in lines if (value := outcomes.quality(line)) is not None]
    solved = [line["samples"] for line in lines if outcomes.solved(line)]
    most = max(line["samples"] for line in lines)
    cut = sum(not line["finished"] for line in lines)
    ends = [outcomes.spread(found, lambda value: outcomes.shown(lines[0], value))] if found else []
    return (
        ", ".join([*ends, *([f"{cut} cut short"] if cut else [])]),
        f"after {outcomes.spread(solved, '{:,.0f}'.format)}" if solved else f"none within {most:,}",
    )


def every_run(lines: Sequence[Line]) -> list[str]:
    """A table for each setting, with a row for each run."""
    parts = []
    for setting, members in outcomes.by_setting(lines).items():
        rows = [EVERY_RUN, *(row(line, members) for line in members)]
        parts += [f"### {setting}", markdown(rows), options_of_all(members)]
    return parts


def row(line: Line, among: Sequence[Line]) -> tuple[str, ...]:
    """Everything that there is to know of a run in short."""
    summary = line["summary"] or {}
    return (
        model_of(line),
        str(outcomes.seed(line)),
        outcomes.label(line, among),
        str(line["history"][-1]["epoch"] if line["history"] else 0),
        f"{line['samples']:,}",
        outcomes.headline(line),
        f"{line['seconds']:,.0f}",
        f"{line['parameters']:,}" if line["parameters"] else "",
        str(summary.get("device", "")),
        str(summary.get("jax", "")),
        line["date"],
    )


def model_of(line: Line) -> str:
    """The model with all its sizes."""
    return str(line["title"]).removeprefix(f"{outcomes.told(line, 'setting')}, ")


def options_of_all(lines: Sequence[Line]) -> str:
    """The options that the table need not repeat."""
    return f"All with {', '.join(f'{name}={value}' for name, value in outcomes.common(lines).items())}."
