"""The gated-feedback LSTM in plain loops, from its equations (spec, section 3.3); numpy alone."""

import numpy as np


def sigm(a):
    return 1 / (1 + np.exp(-a))


def gflstm(xs, layers, c, h, gate=None):
    """All layers on one sequence, xs (T, R); c and h are lists of (M), one for each layer.

    Each of layers: Wx (in, 3M), Wh (M, 3M), b (3M) for i, f, o; Wg (in, M), bg (M); and for each layer i below or above
    U[i] (M, M), w[i] (in, 1) or (in, M), v[i] (LM, 1) or (LM, M). gate(i, j) replaces q^{ij}.
    """
    ys = []
    for x in xs:
        previous = list(h)
        everything = np.concatenate(previous)
        u = x
        for j, weights in enumerate(layers):
            i, f, o = np.split(u @ weights["Wx"] + previous[j] @ weights["Wh"] + weights["b"], 3)
            g = u @ weights["Wg"] + weights["bg"]
            for source in range(len(layers)):
                q = sigm(u @ weights["w"][source] + everything @ weights["v"][source])
                if gate is not None:
                    q = gate(source, j)
                g = g + q * (previous[source] @ weights["U"][source])
            c[j] = sigm(f) * c[j] + sigm(i) * np.tanh(g)
            h[j] = sigm(o) * np.tanh(c[j])
            u = h[j]
        ys.append(u)
    return np.array(ys), c, h
