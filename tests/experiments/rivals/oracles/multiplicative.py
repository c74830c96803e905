"""The multiplicative LSTM and RNN in plain loops, from the equations (spec, sections 2.4 and 3.7); numpy alone."""

import numpy as np


def sigm(a):
    return 1 / (1 + np.exp(-a))


def weight_normed(v, gain):
    """A matrix whose columns have the directions of those of v and the lengths of gain."""
    return np.stack([gain[k] * v[:, k] / np.sqrt(np.sum(v[:, k] ** 2)) for k in range(v.shape[1])], axis=1)


def mlstm(xs, weights, c, h, linear=False, mask=1.0):
    """A layer on one sequence, xs (T, R).

    weights: Wmx (R, M), Wmh (M, M), Wx (R, 4M), Wm (M, 4M), b (4M) for i, f, g, o. linear: Krause's first runs, whose
    candidate is linear and whose output is tanh(c s(o)). mask (M): what h is multiplied with in every timestep.
    """
    ys = []
    for x in xs:
        m = (x @ weights["Wmx"]) * (h @ weights["Wmh"])
        i, f, g, o = np.split(x @ weights["Wx"] + m @ weights["Wm"] + weights["b"], 4)
        if linear:
            c = sigm(f) * c + sigm(i) * g
            h = np.tanh(c * sigm(o))
        else:
            c = sigm(f) * c + sigm(i) * np.tanh(g)
            h = sigm(o) * np.tanh(c)
        h = h * mask
        ys.append(h)
    return np.array(ys), c, h


def mrnn(xs, weights, h):
    """A layer on one sequence. weights: A (R, F), B (M, F), C (F, M), W (R, M), b (M); maybe U (M, M), Irsoy's term."""
    ys = []
    for x in xs:
        f = (x @ weights["A"]) * (h @ weights["B"])
        a = f @ weights["C"] + x @ weights["W"] + weights["b"]
        if "U" in weights:
            a = a + h @ weights["U"]
        h = np.tanh(a)
        ys.append(h)
    return np.array(ys), h
