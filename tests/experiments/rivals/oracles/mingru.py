"""minGRU and minLSTM in plain loops, from the equations of Feng et al., arXiv:2410.01201; numpy alone."""

import numpy as np


def sigm(a):
    return 1 / (1 + np.exp(-a))


def positive(a):
    return np.where(a >= 0, a + 0.5, sigm(a))


def mingru(xs, weights, h, candidate=lambda a: a):
    """A layer on one sequence, xs (T, R). weights: Wz, Wh (R, M) and bz, bh (M)."""
    ys = []
    for x in xs:
        z = sigm(x @ weights["Wz"] + weights["bz"])
        h = (1 - z) * h + z * candidate(x @ weights["Wh"] + weights["bh"])
        ys.append(h)
    return np.array(ys), h


def minlstm(xs, weights, h, candidate=lambda a: a):
    """A layer on one sequence, xs (T, R). weights: Wf, Wi, Wh (R, M) and bf, bi, bh (M)."""
    ys = []
    for x in xs:
        f = sigm(x @ weights["Wf"] + weights["bf"])
        i = sigm(x @ weights["Wi"] + weights["bi"])
        h = f / (f + i) * h + i / (f + i) * candidate(x @ weights["Wh"] + weights["bh"])
        ys.append(h)
    return np.array(ys), h
