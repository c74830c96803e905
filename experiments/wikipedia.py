"""The former name of `python -m experiments.language`, with `--data enwik8` as the default."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments import tasks


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    return tasks.LANGUAGE.module.main(["--data", "enwik8", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
