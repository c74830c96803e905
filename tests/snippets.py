"""Run the Python in Markdown pages: ``python tests/snippets.py README.md``.

The blocks of a page run in order and share their names, like the cells of a notebook. This module imports nothing from
the package, so that it can test an installed wheel from outside of the checkout.
"""

import re
import sys
from pathlib import Path

BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def run(page):
    """Runs every block of a page and returns the names that they defined and how many blocks there are."""
    text = page.read_text()
    names = {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        lines_before = text.count("\n", 0, block.start(1))  # so that a traceback shows the line in the page
        exec(compile("\n" * lines_before + block[1], str(page), "exec"), names)
    return names, len(BLOCK.findall(text))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        found = run(Path(argument))[1]
        if not found:
            sys.exit(f"{argument} has no Python: expected at least one block that begins with ```python")
        print(f"{argument}: {found} blocks ran")
