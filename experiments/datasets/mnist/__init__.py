"""MNIST: 70000 handwritten digits of 28x28 pixels, stored by tensorflow-datasets, without TensorFlow."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.datasets import prepared
from experiments.datasets.base import DataError, Dataset, Split
from experiments.datasets.mnist import download, idx

VALIDATION_SIZE = 10_000
RELATIVE_PATH = Path("mnist_idx", "1.0.0")  # the path that tensorflow-datasets derives from the builder


def load(*, data_dir: Path | None = None, prepared_dir: Path | None = None) -> Dataset:
    """Loads MNIST, preparing it first if there is no prepared copy.

    The first 50000 images of the official training file are the training split, the last 10000 the validation split,
    in the official order.

    Args:
        data_dir: a folder with the four idx files, plain or gzipped, which are checked even if there is a prepared
            copy. None reads the prepared copy, or downloads the files if there is none.
        prepared_dir: the folder of prepared copies; None is the default of tensorflow-datasets.

    Raises:
        DataUnavailable: no ``data_dir``, no prepared copy, and no network.
        DataError: a file is missing or not the official one, or the copy is damaged or not writable.
    """
    folder = prepared.root(prepared_dir) / RELATIVE_PATH
    if data_dir is not None:
        data_dir = data_dir.expanduser().absolute()
        idx.read_folder(data_dir)
    if not prepared.exists(folder):
        _prepare(data_dir, folder)
    arrays = _read(folder)
    official_train = Split(arrays["train_images"], arrays["train_labels"])
    return Dataset(
        name="mnist",
        train=official_train[:-VALIDATION_SIZE],
        validation=official_train[-VALIDATION_SIZE:],
        test=Split(arrays["test_images"], arrays["test_labels"]),
        num_classes=10,
        max_value=255,
    )


def _prepare(data_dir: Path | None, folder: Path) -> None:
    if data_dir is not None:
        _write(data_dir, folder)
        return
    with tempfile.TemporaryDirectory() as downloads:
        download.fetch(Path(downloads))
        _write(Path(downloads), folder)


def _write(source: Path, folder: Path) -> None:
    with prepared.needed_by("MNIST"):
        from experiments.datasets.mnist.builder import MnistIdx
    prepared.write("MNIST", folder, MnistIdx, manual_dir=source)


def _read(folder: Path) -> dict[str, NDArray[Any]]:
    """Reads the prepared copy and checks it against the official checksums: an array for each key of ``idx.FILES``."""
    with prepared.reading("MNIST", folder) as builder:
        arrays = {**_read_split(builder, "train"), **_read_split(builder, "test")}
    for key, file in idx.FILES.items():
        if not idx.is_official(arrays[key], file):
            raise DataError(f"the prepared MNIST in {folder} differs from the official {file.stem}: delete that folder")
    return arrays


def _read_split(builder: Any, split: str) -> dict[str, NDArray[Any]]:
    source = builder.as_data_source(split)
    examples = source.__getitems__(range(len(source)))
    return {
        f"{split}_images": np.stack([example["image"] for example in examples]),
        f"{split}_labels": np.array([example["label"] for example in examples], np.int32),
    }
