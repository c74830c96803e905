"""Outputs, states and all gradients against the plain loops, in float64, to 1e-10."""

import itertools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tlstm_jax as tl
from tests.core import reference
from tests.core.variants import close_in_scale

# (tensor_shape, kernel_size): D = 2, 3, 4; K = 2, 3, 4, 5 and mixed; even and uneven 2P / (K - K mod 2)
GEOMETRIES = [
    ((3,), (2,)),
    ((3,), (3,)),
    ((3,), (4,)),
    ((4,), (5,)),
    ((2, 2), (2, 2)),
    ((2, 2), (3, 3)),
    ((3, 4), (4, 4)),
    ((3, 3), (5, 5)),
    ((2, 4), (3, 5)),
    ((3, 5), (2, 4)),
    ((2, 2, 2), (2, 2, 2)),
    ((2, 2, 2), (3, 3, 3)),
    ((2, 2, 2), (4, 4, 4)),
    ((2, 2, 2), (5, 5, 5)),
    ((2, 3, 4), (3, 4, 5)),
]
CELLS = [("lstm", True), ("lstm", False), ("rnn", True)]
NORMS = [None, "channel", "layer"]


def directions(size, rng):
    """All unit directions of a small array, random ones of a large one."""
    return np.eye(size) if size <= 64 else rng.normal(size=(8, size))


def complex_step_gradients(function, arrays, rng):
    """For each array, directions (n, *shape) and the derivatives of ``function`` along them."""
    blocks = [directions(array.size, rng).reshape(-1, *array.shape) for array in arrays]
    ends = np.cumsum([len(block) for block in blocks])
    perturbed = []
    for array, block, end in zip(arrays, blocks, ends, strict=True):
        z = np.zeros((ends[-1], *array.shape), complex) + array
        z[end - len(block) : end] += 1e-30j * block
        perturbed.append(z)
    derivatives = function(*perturbed).imag / 1e-30
    return [(block, derivatives[end - len(block) : end]) for block, end in zip(blocks, ends, strict=True)]


def matrix():
    """Every geometry with every cell and every norm; by default each geometry with one of these pairs in turn."""
    for (i, geometry), (j, cell), (k, norm) in itertools.product(*map(enumerate, (GEOMETRIES, CELLS, NORMS))):
        marks = () if i % 9 == 3 * j + k else pytest.mark.slow
        yield pytest.param(*geometry, *cell, norm, marks=marks)


@pytest.mark.parametrize(("tensor_shape", "kernel_size", "cell", "memory_conv", "norm"), list(matrix()))
def test_outputs_states_and_gradients(x64, tensor_shape, kernel_size, cell, memory_conv, norm):
    features = 2 if np.prod(kernel_size) < 64 else 1
    if features == 1 and norm == "channel":
        features = 2  # one channel normalizes to zero
    batch_shape, steps, in_features = (2, 1), 3, 2
    cfg = tl.TLSTMConfig(features, tensor_shape, kernel_size, cell, memory_conv, norm, param_dtype=jnp.float64)
    assert {cfg.depth} == reference.depth(tensor_shape, kernel_size)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: tl.init_params(key, in_features, cfg), jax.random.key(0))
    params = jax.tree.map(lambda s: rng.normal(size=s.shape) * 0.6, shapes)
    xs = rng.normal(size=(*batch_shape, steps, in_features))
    state = jax.tree.map(lambda s: rng.normal(size=s.shape), tl.init_state(cfg, batch_shape))
    arrays, tree = jax.tree.flatten((params, xs, state))
    weights = {
        "ys": rng.normal(size=(*batch_shape, steps, features)),
        "state": rng.normal(size=(*batch_shape, *tensor_shape, features)),
    }

    def slow(*arrays):
        """The same loss by plain loops, one example after another."""
        params, xs, state = jax.tree.unflatten(tree, arrays)
        total, outputs = 0, []
        for at in np.ndindex(batch_shape):
            row = jax.tree.map(operator.itemgetter((slice(None), *at)), (xs, state))
            ys, c, h = reference.run(params, row[0], cfg, row[1].c, row[1].h)
            outputs.append((ys, c, h))
            for value, weight in ((ys, weights["ys"]), (c, weights["state"]), (h, weights["state"])):
                if value is not None:
                    total = total + (value * weight[at]).reshape(len(xs), -1).sum(-1)
        slow.outputs = outputs
        return total

    def fast(arrays):
        params, xs, state = jax.tree.unflatten(tree, arrays)
        state, ys = tl.unroll(params, xs, cfg, initial_state=state)
        loss = (ys * weights["ys"]).sum() + sum((leaf * weights["state"]).sum() for leaf in jax.tree.leaves(state))
        return loss, (ys, state)

    gradients, (ys, final) = jax.jit(jax.grad(fast, has_aux=True))(arrays)
    expected = complex_step_gradients(slow, arrays, rng)
    for i, at in enumerate(np.ndindex(batch_shape)):
        slow_ys, c, h = slow.outputs[i]
        close_in_scale(ys[at], slow_ys[0].real)
        close_in_scale(final.h[at], h[0].real)
        if c is not None:
            close_in_scale(final.c[at], c[0].real)
    for gradient, (block, derivatives) in zip(gradients, expected, strict=True):
        close_in_scale(np.tensordot(block, gradient, axes=gradient.ndim), derivatives)
    assert all(np.abs(gradient).max() > 0 for gradient in gradients)
