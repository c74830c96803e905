"""The source files of Python's standard library, a text that needs no download."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import numpy as np

from experiments.datasets.base import DataError
from experiments.datasets.texts.corpus import Corpus, sha256

WAYS = "take a Python installed with its sources, or --data enwik8"


def load() -> Corpus:
    """Loads the single-file modules of the standard library, concatenated in the order of their names.

    The text is the same for every installation of the same version of Python.

    Raises:
        DataError: the source files are missing or cannot be read.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    # By name, because an installation adds files, with its configuration for example.
    files = [path for path in folder.glob("*.py") if path.stem in sys.stdlib_module_names]
    try:
        contents = b"".join(path.read_bytes() for path in sorted(files, key=lambda path: path.name))
    except OSError as error:
        raise DataError(f"cannot read the sources of this Python's standard library ({error}): {WAYS}") from error
    if not contents:
        raise DataError(f"this Python keeps no sources of its standard library in {folder}: {WAYS}")
    text = np.frombuffer(contents, np.uint8)
    return Corpus("stdlib", text, sha256(text))
