"""`python -m experiments.mnist`: the task, its data and its command line."""

import itertools
import json
import re

import jax
import numpy as np
import pytest

from experiments import mnist, tasks
from experiments.running import workdir as wd
from tests.experiments.small_runs import TINY


@pytest.mark.slow
def test_it_learns(tiny, tmp_path):
    arguments = [*TINY, "--features", "8", "--epochs", "25", "--learning-rate", "0.02", "--workdir", str(tmp_path)]
    assert mnist.main(arguments) == 0
    assert json.loads((tmp_path / wd.SUMMARY).read_text())["test_accuracy"] > 0.9


@pytest.mark.parametrize(
    "model",
    [
        ["--model", "trnn", "--tensor-shape", "2", "--norm", "none"],
        ["--model", "slstm", "--num-layers", "2", "--no-shared"],
    ],
)
def test_other_models(tiny, tmp_path, model, capsys):
    arguments = ["--data", "digits", "--features", "4", "--batch-size", "10", "--epochs", "1"]
    assert mnist.main([*arguments, *model, "--workdir", str(tmp_path)]) == 0
    assert ("tRNN" if "trnn" in model else "sLSTM (unshared)") in capsys.readouterr().out


@pytest.mark.slow
def test_bfloat16_and_remat(tiny, tmp_path):
    arguments = [*TINY, "--precision", "bfloat16", "--remat", "3", "--epochs", "1", "--workdir", str(tmp_path)]
    assert mnist.main(arguments) == 0


def test_permuted_records_its_permutation(tiny, tmp_path):
    assert mnist.main([*TINY, "--permuted", "--epochs", "1", "--workdir", str(tmp_path)]) == 0
    recorded = json.loads((tmp_path / wd.CONFIG).read_text())["permutation"]
    assert recorded == np.random.RandomState(92916).permutation(6).tolist()


def test_bit_reversal(tiny, tmp_path):
    assert mnist.main([*TINY, "--bit-reversal", "--epochs", "1", "--workdir", str(tmp_path)]) == 0
    config = json.loads((tmp_path / wd.CONFIG).read_text())
    assert config["permutation"] == [0, 4, 2, 1, 5, 3]  # of 000 100 010 110 001 101 011 111
    assert tasks.MNIST.setting(config) == "digits in bit-reversed order"
    order = mnist.pixel_order(mnist.Options(bit_reversal=True), 784)
    assert sorted(order) == list(range(784))
    assert order[:5] == (0, 512, 256, 768, 128)


def test_the_permutation_of_the_literature():
    options = mnist.Options(permuted=True)
    order = mnist.pixel_order(options, 784)
    np.testing.assert_array_equal(order, np.random.RandomState(92916).permutation(784))
    assert sorted(order) == list(range(784))


def test_pixels_come_in_the_order_asked_for():
    images = np.arange(12, dtype=np.uint8).reshape(2, 3, 2)
    order = np.array([5, 0, 1, 2, 3, 4])
    xs = mnist.sequences(jax.numpy.asarray(images), order, 10)
    np.testing.assert_allclose(xs[..., 0], images.reshape(2, 6)[:, order] / 5 - 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--features", "0"], "features must be at least 1, got 0"),
        (["--kernel-size", "1"], "kernel_size must be at least 2, got 1"),
        (["--tensor-shape", "3", "4"], "depths \\(3, 4\\)"),
        (["--tensor-shape", "3", "3", "--kernel-size", "3", "3", "3"], "one entry for each of the 2 dimensions"),
        (["--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["--batch-size", "46"], "batch_size must be at most 45, the training images of digits, got 46"),
        (["--distributed", "--devices", "2"], "devices must be 0, which takes all devices, when distributed, got 2"),
        (["--process-id", "1"], "need --distributed"),
        (["--learning-rate", "-1"], "learning_rate must be a positive number, got -1"),
        (["--devices", "9"], "devices must be 0..4"),
        (["--remat", "-1"], "remat must be 0 or a positive number"),
        (["--seed", "99999999999999999999"], "seed must be in 0..2"),
        (["--model", "slstm"], "tensor_shape does not apply to slstm"),
        (["--model", "trnn", "--no-memory-conv"], "memory_conv does not apply to trnn, got False"),
        (["--model", "trnn", "--memory-conv"], "memory_conv does not apply to trnn, got True"),
        (["--model", "lstm", "--no-shared"], "shared does not apply to lstm, got False: leave it out"),
        (["--model", "lstm", "--shared"], "shared does not apply to lstm, got True: leave it out"),
        (["--num-layers", "2"], "num_layers does not apply to tlstm"),
        (["--permuted", "--permutation-seed", "-1"], "permutation_seed must be in"),
        (["--permuted", "--bit-reversal"], "permuted and bit_reversal are two orders"),
    ],
)
def test_bad_options_exit_with_2_and_one_line(tiny, tmp_path, capsys, arguments, message):
    assert mnist.main([*TINY, *arguments, "--workdir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert re.search(message, error)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "3d", "--tensor-shape", "3"], "tensor_shape is set by --preset 3d, got (3,): leave one"),
        (["--preset=slstm", "--num_layers=3"], "num_layers is set by --preset slstm, got 3"),
        (["--preset", "2d", "--memory-conv"], "memory_conv is set by --preset 2d, got True"),
        (["--preset", "2d", "--no-memory-conv"], "memory_conv is set by --preset 2d, got False"),
        (["--params", "10K", "--features", "64"], "params sets features, got params 10K and features 64"),
    ],
)
def test_an_option_that_another_replaces_is_refused_though_it_has_its_default_value(
    capsys, monkeypatch, arguments, message
):
    monkeypatch.setattr(mnist.runs, "run", lambda *_: 0)
    assert mnist.main(["--data", "digits", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_bad_options_without_a_workdir(tiny, tmp_path, capsys, monkeypatch):
    """Because the default workdir is named for the model, which does not exist."""
    monkeypatch.chdir(tmp_path)
    assert mnist.main([*TINY, "--kernel-size", "1"]) == 2
    assert "kernel_size" in capsys.readouterr().err
    assert mnist.main([*TINY, "--epochs", "1"]) == 0
    assert (tmp_path / "runs" / "digits-2D-tLSTM+CN-L2-P2-M4-seed0" / wd.SUMMARY).exists()


@pytest.mark.parametrize(
    "arguments", [["--data", "cifar"], ["--model", "gru"], ["--norm", "batch"], ["--epochs", "x"], ["--x"]]
)
def test_what_the_parser_refuses_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        mnist.main(arguments)
    assert stop.value.code == 2


def test_missing_data_exits_with_2(tmp_path, capsys):
    assert mnist.main(["--data-dir", str(tmp_path / "none"), "--workdir", str(tmp_path / "run")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_without_mnist_and_network_it_goes_on_with_digits(tmp_path, capsys, monkeypatch):
    from experiments.datasets.mnist import download

    monkeypatch.setattr(download, "probe", lambda: "no network in this test")
    arguments = ["--features", "2", "--tensor-shape", "1", "--batch-size", "500", "--epochs", "1"]
    prepared = ["--prepared-dir", str(tmp_path / "prepared"), "--workdir", str(tmp_path / "run")]
    assert mnist.main([*arguments, *prepared]) == 0
    (warning,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING"))
    assert "--data-dir" in warning
    assert "CONTINUING WITH --data digits" in warning
    assert json.loads((tmp_path / "run" / wd.CONFIG).read_text())["data"] == "digits"


def test_defaults_are_those_of_the_dataset():
    assert mnist.parse([]).train == mnist.RECIPES["mnist"]
    assert mnist.parse(["--data", "digits"]).train == mnist.RECIPES["digits"]
    assert mnist.parse(["--data=digits", "--epochs", "3"]).train.learning_rate == mnist.RECIPES["digits"].learning_rate
    assert mnist.parse(["--epochs", "3"], instead="digits").train.epochs == 3
    assert mnist.parse(["--depth", "None", "--workdir", "None", "--preset", "None"]) == mnist.Options()


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        mnist.main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "{None" not in shown
    assert "--workdir PATH" in shown
    for name in ("data-dir", "permuted", "tensor-shape", "kernel-size", "forget-bias", "learning-rate", "workdir"):
        assert f"--{name}" in shown


def test_the_lines_of_the_help_are_filled(capsys):
    """No line within a sentence ends where the first word of the next one would have fit."""
    with pytest.raises(SystemExit):
        mnist.main(["--help"])
    texts = [line.strip("│").ljust(80)[2:78] for line in capsys.readouterr().out.splitlines()]
    indent = " " * 23
    pairs = [
        pair for pair in itertools.pairwise(texts) if all(text.startswith(indent) and text.strip() for text in pair)
    ]
    assert len(pairs) > 40
    within = [pair for pair in pairs if not pair[0].rstrip().endswith(".")]
    assert not [line for line, after in within if len(line.rstrip()) + 1 + len(after.split()[0]) <= len(line)]
