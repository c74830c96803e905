"""The two factors of the time scale: what they set, and a measurement of seconds."""

import json

import jax
import numpy as np
import pytest

import tlstm_jax as tl
from benchmarks import time_scale
from tlstm_jax import biases

TINY = ["--length", "1", "--num-symbols", "4", "--features", "4", "--tensor-shape", "2", "--batch-size", "10"]
LIMIT = ["--samples", "20", "--check-every", "10"]


@pytest.mark.parametrize("shape", [(4,), (3, 3)])
def test_the_factors_set_gates_and_transport(shape):
    cfg = tl.TLSTMConfig(features=200, tensor_shape=shape, time_scale=30.0)
    bias = tl.init_params(jax.random.key(0), 3, cfg)["hidden"]["bias"]
    ours = time_scale.initial_bias(cfg, bias, 0, biases.LONGEST, biases.TRANSPORT)
    np.testing.assert_allclose(ours[800:], bias[800:], rtol=1e-5)
    slower = time_scale.initial_bias(cfg, bias, 0, 4.0, 1.7)
    forget = np.exp(slower[400:600])
    assert 60 < forget.max() <= 120
    assert forget.min() >= 1
    np.testing.assert_array_equal(slower[200:400], -slower[400:600])
    np.testing.assert_array_equal(slower[:200], bias[:200])
    np.testing.assert_array_equal(slower[600:800], bias[600:800])
    twice = tl.TLSTMConfig(features=200, tensor_shape=shape, time_scale=60.0)
    np.testing.assert_allclose(slower[800:], biases.transport_logits(twice), rtol=1e-5)


def test_a_measurement(tmp_path, capsys):
    arguments = ["memorization", "--gates", "1", "2", "--transport", "0.5", "0.85", "--one-at-a-time", "--seeds", "3"]
    out = tmp_path / "out.json"
    folder = ["--folder", str(tmp_path / "runs"), "--out", str(out), "--together"]
    assert time_scale.main([*arguments, *folder, "--", *TINY, *LIMIT]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(row["gates"], row["transport"]) for row in rows] == [(1, 0.85), (2, 0.85), (2, 0.5)]
    assert {row["samples"] for row in rows} == {20}
    first = [path.read_text().splitlines()[0] for path in (tmp_path / "runs").glob("*/metrics.jsonl")]
    assert len({json.loads(record)["train_loss"] for record in first}) == 3  # each began with other biases
    config = json.loads(next((tmp_path / "runs").glob("*transport0.5*/config.json")).read_text())
    assert (config["gates"], config["transport"], config["seed"]) == (2, 0.5, 3)
    capsys.readouterr()
    assert time_scale.main([*arguments, *folder, "--", *TINY, *LIMIT]) == 0  # finished runs are not run again
    assert json.loads(out.read_text())["rows"] == rows
    assert "epoch" not in capsys.readouterr().out


def test_a_task_of_epochs(tmp_path):
    arguments = ["mnist", "--gates", "1", "--seeds", "0", "--folder", str(tmp_path / "runs"), "--out"]
    digits = ["--data", "digits", "--time-scale", "64", "--features", "4", "--epochs", "1", "--batch-size", "500"]
    assert time_scale.main([*arguments, str(tmp_path / "out.json"), "--", *digits]) == 0
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert (row["time_scale"], row["gates"], row["solved"]) == (64, 1, False)
    summary = json.loads(next((tmp_path / "runs").glob("*/summary.json")).read_text())
    for name in ("validation_accuracy", "test_accuracy"):
        assert row[name] == round(summary[name], 4)


@pytest.mark.parametrize(
    "task",
    [
        ["memorization", "--", "--model", "lstm"],
        ["addition", "--", "--time-scale", "0"],
        ["mnist", "--", "--data", "digits"],
    ],
)
def test_only_a_tlstm_with_a_time_scale(tmp_path, task):
    with pytest.raises(time_scale.UsageError, match="leave out --model and --time-scale 0"):
        time_scale.main([task[0], "--folder", str(tmp_path), *task[1:]])
