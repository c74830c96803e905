"""The pages of the site: their Python runs, their commands exist, and their links lead to files and headings."""

import contextlib
import importlib
import importlib.util
import io
import posixpath
import re
from pathlib import Path

import pytest

from experiments.running import models, options
from tests import snippets

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\((?!\w+:)([^)\s]*)\)")
"""A Markdown link to a place in the repository."""


def name(page):
    return page.relative_to(ROOT).as_posix()


def without_code(text):
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(text):
    """The anchors of a page: its headings as MkDocs and GitHub spell them, and the objects of an API page."""
    headings = re.findall(r"^#+ (.*)$", without_code(text), re.MULTILINE)
    slugs = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"\s+", "-", slug) for slug in slugs} | set(re.findall(r"^::: (\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("page", [page for page in PAGES[1:] if "```python" in page.read_text()], ids=name)
def test_the_python_of_a_page_runs(page):  # test_readme.py runs that of README.md
    snippets.run(page)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(without_code(page.read_text())):
        path, _, anchor = link.partition("#")
        target = ROOT / posixpath.normpath(posixpath.join(posixpath.dirname(name(page)), path)) if path else page
        assert target.exists(), f"{name(page)} links to {link}, which does not exist"
        assert target.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(target.read_text()), f"{name(page)} links to {link}, which has no such heading"


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES[3:]:
        assert f": {page.relative_to(ROOT / 'docs').as_posix()}\n" in navigation


def test_every_command_exists():
    commands = [
        command
        for page in PAGES
        for command in re.findall(r"python -m experiments\.(\w+)([^#\n`]*)", page.read_text())
        if page.name != "CHANGELOG.md"  # which says what the commands were
    ]
    assert len(commands) > 10
    for command, arguments in commands:
        own, _, of_task = arguments.partition(" -- ")  # what follows a sweep's -- is for the task that it names
        for module_name, words in ((command, own), *([(own.split()[0], of_task)] if of_task else [])):
            module = importlib.import_module(f"experiments.{module_name}")
            fields = known_options(module)
            assert fields | {"--help"} >= set(re.findall(r"--[a-z-]+", words)), f"{command}{arguments}"


def known_options(module):
    """The options of a command: the fields of its dataclasses, or what its usage names if it parses with argparse."""
    if hasattr(module, "Options"):
        parsed = (module.Options, models.ModelOptions, options.TrainOptions, options.EpochOptions)
        return {f"--{field.replace('_', '-')}" for cls in parsed for field in cls.__annotations__}
    if hasattr(module, "__path__"):  # a package that is a command
        module = importlib.import_module(f"{module.__name__}.__main__")
    usage = io.StringIO()
    with contextlib.redirect_stdout(usage), pytest.raises(SystemExit):
        module.main(["--help"])
    return set(re.findall(r"--[a-z-]+", usage.getvalue()))


def test_every_path_in_the_map_exists():
    paths = re.findall(
        r"`((?:tlstm_jax|experiments|benchmarks|tests|docs|\.ci|\.github)/[\w./-]*)`",
        (ROOT / "CONTRIBUTING.md").read_text(),
    )
    assert len(paths) > 30
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing, missing


def test_the_checks_of_the_api_reference():
    """`make docs` runs them on the HTML of every page of the API reference."""
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("check_api", ROOT / "docs" / "check_api.py")
    check_api = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check_api)
    page = "# Flax linen\n\n::: tlstm_jax.linen.TLSTM\n"
    good = """<h2 id="tlstm_jax.linen.TLSTM">TLSTM</h2><p class="doc doc-class-bases">Bases: <code>Module</code></p>
        <h3 id="tlstm_jax.linen.TLSTM.__call__">__call__</h3><p>&lt;K&gt; M values</p><p>Examples:</p>
        <div><pre><code>&gt;&gt;&gt; tl.step</code></pre></div><a href="functions.html#tlstm_jax.unroll">unroll</a>"""
    assert check_api.faults(good, page) == []
    for old, new, fault in (
        ("&lt;K&gt;", "<K>", "<k> appears: text such as <K> or >>> is read as markup"),
        ("__call__", "setup", "tlstm_jax.linen.TLSTM shows no __call__"),
        ("Examples:", "Example: &gt;&gt;&gt; 1", "an example runs into a paragraph: Example: >>> 1"),
        ("tlstm_jax.unroll", "tlstm_jax._linen._Layer", "_Layer is private, but appears as a base class or link"),
        ("Module", "_Model", "_Model is private, but appears as a base class or link"),
    ):
        assert fault in check_api.faults(good.replace(old, new), page)


def test_the_api_reference_begins_with_the_configuration():
    first = re.search(r"^::: (\S+)", (ROOT / "docs" / "api" / "functions.md").read_text(), re.MULTILINE)
    assert first[1] == "tlstm_jax.TLSTMConfig"
