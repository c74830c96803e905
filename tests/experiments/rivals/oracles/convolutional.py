"""The dilated CNN, WaveNet and TCN in plain loops, from the equations (spec, section 2.15); numpy alone."""

import numpy as np


def sigm(a):
    return 1 / (1 + np.exp(-a))


def relu(a):
    return np.maximum(a, 0)


def causal(us, kernel, bias, dilation):
    """A causal convolution of us (T, C) with a kernel (k, C, M): its last tap reads u[t], the one before u[t - d]."""
    size = len(kernel)
    out = []
    for t in range(len(us)):
        total = bias.copy()
        for tap in range(size):
            at = t - (size - 1 - tap) * dilation
            if at >= 0:
                total = total + us[at] @ kernel[tap]
        out.append(total)
    return np.array(out)


def plain(us, levels):
    for level, (kernel, bias) in enumerate(levels):
        us = relu(causal(us, kernel, bias, 2**level))
    return us


def gated(xs, weights):
    """WaveNet. weights: into (W, b), levels of conv, res and skip, out (W, b); conv is tanh's, then the gate's."""
    us = xs @ weights["into"][0] + weights["into"][1]
    skips = 0
    for level, w in enumerate(weights["levels"]):
        a = causal(us, *w["conv"], 2**level)
        m = a.shape[1] // 2
        z = np.tanh(a[:, :m]) * sigm(a[:, m:])
        skips = skips + z @ w["skip"][0] + w["skip"][1]
        us = us + z @ w["res"][0] + w["res"][1]
    return relu(relu(skips) @ weights["out"][0] + weights["out"][1])


def weight_normed(direction, scale):
    """The kernel g v / |v|, with the norm of each output's weights; direction (k, C, M), scale (M)."""
    kernel = np.zeros_like(direction)
    for m in range(direction.shape[-1]):
        kernel[..., m] = scale[m] * direction[..., m] / np.sqrt((direction[..., m] ** 2).sum())
    return kernel


def tcn(us, blocks):
    """blocks: first and second (v, g, b), and maybe res (W, b)."""
    for level, w in enumerate(blocks):
        f = us
        for direction, scale, bias in (w["first"], w["second"]):
            f = relu(causal(f, weight_normed(direction, scale), bias, 2**level))
        r = us @ w["res"][0] + w["res"][1] if "res" in w else us
        us = relu(r + f)
    return us
