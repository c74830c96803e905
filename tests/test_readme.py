"""The README's Python runs as printed, block after block, and its commands exist."""

import re
from pathlib import Path

import jax.numpy as jnp

from experiments import mnist, models, training

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_examples_run():
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(block, names)
        assert names["ys"].shape == (8, 50, 100)
    assert names["y"].shape == (8, 100)
    assert jnp.isfinite(names["y"]).all()


def test_the_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile
    lines = "\n".join(line for line in README.splitlines() if "experiments.mnist" in line)
    for option in re.findall(r"(--[a-z-]+)", lines):
        fields = {
            f"--{name.replace('_', '-')}"
            for cls in (mnist.Options, models.ModelOptions, training.EpochOptions, training.TrainOptions)
            for name in cls.__annotations__
        }
        assert option in fields | {"--help"}
