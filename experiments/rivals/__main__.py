"""Lists the models that the Tensorized LSTM is compared with, and the options of each.

Examples:
    python -m experiments.rivals
    python -m experiments.rivals tcn rhn
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from experiments.common.commandline import exit_status
from experiments.rivals import RIVALS, arguments


def main(given: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser("python -m experiments.rivals", description="Lists the models and their options.")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(RIVALS)}; all by default")
    chosen = parser.parse_args(given).models or [*RIVALS]
    for name in chosen:
        if name not in RIVALS:
            parser.error(f"MODEL must be of {', '.join(RIVALS)}, got {name}")

    def show() -> int:
        print("\n".join(arguments.explanation(name, RIVALS[name]) for name in chosen))
        return 0

    return exit_status(show)


if __name__ == "__main__":
    sys.exit(main())
