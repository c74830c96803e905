"""What holds for every rival: shapes, chunks, lengths, causality, gradients, and what the command line shows."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rivals import RIVALS, Rival
from tests.experiments.rivals import common

STEPS, HALF, LENGTHS = 6, 3, np.array([6, 2])


def example(name):
    """A small layer of a rival in float64, inputs, and variables that are not the initial ones."""
    rival = RIVALS[name]
    fewer = {"num_layers": min(2, rival.num_layers)} if "num_layers" in rival.__dataclass_fields__ else {}
    layer = rival(common.FEATURES, param_dtype=np.float64, **fewer)
    xs = common.inputs(common.BATCH, STEPS, common.INPUTS)
    return layer, xs, common.randomized(layer, xs)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", RIVALS)
def test_the_interface(name):
    layer, xs, variables = example(name)

    @jax.jit
    def everything(variables, xs):
        def gradients(variables):
            return jax.grad(lambda v: (layer.apply(v, xs) ** 2).sum())(variables)

        found = {
            "whole": layer.apply(variables, xs),
            "short": layer.apply(variables, xs, seq_lengths=LENGTHS),
            "changed": layer.apply(variables, xs.at[:, HALF:].add(1.0)),
            "batches": layer.apply(variables, jnp.stack([xs, 2 * xs])),
            "gradients": gradients(variables),
        }
        if layer.carries:
            carry, first = layer.apply(variables, xs[:, :HALF], return_carry=True)
            last, second = layer.apply(variables, xs[:, HALF:], initial_carry=carry, return_carry=True)
            end, _ = layer.apply(variables, xs, return_carry=True)
            early, _ = layer.apply(variables, xs, seq_lengths=LENGTHS, return_carry=True)
            two, _ = layer.apply(variables, xs[:, : LENGTHS[1]], return_carry=True)
            found |= {"halves": jnp.concatenate([first, second], 1), "last": last, "end": end}
            found |= {"early": jax.tree.map(lambda z: z[1], early), "two": jax.tree.map(lambda z: z[1], two)}
        return found

    found = everything(variables, jnp.asarray(xs))
    assert found["whole"].shape == (common.BATCH, STEPS, common.FEATURES)
    close = {"rtol": 1e-9, "atol": 1e-12}
    np.testing.assert_allclose(found["short"][0], found["whole"][0], **close)
    np.testing.assert_allclose(found["short"][1, :2], layer_prefix(found["whole"], found["short"], layer), **close)
    np.testing.assert_allclose(found["batches"][0], found["whole"], **close)
    if layer.causal:
        np.testing.assert_allclose(found["changed"][:, :HALF], found["whole"][:, :HALF], **close)
    assert not np.allclose(found["changed"][:, HALF:], found["whole"][:, HALF:])
    for path, leaf in jax.tree_util.tree_leaves_with_path(found["gradients"]["params"]):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
        assert np.any(leaf != 0), jax.tree_util.keystr(path)
    if layer.carries:
        np.testing.assert_allclose(found["halves"], found["whole"], **close)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close), found["last"], found["end"])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close), found["early"], found["two"])


def layer_prefix(whole, short, layer):
    """The outputs within a short sequence: those of the whole one if the layer is causal."""
    return whole[1, :2] if layer.causal else short[1, :2]


@pytest.mark.parametrize("name", RIVALS)
def test_what_the_command_line_shows(name):
    rival = RIVALS[name]
    assert issubclass(rival, Rival)
    summary = inspect.getdoc(rival).splitlines()[0]
    assert summary.endswith(".")
    assert len(summary) < 110
    documented = inspect.getdoc(rival)
    for field in rival.__dataclass_fields__:
        if field not in Rival.__dataclass_fields__ and field != "num_layers":
            assert f"    {field}: " in documented, f"{field} is not documented"
    assert ">>>" in documented
