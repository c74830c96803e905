"""What the tests of the rivals share."""

from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.rivals import RIVALS
from experiments.rivals.layer import core_size

EVERY_KIND = ("lstm", "grid", "bnlstm", "dilated-gru", "tcn", "qrnn", "urnn", "neuralgpu")
"""A rival of every kind: a stack of cells, a scan over layers, batch statistics, skipped timesteps, convolutions, an
associative scan, complex states, and one that sees the whole sequence."""
ALL = [name if name in EVERY_KIND else pytest.param(name, marks=pytest.mark.slow) for name in RIVALS]
"""Every rival; those whose kind another one stands for are slow, for tests that take seconds for each."""
BATCH, STEPS, INPUTS, FEATURES = 2, 5, 3, 4


def randomized(layer, xs, seed=0, scale=0.5, **arguments):
    """The variables of a layer with every leaf replaced by normal numbers, so that no term is 0 by initialization.

    Variances become their absolute values.
    """
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), xs, **arguments))
    rng = np.random.default_rng(seed)

    def leaf(path, z):
        found = scale * rng.standard_normal(z.shape)
        return np.abs(found) if jax.tree_util.keystr(path).endswith("var']") else found

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def inputs(*shape, seed=1):
    """Normal numbers of a shape, (BATCH, STEPS, INPUTS) by default."""
    return np.random.default_rng(seed).standard_normal(shape or (BATCH, STEPS, INPUTS))


def apply(layer, variables, xs, **arguments):
    """The carry and the outputs of a layer, compiled, as numpy arrays."""
    found = jax.jit(lambda v, x: layer.apply(v, x, return_carry=True, **arguments))(variables, xs)
    return jax.tree.map(np.asarray, found)


def num_params(layer, in_features):
    """The number of core parameters of a layer."""
    return core_size(layer, in_features)


def fixture(name):
    """The arrays of a file in ``fixtures/``, whose README says where they come from."""
    with np.load(Path(__file__).parent / "fixtures" / f"{name}.npz") as stored:
        return dict(stored)
