"""A hook of MkDocs that checks the HTML of the API reference; `make docs` fails on what it finds.

Unresolved cross-references are found by mkdocs-autorefs. This finds what renders without a warning.
"""

import re
from html.parser import HTMLParser

from mkdocs.plugins import get_plugin_logger

log = get_plugin_logger("check_api")

TAGS = set(
    re.findall(
        r"\w+",
        "a autoref br code col colgroup dd details div dl dt em h1 h2 h3 h4 h5 h6 hr img li ol p pre small span strong "
        "sub summary sup table tbody td th thead tr ul",
    )
)
"""The tags that Markdown and mkdocstrings produce. Any other one was meant as text, as <K> or >>> would be."""


def on_page_content(html, page, **kwargs):
    """Warns of every fault of a page in docs/api/; with --strict a warning fails the build."""
    if page.file.src_uri.startswith("api/"):
        for fault in faults(html, page.markdown):
            log.warning("%s: %s", page.file.src_uri, fault)
    return html


def faults(html, markdown):
    """What is wrong with the HTML of an API page, one line each."""
    reader = Reader()
    reader.feed(html)
    reader.close()
    found = [f"<{tag}> appears: text such as <K> or >>> is read as markup" for tag in sorted(reader.tags - TAGS)]
    found += [f"an example runs into a paragraph: {text}" for text in reader.examples]
    found += [f"{name} is private, but appears as a base class or link" for name in sorted(reader.private)]
    for name in re.findall(r"^::: (tlstm_jax\.(?:linen|nnx)\.\w+)$", markdown, re.MULTILINE):
        if not re.search(rf'id="{re.escape(name)}\.__call__"', html):
            found.append(f"{name} shows no __call__")
    return found


class Reader(HTMLParser):
    """Collects the tags, the ``>>>`` in paragraphs, and the private names in links and lists of base classes."""

    def __init__(self):
        super().__init__()
        self.tags, self.examples, self.private, self.open = set(), [], set(), []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        values = dict(attributes)
        if tag not in ("br", "col", "hr", "img"):
            self.open.append((tag, values.get("class") or ""))
        target = values.get("href") or values.get("identifier") or ""
        self.private.update(part for part in re.split(r"[#./]", target) if re.match(r"_[^_]", part))

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass  # a tag that is never closed

    def handle_data(self, data):
        tags = [tag for tag, _ in self.open]
        if "p" in tags and "code" not in tags and ">>>" in data:
            self.examples.append(data.strip())
        if any("doc-class-bases" in names for _, names in self.open):
            self.private.update(re.findall(r"\b_[a-zA-Z]\w*", data))
