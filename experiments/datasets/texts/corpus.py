"""What every text here is."""

from __future__ import annotations

import dataclasses
import functools
import hashlib

import numpy as np
from numpy.typing import NDArray

SMALLEST = 11
"""The fewest bytes of which every part has one."""

BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """A text, one byte a character, in three consecutive parts.

    Args:
        name: ``"stdlib"``, ``"enwik8"``, or for a prefix of that ``"enwik8 prefix"``.
        text: everything, in order.
        sha256: the checksum of ``text``, in hex.
    """

    name: str
    text: NDArray[np.uint8]
    sha256: str

    @property
    def train(self) -> NDArray[np.uint8]:
        """The first 90%, to learn from."""
        return self.text[: self._train_end]

    @property
    def validation(self) -> NDArray[np.uint8]:
        """The next 5%, to choose by."""
        return self.text[self._train_end : self._validation_end]

    @property
    def test(self) -> NDArray[np.uint8]:
        """The last 5%, to report on, once."""
        return self.text[self._validation_end :]

    @functools.cached_property
    def vocabulary(self) -> NDArray[np.uint8]:
        """The distinct bytes of the whole text, in ascending order."""
        seen = np.zeros(256, bool)
        for start in range(0, len(self.text), BLOCK):  # indexing makes an int64 of each byte: not of all at once
            seen[self.text[start : start + BLOCK]] = True
        return np.flatnonzero(seen).astype(np.uint8)

    @property
    def _train_end(self) -> int:
        return len(self.text) * 90 // 100

    @property
    def _validation_end(self) -> int:
        return len(self.text) * 95 // 100


def sha256(text: NDArray[np.uint8]) -> str:
    """The checksum a corpus of ``text`` carries."""
    return hashlib.sha256(text.data).hexdigest()
