"""The Fast-Slow LSTM in plain loops, from its equations (spec, section 2.8); numpy alone."""

import numpy as np


def sigm(a):
    return 1 / (1 + np.exp(-a))


def norm(a, gain, bias, eps=1e-3):
    return gain * (a - np.mean(a)) / np.sqrt(np.mean((a - np.mean(a)) ** 2) + eps) + bias


def ln_lstm(x, h, c, weights, keep_h, keep_c):
    """A cell: W (R + M, 4M), b (4M); gain, bias (4, M) for i, f, g, o, the forget gate's with +1; gain_c, bias_c (M).

    keep_h, keep_c: what new states are weighted with, (M) or numbers: masks in training, their means in tests.
    """
    i, f, g, o = [
        norm(a, gain, bias)
        for a, gain, bias in zip(
            np.split(np.concatenate([x, h]) @ weights["W"] + weights["b"], 4),
            weights["gain"],
            weights["bias"],
            strict=True,
        )
    ]
    new_c = sigm(f) * c + sigm(i) * np.tanh(g)
    new_h = sigm(o) * np.tanh(norm(new_c, weights["gain_c"], weights["bias_c"]))
    return new_h * keep_h + h * (1 - keep_h), new_c * keep_c + c * (1 - keep_c)


def fslstm(xs, fast, slow, fast_state, slow_state, keep_h=1.0, keep_c=1.0):
    """The layer on one sequence, xs (T, R), without dropout.

    fast: the weights of the k fast cells. slow: those of the slow one. The states are (h, c).
    """
    ys = []
    for x in xs:
        fast_state = ln_lstm(x, *fast_state, fast[0], keep_h, keep_c)
        slow_state = ln_lstm(fast_state[0], *slow_state, slow, keep_h, keep_c)
        fast_state = ln_lstm(slow_state[0], *fast_state, fast[1], keep_h, keep_c)
        for weights in fast[2:]:
            fast_state = ln_lstm(np.zeros(1), *fast_state, weights, keep_h, keep_c)
        ys.append(fast_state[0])
    return np.array(ys), fast_state, slow_state
