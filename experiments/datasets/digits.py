"""scikit-learn's digits: 1797 handwritten digits of 8x8 pixels, which are part of the package."""

from __future__ import annotations

import numpy as np

from experiments.datasets.base import DataError, Dataset, Split

TRAIN_SIZE = 1397
VALIDATION_SIZE = 200


def load() -> Dataset:
    """Loads the digits, split into 1397 train, 200 validation and 200 test images.

    scikit-learn lists them by writer. They are shuffled first, by a fixed permutation, so that every split has images
    of every writer: the test does not measure generalization to new writers.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise DataError(f"digits needs scikit-learn ({error}): pip install 'tlstm_jax[experiments]'") from error

    bunch = load_digits()
    everything = Split(bunch.images.astype(np.uint8), bunch.target.astype(np.int32))
    # RandomState, not default_rng: only its stream is guaranteed not to change between versions of numpy.
    shuffled = everything[np.random.RandomState(0).permutation(len(everything))]
    validation_end = TRAIN_SIZE + VALIDATION_SIZE
    return Dataset(
        name="digits",
        train=shuffled[:TRAIN_SIZE],
        validation=shuffled[TRAIN_SIZE:validation_end],
        test=shuffled[validation_end:],
        num_classes=10,
        max_value=16,
    )
