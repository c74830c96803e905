"""The tLSTM in plain loops over locations and offsets, written from the paper's equations and slow on purpose.

It shares nothing with the package: one example at a time, 1-based locations, numpy only. Numbers may
be complex and carry leading axes, so that derivatives come from the complex step
(f(x + ih) = f(x) + ih f'(x) + O(h^2), h = 1e-30), exact to rounding and independent of any autodiff.
"""

import itertools
import math

import numpy as np


def depth(tensor_shape, kernel_size):
    """Eq. 9, for each dimension separately."""
    return {math.ceil(2 * p / (k - k % 2)) for p, k in zip(tensor_shape, kernel_size, strict=True)}


def product(sizes):
    return list(itertools.product(*(range(1, size + 1) for size in sizes)))


def matmul(vector, matrix):
    return np.einsum("...m,...ma->...a", vector, matrix)


def sigm(a):
    return 1 / (1 + np.exp(-a))


def softmax(a):
    e = np.exp(a - a.real.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def normalize(z, norm, epsilon, params):
    """Eqs. 20-21 on a dict of locations."""
    if norm is None:
        return z
    out = {}
    for p, values in z.items():
        group = [values] if norm == "channel" else list(z.values())
        everything = np.concatenate(group, axis=-1)
        mean = everything.mean(-1, keepdims=True)
        deviation = np.sqrt(((everything - mean) ** 2).mean(-1, keepdims=True) + epsilon)
        at = (..., *(i - 1 for i in p), slice(None))
        out[p] = (values - mean) / deviation * params["norm"]["scale"][at] + params["norm"]["bias"][at]
    return out


def step(params, c, h, x, cfg):
    """One timestep: the next c and h, from c and h as dicts {location: (.., M)} and x (.., R)."""
    shape, size, m = cfg.tensor_shape, cfg.kernel_size, cfg.features
    rank = len(shape)
    kernel, bias = params["hidden"]["kernel"], params["hidden"]["bias"]
    projected = matmul(x, params["input"]["kernel"]) + params["input"]["bias"]

    def hcat(p):
        """Eqs. 5 and 22, zero outside 1 .. P_d + 1."""
        if any(i < 1 or i > n + 1 for i, n in zip(p, shape, strict=True)):
            return None
        if all(i == 1 for i in p):
            return projected
        if all(i > 1 for i in p):
            return h[tuple(i - 1 for i in p)]
        return None

    new_c, gated = {}, {}
    a = {}
    for p in product(shape):
        a[p] = bias
        for k in itertools.product(*(range(n) for n in size)):
            source = hcat(tuple(p[d] + 1 + k[d] - size[d] // 2 for d in range(rank)))
            if source is not None:
                a[p] = a[p] + matmul(source, kernel[(..., *k, slice(None), slice(None))])
    if cfg.cell == "rnn":
        return None, {p: np.tanh(z) for p, z in normalize(a, cfg.norm, cfg.norm_epsilon, params).items()}
    for p in product(shape):
        g, i, f, o = (a[p][..., n * m : (n + 1) * m] for n in range(4))
        mixed = c[p]
        if cfg.memory_conv:
            q = softmax(a[p][..., 4 * m :])
            mixed = 0
            for n, k in enumerate(itertools.product(*(range(n) for n in size))):
                neighbour = (p[d] + k[d] - size[d] // 2 for d in range(rank))
                clipped = tuple(min(max(j, 1), shape[d]) for d, j in enumerate(neighbour))
                mixed = mixed + q[..., n : n + 1] * c[clipped]
        new_c[p] = np.tanh(g) * sigm(i) + mixed * sigm(f)
        gated[p] = sigm(o)
    normalized = normalize(new_c, cfg.norm, cfg.norm_epsilon, params)
    return new_c, {p: np.tanh(normalized[p]) * gated[p] for p in product(shape)}


def run(params, xs, cfg, c=None, h=None, *, flush=True):
    """One sequence ``xs`` (.., T, R) from state arrays (.., *P, M): outputs and the state after the last input.

    With ``flush``, L - 1 zero inputs follow and output t is the corner of timestep t + L - 1.
    """
    (delay,) = (n - 1 for n in depth(cfg.tensor_shape, cfg.kernel_size))
    delay = delay if flush else 0
    zero = np.zeros((*cfg.tensor_shape, cfg.features))
    c, h = (zero if s is None else s for s in (c, h))
    c, h = locate(c, cfg), locate(h, cfg)
    steps = xs.shape[-2]
    outputs, final = [], (c, h)
    for t in range(steps + delay):
        x = xs[..., t, :] if t < steps else np.zeros_like(xs[..., 0, :]) if steps else np.zeros(xs.shape[-1])
        c, h = step(params, c, h, x, cfg)
        outputs.append(h[tuple(cfg.tensor_shape)])
        if t == steps - 1:
            final = (c, h)
    return np.stack(outputs[delay:], axis=-2), *(unlocate(s, cfg) for s in final)


def locate(state, cfg):
    """An array (.., *P, M) as {location: (.., M)}."""
    return {p: state[(..., *(i - 1 for i in p), slice(None))] for p in product(cfg.tensor_shape)}


def unlocate(state, cfg):
    if state is None:
        return None
    stacked = np.stack([state[p] for p in product(cfg.tensor_shape)], axis=-2)
    return stacked.reshape(*stacked.shape[:-2], *cfg.tensor_shape, cfg.features)
