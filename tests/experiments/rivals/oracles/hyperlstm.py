"""The HyperLSTM in plain loops, from the equations (spec, sections 1 and 2.5); numpy alone."""

import numpy as np


def sigm(a):
    return 1 / (1 + np.exp(-a))


def ln(a, gain, bias, epsilon):
    """The normalized vector a (n): gain.(a - mean)/sqrt(var + eps) + bias."""
    return gain * (a - a.mean()) / np.sqrt(((a - a.mean()) ** 2).mean() + epsilon) + bias


def hyperlstm(xs, main, small, layer_norm=True, epsilon=1e-3, forget_bias=1.0):
    """A layer on one sequence, xs (T, R). In both dictionaries everything is by gate, in the order i, f, g, o.

    small: W (R + M, 4, H) for [x, h_], U (H, 4, H), b (4, H).
    main: Wx (R, 4, M), Wh (M, 4, M), b (4, M), Ax, Ah, Ab (4, H, Z), ax, ah (4, Z), Dx, Dh, Db (4, Z, M).
    With layer_norm both also have gain, bias (4, n) and gain_c, bias_c (n).
    """
    size, hyper = main["b"].shape[1], small["b"].shape[1]
    c, h, cc, hh = np.zeros(size), np.zeros(size), np.zeros(hyper), np.zeros(hyper)
    shift = [0.0, forget_bias, 0.0, 0.0]
    ys = []
    for x in xs:
        pre = []
        for k in range(4):
            a = np.concatenate([x, h]) @ small["W"][:, k] + hh @ small["U"][:, k] + small["b"][k]
            if layer_norm:
                a = ln(a, small["gain"][k], small["bias"][k], epsilon)
            pre.append(a + shift[k])
        cc = sigm(pre[1]) * cc + sigm(pre[0]) * np.tanh(pre[2])
        normed = ln(cc, small["gain_c"], small["bias_c"], epsilon) if layer_norm else cc
        hh = sigm(pre[3]) * np.tanh(normed)
        pre = []
        for k in range(4):
            zh = hh @ main["Ah"][k] + main["ah"][k]
            zx = hh @ main["Ax"][k] + main["ax"][k]
            zb = hh @ main["Ab"][k]
            a = (zx @ main["Dx"][k]) * (x @ main["Wx"][:, k]) + (zh @ main["Dh"][k]) * (h @ main["Wh"][:, k])
            a = a + zb @ main["Db"][k] + main["b"][k]
            if layer_norm:
                a = ln(a, main["gain"][k], main["bias"][k], epsilon)
            pre.append(a + shift[k])
        c = sigm(pre[1]) * c + sigm(pre[0]) * np.tanh(pre[2])
        h = sigm(pre[3]) * np.tanh(ln(c, main["gain_c"], main["bias_c"], epsilon) if layer_norm else c)
        ys.append(h)
    return np.array(ys), (c, h, cc, hh)
