"""The initial biases by default: the time scale of each task, or the biases that replace it."""

import importlib

import numpy as np
import pytest

from experiments import addition, datasets, memorization
from experiments.running.models import ModelOptions
from experiments.running.options import to_record
from tests.experiments.small_runs import replace_texts


class Resolved(Exception):
    """Stops building an experiment once the model's options are resolved."""


@pytest.fixture
def model_of(monkeypatch):
    """A function from a task and its command line to the model's resolved options; no model is built."""
    resolved = ModelOptions.resolved

    def stopping(*arguments, **options):
        raise Resolved(resolved(*arguments, **options))

    def load(name, **_):
        split = datasets.Split(np.zeros((1, *{"mnist": (28, 28), "digits": (8, 8)}[name]), np.uint8), np.zeros(1))
        return datasets.Dataset(name, split, split, split, 10, 16)

    def model_of(task, *arguments):
        with pytest.raises(Resolved) as stopped:
            importlib.import_module(f"experiments.{task}").main(arguments)
        (model,) = stopped.value.args
        return model

    monkeypatch.setattr(ModelOptions, "resolved", stopping)
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
        ("mnist", ["--data", "digits", "--tensor-shape", "5"], 0),
        ("language", [], 0),
        ("language", ["--time-scale", "12"], 12),
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


def test_how_long_symbols_have_to_last():
    """With both ends, without the delay: to the answer, or to the digit of the sum in the same place."""
    n, rng = 3, np.random.default_rng(0)
    inputs, targets = memorization.make(n, 5).generate(rng, 1)
    assert targets[0].nonzero()[0][0] - inputs[0].nonzero()[0][0] + 1 == n + 1
    inputs, targets = addition.make(n).generate(rng, 100)
    units = [
        (source.nonzero()[0][n - 1], answer.nonzero()[0][-1]) for source, answer in zip(inputs, targets, strict=True)
    ]
    assert max(there - here + 1 for here, there in units) == addition.time_scale(n)


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
    assert "time_scale" not in to_record(model)  # as earlier versions recorded it
    assert ModelOptions.recorded(to_record(model)) == model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--time-scale", "30", "--forget-bias", "4"],
            "time_scale sets forget_bias, got both time_scale 30 and forget_",
        ),
        (
            ["--time-scale", "30", "--conveyor-bias", "0"],
            "sets conveyor_bias, got both time_scale 30 and conveyor_bias 0",
        ),
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
