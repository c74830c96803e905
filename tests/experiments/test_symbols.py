"""`python -m experiments.memorization` and `addition`: the data, the paper's measure, exact resuming."""

import json
import re

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import addition, memorization
from experiments.running import symbols
from experiments.running import workdir as wd
from tests.experiments.small_runs import assert_same_run, killed_at

EASY = [
    "--length",
    "2",
    "--num-symbols",
    "4",
    "--features",
    "8",
    "--tensor-shape",
    "2",
    "--learning-rate",
    "0.02",
    "--check-every",
    "150",
]


def text(rows, alphabet):
    return ["".join(alphabet[symbol] for symbol in row) for row in rows]


def test_memorization_as_in_the_paper():
    task = memorization.make(5, 65)
    inputs, targets = task.generate(np.random.default_rng(0), 200)
    assert inputs.shape == targets.shape == (200, 12)
    for source, target in zip(text(inputs, "-" + "x" * 64), text(targets, "-" + "x" * 64), strict=True):
        assert (source, target) == ("-xxxxx------", "------xxxxx-")
    np.testing.assert_array_equal(inputs[:, 1:6], targets[:, 6:11])
    assert set(inputs[:, 1:6].ravel()) == set(range(1, 65))


@pytest.mark.parametrize("digits", [1, 3, 15, 18])
def test_addition_as_in_the_paper(digits):
    inputs, targets = addition.make(digits).generate(np.random.default_rng(0), 500)
    lengths = set()
    for source, target in zip(text(inputs, "-0123456789"), text(targets, "-0123456789"), strict=True):
        match = re.fullmatch(rf"-(\d{{{digits}}})-(\d{{{digits}}})-{{{digits + 2}}}", source)
        total = str(int(match[1]) + int(match[2]))
        assert target == ("-" * (2 * digits + 2) + total).ljust(3 * digits + 4, "-")
        assert digits == 1 or "0" not in (match[1][0], match[2][0])
        lengths.add(len(total))
    assert lengths == {digits, digits + 1}


def test_the_example_of_the_paper():
    class Rng:
        def integers(self, low, high, size):
            return np.array([[123], [900]])

    inputs, targets = addition.make(3).generate(Rng(), 1)
    assert text(inputs, "-0123456789") == ["-123-900-----"]
    assert text(targets, "-0123456789") == ["--------1023-"]


def test_accuracy_counts_the_answers_symbols_and_nothing_else():
    targets = np.array([[0, 0, 1, 2], [0, 0, 3, 0], [0, 0, 1, 1]])
    guesses = np.array([[3, 0, 1, 1], [1, 1, 3, 2], [0, 0, 1, 1]])  # 1 of 2 correct, 1 of 1, and a padding row

    class Labeler:
        def apply(self, variables, inputs, rows):
            return None, 9.0 * (guesses[..., None] == np.arange(4))

    generated = symbols.GeneratedTask("test", 4, lambda rng, rows: (targets[:rows], targets[:rows]), None, {})
    task = symbols.labeling(Labeler(), generated, symbols.SampleOptions())
    batch = {"inputs": targets, "targets": targets, "weights": jnp.array([1.0, 1.0, 0.0])}
    sums, _, _ = task.objective.sums({}, batch, (), None)
    assert [(float(total), float(count)) for name, (total, count) in sums.items() if name != "loss"] == [(2, 3), (1, 2)]
    assert float(sums["loss"][1]) == 8


def test_batches_are_fresh_and_known_by_their_number():
    generated = memorization.make(6, 65)
    task = symbols.labeling(None, generated, symbols.SampleOptions(batch_size=15, check_every=45))
    assert (task.steps_per_epoch, task.samples_per_epoch) == (3, 45)
    rows = [
        row.tobytes() for batch in (*map(task.batch, range(20)), *task.evaluated["test"]) for row in batch["inputs"]
    ]
    assert len(set(rows)) == len(rows) == 20 * 15 + 100
    np.testing.assert_equal(task.batch(7), task.batch(7))
    other = symbols.labeling(None, generated, symbols.SampleOptions(seed=1))
    assert (other.batch(7)["inputs"] != task.batch(7)["inputs"]).any()


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("solved") / "run"
    assert memorization.main([*EASY, "--workdir", str(workdir)]) == 0
    return workdir


def test_it_stops_when_solved_and_says_after_how_many_samples(solved, capsys):
    records = [json.loads(line) for line in (solved / wd.METRICS).read_text().splitlines()]
    assert [record["test_accuracy"] > 0.99 for record in records] == [False] * (len(records) - 1) + [True]
    assert records[-1]["samples"] == 150 * len(records) == 5 * records[-1]["step"]
    assert memorization.main([*EASY, "--workdir", str(solved)]) == 0
    shown = capsys.readouterr().out
    assert f"solved after {records[-1]['samples']:,} training samples" in shown
    assert "holds this run, finished" in shown


def test_killed_and_resumed_is_the_unbroken_run(solved, tmp_path, monkeypatch):
    arguments = [*EASY, "--workdir", str(tmp_path), "--checkpoint-seconds", "1000"]
    with killed_at(27, monkeypatch):
        memorization.main(arguments)
    assert memorization.main(arguments) == 0
    assert_same_run(solved, tmp_path)


def test_addition_gives_up_at_the_cap(tmp_path, capsys):
    arguments = ["--digits", "1", "--features", "3", "--tensor-shape", "1", "--samples", "60", "--check-every", "30"]
    assert addition.main([*arguments, "--workdir", str(tmp_path)]) == 0
    assert "NOT solved after 60 training samples" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (memorization, ["--length", "0"], "length must be at least 1, got 0"),
        (memorization, ["--num-symbols", "2"], "num_symbols must be at least 3"),
        (memorization, ["--samples", "0"], "samples must be at least 1, got 0"),
        (memorization, ["--check-every", "-1"], "check_every must be at least 1, got -1"),
        (memorization, ["--model", "slstm", "--tensor-shape", "3"], "tensor_shape does not apply to slstm"),
        (addition, ["--digits", "19"], "digits must be in 1..18, got 19"),
    ],
)
def test_bad_options_exit_with_2_and_one_line(tmp_path, capsys, module, arguments, message):
    assert module.main([*arguments, "--workdir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()
