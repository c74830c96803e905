"""The README's Python runs as printed, block after block, and its commands exist."""

import importlib
import json
import re
from pathlib import Path

import jax.numpy as jnp

from experiments import readme
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


def test_the_tables_are_what_was_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert readme.main(["--check"]) == 0
    other = tmp_path / "README.md"
    other.write_text(re.sub(r"\| \d(\.\d+) x \|", r"| 9\1 x |", README, count=1))
    assert readme.main(["--check", "--readme", str(other)]) == 1
    assert "run python -m experiments.readme" in capsys.readouterr().err
    assert readme.main(["--readme", str(other)]) == 0
    assert other.read_text() == README


def test_what_could_not_be_timed_has_no_row(tmp_path):
    row = {"model": "2d", "pass": "training", "depth": 1, "ms_per_timestep": 1.5}
    rows = [row, {"model": "cudnn", "pass": "training", "depth": 1, "unavailable": "needs a GPU"}]
    (tmp_path / "depth-cpu.json").write_text(json.dumps({"rows": rows}))
    assert readme.depth(readme.Options(benchmarks=tmp_path)) == [["ms a timestep", "L = 1"], ["2D tLSTM+CN", "1.50"]]


def test_a_table_that_does_not_exist_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    other = tmp_path / "README.md"
    other.write_text("<!-- table: spede -->\n<!-- end -->\n")
    assert readme.main(["--readme", str(other)]) == 2
    assert "has a table spede, expected one of learnt, speed, peers, kernels, depth, memory" in capsys.readouterr().err
    assert readme.main(["--readme", str(tmp_path / "none")]) == 2
    assert "give --readme a file" in capsys.readouterr().err
    other.write_text("<!-- table: kernels -->\n<!-- end -->\n")
    assert readme.main(["--readme", str(other), "--benchmarks", str(tmp_path)]) == 2
    assert "give --benchmarks a folder" in capsys.readouterr().err
