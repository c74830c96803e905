"""QRNN and SRU in plain loops, from the equations (spec, sections 3.1 and 3.2); numpy alone."""

import numpy as np


def sigm(a):
    return 1 / (1 + np.exp(-a))


def qrnn(xs, weights, c, before, keep=1.0):
    """A layer on one sequence, xs (T, R).

    weights: a list of W (R, 3M) for z, f, o, oldest input first, and b (3M). before: the k-1 inputs before the first,
    oldest first. keep: what the update 1 - f is multiplied by, a number or (T, M).
    """
    matrices, bias = weights
    width = len(matrices)
    history = [*before, *xs]
    keep = np.broadcast_to(keep, (len(xs), len(bias) // 3))
    ys = []
    for t in range(len(xs)):
        a = bias
        for j in range(width):
            a = a + history[t + j] @ matrices[j]
        z, f, o = np.split(a, 3)
        forget = 1 - keep[t] * (1 - sigm(f))
        c = forget * c + (1 - forget) * np.tanh(z)
        ys.append(sigm(o) * c)
    return np.array(ys), c, np.reshape(history[len(xs) :], (width - 1, xs.shape[-1]))


def sru(xs, weights, c, highway_bias, phi=lambda c: c, mask=1.0):
    """A layer on one sequence, xs (T, R).

    weights: W (R, 3M) for u, f, r, or (R, 4M) with the skip connection's, bf and br (M), maybe vf and vr (M).
    highway_bias: the initial value of br. mask: the dropout mask of the sequence, a number or (M).
    """
    zeros = np.zeros_like(c)
    features = len(c)
    ys = []
    for x in xs:
        parts = x @ weights["W"]
        u, f, r = parts[:features], parts[features : 2 * features], parts[2 * features : 3 * features]
        skip = parts[3 * features :] if len(parts) == 4 * features else np.sqrt(1 + 2 * np.exp(highway_bias)) * x
        f = sigm(f + weights.get("vf", zeros) * c + weights["bf"])
        r = sigm(r + weights.get("vr", zeros) * c + weights["br"])
        c = u + f * (c - u)
        ys.append(skip + r * mask * (phi(c) - skip))
    return np.array(ys), c
