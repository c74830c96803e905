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

from experiments.common import commandline
from experiments.common.errors import UsageError
from experiments.common.files import FileError, writing
from experiments.common.tables import markdown
from experiments.reporting import gpu_tables, measurements, tables
from experiments.reporting.measurements import Rows
from experiments.reporting.page import Results

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
    """Runs the command line and returns the exit status."""
    return commandline.exit_status(lambda: run(commandline.parse(Options, arguments, prog="experiments.readme")))


def run(options: Options) -> int:
    """Writes the tables of all pages, or compares them."""
    pages = options.pages or (Path("README.md"), *sorted(Path("docs").glob("*.md")))
    old = {page: read(page) for page in pages}
    new = {page: filled(page, text, options) for page, text in old.items()}
    stale = [page for page in pages if old[page] != new[page]]
    if options.check:
        for page in stale:
            print(f"the tables in {page} are out of date: run python -m experiments.readme", file=sys.stderr)
        return int(bool(stale))
    for page in stale:
        with writing(page) as path:
            path.write_text(new[page])
    for page in pages:
        if names := [match["name"] for match in TABLE.finditer(new[page])]:
            print(f"{page}: {', '.join(names)}{'' if page in stale else ' (unchanged)'}")
    return 0


def read(page: Path) -> str:
    """The text of a page.

    Raises:
        FileError: the page cannot be read.
    """
    try:
        return page.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"cannot read {page} ({error}): give --pages existing Markdown files") from error


def filled(page: Path, text: str, options: Options) -> str:
    """The text with every table replaced by a new one.

    Raises:
        CommandError: the text asks for a table that does not exist, or a measurement is missing.
    """

    def table(match: re.Match[str]) -> str:
        return f"{match[1]}{markdown(rows(page, match['name'], options))}\n{match[3]}"

    return TABLE.sub(table, text)


def rows(page: Path, name: str, options: Options) -> Rows:
    """The rows of the table with this name.

    Raises:
        CommandError: there is no such table, or its measurements are missing.
    """
    if name == "learnt":
        return tables.learnt(Results.read(options.results).compared)
    if name in MEASURED:
        return MEASURED[name](options.benchmarks)
    raise UsageError(f"{page} asks for table {name!r}, expected one of learnt, {', '.join(MEASURED)}")


if __name__ == "__main__":
    sys.exit(main())
