"""The Grid LSTM in plain loops, from the equations (spec, section 2.2); numpy alone."""

import numpy as np


def sigm(a):
    return 1 / (1 + np.exp(-a))


def lstm(inputs, memory, weights):
    i, f, g, o = np.split(inputs @ weights["W"] + weights["b"], 4)
    memory = sigm(f) * memory + sigm(i) * np.tanh(g)
    return sigm(o) * np.tanh(memory), memory


def grid_lstm(xs, weights, num_layers, *, priority=True):
    """One sequence, xs (T, R). weights: Wh (R, M), maybe Wm (R, M), time and depth: for each layer W (2M, 4M), b (4M).

    Returns the states and the memories at the top, (T, M) each, and those along time after the sequence, (L, M) each.
    """
    m = weights["Wh"].shape[1]
    h_time, m_time = np.zeros((num_layers, m)), np.zeros((num_layers, m))
    tops, memories = [], []
    for x in xs:
        h_depth = x @ weights["Wh"]
        m_depth = x @ weights["Wm"] if "Wm" in weights else np.zeros(m)
        for layer in range(num_layers):
            below, before = h_depth, h_time[layer].copy()
            h_time[layer], m_time[layer] = lstm(np.concatenate([below, before]), m_time[layer], weights["time"][layer])
            now = h_time[layer] if priority else before
            h_depth, m_depth = lstm(np.concatenate([below, now]), m_depth, weights["depth"][layer])
        tops.append(h_depth)
        memories.append(m_depth)
    return np.array(tops), np.array(memories), h_time, m_time
