"""README.md: short, its Python runs as printed, and its commands exist."""

import re
from pathlib import Path

import jax.numpy as jnp

from tests import snippets

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_it_is_read_in_three_minutes():
    assert len(README.split()) <= 1200  # tables and code included


def test_its_python_runs():
    names, blocks = snippets.run(ROOT / "README.md")
    assert blocks == 3
    assert names["ys"].shape == (8, 50, 100)
    assert names["y"].shape == (8, 100)
    assert jnp.isfinite(names["ys"]).all()


def test_its_make_targets_exist():
    targets = re.findall(r"^make (\w+)|`make (\w+)`", README, re.MULTILINE)
    assert len(targets) >= 3
    makefile = (ROOT / "Makefile").read_text()
    for target in map("".join, targets):
        assert f"\n{target}:" in makefile
