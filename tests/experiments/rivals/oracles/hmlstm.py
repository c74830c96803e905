"""The hierarchical multiscale LSTM in plain loops, from the equations (spec, section 2.6); numpy alone."""

import numpy as np


def sigm(a):
    return 1 / (1 + np.exp(-a))


def ln(a, gain, bias, epsilon=1e-3):
    """The normalized vector a (n): gain.(a - mean)/sqrt(var + eps) + bias."""
    return gain * (a - a.mean()) / np.sqrt(((a - a.mean()) ** 2).mean() + epsilon) + bias


def hmlstm(xs, layers, slope=1.0, states=None, fixed=None):
    """The layers on one sequence, xs (T, R).

    layers: U (M, n), W (in, n), b (n) and, but for the last layer, V (M, n), with n = 4M + 1 for i, f, g, o and the
    detector, and 4M in the last layer. With layer normalization also gain, bias (4, M) and gain_c, bias_c (M).
    states: (c, h, z) for each layer. fixed: the detectors' ``(z, ztilde)`` in the order of their computation, as this
    function returns them; then z is z + ztilde' - ztilde, which has the gradient of the straight-through estimate.

    Returns [h^1..h^L] at each timestep, (T, LM); the states; the detectors' (z, ztilde).
    """
    size, last = layers[0]["U"].shape[0], len(layers) - 1
    states = list(states or [(np.zeros(size), np.zeros(size), 0.0)] * len(layers))
    ys, detected = [], []
    for x in xs:
        below, below_z = x, 1.0
        before = list(states)
        for index, w in enumerate(layers):
            c, h, z = before[index]
            a = h @ w["U"] + below_z * (below @ w["W"]) + w["b"]
            if index < last:
                a = a + z * (before[index + 1][1] @ w["V"])
            gates = [a[k * size : (k + 1) * size] for k in range(4)]
            if "gain" in w:
                gates = [ln(gate, w["gain"][k], w["bias"][k]) for k, gate in enumerate(gates)]
            i, f, g, o = sigm(gates[0]), sigm(gates[1]), np.tanh(gates[2]), sigm(gates[3])
            if fixed is not None:
                copy = (1 - z) * (1 - below_z)
                new_c = z * (i * g) + copy * c + (1 - z) * below_z * (f * c + i * g)
            elif z == 1:  # flush
                new_c, copy = i * g, 0.0
            elif below_z == 1:  # update
                new_c, copy = f * c + i * g, 0.0
            else:
                new_c, copy = c, 1.0
            shown = ln(new_c, w["gain_c"], w["bias_c"]) if "gain_c" in w else new_c
            new_h = copy * h + (1 - copy) * o * np.tanh(shown)
            new_z = 0.0
            if index < last:
                ztilde = min(max((slope * a[4 * size] + 1) / 2, 0.0), 1.0)
                new_z = float(ztilde > 0.5)
                if fixed is not None:
                    hard, soft = fixed[len(detected)]
                    new_z = hard + ztilde - soft
                detected.append((new_z, ztilde))
            states[index] = (new_c, new_h, new_z)
            below, below_z = new_h, new_z
        ys.append(np.concatenate([h for _, h, _ in states]))
    return np.array(ys), states, detected


def embedding(hs, gates, weights, size):
    """The output module on [h^1..h^L], hs (T, LM): relu(sum_l s([h^1..h^L] w^l) h^l We^l); gates (LM, L)."""
    ys = []
    for h in hs:
        e = 0.0
        for level in range(gates.shape[1]):
            part = slice(level * size, (level + 1) * size)
            e = e + sigm(h @ gates[:, level]) * (h[part] @ weights[part])
        ys.append(np.maximum(e, 0))
    return np.array(ys)
