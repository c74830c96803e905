"""The iRNN in plain loops, from its equation (spec, section 2.9); numpy alone."""

import numpy as np


def irnn(xs, W, U, b, h):
    """A layer on one sequence, xs (T, R). W (R, M), U (M, M), b (M), h (M)."""
    ys = []
    for x in xs:
        h = np.maximum(x @ W + h @ U + b, 0)
        ys.append(h)
    return np.array(ys), h
