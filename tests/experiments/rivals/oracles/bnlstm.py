"""The batch-normalized LSTM in plain loops, from the equations (spec, section 2.13); numpy alone."""

import numpy as np


def sigm(a):
    return 1 / (1 + np.exp(-a))


def moments(rows):
    """The mean and the variance of each column over the rows that are given, a list of vectors."""
    mean = sum(rows) / len(rows)
    return mean, sum((row - mean) ** 2 for row in rows) / len(rows)


def step(x, c, h, w, normalize):
    """A timestep of one sequence; normalize(name, a) gives (a - mean) / sqrt(var + eps)."""
    a = w["gh"] * normalize("hidden", h @ w["Wh"]) + w["gx"] * normalize("input", x @ w["Wx"]) + w["b"]
    i, f, g, o = np.split(a, 4)
    c = sigm(f) * c + sigm(i) * np.tanh(g)
    return c, sigm(o) * np.tanh(w["gc"] * normalize("memory", c) + w["bc"])


def evaluate(xs, w, population, t=0, c=None, h=None):
    """A layer on one sequence, xs (T, R), from timestep t on.

    w: Wx (R, 4M), Wh (M, 4M), b, gx, gh (4M) for i, f, g, o, and gc, bc, c0, h0 (M).
    population: the means and the variances by timestep, {"input" | "hidden" | "memory": ((steps, n), (steps, n))}.
    """
    c, h = (w["c0"], w["h0"]) if c is None else (c, h)
    ys = []
    for x in xs:
        at = {}
        for name, (means, variances) in population.items():
            last = len(means) - 1
            at[name] = means[min(t, last)], variances[min(t, last)]
        c, h = step(x, c, h, w, lambda name, a, at=at: (a - at[name][0]) / np.sqrt(at[name][1] + 1e-5))
        t += 1
        ys.append(h)
    return np.array(ys), c, h


def train(xs, lengths, w):
    """A layer on a batch, xs (B, T, R), with the batch's statistics, over the sequences that have not ended.

    Returns the outputs, a dictionary by (sequence, timestep), and the moments by name and timestep.
    """
    states = dict.fromkeys(range(len(xs)), (w["c0"], w["h0"]))
    ys, found = {}, {"input": [], "hidden": [], "memory": []}
    for t in range(xs.shape[1]):
        rows = [row for row in states if t < lengths[row]]
        if not rows:
            break
        at = {
            "hidden": moments([states[row][1] @ w["Wh"] for row in rows]),
            "input": moments([xs[row, t] @ w["Wx"] for row in rows]),
            "memory": (0.0, 1.0),  # not known before the memory cells are
        }

        def normalize(name, a, at=at):
            return (a - at[name][0]) / np.sqrt(at[name][1] + 1e-5)

        at["memory"] = moments([step(xs[row, t], *states[row], w, normalize)[0] for row in rows])
        for row in rows:
            states[row] = step(xs[row, t], *states[row], w, normalize)
            ys[row, t] = states[row][1]
        for name in found:
            found[name].append(at[name])
    return ys, found
