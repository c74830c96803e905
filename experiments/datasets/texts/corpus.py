"""The type of a text."""

from __future__ import annotations

import dataclasses
import functools
import hashlib

import numpy as np
from numpy.typing import NDArray

SMALLEST = 11
"""The smallest number of bytes for which no split is empty."""

BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """A text, one byte per character, in three consecutive splits.

    Args:
        name: ``"stdlib"``, ``"enwik8"``, ``"enwik8 prefix"`` or ``"other text"``.
        text: the whole text.
        sha256: the checksum of ``text``, in hex.
    """

    name: str
    text: NDArray[np.uint8]
    sha256: str

    @property
    def train(self) -> NDArray[np.uint8]:
        """The first 90%, for training."""
        return self.text[: self._train_end]

    @property
    def validation(self) -> NDArray[np.uint8]:
        """The next 5%, for model selection."""
        return self.text[self._train_end : self._validation_end]

    @property
    def test(self) -> NDArray[np.uint8]:
        """The last 5%, for the final evaluation."""
        return self.text[self._validation_end :]

    @functools.cached_property
    def vocabulary(self) -> NDArray[np.uint8]:
        """The distinct bytes of the whole text, in ascending order."""
        seen = np.zeros(256, bool)
        for start in range(0, len(self.text), BLOCK):  # in blocks, since indexing converts the bytes to int64
            seen[self.text[start : start + BLOCK]] = True
        return np.flatnonzero(seen).astype(np.uint8)

    @property
    def _train_end(self) -> int:
        return len(self.text) * 90 // 100

    @property
    def _validation_end(self) -> int:
        return len(self.text) * 95 // 100


def sha256(text: NDArray[np.uint8]) -> str:
    """The sha256 of a text, in hex."""
    return hashlib.sha256(text.data).hexdigest()
