"""Samples that the device makes with --data-on device, and images that live on the device."""

import re

import jax
import numpy as np
import pytest

from experiments import addition, inspect, memorization, mnist
from experiments.datasets import Dataset
from experiments.running import devices, symbols
from experiments.running import workdir as wd
from experiments.running.options import EpochOptions
from experiments.running.symbols import TEST, TRAIN, SampleOptions, numbered
from tests.experiments.small_runs import assert_same_run, killed_at, metrics, striped


def made(generated, batch):
    found = jax.jit(generated.from_numbers)(batch)
    return np.asarray(found["inputs"]), np.asarray(found["targets"])


def text(rows, alphabet="-0123456789"):
    return ["".join(alphabet[symbol] for symbol in row) for row in rows]


def chi_square(found, choices):
    """Divided by the degrees of freedom: about 1 if each of the choices is equally likely."""
    counts = np.array([(found == choice).sum() for choice in choices])
    assert counts.sum() == found.size
    expected = found.size / len(choices)
    return ((counts - expected) ** 2 / expected).sum() / (len(choices) - 1)


@pytest.mark.parametrize("digits", [1, 3, 15, 18])
def test_addition_by_the_device(digits):
    """Checked with Python's integers. Of a thousand sums of 3 digits some carry over two places."""
    inputs, targets = made(addition.make(digits), numbered(0, TRAIN, 0, 1000))
    assert inputs.dtype == targets.dtype == np.int32
    lengths, carries = set(), set()
    for source, target in zip(text(inputs), text(targets), strict=True):
        match = re.fullmatch(rf"-(\d{{{digits}}})-(\d{{{digits}}})-{{{digits + 2}}}", source)
        total = str(int(match[1]) + int(match[2]))
        assert target == ("-" * (2 * digits + 2) + total).ljust(3 * digits + 4, "-")
        lengths.add(len(total))
        places = "".join(
            "9" if int(a) + int(b) == 9 else "c" if int(a) + int(b) > 9 else "."
            for a, b in zip(*match.groups(), strict=True)
        )
        carries |= {len(run) for run in re.findall("9*c", places)}
    assert lengths == {digits, digits + 1}
    assert digits == 1 or {1, 2, 3} <= carries
    drawn = inputs[:, [*range(1, digits + 1), *range(digits + 2, 2 * digits + 2)]].reshape(1000, 2, digits) - 1
    assert chi_square(drawn[..., 0], range(digits > 1, 10)) < 2.5
    assert digits == 1 or chi_square(drawn[..., 1:], range(10)) < 2.5
    assert (drawn[:, 0] != drawn[:, 1]).any(-1).mean() > 0.8  # the two integers are not the same


@pytest.mark.parametrize(("length", "num_symbols"), [(1, 3), (5, 65)])
def test_memorization_by_the_device(length, num_symbols):
    inputs, targets = made(memorization.make(length, num_symbols), numbered(0, TRAIN, 0, 1000))
    assert inputs.dtype == targets.dtype == np.int32
    assert inputs.shape == targets.shape == (1000, 2 * length + 2)
    remembered = inputs[:, 1 : length + 1]
    np.testing.assert_array_equal(targets[:, length + 1 : -1], remembered)
    for blanks in (inputs[:, 0], inputs[:, length + 1 :], targets[:, : length + 1], targets[:, -1]):
        assert (blanks == symbols.BLANK).all()
    assert chi_square(remembered, range(1, num_symbols)) < 2.5
    assert len(np.unique(remembered, axis=0)) == min(1000, (num_symbols - 1) ** length)


SAMPLES = {  # the first training sample, the first test sample, and that of the largest number and seed
    (0, TRAIN, 0): "-776-645-----",
    (0, TEST, 0): "-412-942-----",
    (2**32 - 1, TRAIN, 2**31 - 1): "-998-878-----",
}


def assert_the_same_samples():
    seeds, splits, numbers = zip(*SAMPLES, strict=True)
    batch = {"seed": np.uint32(seeds), "split": np.int32(splits), "number": np.int32(numbers)}
    assert text(made(addition.make(3), batch)[0]) == list(SAMPLES.values())


def test_the_samples_of_a_seed_are_always_these():
    """With every version of jax and on every device."""
    assert_the_same_samples()


def test_float64_does_not_change_them(x64):
    assert_the_same_samples()


def labeled(**options):
    return symbols.labeling(None, memorization.make(6, 65), SampleOptions(data_on="device", **options))


def test_a_sample_depends_on_seed_split_and_number_alone():
    """Not on the batch size, padding or the number of devices."""
    generated, small, large = memorization.make(6, 65), labeled(batch_size=6), labeled(batch_size=8)
    inputs = np.concatenate([made(generated, large.batch(step))[0] for step in range(3)])
    mesh = devices.data_mesh(4)
    prepare = jax.jit(small.objective.prepare)
    for step in range(4):
        found = prepare((), devices.shard_batches(small.batch(step), 6, mesh))
        assert len(found["inputs"].sharding.device_set) == 4
        np.testing.assert_array_equal(found["inputs"][:6], inputs[6 * step : 6 * step + 6])
        np.testing.assert_array_equal(found["weights"], [1] * 6 + [0] * 2)
    test = symbols.held_out(generated, 0, "device")["inputs"]
    np.testing.assert_array_equal(made(generated, small.evaluated["test"][0])[0], test)
    other = made(generated, labeled(seed=1, batch_size=8).batch(0))[0]
    assert len(np.unique(np.concatenate([inputs, test, other]), axis=0)) == 24 + 100 + 8


def test_more_samples_than_can_be_numbered_are_refused():
    """After rounding up to whole evaluations, here to 2^31 + 352 samples."""
    with pytest.raises(ValueError, match=r"samples must be at most 2147483648 with --data-on device.* got 2147483647"):
        labeled(samples=2**31 - 1)
    assert labeled(samples=2**31 - 1, batch_size=1, check_every=1).epochs == 2**31 - 1
    assert symbols.labeling(None, memorization.make(6, 65), SampleOptions(samples=2**31)).epochs > 0


MODEL = ["--model", "slstm", "--features", "3", "--num-layers", "1"]
RUN = ["--length", "2", "--num-symbols", "4", *MODEL, "--samples", "60", "--check-every", "30"]


def test_a_run_resumes_and_can_be_looked_into(tmp_path, monkeypatch, capsys):
    arguments = [*RUN, "--steps-per-dispatch", "1", "--checkpoint-seconds", "0"]
    on_device = [*arguments, "--data-on", "device"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert memorization.main([*on_device, "--workdir", str(whole)]) == 0
    with killed_at(9, monkeypatch):
        memorization.main([*on_device, "--workdir", str(broken)])
    assert memorization.main([*on_device, "--workdir", str(broken)]) == 0
    assert_same_run(whole, broken)
    assert len(metrics(whole)) == 2
    config = wd.read_config(whole)
    assert config["data_on"] == "device"
    _, example = inspect.example_of(config, inspect.Options(whole, example=7))
    expected = symbols.held_out(memorization.make(2, 4), 0, "device")
    np.testing.assert_array_equal(example.symbols, [expected["inputs"][7], expected["targets"][7]])
    capsys.readouterr()
    assert memorization.main([*arguments, "--workdir", str(whole)]) == 2
    assert 'another configuration (data_on "device" there and "host" here)' in capsys.readouterr().err


def test_images_on_the_device_are_those_of_the_host():
    """In the order of the seed and the epoch; each batch is padded to whole devices."""
    data = Dataset("digits", striped(45, 0), striped(20, 1), striped(30, 2), 3, 16)
    task = mnist.classification(None, None, data, EpochOptions(batch_size=10, seed=3))
    mesh = devices.data_mesh(4)
    placed, prepare = devices.replicate(task.data, mesh), jax.jit(task.objective.prepare)
    assert placed["images"].dtype == np.uint8

    def check(batch, expected, size):
        found = prepare(placed, devices.shard_batches(batch, size, mesh))
        count = len(expected)
        np.testing.assert_array_equal(found["images"][:count], expected.images)
        np.testing.assert_array_equal(found["labels"][:count], expected.labels)
        np.testing.assert_array_equal(found["weights"], np.arange(devices.padded_size(size, mesh)) < count)

    for step in (0, 4, 7):  # step 4 has five rows
        epoch, number = divmod(step, 5)
        order = np.random.default_rng([3, epoch]).permutation(45)
        check(task.batch(step), data.train[order[10 * number : 10 * number + 10]], 10)
    check(task.evaluated["validation"][0], data.validation, 20)
    check(task.evaluated["test"][0], data.test, 30)
