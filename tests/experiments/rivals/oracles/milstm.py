"""The MI-LSTM in plain loops, from its equations (spec, section 2.3); numpy alone."""

import numpy as np


def sigm(a):
    return 1 / (1 + np.exp(-a))


def milstm(xs, weights, c, h, eps=1e-5):
    """A layer on one sequence, xs (T, R).

    weights: W (R, 4M), U (M, 4M), and al, b1, b2, b (4M) for i, f, g, o; with layer normalization gain, shift (4M).
    """
    ys = []
    for x in xs:
        wx, uh = x @ weights["W"], h @ weights["U"]
        pre = weights["al"] * wx * uh + weights["b1"] * uh + weights["b2"] * wx + weights["b"]
        if "gain" in weights:
            variance = np.mean((pre - np.mean(pre)) ** 2)
            pre = weights["gain"] * (pre - np.mean(pre)) / np.sqrt(variance + eps) + weights["shift"]
        i, f, g, o = np.split(pre, 4)
        c = sigm(f) * c + sigm(i) * np.tanh(g)
        h = sigm(o) * np.tanh(c)
        ys.append(h)
    return np.array(ys), c, h
