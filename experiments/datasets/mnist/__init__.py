"""MNIST: 70000 handwritten digits of 28x28 pixels, kept by tensorflow-datasets, without TensorFlow."""

from __future__ import annotations

import tempfile
from pathlib import Path

from experiments.datasets.base import Dataset, Split
from experiments.datasets.mnist import download, idx, prepared

VALIDATION_SIZE = 10_000


def load(*, data_dir: Path | None = None, prepared_dir: Path | None = None) -> Dataset:
    """Load MNIST, preparing it first where that has not been done.

    The last 10000 images of the official train file are for validation, the first 50000 for
    training, all in the official order.

    Args:
        data_dir: a folder with the four idx files, plain or gzipped; checked even where a prepared
            copy exists. None takes the prepared copy, or else downloads the files.
        prepared_dir: where the prepared copy is kept; None is the folder of tensorflow-datasets.

    Raises:
        DataUnavailable: no ``data_dir``, no prepared copy, and no network.
        DataError: a file is missing or not the official one, or the copy is damaged or not writable.
    """
    prepared_dir = (prepared_dir or prepared.default_dir()).expanduser().absolute()
    if data_dir is not None:
        data_dir = data_dir.expanduser().absolute()
        idx.read_folder(data_dir)
    if not prepared.exists(prepared_dir):
        _prepare(data_dir, prepared_dir)
    arrays = prepared.read(prepared_dir)
    official_train = Split(arrays["train_images"], arrays["train_labels"])
    return Dataset(
        name="mnist",
        train=official_train[:-VALIDATION_SIZE],
        validation=official_train[-VALIDATION_SIZE:],
        test=Split(arrays["test_images"], arrays["test_labels"]),
        num_classes=10,
        max_value=255,
    )


def _prepare(data_dir: Path | None, prepared_dir: Path) -> None:
    if data_dir is not None:
        prepared.prepare(data_dir, prepared_dir)
        return
    with tempfile.TemporaryDirectory() as downloads:
        download.fetch(Path(downloads))
        prepared.prepare(Path(downloads), prepared_dir)
