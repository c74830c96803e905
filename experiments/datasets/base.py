"""The types of datasets, and the errors of loading one."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.common.errors import CommandError


class DataError(CommandError):
    """Data that cannot be used; the message says what was given, what was expected, and how to fix it."""


class DataUnavailable(DataError):
    """Data that is neither on this machine nor available from the network."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images and their classes.

    Args:
        images: ``(N, H, W)`` uint8, from 0 to the dataset's ``max_value``.
        labels: ``(N,)`` int32, from 0 to the dataset's ``num_classes - 1``.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Split:
        """The images and labels at ``index``: a slice, or an array of integers or booleans."""
        return Split(self.images[index], self.labels[index])


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A classification dataset in three disjoint splits.

    Args:
        name: the argument of :func:`experiments.datasets.load`.
        train: the split for training.
        validation: the split for model selection.
        test: the split for the final evaluation.
        num_classes: number of classes.
        max_value: the largest possible pixel value: 255 for mnist, 16 for digits.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int
    max_value: int
