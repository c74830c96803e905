"""Widths at which models have equal numbers of core parameters (spec, section 1.2)."""

import numpy as np

from tests.experiments.rivals import common

BUDGETS = [(121_303, 1), (368_509, 1), (368_509, 65), (5_794_009, 12), (10_000_000, 205), (50_100_000, 205)]
"""Core parameters and R: the kernels of 2D and 3D tLSTMs of 100 channels on MNIST and memorization, of 400 channels on
addition, and two sizes on enwik8."""


def counts(make):
    """The number of parameters as a function of R and M, a sum of M^2, M, RM, and R that is found at four small sizes.

    make: from M to a layer.
    """

    def terms(in_features, features):
        return [features**2, features, in_features * features, in_features]

    small = [(1, 4), (1, 6), (2, 4), (2, 7)]
    found = [common.num_params(make(m), r) for r, m in small]
    factors = np.linalg.solve([terms(*sizes) for sizes in small], found).round()
    return lambda in_features, features: np.dot(factors, terms(in_features, features))


def assert_nearest(make, widths):
    """Asserts that the widths, one for each budget, have the numbers of parameters nearest to it."""
    count = counts(make)
    for (budget, in_features), width in zip(BUDGETS, widths, strict=True):
        distances = [abs(count(in_features, m) - budget) for m in (width - 1, width, width + 1)]
        assert distances[1] <= min(distances), (budget, in_features, width, distances)
    assert count(in_features, width) == common.num_params(make(width), in_features)
