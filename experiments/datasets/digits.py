"""scikit-learn's digits: 1797 handwritten digits of 8x8 pixels, inside its wheel."""

from __future__ import annotations

import numpy as np

from experiments.datasets.base import DataError, Dataset, Split

TRAIN_SIZE = 1397
VALIDATION_SIZE = 200


def load() -> Dataset:
    """Load the digits, split into 1397 train, 200 validation and 200 test.

    scikit-learn lists them in runs of the same writer. They are shuffled first, always by the same
    permutation, so writers are shared between the parts: a test of learning, not of new writers.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise DataError(f"digits needs scikit-learn ({error}): pip install 'tlstm_jax[experiments]'") from error

    bunch = load_digits()
    everything = Split(bunch.images.astype(np.uint8), bunch.target.astype(np.int32))
    # RandomState, not default_rng: only its stream is promised to stay the same in every numpy.
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
