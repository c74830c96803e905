"""Geometry and initial parameters."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tlstm_jax as tl
from tests.core.variants import MODELS, R, model, refused
from tlstm_jax.stacked import StackedLSTMConfig

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("k", range(2, 8))
@pytest.mark.parametrize("p", range(1, 9))
def test_depth_is_how_far_information_travels(p, k):
    """Eq. 9 against a count: each timestep moves information floor(K/2) locations towards the output."""
    reached, steps = 0, 0
    while reached < p:
        reached, steps = reached + k // 2, steps + 1
    assert tl.TLSTMConfig(features=2, tensor_shape=(p,), kernel_size=k).depth == steps


@pytest.mark.parametrize(
    ("features", "tensor_shape", "kernel_size", "norm"),
    [(1120, (3,), 2, None), (901, (3,), 3, None), (522, (3, 3), 3, "channel"), (522, (4, 4), 3, "layer")],
)
def test_parameter_counts_of_the_paper(features, tensor_shape, kernel_size, norm):
    cfg = tl.TLSTMConfig(features, tensor_shape, kernel_size, norm=norm)
    shapes = jax.eval_shape(lambda key: tl.init_params(key, 205, cfg), jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    m, k, locations = features, kernel_size ** len(tensor_shape), int(np.prod(tensor_shape))
    expected = 205 * m + m + k * m * (4 * m + k) + (4 * m + k) + (2 * locations * m if norm else 0)
    assert count == expected
    assert shapes["hidden"]["kernel"].size == pytest.approx(10e6, rel=0.03)


def test_width_costs_no_kernel_parameters():
    narrow, wide = (tl.init_params(jax.random.key(0), R, model("2d", tensor_shape=(p,), norm=None)) for p in (2, 9))
    chex.assert_trees_all_equal(narrow, wide)


@pytest.mark.parametrize("kernel_scale", [1.0, 0.25])
@pytest.mark.parametrize("name", MODELS)
def test_initialization(name, kernel_scale):
    cfg = model(name, features=64, kernel_scale=kernel_scale, forget_bias=2.5, conveyor_bias=1.5)
    params = tl.init_params(jax.random.key(0), 50, cfg)
    hidden, m = params["hidden"], cfg.features
    fan_in = m * cfg.num_offsets
    assert float(hidden["kernel"].std()) == pytest.approx((kernel_scale / fan_in) ** 0.5, rel=0.05)
    assert float(params["input"]["kernel"].std()) == pytest.approx((2 / (50 + m)) ** 0.5, rel=0.05)
    bias = np.zeros(cfg.gate_features - m)
    if cfg.cell == "lstm":
        bias[m : 2 * m] = 2.5
    if cfg.has_memory_kernel:
        bias[3 * m] = 1.5
    np.testing.assert_array_equal(hidden["bias"][m:], bias)
    assert 0.5 * fan_in**-0.5 < np.abs(hidden["bias"][:m]).max() <= fan_in**-0.5
    if cfg.norm is None:
        assert "norm" not in params
    else:
        chex.assert_trees_all_equal(
            params["norm"], {"scale": jnp.ones((*cfg.tensor_shape, m)), "bias": jnp.zeros((*cfg.tensor_shape, m))}
        )


@pytest.mark.parametrize(("tensor_shape", "kernel_size"), [((4,), 2), ((3, 3), 3), ((2, 4), (3, 5))])
def test_the_conveyor_carries_memory_from_the_inputs_corner_to_the_outputs(tensor_shape, kernel_size):
    cfg = tl.TLSTMConfig(8, tensor_shape, kernel_size, forget_bias=40.0, conveyor_bias=40.0)
    params = tl.init_params(jax.random.key(0), R, cfg)
    state = tl.init_state(cfg)
    first, last = (0,) * len(tensor_shape), (-1,) * len(tensor_shape)
    if kernel_size == (3, 5):
        first = (0, 1)  # of the two locations within one stride, the one from which further strides end at the corner
    state = state._replace(c=state.c.at[first].set(100.0))
    for _ in range(cfg.delay):
        state, _ = tl.step(params, state, jnp.zeros(R), cfg)
    np.testing.assert_allclose(state.c[last], 100, atol=5)


@pytest.mark.parametrize("inputs", [0.0, pytest.param(1.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("tensor_shape", [(8,), (4, 4)])
def test_initial_gradients_do_not_explode(tensor_shape, inputs):
    """With zero biases memory cells start at exactly zero, where the norm's derivative is 1 / sqrt(epsilon)."""
    cfg = tl.TLSTMConfig(features=16, tensor_shape=tensor_shape, forget_bias=4.0)
    params = tl.init_params(jax.random.key(0), R, cfg)
    xs = inputs * jax.random.normal(jax.random.key(1), (4, 12, R))

    def largest_gradient(params):
        gradients = jax.grad(lambda params: tl.unroll(params, xs, cfg)[1].mean())(params)
        return max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(gradients))

    assert largest_gradient(params) < 10
    params["hidden"]["bias"] = params["hidden"]["bias"].at[:16].set(0)
    if tensor_shape == (8,) and inputs:
        assert largest_gradient(params) > 1e6  # which the initialization prevents


def test_configs_that_mean_the_same_are_equal():
    a = tl.TLSTMConfig(4, (3, 3), 3, dtype="bfloat16")
    b = tl.TLSTMConfig(np.int64(4), [3, 3], (3, 3), dtype=jnp.bfloat16, param_dtype=np.float32)
    assert a == b
    assert hash(a) == hash(b)
    assert tl.TLSTMConfig(4, (3, 3), dtype="float64") != tl.TLSTMConfig(4, (3, 3), dtype=None)


def test_state_of_the_trnn_has_no_memory():
    assert tl.init_state(model("trnn"), (2,)).c is None


@pytest.mark.parametrize(
    "cfg",
    [
        *(model(name) for name in MODELS),
        model("3d", dtype=jnp.bfloat16, param_dtype="float16", precision=("high", "highest"), learn_carry=True),
        model("2d", precision="highest", kernel_scale=0.5),
        StackedLSTMConfig(3, 2, shared=False, dtype=jnp.bfloat16, precision="high"),
    ],
    ids=lambda cfg: "",
)
def test_configurations_survive_json(cfg):
    fields = cfg.to_dict()
    written = json.loads(json.dumps(fields))
    assert written == fields  # nothing that JSON turns into something else
    again = type(cfg).from_dict(written)
    assert again == cfg
    assert hash(again) == hash(cfg)


def test_configurations_name_what_a_dict_lacks():
    assert tl.TLSTMConfig.from_dict({"features": 4, "tensor_shape": [3]}) == tl.TLSTMConfig(4, (3,))
    with refused("colour", "has no field"):
        tl.TLSTMConfig.from_dict({"features": 4, "tensor_shape": 3, "colour": 1})
    with refused("got only features", "needs tensor_shape"):
        tl.TLSTMConfig.from_dict({"features": 4})
    with refused("got list", "must be a dict"):
        tl.TLSTMConfig.from_dict([4, 3])


@pytest.mark.parametrize("call", [tl.unroll, lambda p, xs, cfg: tl.step(p, tl.init_state(cfg, (2,)), xs, cfg)])
def test_a_traced_configuration_is_told_to_be_static(call):
    with refused("got a tracer", 'static_argnames="cfg"'):
        jax.jit(call)({}, np.ones((2, 3, R)), model("2d"))


def test_outputs_of_one_channel_without_a_norm():
    cfg = tl.TLSTMConfig(1, (2,), norm=None)
    assert np.abs(tl.unroll(tl.init_params(jax.random.key(0), R, cfg), np.ones((3, R)), cfg)[1]).min() > 0
    tl.TLSTMConfig(1, (2,), norm="layer")  # two values
