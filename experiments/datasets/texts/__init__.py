"""Texts to predict byte by byte: enwik8, and the sources of Python's standard library, which need no download."""

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
    """Load a text into memory.

    Args:
        name: ``"stdlib"`` (some 5 MB; another text in every version of Python) or ``"enwik8"``
            (100,000,000 bytes).
        data_file: a file with enwik8 or a prefix of it, plain, as .gz or as .zip. It is checked
            whenever it is given. None takes the copy of all of enwik8 prepared earlier, or else
            downloads. ``"stdlib"`` reads no file, and refuses one.
        prepared_dir: where tensorflow-datasets keeps prepared copies of enwik8; None is its own
            default, ``TFDS_DATA_DIR`` or ``~/tensorflow_datasets``. ``"stdlib"`` prepares nothing.

    Raises:
        DataUnavailable: there is no prepared copy, and none can be downloaded.
        DataError: the name is unknown, ``data_file`` is missing, damaged or not enwik8, the prepared
            copy is damaged or cannot be written, a package is not installed, or this Python comes
            without its sources.
    """
    if name == "enwik8":
        return enwik8.load(data_file=data_file, prepared_dir=prepared_dir)
    if name != "stdlib":
        raise DataError(f"unknown text {name!r}: expected 'stdlib' or 'enwik8'")
    if data_file is not None:
        raise DataError(f"stdlib comes with Python and reads no file, got data_file {data_file}: leave it out")
    return stdlib.load()
