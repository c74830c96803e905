"""The tanh network with a skip in time, in plain loops, from the equations (spec, section 2.12); numpy alone."""

import numpy as np


def stanh(xs, weights, skip):
    """One sequence, xs (T, R). weights: W (R, M), U, V (M, M) for h_{t-1} and h_{t-s}, b (M)."""
    states = []
    for t, x in enumerate(xs):
        total = x @ weights["W"] + weights["b"]
        if t >= 1:
            total = total + states[t - 1] @ weights["U"]
        if t >= skip:
            total = total + states[t - skip] @ weights["V"]
        states.append(np.tanh(total))
    return np.array(states)
