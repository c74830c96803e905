"""The README's Python runs as printed, block after block, and its commands exist."""

import importlib
import re
from pathlib import Path

import jax.numpy as jnp

from experiments.running import models, options

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_examples_run():
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(block, names)
        assert names["ys"].shape == (8, 50, 100)
    assert names["y"].shape == (8, 100)
    assert jnp.isfinite(names["y"]).all()


def test_the_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile
    commands = re.findall(r"python -m experiments\.(\w+)([^#\n]*)", README)
    assert len(commands) == 13
    for name, arguments in commands:
        own, _, of_task = arguments.partition(" -- ")  # what follows a sweep's -- is for the task that it names
        for module_name, words in ((name, own), *([(own.split()[0], of_task)] if of_task else [])):
            module = importlib.import_module(f"experiments.{module_name}")
            parsed = (module.Options, models.ModelOptions, options.TrainOptions, options.EpochOptions)
            fields = {f"--{field.replace('_', '-')}" for cls in parsed for field in cls.__annotations__}
            assert fields | {"--help"} >= set(re.findall(r"--[a-z-]+", words))
