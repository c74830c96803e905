"""The text of docs/results.md with its figures, and of docs/runs.md, which lists every run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import tasks
from experiments.common.tables import markdown
from experiments.reporting import lines as result_lines
from experiments.reporting import overview, paper, result_figures, rival_figures, rivals, summary, tables
from experiments.reporting.lines import Line
from experiments.reporting.result_figures import Row

OPTION_RUNS, GROWTH_RUNS = "defaults", "growth"
"""Prefixes of the names of result files: of runs that compare options, and of runs that belong to a notebook."""


class Section(NamedTuple):
    """The part of the page with one of the paper's tables and the figure of the same task."""

    title: str
    table: int
    figure: int

    @property
    def file(self) -> str:
        """The name of the figure's file."""
        return f"figure-{self.figure}.png"


SECTIONS = (
    Section("Language modeling", table=1, figure=3),
    Section("Addition and memorization", table=2, figure=4),
    Section("Sequential image classification", table=3, figure=5),
)
RUNS = "runs.md"
"""The name of the page with every run."""
WRITTEN = "<!-- Written by python -m experiments.report"
"""The beginning of both pages."""
RUNTIME, RIVALS = "runtime.png", "rivals.png"
CAPTIONS = {
    3: "Bits per character on the test data against the depth L",
    4: "Accuracy on the test data during and after training",
    5: "Accuracy on the test data after training",
}
READING = (
    "A number is the mean over seeds, followed by the smallest and the largest value. *Solved* means that more than "
    "99% of the symbols of the answers in the test are right; the result is then the number of training samples that "
    "this took, fewer being better. B is the batch size, lr the learning rate, L the depth and M the number of "
    "channels. Runs that were cut short are not results: they are [listed separately](#runs-that-were-cut-short). "
    f"[Every run]({RUNS}) has a row of its own on another page."
)
PUBLISHED = (
    "In the paper's tables *published* are the numbers that it quotes from other work, each obtained with its own "
    "regularization, schedule and order of the pixels ([The rivals](rivals.md#protocols)); UNVERIFIED is what we found "
    "in no source that we could read. *Ours* is the configuration that was best with the first seed, run to the "
    "end, after its status; what the published model has and ours has not, in parameters or in "
    "samples, is for the reader to weigh. The time of a step contains the evaluations during training."
)
CONTESTS = (
    "The models that the tLSTM is compared with, trained as the tLSTM is: the same samples, batches and limit, and "
    "numbers of core parameters, all but those of the head and of an embedding, that are equal within 10%; *all* has "
    "these too. Of a model's configurations (learning rate, time scale, depth, options) the one that was best with "
    "the first seed stands here, with all seeds that it was run with; *configurations* is how many were tried, and a "
    "rival with 1 has not been tuned yet. Equal parameters are not equal work: see the time of a step, which contains "
    "the evaluations during training and depends on what else ran on the machine. [The rivals](rivals.md) describes "
    "the models."
)
FIGURES = (
    "Points are means over seeds and bars their range; each model is drawn in the same color everywhere. A line "
    "has the options that were run at the most depths, the best of them if there are several, and a model that was run "
    "at one depth has those that were best for it. Runs that were cut short are left out."
)


@dataclasses.dataclass(frozen=True)
class Results:
    """The runs on the page.

    Args:
        compared: runs to compare with the paper's numbers, in order.
        options: runs that compare options, in order.
    """

    compared: list[Line]
    options: list[Line]

    @property
    def count(self) -> int:
        """The number of different runs; some are in two files."""
        return len({line.id for line in (*self.compared, *self.options)})

    @property
    def devices(self) -> list[str]:
        """The kinds of devices on which runs have finished."""
        return sorted({line.summary["device"] for line in (*self.compared, *self.options) if line.summary})

    @classmethod
    def read(cls, folder: Path) -> Results:
        """Reads all files of result lines in a folder.

        Raises:
            ResultsError: the folder does not exist or holds no result lines, or a file cannot be read. Without results
                the pages that were written from them would lose their rows and figures.
        """
        paths = [path for path in sorted(folder.glob("*.jsonl")) if not path.name.startswith(GROWTH_RUNS)]
        options = [path for path in paths if path.name.startswith(OPTION_RUNS)]
        compared = [path for path in paths if path not in options]
        found = cls(*(summary.in_order(result_lines.read_all(each)) for each in (compared, options)))
        if found.count == 0:
            what = "which has none" if folder.is_dir() else "which is no folder"
            raise result_lines.ResultsError(
                f"results must be a folder with result lines in *.jsonl, got {folder}, {what}: give --results another"
            )
        return found


def figures(found: Results, runtimes: Sequence[Mapping[str, Any]]) -> dict[str, list[Row]]:
    """The rows of each figure, by the name of its file; none if there is no data."""
    own = [line for line in found.compared if not rivals.is_rival(line)]
    panels = {
        section.file: result_figures.depth_panels(lines_of(section, own), best_of_paper(section))
        for section in SECTIONS
    }
    contests = rival_figures.contest_panels(rivals.contests(found.compared))
    return {**panels, RIVALS: contests, RUNTIME: result_figures.runtime_panels(runtimes)}


def lines_of(section: Section, lines: Sequence[Line]) -> list[Line]:
    """The runs of a section's tasks, those in the paper's settings first."""
    columns = paper.TABLES[section.table].columns
    settings = [column.setting for column in columns]
    ours = [line for line in lines if line.task in {column.task for column in columns}]
    return sorted(ours, key=lambda line: settings.index(line.setting) if line.setting in settings else len(settings))


def best_of_paper(section: Section) -> dict[str, tuple[str, float]]:
    """The paper's best model and its measure in each setting whose number is a measure, not a number of samples."""
    table = paper.TABLES[section.table]
    found = {}
    for i, column in enumerate(table.columns):
        info = tasks.find(column.task)
        if not info.until_solved:
            best = max if info.higher_is_better else min
            (model, depth), numbers = best(table.own.items(), key=lambda item: item[1][i].score)
            found[column.setting] = f"{model} L={depth}", numbers[i].score
    return found


def text(found: Results, runtimes: Sequence[Mapping[str, Any]], folder: str) -> str:
    """The page with the results.

    Args:
        found: the runs.
        runtimes: the contents of files of ``benchmarks.depth``.
        folder: the figures' folder, relative to the page.
    """
    drawn = figures(found, runtimes)
    sentence, rows = overview.overview(found.compared)
    parts = [
        f"{WRITTEN}; do not edit. -->",
        "# Results",
        f"This page compares {found.count} runs in `results/*.jsonl` with the paper's numbers; they were made on "
        f"{' and '.join(found.devices) or 'no device yet'}. `python -m experiments.sweep` adds runs, and "
        "`python -m experiments.report` writes this page.",
        "## What was reproduced",
        sentence,
        markdown(rows),
        "\n".join(f"- **{status}**: {meaning}" for status, meaning in overview.STATUSES.items()),
        READING,
        PUBLISHED,
    ]
    for section in SECTIONS:
        parts += section_text(section, found.compared, bool(drawn[section.file]), folder)
    parts += ["## The rivals at equal parameters", *contests_text(found.compared, bool(drawn[RIVALS]), folder)]
    parts += ["## Which options make it learn", *options_text(found.options)]
    parts += ["## Runtime", *runtime_text(runtimes, folder)]
    every = [*found.compared, *found.options]
    unfinished = tables.unfinished(every)
    cut = [
        "These runs were stopped before they ended, for want of time. What they had reached when they were stopped "
        "says nothing about what they would have reached.",
        markdown(unfinished),
    ]
    parts += ["## Runs that were cut short", *(cut if len(unfinished) > 1 else ["None."])]
    settings = {column.setting: column.task for table in paper.TABLES.values() for column in table.columns}
    parts += ["## Not run", "Of the models and depths in the paper's figures 3 to 5, these were not run:"]
    parts += [tables.not_run(settings, found.compared)]
    return "\n\n".join(parts) + "\n"


def runs_text(found: Results) -> str:
    """The page that lists every run."""
    parts = [
        f"{WRITTEN}; do not edit. -->",
        "# Every run",
        "Each run in `results/*.jsonl` has a row here. Below a table are the options that its runs have in common. "
        "[Results](results.md) compares them and explains the notation.",
        *(every_run_text(found.compared) or ["None."]),
    ]
    if found.options:
        parts += ["## Runs that compare options", *every_run_text(found.options)]
    return "\n\n".join(parts) + "\n"


def section_text(section: Section, lines: Sequence[Line], drawn: bool, folder: str) -> list[str]:
    """One of the paper's tables, a table of our runs in each setting, and the figure."""
    table = paper.TABLES[section.table]
    parts = [f"## {section.title}"]
    if drawn:
        caption = f"{CAPTIONS[section.figure]} (the task of the paper's figure {section.figure})."
        parts += [f"![{CAPTIONS[section.figure]}]({folder}/{section.file})", f"{caption} {FIGURES}"]
    parts += [f"### Table {section.table} of the paper: {table.title}"]
    parts += [markdown(overview.paper_table(table, lines))]
    in_paper = {column.setting for column in table.columns}
    own = [line for line in lines_of(section, lines) if not rivals.is_rival(line)]
    for setting, members in summary.by_setting(own).items():
        rows = tables.configurations(members)
        parts.append(f"### Our runs: {setting}")
        if setting not in in_paper:
            parts.append("A setting of our own, for which the paper has no numbers.")
        parts += [markdown(rows)] if rows else ["No run has finished."]
    return parts


def contests_text(lines: Sequence[Line], drawn: bool, folder: str) -> list[str]:
    """The figure of accuracy against samples, and a table for each comparison of models of equal size."""
    contests = rivals.contests(lines)
    if not contests:
        return ["No such runs: `python -m experiments.sweep TASK --models all` makes them."]
    parts = [CONTESTS]
    if drawn:
        caption = (
            "Accuracy on the test data during training, the mean over seeds; a run that is over keeps its last value. "
            f"The tLSTM and the best {rival_figures.LABELLED} others are named, the best first."
        )
        parts += [f"![Accuracy against training samples at equal parameters]({folder}/{RIVALS})", caption]
    for contest in contests:
        parts += [f"### At equal parameters: {contest.title}", markdown(rivals.table(contest))]
        if contest.absent:
            parts.append(f"Not run at this size: {', '.join(contest.absent)}.")
    return parts


def options_text(lines: Sequence[Line]) -> list[str]:
    """A table for each setting of the runs that compare options."""
    parts = []
    for setting, members in summary.by_setting(lines).items():
        parts += [f"### Options: {setting}", markdown(tables.configurations(members)), tables.common(members)]
    return parts or [f"No such runs: there are no lines in `results/{OPTION_RUNS}*.jsonl`."]


def runtime_text(runtimes: Sequence[Mapping[str, Any]], folder: str) -> list[str]:
    """The figure of the runtime, and the sizes that were measured."""
    if not runtimes:
        return ["Not measured: there is no `benchmarks/results/depth-*.json`."]
    measured = []
    for run in runtimes:
        device, asked = run["environment"]["device_kind"], run["options"]
        sizes = f"M={asked['features']} in 2D and as many parameters in the others, T={asked['num_steps']}"
        measured.append(f"- {device}: {sizes}, B={asked['batch_size']} (`{run['command']}`)")
    return [
        f"![Runtime against depth]({folder}/{RUNTIME})",
        "Microseconds of forward and backward pass per timestep and example against the depth L:",
        "\n".join(measured),
    ]


def every_run_text(lines: Sequence[Line]) -> list[str]:
    """A table of the runs of each setting, and the options that all of its runs share."""
    parts = []
    for setting, members in summary.by_setting(lines).items():
        parts += [f"### {setting}", markdown(tables.every_run(members)), tables.common(members)]
    return parts
