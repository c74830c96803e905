"""The models of the paper by name, and M for a budget of parameters."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import pytest

from experiments.running import runs, symbols
from experiments.running.models import PRESETS, ModelOptions

DEFAULT = ModelOptions()


@pytest.mark.parametrize(
    ("preset", "title"),
    [
        ("slstm", "sLSTM L=4 M=64"),
        ("trnn", "2D tRNN L=4 P=4 M=64"),
        ("2d", "2D tLSTM L=4 P=4 M=64"),
        ("2d-M", "2D tLSTM-M L=4 P=4 M=64"),
        ("2d-F", "2D tLSTM-F L=4 P=4 M=64"),
        ("2d+CN", "2D tLSTM+CN L=4 P=4 M=64"),
        ("3d", "3D tLSTM L=4 P=4x4 M=64"),
        ("3d+LN", "3D tLSTM+LN L=4 P=4x4 M=64"),
        ("3d+CN", "3D tLSTM+CN L=4 P=4x4 M=64"),
    ],
)
def test_presets(preset, title):
    chosen = ModelOptions(preset=preset, depth=4).resolved(DEFAULT)
    assert chosen.title == title
    assert chosen.conveyor_bias == (3 if preset.startswith("3d") else 0)
    assert chosen.resolved(DEFAULT) == chosen


def test_the_depth_of_a_preset_is_that_of_the_task():
    assert ModelOptions(preset="3d").resolved(DEFAULT).tensor_shape == (3, 3)
    default = ModelOptions(tensor_shape=(8,), features=10)
    assert dataclasses.replace(default, preset="slstm").resolved(default).num_layers == 8


@pytest.mark.parametrize(
    ("preset", "budget", "features"),
    [
        ("slstm", "10M", 1118),
        ("2d-F", "10m", 1117),
        ("2d", "10M", 912),
        ("3d+CN", "10000000", 526),
        ("trnn", "12K", 63),
    ],
)
def test_features_for_a_budget(preset, budget, features):
    """Near the paper's M = 1120 (sLSTM, K = 2), 901 (2D) and 522 (3D) for 10M parameters."""
    chosen = ModelOptions(preset=preset, params=budget).resolved(DEFAULT)
    assert chosen.features == features


@pytest.mark.parametrize("preset", PRESETS)
def test_the_budget_is_met(preset):
    chosen = ModelOptions(preset=preset, depth=2, params="20K").resolved(DEFAULT)
    shapes = jax.eval_shape(chosen.layer().init, jax.random.key(0), jnp.zeros((1, 1, 1)))
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    assert sum(leaf.size for _, leaf in leaves) == chosen.core_size(1) == pytest.approx(20_000, rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 3}, "depth belongs to a preset, got 3: add --preset"),
        ({"preset": "2d", "depth": 0}, "depth must be at least 1, got 0"),
        ({"preset": "2d", "tensor_shape": (4,)}, "tensor_shape is set by --preset 2d, got \\(4,\\)"),
        ({"preset": "slstm", "num_layers": 2}, "num_layers is set by --preset slstm, got 2"),
        ({"preset": "slstm", "conveyor_bias": 3.0}, "conveyor_bias does not apply to slstm, got 3.0"),
        ({"preset": "2d-M", "conveyor_bias": 3.0}, "does not apply to a tlstm without memory_conv, got 3.0"),
        ({"params": "many"}, "params must be a positive number like 10M, 250K or 4000, got 'many'"),
        ({"params": "0"}, "params must be a positive number"),
        ({"params": "1M", "features": 9}, "params sets features, got params 1M and features 9"),
    ],
)
def test_contradictions(options, message):
    with pytest.raises(ValueError, match=message):
        ModelOptions(**options).resolved(DEFAULT)


@pytest.mark.parametrize(
    ("options", "bias"),
    [
        ({"tensor_shape": (4,)}, 0),
        ({"tensor_shape": (2, 2)}, 3),
        ({"tensor_shape": (2, 2, 2)}, 3),
        ({"tensor_shape": (2, 2), "conveyor_bias": 0.0}, 0),
        ({"tensor_shape": (2, 2), "memory_conv": False}, 0),
        ({"tensor_shape": (2, 2), "model": "trnn"}, 0),
        ({"model": "slstm"}, 0),
    ],
)
def test_which_models_start_as_a_conveyor(options, bias):
    for default in (DEFAULT, dataclasses.replace(DEFAULT, conveyor_bias=0.0)):
        assert ModelOptions(**options).resolved(default).conveyor_bias == bias


@pytest.mark.parametrize("task", ["memorization", "addition", "mnist", "language"])
def test_the_papers_models_do_not(task):
    assert importlib.import_module(f"experiments.{task}").PAPER.model.config.conveyor_bias == 0


@pytest.mark.parametrize("task", ["memorization", "addition", "mnist", "language"])
def test_layers_is_short_for_num_layers(task, capsys):
    module = importlib.import_module(f"experiments.{task}")
    for name in ("--layers", "--num-layers"):
        assert module.parse(["--model", "lstm", name, "7"]).model.num_layers == 7
    with pytest.raises(SystemExit):
        module.parse(["--help"])
    assert "--layers INT, --num-layers INT " in capsys.readouterr().out


@pytest.mark.parametrize(("task", "features"), [("memorization", 100), ("addition", 400)])
def test_the_papers_values(task, features, monkeypatch):
    """With --paper, and with other options too."""
    module = importlib.import_module(f"experiments.{task}")
    taken = []

    monkeypatch.setattr(runs, "run", lambda build, options: build() or 0)
    monkeypatch.setattr(symbols, "build", lambda generated, model, train: taken.append((model, train)))
    module.main(["--paper"])
    module.main(["--paper", "--preset", "slstm", "--depth", "4", "--samples", "90"])
    (model, train), (other, other_train) = taken
    assert model.title == f"3D tLSTM+CN L=10 P=10x10 M={features}"
    assert model.conveyor_bias == 0
    assert (model.forget_bias, train.samples, train.batch_size, train.learning_rate) == (1.0, 5_000_000, 15, 1e-3)
    assert (other.num_layers, other.forget_bias, other_train.samples) == (4, 1.0, 90)


def test_the_smallest_budget_gives_a_model_that_its_norm_can_normalize():
    for norm, features in (("channel", 2), ("none", 1)):
        assert ModelOptions(params="1", norm=norm).resolved(ModelOptions(norm=norm)).features == features
