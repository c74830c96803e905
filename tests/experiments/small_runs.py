"""Runs of `experiments.mnist` on images small enough to train in seconds, and what is to be seen of a run."""

import contextlib
import json

import jax
import numpy as np

from experiments import datasets
from experiments.running import training
from experiments.running import workdir as wd

TINY = ["--data", "digits", "--features", "4", "--tensor-shape", "2", "--batch-size", "10", "--epochs", "3"]


class Killed(BaseException):
    """Ends a run as kill -9 would: nothing gets to clean up or save."""


@contextlib.contextmanager
def killed_at(moment, monkeypatch):
    """What runs inside is killed when it looks at the loss of the step of this number."""
    original = training.check_finite

    def check_finite(step, *rest):
        if step == moment:
            raise Killed
        original(step, *rest)

    with monkeypatch.context() as context:
        context.setattr(training, "check_finite", check_finite)
        with contextlib.suppress(Killed):
            yield
            raise AssertionError(f"step {moment} never came")


def striped(count, seed):
    """Images whose class is the brightest row: learnable, and nobody's data."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count).astype(np.int32)
    images = rng.integers(0, 4, (count, 3, 2)).astype(np.uint8)
    images[np.arange(count), labels] = 16
    return datasets.Split(images, labels)


def replace_digits(monkeypatch):
    data = datasets.Dataset("digits", striped(45, 0), striped(20, 1), striped(30, 2), 3, 16)
    monkeypatch.setattr(datasets, "load", lambda name, **_: data)


def metrics(workdir):
    lines = (workdir / wd.METRICS).read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def saved(workdir):
    """Everything in the latest checkpoint, as stored."""
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager((workdir / wd.CHECKPOINTS).absolute()) as manager:
        trees = {name: ocp.args.StandardRestore() for name in ("state", "best")}
        restored = manager.restore(manager.latest_step(), args=ocp.args.Composite(**trees))
        leaves = jax.tree.leaves([restored[name] for name in trees])
        return manager.latest_step(), [np.asarray(leaf) for leaf in leaves]


def assert_same_run(one, other):
    (step, leaves), (other_step, other_leaves) = saved(one), saved(other)
    assert step == other_step
    assert len(leaves) == len(other_leaves) > 10
    for a, b in zip(leaves, other_leaves, strict=True):
        np.testing.assert_array_equal(a, b)
    assert metrics(one) == metrics(other)


def damage(path, how):
    """Truncates the file, or flips one bit in the middle of it."""
    contents = bytearray(path.read_bytes())
    if how == "truncated":
        contents = contents[: len(contents) // 2]
    else:
        contents[len(contents) // 2] ^= 16
    path.write_bytes(contents)
