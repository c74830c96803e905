"""RESULTS.md and the figures in results/, from the result lines there and the paper's numbers.

Draws figures 3 to 5 of the paper and writes its tables 1 to 3 with ours beside; what was not run stays empty and is
named. Lines in results/defaults*.jsonl are no part of these: they tell which options make a task learn, and have a
table of their own. Nor are those in results/growth*.jsonl, which notebooks/grow_without_parameters shows.

Examples:
    python -m experiments.report
    python -m experiments.report --check
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tyro

from experiments.reporting import outcomes, paper, results, tables
from experiments.reporting.depth_figures import depth_figure
from experiments.reporting.results import Line
from experiments.running import runs
from experiments.running import workdir as wd

SECTIONS = {"Wikipedia": (1, 3), "Addition and memorization": (2, 4), "MNIST": (3, 5)}
"""The numbers of the table and of the figure in each."""
DEFAULTS, GROWTH = "defaults", "growth"
"""Begin the names of files with runs that tell which options make a task learn, and with those of a notebook."""
DEPTH_KEYS = {"command", "environment", "options", "rows"}
"""What is in a file of ``benchmarks.depth``."""
CAPTIONS = {
    3: "Bits per character on the test data against L.",
    4: "A row for each task and size: accuracy on the test data while training, the accuracy in the end against L, and "
    "against L the training samples until it is above 99%.",
    5: "Accuracy on the test data against L.",
}
READING = (
    "A cell holds the mean over the seeds (least..most, how many seeds). *Solved* means more than 99% of the answers' "
    "symbols right in a test. For a run that was *cut short* there is what it had reached, on the validation data "
    "where there are some, and its seed. In figures marks are means, bars go from the least to the most, and hollow "
    "marks are runs that were cut short or, among samples until solved, had not solved the task by then."
)
NOT_THE_PAPERS = "A setting of our own: nothing here can be compared with the paper's numbers."


@dataclasses.dataclass(frozen=True)
class Options:
    """RESULTS.md and figures 3 to 5, from the result lines and the paper's numbers."""

    results: Path = Path("results")
    """The folder of the result lines, *.jsonl; the figures go there."""
    out: Path = Path("RESULTS.md")
    """The file to write."""
    runtimes: Path = Path("benchmarks") / "results"
    """The folder of what `python -m benchmarks.depth` has measured, depth-*.json."""
    check: bool = False
    """Write nothing; exit with 1 if the file is not what the lines give. Figures are not compared."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = tyro.cli(Options, args=arguments, prog="python -m experiments.report")
    return runs.exit_status(lambda: run(options))


def run(options: Options) -> int:
    """Writes everything, or compares."""
    lines = read(sweeps(options.results))
    tried = read(sorted(options.results.glob(f"{DEFAULTS}*.jsonl")))
    runtimes = read_runtimes(options.runtimes)
    folder = Path(os.path.relpath(options.results, options.out.parent)).as_posix()
    text = report(lines, tried, runtimes, folder)
    if options.check:
        try:
            same = options.out.read_text() == text
        except (OSError, UnicodeDecodeError):
            same = False
        if not same:
            print(
                f"{options.out} is not what {options.results} gives: run python -m experiments.report", file=sys.stderr
            )
        return int(not same)
    try:
        options.results.mkdir(parents=True, exist_ok=True)
        options.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise wd.WorkdirError(f"cannot make the folder {error.filename} ({error.strerror})") from error
    for table, figure in SECTIONS.values():
        with wd.writing(options.results / file_of(figure)) as path:
            depth_figure(path, of_table(lines, paper.TABLES[table]), runtimes)
    with wd.writing(options.out) as path:
        path.write_text(text)
    print(f"{options.out} and {len(SECTIONS)} figures, from {len(lines) + len(tried)} runs in {options.results}")
    return 0


def sweeps(folder: Path) -> list[Path]:
    """The files of results that are compared with the paper's."""
    return [path for path in sorted(folder.glob("*.jsonl")) if not path.name.startswith((DEFAULTS, GROWTH))]


def read(paths: Sequence[Path]) -> list[Line]:
    """The lines of all files, in order."""
    return outcomes.in_order(results.merged(line for path in paths for line in results.read(path)))


def read_runtimes(folder: Path) -> list[dict[str, Any]]:
    """What was measured of the time against L, a file for each device.

    Raises:
        WorkdirError: one cannot be read.
    """
    found = []
    for path in sorted(folder.glob("depth-*.json")):
        if not path.stem.endswith("-quick"):
            run = wd.read_json(path)
            if not (isinstance(run, dict) and run.keys() >= DEPTH_KEYS):
                raise wd.WorkdirError(f"{path} is not of benchmarks.depth: give --runtimes another folder")
            found.append(run)
    return found


def of_table(lines: Iterable[Line], table: paper.Table) -> dict[str, list[Line]]:
    """The lines of a table's tasks by setting, that is task and size: the paper's, there or not, then all others."""
    settings: dict[str, list[Line]] = {setting: [] for setting in table.settings}
    return settings | outcomes.by_setting(line for line in lines if line["task"] in table.tasks)


def file_of(figure: int) -> str:
    """The name of a figure's file."""
    return f"figure-{figure}.png"


def report(lines: Sequence[Line], tried: Sequence[Line], runtimes: Sequence[dict[str, Any]], folder: str) -> str:
    """The whole text.

    Args:
        lines: of the sweeps, in order.
        tried: of the runs that tell what makes it learn, in order.
        runtimes: of ``benchmarks.depth``.
        folder: where the figures are, from where the text is.
    """
    cut = sum(not line["finished"] for line in (*lines, *tried))
    parts = [
        "# Results",
        "Written by `python -m experiments.report` from the lines in `results/`, which `python -m experiments.sweep` "
        f"adds; nothing here is typed by hand. {len(lines) + len(tried)} runs, {cut} of them cut short.",
        READING,
        about(runtimes),
    ]
    for name, (number, figure) in SECTIONS.items():
        table = paper.TABLES[number]
        settings = of_table(lines, table)
        parts += [f"## {name}", f"### Table {number}: {table.title}", *tables.paper_table(table, settings)]
        for setting, members in settings.items():
            if setting not in table.settings:
                parts += [f"### {setting}", NOT_THE_PAPERS, tables.depth_table(members)]
        parts += [f"### Figure {figure}", f"![Figure {figure}]({folder}/{file_of(figure)})"]
        parts += [f"{CAPTIONS[figure]} Last the runtime against L.", tables.missing(table, settings)]
    nothing = [f"Not run here: there are no lines in `results/{DEFAULTS}*.jsonl`."]
    parts += ["## What makes it learn", *(tables.learning(tried) or nothing)]
    parts += ["## Every run", *(tables.every_run(lines) or ["None."])]
    if tried:
        parts += ["## Every run that tells what makes it learn", *tables.every_run(tried)]
    return "\n\n".join(parts) + "\n"


def about(runtimes: Sequence[dict[str, Any]]) -> str:
    """What the panels of runtime show."""
    if not runtimes:
        return "Runtime: not measured here, `benchmarks/results/depth-*.json` is not there."
    measured = []
    for run in runtimes:
        device, asked = run["environment"]["device_kind"], run["options"]
        sizes = (
            f"{asked['features']} channels in 2D and as many parameters in the others, {asked['num_steps']} timesteps"
        )
        measured.append(f"{device} (`{run['command']}`: {sizes}, batches of {asked['batch_size']})")
    return (
        "Runtime: milliseconds for a forward and a backward pass over one timestep of one example, at one size for all "
        f"tasks, on {'; '.join(measured)}."
    )


if __name__ == "__main__":
    sys.exit(main())
