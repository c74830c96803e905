"""Dilated recurrent layers in plain loops, from the equations (spec, sections 1 and 2.14); numpy alone."""

import numpy as np


def sigm(a):
    return 1 / (1 + np.exp(-a))


def rnn_step(x, state, w):
    (h,) = state
    h = np.tanh(x @ w["W"] + h @ w["U"] + w["b"])
    return (h,)


def gru_step(x, state, w):
    (h,) = state
    r, z = np.split(sigm(x @ w["W"] + h @ w["U"] + w["b"]), 2)
    n = np.tanh(x @ w["Wn"] + (r * h) @ w["Un"] + w["bn"])
    return (z * h + (1 - z) * n,)


def lstm_step(x, state, w):
    h, c = state
    i, f, g, o = np.split(x @ w["Wx"] + h @ w["Wh"] + w["b"], 4)
    c = sigm(f) * c + sigm(i) * np.tanh(g)
    return (sigm(o) * np.tanh(c), c)


STEPS = {"rnn": (rnn_step, 1), "gru": (gru_step, 1), "lstm": (lstm_step, 2)}


def dilated(xs, kind, features, weights, dilations):
    """Levels on one sequence, xs (T, R): weights of each level, and for each level the states of all timesteps."""
    step, parts = STEPS[kind]
    levels = []
    for w, dilation in zip(weights, dilations, strict=True):
        states = []
        for t, x in enumerate(xs):
            before = states[t - dilation] if t >= dilation else (np.zeros(features),) * parts
            states.append(step(x, before, w))
        xs = np.array([state[0] for state in states])
        levels.append(states)
    return xs, levels
