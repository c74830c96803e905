"""The Neural GPU in plain loops, from the equations (spec, section 3.5); numpy alone."""

import numpy as np


def conv(s, kernel, bias):
    """A convolution of s (w, n, m) with a kernel (3, 3, m, k), zeros beyond the borders."""
    w, n, _ = s.shape
    found = np.zeros((w, n, kernel.shape[-1]))
    for row in range(w):
        for column in range(n):
            found[row, column] = bias
            for a in range(3):
                for b in range(3):
                    p, q = row + a - 1, column + b - 1
                    if 0 <= p < w and 0 <= q < n:
                        found[row, column] += s[p, q] @ kernel[a, b]
    return found


def gate(a, improved):
    if improved:
        return np.clip(a, 0, 1)
    return np.clip(1.2 / (1 + np.exp(-a)) - 0.1, 0, 1)


def shifted(s):
    """The first third of the channels from the left neighbour, the last third from the right one."""
    third, found = s.shape[-1] // 3, s.copy()
    for column in range(s.shape[1]):
        left = s[:, column - 1] if column > 0 else 0 * s[:, 0]
        right = s[:, column + 1] if column + 1 < s.shape[1] else 0 * s[:, 0]
        found[:, column, :third] = left[:, :third]
        found[:, column, s.shape[-1] - third :] = right[:, s.shape[-1] - third :]
    return found


def neuralgpu(xs, embedding, layers, width, improved=False):
    """The outputs of one sequence, xs (T, R), embedding (R, m).

    layers: for u, r and the candidate c a kernel and a bias each, {"u": (3, 3, m, m), "bu": (m), ..}.
    """
    s = np.zeros((width, len(xs), embedding.shape[1]))
    s[0] = xs @ embedding
    for _ in range(len(xs)):
        for w in layers:
            u = gate(conv(s, w["u"], w["bu"]) + 1, improved)
            r = gate(conv(s, w["r"], w["br"]) + 1, improved)
            a = conv(r * s, w["c"], w["bc"])
            candidate = np.clip(a, -1, 1) if improved else np.tanh(a)
            s = u * (shifted(s) if improved else s) + (1 - u) * candidate
    return s[0]
