"""Tensor trains, LSTMs and GRUs of them, and HOT-RNN in plain loops (spec, sections 1, 3.6 and 3.8); numpy alone."""

import itertools

import numpy as np


def sigm(a):
    return 1 / (1 + np.exp(-a))


def matrix(cores):
    """W[(i1..id), (j1..jd)] = G1[i1,j1] .. Gd[id,jd], an entry at a time. cores: (r_{k-1}, n_k, m_k, r_k) each."""
    rows = list(itertools.product(*(range(core.shape[1]) for core in cores)))
    columns = list(itertools.product(*(range(core.shape[2]) for core in cores)))
    found = np.zeros((len(rows), len(columns)))
    for row, i in enumerate(rows):
        for column, j in enumerate(columns):
            product = np.eye(1)
            for k, core in enumerate(cores):
                product = product @ core[:, i[k], j[k], :]
            found[row, column] = product[0, 0]
    return found


def lstm(xs, w, u, b):
    """An LSTM on xs (T, R), w (R, 4M) and u (M, 4M) for i, f, g, o, b (4M)."""
    c = h = np.zeros(u.shape[0])
    ys = []
    for x in xs:
        i, f, g, o = np.split(x @ w + h @ u + b, 4)
        c = sigm(f) * c + sigm(i) * np.tanh(g)
        h = sigm(o) * np.tanh(c)
        ys.append(h)
    return np.array(ys), c, h


def gru(xs, w, u, b, bn=None):
    """A GRU on xs (T, R), w (R, 3M) and u (M, 3M) for r, z, n; r is applied to h U + bn, or without bn to h."""
    size = u.shape[0]
    h = np.zeros(size)
    ys = []
    for x in xs:
        xr, xz, xn = np.split(x @ w + b, 3)
        r = sigm(xr + h @ u[:, :size])
        z = sigm(xz + h @ u[:, size : 2 * size])
        un = u[:, 2 * size :]
        n = np.tanh(xn + ((r * h) @ un if bn is None else r * (h @ un + bn)))
        h = z * h + (1 - z) * n
        ys.append(h)
    return np.array(ys), h


def hot_lstm(xs, w, b, cores, lags):
    """HOT-RNN, x U + b + W(sv, .., sv), sv = [h_{t-1}..h_{t-lags}, 1]; the whole outer product of the sv is formed."""
    size = w.shape[1] // 4
    c = np.zeros(size)
    states = [np.zeros(size) for _ in range(lags)]
    ys = []
    full = cores[0]
    for core in cores[1:]:
        full = np.tensordot(full, core, 1)
    full = full[0]  # (S, .., S, 4M)
    for x in xs:
        sv = np.concatenate([*states, np.ones(1)])
        outer = sv
        for _ in cores[1:]:
            outer = np.multiply.outer(outer, sv)
        pre = x @ w + b + np.tensordot(outer, full, len(cores))
        i, j, f, o = np.split(pre, 4)
        c = sigm(f) * c + sigm(i) * np.tanh(j)
        h = sigm(o) * np.tanh(c)
        states = [h, *states[:-1]]
        ys.append(h)
    return np.array(ys), c, np.concatenate(states)


def smooth_dictionary(size, rank):
    """U = K_na (K_aa + ridge I)^{-1} for a squared exponential kernel between indices and rank points among them."""
    points = [(a + 0.5) * size / rank - 0.5 for a in range(rank)]
    scale = size / rank

    def kernel(p, q):
        return np.exp(-((p - q) ** 2) / (2 * scale**2))

    among = np.array([[kernel(p, q) + (1e-3 if p == q else 0) for q in points] for p in points])
    return np.array([np.linalg.solve(among, [kernel(i, q) for q in points]) for i in range(size)])
