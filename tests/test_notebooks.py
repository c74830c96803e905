"""The notebooks run from top to bottom, and say what is stored in them."""

import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def said(cell):
    """The text that a cell printed or returned; pictures are for people, and figures that vary are left out."""
    if "varies" in cell.metadata.get("tags", ()):
        return None
    texts = [output.get("text") or output.get("data", {}).get("text/plain") for output in cell.get("outputs", ())]
    return [text for text, output in zip(texts, cell.get("outputs", ()), strict=True) if not pictured(output)]


def pictured(output):
    return "image/png" in output.get("data", {})


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_still_says_what_it_said(path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("XLA_FLAGS", "")  # as a user runs it, not as the tests compile
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(NOTEBOOKS.parent), os.environ.get("PYTHONPATH", "")]))
    stored, run = (nbformat.read(path, as_version=4) for _ in range(2))
    assert all(cell.get("execution_count") for cell in stored.cells if cell.cell_type == "code"), "stored unexecuted"
    nbclient.NotebookClient(run, timeout=600, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    for before, after in zip(stored.cells, run.cells, strict=True):
        assert said(before) == said(after), before.source
        kinds = [[pictured(output) for output in cell.get("outputs", ())] for cell in (before, after)]
        assert any(kinds[0]) == any(kinds[1]), before.source
