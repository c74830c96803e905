"""What the tests of the rivals share."""

import jax
import numpy as np

BATCH, STEPS, INPUTS, FEATURES = 2, 5, 3, 4


def randomized(layer, xs, seed=0, scale=0.5, **arguments):
    """The variables of a layer with every leaf replaced by normal numbers, so that no term is 0 by initialization."""
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), xs, **arguments))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda z: scale * rng.standard_normal(z.shape), shapes)


def inputs(*shape, seed=1):
    """Normal numbers of a shape, (BATCH, STEPS, INPUTS) by default."""
    return np.random.default_rng(seed).standard_normal(shape or (BATCH, STEPS, INPUTS))


def apply(layer, variables, xs, **arguments):
    """The carry and the outputs of a layer, compiled, as numpy arrays."""
    found = jax.jit(lambda v, x: layer.apply(v, x, return_carry=True, **arguments))(variables, xs)
    return jax.tree.map(np.asarray, found)


def num_params(layer, in_features):
    """The number of core parameters of a layer."""
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), np.zeros((1, 2, in_features), np.float32)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) - layer.num_constraints()
