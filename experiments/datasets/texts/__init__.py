"""Texts for language modeling by bytes: enwik8, and the source of Python's standard library, without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from experiments.datasets.base import DataError, DataUnavailable
from experiments.datasets.texts import enwik8, stdlib
from experiments.datasets.texts.corpus import Corpus

__all__ = ["Corpus", "DataError", "DataUnavailable", "load"]


def load(
    name: Literal["stdlib", "enwik8"], *, data_file: Path | None = None, prepared_dir: Path | None = None
) -> Corpus:
    """Loads a text into memory.

    Args:
        name: ``"stdlib"`` (about 5 MB; it differs between versions of Python) or ``"enwik8"``
            (100,000,000 bytes).
        data_file: a file with enwik8 or a prefix of it, plain, .gz or .zip, which is always checked. None reads the
            prepared copy of enwik8, or downloads it if there is none. Must be None for ``"stdlib"``.
        prepared_dir: the folder of prepared copies of tensorflow-datasets; None is its default, ``TFDS_DATA_DIR`` or
            ``~/tensorflow_datasets``. Not used for ``"stdlib"``.

    Raises:
        DataUnavailable: there is no prepared copy, and enwik8 cannot be downloaded.
        DataError: the name is unknown, ``data_file`` is missing, damaged or not enwik8, the prepared
            copy is damaged or cannot be written, a package is not installed, or this Python has no
            source files of its standard library.
    """
    if name == "enwik8":
        return enwik8.load(data_file=data_file, prepared_dir=prepared_dir)
    if name != "stdlib":
        raise DataError(f"unknown text {name!r}: expected 'stdlib' or 'enwik8'")
    if data_file is not None:
        raise DataError(f"stdlib comes with Python and reads no file, got data_file {data_file}: leave it out")
    return stdlib.load()
