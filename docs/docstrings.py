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
API = Path(__file__).parent / "api"


class MarkdownDocstrings(griffe.Extension):
    """Rewrites every docstring once it is loaded."""

    def __init__(self):
        pages = "\n".join(page.read_text() for page in API.glob("*.md"))
        self.documented = set(re.findall(r"^::: (\S+)", pages, re.MULTILINE))

    def on_object(self, *, obj, loader, **kwargs):
        """Called by Griffe for every module, class, function and attribute."""
        if obj.docstring is not None:
            text = EXAMPLE.sub(examples, obj.docstring.value)
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


def escape(text):
    """Prose whose asterisks and angle brackets are no markup, ``*emphasis*`` aside."""
    text = re.sub(r"(\*\w+\*)|\*", lambda found: found[1] or r"\*", text)
    return re.sub(r"<(?=\w)", "&lt;", text)
