"""Lists the commands: `python -m experiments`."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.common.commandline import exit_status
from experiments.common.errors import UsageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    return exit_status(lambda: run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Prints the commands, each with the first line of its module's docstring."""
    if given := [word for word in arguments if word not in ("-h", "--help")]:
        raise UsageError(
            f"the command follows a dot, as in python -m experiments.mnist, got {given[0]!r} after a space"
        )
    found = commands()
    width = max(map(len, found))
    print("Run python -m experiments.NAME, where --help lists the options and NAME is one of")
    print("\n".join(f"  {name:{width}}  {line}" for name, line in found.items()))
    return 0


def commands() -> dict[str, str]:
    """The first line of the docstring of each command, by its name. No module is imported, which would take seconds."""
    folder = Path(__file__).parent
    found = {}
    for path in sorted([*folder.glob("[a-z]*.py"), *folder.glob("*/__main__.py")]):
        module = ast.parse(path.read_text())
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in module.body):
            name = path.parent.name if path.stem == "__main__" else path.stem
            found[name] = (ast.get_docstring(module) or "").partition("\n")[0]
    return found


if __name__ == "__main__":
    sys.exit(main())
