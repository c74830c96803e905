"""Write docs/results.md, its figures and docs/runs.md from the result lines in results/*.jsonl and the paper's numbers.

Runs in results/defaults*.jsonl, which compare the options that make a task learn, have a separate table. Runs in
results/growth*.jsonl are left out: notebooks/grow_without_parameters.ipynb shows them.

Examples:
    python -m experiments.report
    python -m experiments.report --check
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.common import commandline
from experiments.common.errors import UsageError
from experiments.common.files import FileError, read_json, writing
from experiments.reporting import page, result_figures

DEPTH_KEYS = {"command", "environment", "options", "rows"}
"""The keys in a file of ``benchmarks.depth``."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Write docs/results.md, its figures and docs/runs.md from the result lines and the paper's numbers."""

    results: Path = Path("results")
    """Folder of the result lines, *.jsonl."""
    out: Path = Path("docs") / "results.md"
    """The page to write. The list of every run, runs.md, is written beside it. Only pages that this command wrote are
    overwritten."""
    figures: Path | None = None
    """Folder of the figures. Default: the folder figures beside the page."""
    runtimes: Path = Path("benchmarks") / "results"
    """Folder of the results of `python -m benchmarks.depth`, depth-*.json."""
    check: bool = False
    """Write nothing; exit with status 1 if the page is out of date. Figures are not compared."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    return commandline.exit_status(lambda: run(commandline.parse(Options, arguments, prog="experiments.report")))


def run(options: Options) -> int:
    """Writes the page and its figures, or compares the page."""
    if options.out.name == page.RUNS:
        raise UsageError(f"out must not be called {page.RUNS}, the list of every run beside it, got {options.out}")
    found = page.Results.read(options.results)
    runtimes = read_runtimes(options.runtimes)
    figures = options.figures or options.out.parent / "figures"
    texts = {
        options.out: page.text(found, runtimes, Path(os.path.relpath(figures, options.out.parent)).as_posix()),
        options.out.with_name(page.RUNS): page.runs_text(found),
    }
    if options.check:
        stale = [path for path, text in texts.items() if not holds(path, text)]
        for path in stale:
            print(f"{path} is out of date: run python -m experiments.report", file=sys.stderr)
        return int(bool(stale))
    for path in texts:
        check_own(path)
    drawn = write_figures(figures, found, runtimes)
    for target, text in texts.items():
        with writing(target) as path:
            path.write_text(text)
    print(f"{options.out} and {drawn} figures in {figures}, from {found.count} runs in {options.results}")
    return 0


def check_own(path: Path) -> None:
    """Raises a FileError if there is a file that this command did not write, which would be lost."""
    found = path.read_bytes() if path.is_file() else b""
    if found and not found.startswith(page.WRITTEN.encode()):
        raise FileError(f"{path} was not written by experiments.report: move it away, or give --out another folder")


def holds(path: Path, text: str) -> bool:
    """Whether a file holds this text."""
    try:
        return path.read_text() == text
    except (OSError, UnicodeDecodeError):
        return False


def write_figures(folder: Path, found: page.Results, runtimes: Sequence[Mapping[str, Any]]) -> int:
    """Draws the figures for which there is data, deletes the others, and returns how many were drawn."""
    figures = page.figures(found, runtimes)
    for name, rows in figures.items():
        path = folder / name
        if rows:
            with writing(path) as new:
                result_figures.draw(new, rows)
        else:
            path.unlink(missing_ok=True)
    return sum(bool(rows) for rows in figures.values())


def read_runtimes(folder: Path) -> list[dict[str, Any]]:
    """The results of ``benchmarks.depth``, one file for each device.

    Raises:
        FileError: there is no such folder, or a file cannot be read or holds something else.
    """
    if not folder.is_dir():
        raise FileError(f"runtimes must be a folder, got {folder}, which is none: give --runtimes another")
    found = []
    for path in sorted(folder.glob("depth-*.json")):
        if not path.stem.endswith("-quick"):
            run = read_json(path)
            if not (isinstance(run, dict) and run.keys() >= DEPTH_KEYS):
                raise FileError(f"{path} was not written by benchmarks.depth: give --runtimes another folder")
            found.append(run)
    return found


if __name__ == "__main__":
    sys.exit(main())
