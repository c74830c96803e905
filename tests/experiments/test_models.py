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
        ("2d-F", "10m", 1118),
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
    kernels = [(path, leaf) for path, leaf in leaves if path[-1].key == "kernel" and "input" not in str(path)]
    assert sum(leaf.size for _, leaf in kernels) == pytest.approx(20_000, rel=0.05)


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


class Resolved(Exception):
    """Stops building an experiment once the model's options are resolved."""


@pytest.fixture
def model_of(monkeypatch):
    """A function from a task and its command line to the model's resolved options; no model is built."""
    resolved, images = ModelOptions.resolved, np.zeros((1, 28, 28), np.uint8)

    def stopping(*arguments, **options):
        raise Resolved(resolved(*arguments, **options))

    def run(build, options):
        with pytest.raises(Resolved) as stopped:
            try:
                build()
            except ValueError as error:
                raise UsageError(error) from error
        (model,) = stopped.value.args
        taken.append(model)
        return 0

    def model_of(task, *arguments):
        assert importlib.import_module(f"experiments.{task}").main(arguments) == 0
        return taken.pop()

    def load(name, **_):
        side = {"mnist": 28, "digits": 8}[name]
        return datasets.Dataset(name, *[datasets.Split(images[:, :side, :side], np.zeros(1, np.int32))] * 3, 10, 16)

    taken = []
    monkeypatch.setattr(ModelOptions, "resolved", stopping)
    monkeypatch.setattr(runs, "run", run)
    monkeypatch.setattr(datasets, "load", load)
    replace_texts(monkeypatch)
    return model_of


@pytest.mark.parametrize(
    ("task", "arguments", "time_scale"),
    [
        ("memorization", ["--length", "20", "--tensor-shape", "10"], 30),
        ("memorization", [], 14),
        ("memorization", ["--tensor-shape", "8", "--kernel-size", "5"], 14),  # the same depth
        ("memorization", ["--preset", "3d+CN", "--depth", "7", "--params", "10K"], 17),
        ("memorization", ["--preset", "2d-M", "--depth", "2"], 12),
        ("memorization", ["--preset", "slstm", "--depth", "4"], 11),
        ("memorization", ["--preset", "trnn"], 0),
        ("addition", [], 10),
        ("addition", ["--digits", "15", "--preset", "3d+CN", "--depth", "10"], 42),
        ("mnist", [], 784),
        ("mnist", ["--data", "digits", "--tensor-shape", "5"], 64),
        ("language", [], 200),
        ("memorization", ["--time-scale", "7.5"], 7.5),
        ("mnist", ["--time-scale", "0"], 0),
        ("mnist", ["--forget-bias", "4"], 0),
        ("mnist", ["--conveyor-bias", "0"], 0),
        ("addition", ["--time-scale", "0", "--forget-bias", "4", "--conveyor-bias", "1"], 0),
        ("memorization", ["--paper", "--time-scale", "40"], 40),
        *[(task, ["--paper"], 0) for task in ("memorization", "addition", "mnist", "language")],
    ],
)
def test_for_how_long_memory_has_to_last(model_of, task, arguments, time_scale):
    model = model_of(task, *arguments)
    assert model.time_scale == time_scale
    if model.model != "trnn":
        config = model.stack_config if model.model == "slstm" else model.config
        assert config.time_scale == (time_scale or None)
    assert ((model.forget_bias, model.conveyor_bias) == (None, None)) == (time_scale > 0)
    assert model.resolved_again() == model


def test_the_longest_way_in_addition():
    """From a digit of the first integer to that of a sum of n + 1 digits in the same place, both ends included."""
    digits = 3
    inputs, targets = addition.make(digits).generate(np.random.default_rng(0), 100)
    spans = set()
    for source, answer in zip(inputs, targets, strict=True):
        last = {1: digits, 0: digits}
        (places,) = np.nonzero(answer)
        lasting = places[-1] - np.nonzero(source)[0][digits - 1] + 1
        spans.add(int(lasting))
    assert max(spans) == addition.time_scale(digits)


@pytest.mark.parametrize(
    ("arguments", "biases"),
    [
        (["memorization"], (4, 0)),
        (["memorization", "--tensor-shape", "2", "2"], (4, 3)),
        (["memorization", "--preset", "slstm"], (4, 0)),
        (["memorization", "--forget-bias", "6"], (6, 0)),
        (["memorization", "--tensor-shape", "2", "2", "--conveyor-bias", "1"], (4, 1)),
        (["memorization", "--preset", "trnn", "--forget-bias", "4"], (4, 0)),
        (["language"], (1, 0)),
        (["language", "--preset", "trnn"], (1, 0)),
        (["memorization", "--paper"], (1, 0)),
        (["addition", "--paper"], (1, 0)),
        (["mnist", "--paper"], (4, 0)),
        (["language", "--paper"], (1, 0)),
        (["language", "--paper", "--preset", "slstm"], (1, 0)),
    ],
)
def test_the_biases_without_a_time_scale(model_of, arguments, biases):
    model = model_of(*arguments, "--time-scale", "0")
    assert (model.forget_bias, model.conveyor_bias) == biases
    assert "time_scale" not in model.record  # as earlier versions recorded it
    assert ModelOptions.recorded(model.record) == model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--time-scale", "30", "--forget-bias", "4"], "time_scale sets forget_bias, got both time_scale 30 and forget_"),
        (["--time-scale", "30", "--conveyor-bias", "0"], "sets conveyor_bias, got both time_scale 30 and conveyor_bias 0"),
        (["--time-scale", "30", "--forget-bias", "6", "--paper"], "sets forget_bias, got both"),
        (["--time-scale", "0.5"], "time_scale must be 0 (none) or a number of timesteps, at least 1, got 0.5"),
        (["--time-scale", "-1"], "at least 1, got -1"),
        (["--time-scale", "nan"], "at least 1, got nan"),
        (["--time-scale", "30", "--preset", "trnn"], "time_scale does not apply to trnn, got 30.0"),
    ],
)
def test_time_scales_that_are_refused(arguments, message, capsys):
    assert memorization.main(arguments) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert message in errors[0]


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
