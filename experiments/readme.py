"""Fill the generated tables in README.md and the pages in docs/.

A page marks the place of a table with the comments ``<!-- table: NAME -->`` and ``<!-- end -->``. Everything between
them is written from results/*.jsonl (the table ``learnt``) and benchmarks/results/*.json (all others).

Examples:
    python -m experiments.readme
    python -m experiments.readme --check
    python -m experiments.readme --pages README.md docs/performance.md
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from experiments import report
from experiments.reporting import gpu_tables, measurements, outcomes, tables
from experiments.reporting.measurements import Rows
from experiments.running import runs
from experiments.running import workdir as wd

TABLE = re.compile(r"(<!-- table: (?P<name>[a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
MEASURED = measurements.TABLES | gpu_tables.TABLES
"""The tables made from benchmarks/results/."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Fill the generated tables in README.md and the pages in docs/."""

    pages: tuple[Path, ...] = ()
    """Markdown files to fill. Default: README.md and every docs/*.md."""
    results: Path = Path("results")
    """Folder of the result lines, *.jsonl."""
    benchmarks: Path = Path("benchmarks") / "results"
    """Folder of the measurements, *.json."""
    check: bool = False
    """Write nothing; exit with status 1 if a table is out of date."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    options = tyro.cli(Options, args=arguments, prog="python -m experiments.readme")
    return runs.exit_status(lambda: run(options))


def run(options: Options) -> int:
    """Write the tables of all pages, or compare them."""
    pages = options.pages or (Path("README.md"), *sorted(Path("docs").glob("*.md")))
    old = {page: read(page) for page in pages}
    new = {page: filled(page, text, options) for page, text in old.items()}
    stale = [page for page in pages if old[page] != new[page]]
    if options.check:
        for page in stale:
            print(f"the tables in {page} are out of date: run python -m experiments.readme", file=sys.stderr)
        return int(bool(stale))
    for page in stale:
        with wd.writing(page) as path:
            path.write_text(new[page])
    for page in pages:
        if names := [match["name"] for match in TABLE.finditer(new[page])]:
            print(f"{page}: {', '.join(names)}{'' if page in stale else ' (unchanged)'}")
    return 0


def read(page: Path) -> str:
    """The text of a page.

    Raises:
        WorkdirError: it cannot be read.
    """
    try:
        return page.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise wd.WorkdirError(f"cannot read {page} ({error}): give --pages existing Markdown files") from error


def filled(page: Path, text: str, options: Options) -> str:
    """The text with every table written anew.

    Raises:
        WorkdirError: the text asks for a table that does not exist, or a measurement is missing.
    """

    def table(match: re.Match[str]) -> str:
        return f"{match[1]}{tables.markdown(rows(page, match['name'], options))}\n{match[3]}"

    return TABLE.sub(table, text)


def rows(page: Path, name: str, options: Options) -> Rows:
    """The rows of the table with this name.

    Raises:
        WorkdirError: there is no such table, or its measurements are missing.
    """
    if name == "learnt":
        return learnt(options.results)
    if name in MEASURED:
        return MEASURED[name](options.benchmarks)
    raise wd.WorkdirError(f"{page} asks for table {name!r}, expected one of learnt, {', '.join(MEASURED)}")


def learnt(results: Path) -> Rows:
    """The tLSTM with channel normalization and the stacked LSTM where both were run at the same depth."""
    rows = [["task", "L", "tLSTM+CN", "sLSTM, equal parameters"]]
    for setting, lines in outcomes.by_setting(report.read(report.sweeps(results))).items():
        models = outcomes.grouped(lines, lambda line: outcomes.told(line, "model"))
        for depth in sorted({*map(outcomes.depth, lines)}):
            for name in ("2D tLSTM+CN", "3D tLSTM+CN"):
                pair = [models.get(name, []), models.get("sLSTM", [])]
                deep = [[line for line in members if outcomes.depth(line) == depth] for members in pair]
                if all(deep):
                    ours, theirs = (outcomes.came_of(members, [*pair[0], *pair[1]], apart="<br>") for members in deep)
                    rows.append([setting, str(depth), f"{name.split()[0]}: {ours}", theirs])
    return rows


if __name__ == "__main__":
    sys.exit(main())
