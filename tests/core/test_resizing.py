"""`tlstm_jax.resize`: arrays that are kept or interpolated, and a 2D model along the diagonal of a larger one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tlstm_jax as tl
from tests.core.variants import MODELS, R, close, model, setup, some

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("name", some(MODELS, "trnn"))
def test_kernels_stay_and_the_model_runs(name):
    cfg, params, xs, _ = setup(name)
    new = dataclasses.replace(cfg, tensor_shape=tuple(2 * p for p in cfg.tensor_shape))
    grown = tl.resize(params, cfg, new)
    for group in ("input", "hidden"):
        assert grown[group] is params[group]
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, tl.init_params(jax.random.key(0), R, new))
    assert np.isfinite(tl.unroll(grown, xs, new)[1]).all()
    close(tl.resize(params, cfg, cfg), params)


def test_norms_are_interpolated_from_corner_to_corner():
    cfg = tl.TLSTMConfig(2, (2, 3), (3, 5), param_dtype="float64")
    params = tl.init_params(jax.random.key(0), R, cfg)
    first, second = np.arange(2.0)[:, None, None], np.arange(3.0)[None, :, None]
    params["norm"]["scale"] = jnp.asarray(1 + 2 * first + 5 * second + np.zeros(2))
    scale = tl.resize(params, cfg, dataclasses.replace(cfg, tensor_shape=(3, 5)))["norm"]["scale"]
    first, second = np.linspace(0, 1, 3)[:, None, None], np.linspace(0, 2, 5)[None, :, None]
    close(scale, 1 + 2 * first + 5 * second + np.zeros(2))


def test_from_a_single_location_norms_are_repeated_and_back_the_outputs_stays():
    cfg, params, _, _ = setup("depth 1")
    new = dataclasses.replace(cfg, tensor_shape=(4,))
    grown = tl.resize(params, cfg, new)
    close(grown["norm"]["bias"], jnp.repeat(params["norm"]["bias"], 4, 0))
    grown["norm"]["bias"] = grown["norm"]["bias"].at[-1].set(7)
    assert (tl.resize(grown, new, cfg)["norm"]["bias"] == 7).all()


@pytest.mark.parametrize("dims", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", some(["2d", "2d-F", "2d-M", "trnn"], "2d"))
def test_a_2d_model_lives_on_along_the_diagonal(name, dims):
    cfg, params, xs, _ = setup(name)
    new = dataclasses.replace(cfg, tensor_shape=cfg.tensor_shape * dims, kernel_size=cfg.kernel_shape * dims)
    grown = tl.resize(params, cfg, new)
    (_, before), (_, after) = tl.unroll(params, xs, cfg), tl.unroll(grown, xs, new)
    exact = not cfg.has_memory_kernel
    np.testing.assert_allclose(after, before, atol=1e-12 if exact else 5e-3)
    gradient = jax.grad(lambda p: (tl.unroll(p, xs, new)[1] ** 2).sum())(grown)["hidden"]["kernel"]
    assert jnp.abs(gradient[(0,) * (dims - 1) + (1,)]).max() > 0  # weights off the diagonal can learn


def test_wider_and_of_more_dimensions_at_once():
    cfg, params, xs, _ = setup("2d")
    new = dataclasses.replace(cfg, tensor_shape=(5, 5), kernel_size=3)
    wider = dataclasses.replace(cfg, tensor_shape=(5,))
    _, expected = tl.unroll(tl.resize(params, cfg, wider), xs, wider)
    _, ys = tl.unroll(tl.resize(params, cfg, new), xs, new)
    np.testing.assert_allclose(ys, expected, atol=5e-3)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("2d", {"features": 5}, "features=4 in cfg and 5 in new_cfg"),
        ("2d", {"norm": None}, "norm='channel' in cfg and None in new_cfg"),
        ("2d", {"norm_epsilon": 0.1}, "norm_epsilon=1e-06 in cfg and 0.1 in new_cfg"),
        ("2d", {"kernel_size": 2}, r"kernel_size cannot change, got \(3,\) in cfg and \(2,\) in new_cfg"),
        ("3d+CN", {"tensor_shape": (3,), "kernel_size": 3}, "only a 2D model can get more dimensions"),
    ],
)
def test_errors(name, changes, message):
    cfg = model(name)
    with pytest.raises(ValueError, match=message):
        tl.resize(tl.init_params(jax.random.key(0), R, cfg), cfg, dataclasses.replace(cfg, **changes))
