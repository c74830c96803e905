"""Images for sequential classification: MNIST, and scikit-learn's digits, which need no download.

Texts are in :mod:`experiments.datasets.texts`.
"""

from __future__ import annotations

from pathlib import Path

from experiments.datasets import digits, mnist
from experiments.datasets.base import DataError, Dataset, DataUnavailable, Split

__all__ = ["DataError", "DataUnavailable", "Dataset", "Split", "load"]


def load(name: str, *, data_dir: Path | None = None, prepared_dir: Path | None = None) -> Dataset:
    """Loads a dataset into memory.

    Args:
        name: ``"mnist"`` (28x28; 50000 train, 10000 validation, 10000 test) or ``"digits"`` (8x8; 1397, 200, 200; part
            of scikit-learn).
        data_dir: a folder with the four idx files of MNIST, which are always checked. None reads the prepared copy, or
            downloads the files if there is none. Must be None for ``"digits"``.
        prepared_dir: the folder of prepared copies of tensorflow-datasets; None is its default, ``TFDS_DATA_DIR`` or
            ``~/tensorflow_datasets``. Not used for ``"digits"``.

    Raises:
        DataUnavailable: there is no prepared copy, and the files cannot be downloaded.
        DataError: the name is unknown, a file in ``data_dir`` is missing or not the official one,
            the prepared copy is damaged or cannot be written, or a package is not installed.
    """
    if name == "mnist":
        return mnist.load(data_dir=data_dir, prepared_dir=prepared_dir)
    if name != "digits":
        raise DataError(f"unknown dataset {name!r}: expected 'mnist' or 'digits'")
    if data_dir is not None:
        raise DataError(f"digits comes with scikit-learn and reads no folder, got data_dir {data_dir}: leave it out")
    return digits.load()
