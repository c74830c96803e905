"""Tables as Markdown and as aligned text. The first row is the header."""

from __future__ import annotations

from collections.abc import Sequence


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])


def aligned(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> str:
    """A text table with aligned columns.

    Args:
        rows: rows with equally many cells.
        numbers: align every column but the first to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [text.rjust(n) if numbers else text.ljust(n) for text, n in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
