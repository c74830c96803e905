"""Prepares the package's docstrings for Markdown: an extension of Griffe, which reads them for the API reference.

The docstrings are written for ``help()``: with references as ``:func:`name```, and with shapes such as (*batch, T) or
<K> M, which Markdown would take for emphasis and HTML.
"""

import re
from pathlib import Path

import griffe

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`~?([\w.]+)`")
SPAN = re.compile(r"(``.+?``|`.+?`|:\w+:`.+?`)")
EXAMPLE = re.compile(r"^( *)Example:(?: (\w)(.*))?$", re.MULTILINE)
RULE = r"^=+(?: +=+)+$"
TABLE = re.compile(rf"{RULE}\n(.*)\n({RULE})\n((?:(?!=).*\n)+?){RULE}", re.MULTILINE)
"""A simple table of reStructuredText: a rule, the header, a rule, the rows, a rule."""
API = Path(__file__).parent / "api"


class MarkdownDocstrings(griffe.Extension):
    """Rewrites every docstring once it is loaded."""

    def __init__(self):
        pages = "\n".join(page.read_text() for page in API.glob("*.md"))
        self.documented = set(re.findall(r"^::: (\S+)", pages, re.MULTILINE))

    def on_object(self, *, obj, loader, **kwargs):
        """Called by Griffe for every module, class, function and attribute."""
        if obj.docstring is not None:
            text = TABLE.sub(table, EXAMPLE.sub(examples, obj.docstring.value))
            obj.docstring.value = "\n".join(self.line(line, obj) for line in text.split("\n"))

    def line(self, line, obj):
        """One line; code is left alone."""
        if line.lstrip().startswith((">>>", "...")):
            return line
        parts = SPAN.split(line)
        parts[::2] = map(escape, parts[::2])
        return ROLE.sub(lambda role: self.reference(role[1], obj), "".join(parts))

    def reference(self, name, obj):
        """A link if the site documents the name, or what it belongs to; else code."""
        for candidate in (name, f"{obj.module.path}.{name}", f"tlstm_jax.{name}"):
            owners = [candidate, candidate.rpartition(".")[0]]
            if self.documented.intersection(owners):
                return f"[`{name}`][{candidate}]"
        return f"`{name}`"


def examples(found):
    """The section that Griffe knows, ``Examples:``, with the title as its first sentence."""
    indent, first, rest = found.groups()
    return f"{indent}Examples:" + (f"\n{indent}    {first.upper()}{rest}" if first else "")


def table(found):
    """The same table in Markdown; a line whose first cell is empty continues the row above it."""
    columns = [slice(*column.span()) for column in re.finditer("=+", found[2])]
    columns[-1] = slice(columns[-1].start, None)
    rows = []
    for line in [found[1], *found[3].splitlines()]:
        cells = [line[column].strip() for column in columns]
        if cells[0]:
            rows.append(cells)
        else:
            rows[-1] = [f"{above} {cell}".strip() for above, cell in zip(rows[-1], cells, strict=True)]
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([lines[0], "|---" * len(columns) + "|", *lines[1:]])


def escape(text):
    """Prose whose asterisks and angle brackets are no markup, ``*emphasis*`` aside."""
    text = re.sub(r"(\*\w+\*)|\*", lambda found: found[1] or r"\*", text)
    return re.sub(r"<(?=\w)", "&lt;", text)
