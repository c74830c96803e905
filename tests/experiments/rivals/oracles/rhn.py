"""The recurrent highway network in plain loops, from the equations (spec, section 2.7); numpy alone."""

import numpy as np


def sigm(a):
    return 1 / (1 + np.exp(-a))


def rhn(xs, weights, h, input_mask=1.0, state_mask=1.0):
    """One sequence, xs (T, R). weights: Wh, Wt (R, M); Rh, Rt (D, M, M); bh, bt (D, M); masks (R) and (M)."""
    ys = []
    for x in xs:
        s = h
        for d in range(len(weights["Rh"])):
            a = (s * state_mask) @ weights["Rh"][d] + weights["bh"][d]
            b = (s * state_mask) @ weights["Rt"][d] + weights["bt"][d]
            if d == 0:
                a = a + (x * input_mask) @ weights["Wh"]
                b = b + (x * input_mask) @ weights["Wt"]
            t = sigm(b)
            s = np.tanh(a) * t + s * (1 - t)
        h = s
        ys.append(h)
    return np.array(ys)
