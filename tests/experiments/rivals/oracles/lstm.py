"""The LSTM and table 3's variant in plain loops, from the equations (spec, sections 1 and 2.1); numpy alone."""

import numpy as np


def sigm(a):
    return 1 / (1 + np.exp(-a))


def lstm(xs, weights, c, h):
    """A layer on one sequence, xs (T, R). weights: Wx (R, 4M), Wh (M, 4M), b (4M) for i, f, g, o; maybe Vo (M, M)."""
    ys = []
    for x in xs:
        i, f, g, o = np.split(x @ weights["Wx"] + h @ weights["Wh"] + weights["b"], 4)
        c = sigm(f) * c + sigm(i) * np.tanh(g)
        if "Vo" in weights:
            o = o + c @ weights["Vo"]
        h = sigm(o) * np.tanh(c)
        ys.append(h)
    return np.array(ys), c, h
