"""Widths at which models have equal numbers of core parameters (spec, section 1.2)."""

import numpy as np

from tests.experiments.rivals import common

BUDGETS = [(121_303, 1), (368_509, 1), (368_509, 65), (5_794_009, 12), (10_000_000, 205), (50_100_000, 205)]
"""Core parameters and R: the kernels of 2D and 3D tLSTMs of 100 channels on MNIST and memorization, of 400 channels on
addition, and two sizes on enwik8."""


def counts(make):
    """The number of parameters as a function of R and M, found at six small sizes: it is linear in R, quadratic in M.

    make: from M to a layer.
    """
    small = np.array([4, 6, 8])
    fits = [np.polyfit(small, [common.num_params(make(int(m)), r) for m in small], 2) for r in (1, 2)]

    def count(in_features, features):
        one, two = (np.polyval(fit, features) for fit in fits)
        return one + (in_features - 1) * (two - one)

    return count


def assert_nearest(make, widths):
    """Asserts that the widths, one for each budget, have the numbers of parameters nearest to it."""
    count = counts(make)
    for (budget, in_features), width in zip(BUDGETS, widths, strict=True):
        distances = [abs(count(in_features, m) - budget) for m in (width - 1, width, width + 1)]
        assert distances[1] <= min(distances), (budget, in_features, width, distances)
    assert round(count(in_features, width)) == common.num_params(make(width), in_features)
