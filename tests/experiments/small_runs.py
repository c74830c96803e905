"""Data small enough to train on in seconds, and helpers to interrupt, read and compare runs."""

import contextlib
import hashlib
import json

import jax
import numpy as np

from experiments import datasets
from experiments.datasets import texts
from experiments.running import training
from experiments.running import workdir as wd

TINY = ["--data", "digits", "--features", "4", "--tensor-shape", "2", "--batch-size", "10", "--epochs", "3"]
TEXT = np.frombuffer(b"the cat sat on the mat, and the dog on the log. " * 12, np.uint8)


class Killed(BaseException):
    """Ends a run as SIGKILL would: no cleanup, no checkpoint."""


@contextlib.contextmanager
def killed_at(moment, monkeypatch):
    """Kills the run inside when the loss of a step arrives."""
    original = training.check_finite

    def check_finite(step, *rest):
        if step == moment:
            raise Killed
        original(step, *rest)

    with monkeypatch.context() as context:
        context.setattr(training, "check_finite", check_finite)
        with contextlib.suppress(Killed):
            yield
            raise AssertionError(f"the run ended before step {moment}")


def striped(count, seed):
    """Images whose class is the brightest row."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count).astype(np.int32)
    images = rng.integers(0, 4, (count, 3, 2)).astype(np.uint8)
    images[np.arange(count), labels] = 16
    return datasets.Split(images, labels)


def replace_digits(monkeypatch):
    # The validation and the test data have as many images, so that one program evaluates both.
    data = datasets.Dataset("digits", striped(45, 0), striped(30, 1), striped(30, 2), 3, 16)
    monkeypatch.setattr(datasets, "load", lambda name, **_: data)


def replace_texts(monkeypatch):
    """Makes the corpus a very small one, which is returned."""
    corpus = texts.Corpus("small", TEXT, hashlib.sha256(TEXT).hexdigest())
    monkeypatch.setattr(texts, "load", lambda *_, **__: corpus)
    return corpus


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
