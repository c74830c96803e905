"""Widths at which models have equal numbers of core parameters (spec, section 1.2)."""

import numpy as np

from tests.experiments.rivals import common

BUDGETS = ((121303, 1), (368509, 1), (368509, 65), (5794009, 12), (10_000_000, 205), (50_100_000, 205))
"""The budgets of core parameters in the table of equal widths (spec, section 1.2), with R."""


def check(make, widths):
    """Checks that ``make(M)`` is nearest to each budget at the width of the table.

    Counts are polynomials in M and R with the terms below, whose coefficients few counts determine.
    """
    points = [(2, 1), (3, 1), (4, 1), (1, 2), (2, 3), (3, 5)]  # not M = R, which spares some models a projection
    terms = np.array([(m * m, m * r, m, r, 1) for m, r in points])
    counts = np.array([common.num_params(make(m), r) for m, r in points])
    coefficients, *_ = np.linalg.lstsq(terms, counts, rcond=None)
    np.testing.assert_allclose(terms @ coefficients, counts, rtol=1e-9)
    np.testing.assert_allclose(coefficients, np.rint(coefficients), atol=1e-6)
    for (budget, r), width in zip(BUDGETS, widths, strict=True):
        off = {m: abs(np.rint(coefficients) @ (m * m, m * r, m, r, 1) - budget) for m in (width - 1, width, width + 1)}
        assert off[width] == min(off.values()), f"{off} at a budget of {budget} with R={r}"
