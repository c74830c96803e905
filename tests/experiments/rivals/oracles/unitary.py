"""The uRNNs and the update of a unitary matrix in plain loops (spec, sections 2.10 and 2.11); numpy alone."""

import numpy as np


def reflection(v):
    """The matrix that a row vector is multiplied by to be reflected along conj(v), (M, M)."""
    return np.eye(len(v)) - 2 * np.outer(v, v.conj()) / np.vdot(v, v).real


def restricted(phases, vs, permutation):
    """D1 F R1 Pi D2 F^-1 R2 D3 as one matrix from dense factors, for row vectors: phases (3, M), vs (2, M) complex."""
    features = phases.shape[-1]
    k = np.arange(features)
    fourier = np.exp(-2j * np.pi * np.outer(k, k) / features) / np.sqrt(features)
    pi = np.eye(features)[:, permutation]
    d1, d2, d3 = (np.diag(np.exp(1j * phase)) for phase in phases)
    r1, r2 = (reflection(v) for v in vs)
    return d1 @ fourier @ r1 @ pi @ d2 @ fourier.conj().T @ r2 @ d3


def urnn(xs, w, v, bias, h):
    """A layer on one sequence, xs (T, R), in complex numbers: w (M, M), v (R, M), bias (M) real, h (M)."""
    ys = []
    for x in xs:
        z = h @ w + x @ v
        size = np.abs(z)
        h = z * np.maximum(size + bias, 0) / (size + 1e-5)
        ys.append(np.concatenate([h.real, h.imag]))
    return np.array(ys), h


def urnn_in_reals(xs, w, v, bias, h):
    """The same without complex numbers: the rows and columns of all matrices are real parts, then imaginary parts."""
    features = len(bias)
    w = np.block([[w.real, w.imag], [-w.imag, w.real]])
    v = np.concatenate([v.real, v.imag], axis=-1)
    h = np.concatenate([h.real, h.imag])
    ys = []
    for x in xs:
        z = h @ w + x @ v
        size = np.sqrt(z[:features] ** 2 + z[features:] ** 2)
        scale = np.maximum(size + bias, 0) / (size + 1e-5)
        h = np.concatenate([z[:features] * scale, z[features:] * scale])
        ys.append(h)
    return np.array(ys)


def multiplicative_updates(w, gradients, rate, normalize):
    """The matrices after each of the updates with these gradients, all complex (M, M)."""
    real, imaginary = np.zeros(w.shape), np.zeros(w.shape)
    eye = np.eye(len(w))
    found = []
    for g in gradients:
        if normalize:
            real = 0.9 * real + 0.1 * g.real**2
            imaginary = 0.9 * imaginary + 0.1 * g.imag**2
            g = g.real / (np.sqrt(real) + 1e-8) + 1j * g.imag / (np.sqrt(imaginary) + 1e-8)
        a = g @ w.conj().T - w @ g.conj().T
        w = np.linalg.inv(eye + rate / 2 * a) @ (eye - rate / 2 * a) @ w
        found.append(w)
    return found
