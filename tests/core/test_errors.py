"""Bad configurations and parameters: a ``ValueError`` that names what was given and what was expected."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import tlstm_jax as tl
from tests.core.small import (
    CFG,
    DICT,
    KEY,
    LAYER,
    PARAMS,
    RNN,
    STACK,
    STACK_PARAMS,
    STATE,
    XS,
    B,
    M,
    R,
)
from tests.core.variants import refused
from tlstm_jax import stacked


def without(tree, *path):
    if len(path) == 1:
        return {name: leaf for name, leaf in tree.items() if name != path[0]}
    return {**tree, path[0]: without(tree[path[0]], *path[1:])}


# Configurations


@pytest.mark.parametrize(
    ("options", "given", "expected"),
    [
        ({"features": 0}, "got 0", "features must be at least 1"),
        ({"features": -3}, "got -3", "features must be at least 1"),
        ({"features": 2.0}, r"got 2\.0", "features must be an integer"),
        ({"features": "2"}, "got '2'", "features must be an integer"),
        ({"features": True}, "got True", "features must be an integer"),
        ({"features": None}, "got None", "features must be an integer"),
        ({"tensor_shape": (3, 0)}, "got 0", r"tensor_shape\[1\] must be at least 1"),
        ({"tensor_shape": -1}, "got -1", "tensor_shape must be at least 1"),
        ({"tensor_shape": ()}, r"got \(\)", "tensor_shape needs at least one dimension"),
        ({"tensor_shape": (3.5,)}, r"got 3\.5", "tensor_shape.* must be an integer"),
        ({"tensor_shape": "3"}, "got '3'", "tensor_shape must be an integer"),
        ({"features": 1}, "got features=1", "more than one value to normalize"),
        (
            {"features": 1, "tensor_shape": 1, "norm": "layer"},
            r"tensor_shape=\(1,\)",
            'norm="layer" needs more than one',
        ),
        ({"kernel_size": 1}, "got 1", "kernel_size must be at least 2"),
        ({"kernel_size": (1,)}, "got 1", r"kernel_size\[0\] must be at least 2"),
        ({"kernel_size": 0}, "got 0", "kernel_size must be at least 2"),
        ({"kernel_size": (3, 3)}, r"got \(3, 3\)", "kernel_size .*each of the 1 dimensions"),
        ({"tensor_shape": (4, 3)}, r"\(4, 3\) with kernel_size=\(3, 3\)", r"same depth .*depths \(4, 3\)"),
        ({"tensor_shape": (3, 3), "kernel_size": (2, 4)}, r"kernel_size=\(2, 4\)", r"depths \(3, 2\)"),
        ({"cell": "gru"}, "got 'gru'", 'cell must be "lstm" or "rnn"'),
        ({"cell": None}, "got None", 'cell must be "lstm" or "rnn"'),
        ({"norm": "batch"}, "got 'batch'", 'norm must be "channel", "layer" or None'),
        ({"norm": True}, "got True", 'norm must be "channel", "layer" or None'),
        ({"memory_conv": 1}, "got 1", "memory_conv must be True or False"),
        ({"norm_epsilon": 0}, "got 0", "norm_epsilon must be a positive number"),
        ({"norm_epsilon": -1e-6}, "got -1e-06", "norm_epsilon must be a positive number"),
        ({"kernel_scale": 0}, "got 0", "kernel_scale must be a positive number"),
        ({"norm_epsilon": "small"}, "got 'small'", "norm_epsilon must be a finite number"),
        ({"forget_bias": float("nan")}, "got nan", "forget_bias must be a finite number"),
        ({"forget_bias": None}, "got None", "forget_bias must be a finite number"),
        ({"forget_bias": 10**400}, "forget_bias", "forget_bias must be a finite number"),
        ({"dtype": jnp.int32}, "int32", "dtype must be a floating-point dtype"),
        ({"dtype": "complex64"}, "complex64", "dtype must be a floating-point dtype"),
        ({"dtype": "float33"}, "float33", "dtype must be a floating-point dtype"),
        ({"dtype": bool}, "bool", "dtype must be a floating-point dtype"),
        ({"param_dtype": None}, "None", "param_dtype must be a floating-point dtype"),
        ({"param_dtype": 3}, "got 3", "param_dtype must be a floating-point dtype"),
        ({"forget_bias": -1e39}, r"got -1e\+39", r"forget_bias must be at most 3\.403e\+38 .*float32"),
        ({"conveyor_bias": 1e5, "param_dtype": "float16"}, r"got 100000\.0", "conveyor_bias must be at .*float16"),
        ({"kernel_scale": 1e308}, r"got 1e\+308", r"kernel_scale must be at most 1\.134e\+38"),
        ({"time_scale": 2e38}, r"got 2e\+38", r"time_scale must be at most 1\.701e\+38"),
    ],
)
def test_configuration(options, given, expected):
    with refused(given, expected):
        tl.TLSTMConfig(**{"features": M, "tensor_shape": (3,), **options})


@pytest.mark.parametrize(
    ("options", "given", "expected"),
    [
        ({"features": 0}, "got 0", "features must be at least 1"),
        ({"num_layers": 0}, "got 0", "num_layers must be at least 1"),
        ({"num_layers": 1.5}, r"got 1\.5", "num_layers must be an integer"),
        ({"shared": "no"}, "got 'no'", "shared must be True or False"),
        ({"forget_bias": float("inf")}, "got inf", "forget_bias must be a finite number"),
        ({"dtype": jnp.int8}, "int8", "dtype must be a floating-point dtype"),
        ({"param_dtype": None}, "None", "param_dtype must be a floating-point dtype"),
        ({"forget_bias": 1e39}, r"got 1e\+39", r"forget_bias must be at most 3\.403e\+38 .*float32"),
        ({"time_scale": 1e39}, r"got 1e\+39", r"time_scale must be at most 1\.701e\+38 .*float32"),
    ],
)
@pytest.mark.parametrize("api", ["config", "linen", "nnx"])
def test_stacked_configuration(options, given, expected, api):
    options = {"features": M, "num_layers": 2, **options}
    with refused(given, expected):
        if api == "config":
            stacked.StackedLSTMConfig(**options)
        elif api == "linen":
            tl.linen.StackedLSTM(**options).init(KEY, XS)
        else:
            tl.nnx.StackedLSTM(R, **options, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    "options",
    [
        {"forget_bias": 1e39, "conveyor_bias": 1e300, "kernel_scale": 1e300, "param_dtype": "float64"},
        {"kernel_scale": 1e38, "forget_bias": 3.4e38},
        {"time_scale": 1.7e38, "param_dtype": "float16"},
    ],
    ids=["float64", "float32", "float16"],
)
def test_the_largest_initial_values_are_finite(options, x64):
    params = tl.init_params(KEY, R, tl.TLSTMConfig(M, (3,), **options))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


WRONG_CONFIG_CALLS = {
    "init_params": lambda cfg: tl.init_params(KEY, R, cfg),
    "init_state": lambda cfg: tl.init_state(cfg, (B,)),
    "step": lambda cfg: tl.step(PARAMS, STATE, XS[:, 0], cfg),
    "unroll": lambda cfg: tl.unroll(PARAMS, XS, cfg),
    "linen": lambda cfg: tl.linen.TLSTM(cfg).init(KEY, XS),
    "linen_cell": lambda cfg: nn.RNN(tl.linen.TLSTMCell(cfg)).init(KEY, XS),
    "nnx": lambda cfg: tl.nnx.TLSTM(R, cfg, rngs=nnx.Rngs(0)),
    "nnx_cell": lambda cfg: tl.nnx.TLSTMCell(R, cfg, rngs=nnx.Rngs(0)),
    "stacked_init": lambda cfg: stacked.init_params(KEY, R, cfg),
    "stacked": lambda cfg: stacked.unroll(STACK_PARAMS, XS, cfg),
}


@pytest.mark.parametrize("cfg", [DICT, None], ids=["dict", "None"])
@pytest.mark.parametrize("call", WRONG_CONFIG_CALLS)
def test_no_configuration(call, cfg):
    given, expected = "[dD]ict" if cfg else "NoneType", "(cfg|config) must be .*Config"
    if call.startswith("linen") and cfg is None:  # its fields can be given instead
        given, expected = "got neither config nor features", r"needs features and tensor_shape, or config=TLSTMConfig"
    with refused(given, expected):
        WRONG_CONFIG_CALLS[call](cfg)


@pytest.mark.parametrize(
    "call",
    [
        lambda: tl.unroll(STACK_PARAMS, XS, STACK),
        lambda: tl.init_params(KEY, R, STACK),
        lambda: tl.linen.TLSTM(STACK).init(KEY, XS),
        lambda: tl.nnx.TLSTM(R, STACK, rngs=nnx.Rngs(0)),
    ],
    ids=["unroll", "init_params", "linen", "nnx"],
)
def test_the_other_models_configuration(call):
    with refused("StackedLSTMConfig", r"TLSTMConfig\(|a TLSTMConfig"):
        call()


def test_the_tlstms_configuration_for_a_stack():
    with refused("got TLSTMConfig", "StackedLSTMConfig"):
        stacked.unroll(PARAMS, XS, CFG)


@pytest.mark.parametrize("tensor_shape", [(3,), [3], 3])
def test_a_tensor_shape_without_its_name(tensor_shape):
    with refused(re.escape(f"got {tensor_shape!r}"), "tensor_shape is a keyword"):
        tl.linen.TLSTM(M, tensor_shape)
    with refused("got neither config nor tensor_shape", "keyword"):
        tl.linen.TLSTM(M)


@pytest.mark.parametrize("layer", [tl.linen.TLSTM, tl.linen.TLSTMCell])
@pytest.mark.parametrize("features", [M, np.int64(M)])
def test_features_as_the_first_argument_of_a_linen_module(layer, features):
    module = layer(features, tensor_shape=3)
    assert (module.features, module.config) == (M, None)
    assert module.cfg == CFG
    assert module == layer(features=M, tensor_shape=3)
    assert module.clone(features=16).cfg.features == 16
    with refused("got 0", "features must be at least 1"):
        layer(0, tensor_shape=3)


# Initialization


@pytest.mark.parametrize("in_features", [0, -1, 2.0, "3", None, True, (3,)])
@pytest.mark.parametrize("api", ["pure", "nnx", "nnx_cell", "stacked", "nnx_stacked"])
def test_in_features(in_features, api):
    make = {
        "pure": lambda: tl.init_params(KEY, in_features, CFG),
        "nnx": lambda: tl.nnx.TLSTM(in_features, CFG, rngs=nnx.Rngs(0)),
        "nnx_cell": lambda: tl.nnx.TLSTMCell(in_features, CFG, rngs=nnx.Rngs(0)),
        "stacked": lambda: stacked.init_params(KEY, in_features, STACK),
        "nnx_stacked": lambda: tl.nnx.StackedLSTM(in_features, M, 2, rngs=nnx.Rngs(0)),
    }[api]
    with refused(f"got {re.escape(repr(in_features))}", "in_features must be a positive integer"):
        make()


@pytest.mark.parametrize(
    "key",
    [0, None, "seed", np.zeros(2), np.uint32(3), np.zeros(3, np.uint32)],
    ids=["int", "None", "str", "float", "scalar", "three_words"],
)
def test_key(key):
    with refused("got", "key must be a .*key"):
        tl.init_params(key, R, CFG)


def test_several_keys():
    for keys, shape in ((jax.random.split(KEY, 2), r"\(2,\)"), (np.zeros((4, 2), np.uint32), r"\(4, 2\)|\(4,\)")):
        with refused(shape, "key"):
            tl.init_params(keys, R, CFG)


def test_old_style_keys_are_taken():
    fresh = tl.init_params(jax.random.PRNGKey(0), R, CFG)
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, PARAMS)


@pytest.mark.parametrize("batch_shape", [(-1,), (1.5,), "ab", None, (2, None)])
def test_batch_shape(batch_shape):
    with refused(f"got {re.escape(repr(batch_shape))}", "batch_shape must be a tuple of non-negative integers"):
        tl.init_state(CFG, batch_shape)


# Parameters

OTHERS = {
    "features": (tl.init_params(KEY, R, tl.TLSTMConfig(5, (3,))), r"\(14,\)|\(23,\)|\(5,\)", r"expected \(\d+,"),
    "kernel": (
        tl.init_params(KEY, R, tl.TLSTMConfig(M, (3,), kernel_size=2)),
        r"hidden\.bias is \(10,\)",
        r"expected \(11,\)",
    ),
    "tensor_shape": (
        tl.init_params(KEY, R, tl.TLSTMConfig(M, (4,))),
        r"norm\.bias is \(4, 2\)",
        r"expected \(3, 2\)",
    ),
    "memory_conv": (
        tl.init_params(KEY, R, tl.TLSTMConfig(M, (3,), memory_conv=False)),
        r"hidden\.bias is \(8,\)",
        r"expected \(11,\)",
    ),
    "cell": (tl.init_params(KEY, R, RNN), r"hidden\.bias is \(2,\)", r"expected \(11,\)"),
    "norm": (tl.init_params(KEY, R, tl.TLSTMConfig(M, (3,), norm=None)), r"norm.* missing", r"expected .*\(3, 2\)"),
    "stack": (STACK_PARAMS, "hidden.* missing|layers", "expected"),
    "no_input": (without(PARAMS, "input"), "hidden.*norm|input.* missing", "init_params|expected"),
    "no_hidden": (without(PARAMS, "hidden"), "hidden.* missing", "expected"),
    "no_bias": (without(PARAMS, "hidden", "bias"), r"hidden\.bias is missing", r"expected \(11,\)"),
    "no_kernel": (without(PARAMS, "input", "kernel"), "input", "init_params|expected"),
}


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("api", ["pure", "step", "linen", "linen_cell"])
def test_parameters_of_another_configuration(case, api):
    params, given, expected = OTHERS[case]
    with refused(given, expected):
        {
            "pure": lambda: tl.unroll(params, XS, CFG),
            "step": lambda: tl.step(params, STATE, XS[:, 0], CFG),
            "linen": lambda: LAYER.apply({"params": params}, XS),
            "linen_cell": lambda: tl.linen.TLSTMCell(CFG).apply({"params": params}, STATE, XS[:, 0]),
        }[api]()


@pytest.mark.parametrize("case", ["kernel", "tensor_shape", "memory_conv"])
def test_parameters_of_another_configuration_in_nnx(case):
    params, given, expected = OTHERS[case]
    layer = tl.nnx.TLSTM(R, CFG, rngs=nnx.Rngs(0))
    state = nnx.state(layer, nnx.Param)
    nnx.replace_by_pure_dict(state, params)
    nnx.update(layer, state)
    with refused(given, expected):
        layer(XS)


@pytest.mark.parametrize(
    ("params", "given"),
    [
        ({"params": PARAMS}, r"\['params'\]"),
        ([PARAMS], "got list"),
        (None, "got NoneType"),
        (PARAMS["hidden"]["kernel"], "got ArrayImpl|got Array"),
        ({}, r"keys \[\]"),
        ({**PARAMS, "input": None}, "input"),
    ],
    ids=["variables", "list", "None", "array", "empty", "None_inside"],
)
def test_parameters_of_another_kind(params, given):
    with refused(given, "nested dict that init_params returns"):
        tl.unroll(params, XS, CFG)


def test_an_nnx_state_of_arrays_is_a_tree_of_parameters():
    np.testing.assert_array_equal(tl.unroll(nnx.State(PARAMS), XS, CFG)[1], tl.unroll(PARAMS, XS, CFG)[1])


NNX_STATE = nnx.state(tl.nnx.TLSTM(R, CFG, rngs=nnx.Rngs(0)), nnx.Param)


@pytest.mark.parametrize(
    ("params", "given", "expected"),
    [
        (NNX_STATE, r"hidden\.bias is of type Param", r"pass nnx\.to_pure_dict\(state\)"),
        (jax.tree.map(nnx.Param, PARAMS), r"hidden\.bias is of type Param", r"pass nnx\.to_pure_dict\(state\)"),
        ({**PARAMS, "input": {"kernel": [[1.0]], "bias": [0.0]}}, r"input\.bias is of type list", "must hold arrays"),
        ({**PARAMS, "norm": {"scale": 1.0, "bias": "zeros"}}, r"norm\.bias is of type str", "must hold arrays"),
        (jax.eval_shape(lambda: PARAMS), r"hidden\.bias is a ShapeDtypeStruct", "holds shapes, not arrays"),
    ],
    ids=["State", "Param", "list", "str", "shapes"],
)
@pytest.mark.parametrize("call", [tl.unroll, lambda p, xs, cfg: tl.step(p, STATE, xs[:, 0], cfg)])
def test_parameters_that_are_no_arrays(call, params, given, expected):
    with refused(given, expected):
        call(params, XS, CFG)


@pytest.mark.parametrize("dtype", [np.complex64, np.int32, bool])
def test_parameters_of_another_type(dtype):
    params = jax.tree.map(lambda p: jnp.ones(p.shape, dtype), PARAMS)
    with refused(np.dtype(dtype).name, "float"):
        tl.unroll(params, XS, CFG)


def test_an_array_of_no_model():
    with refused(r"extra\.kernel is \(1,\)", "no such array"):
        tl.unroll({**PARAMS, "extra": {"kernel": jnp.ones(1)}}, XS, CFG)


def test_stacks_that_differ():
    unshared = stacked.StackedLSTMConfig(M, 3, shared=False)
    with refused("layers.layer_1.* missing", "expected"):
        stacked.unroll(STACK_PARAMS, XS, unshared)
    with refused("layers.layer_1", "no such array"):
        stacked.unroll(stacked.init_params(KEY, R, unshared), XS, STACK)


# Linen's initialization sees the inputs first


@pytest.mark.parametrize(
    ("xs", "given", "expected"),
    [
        (XS[0, 0], r"\(3,\)", r"\(\*batch, T, R\)"),
        (XS[..., :0], r"\(2, 4, 0\)", "must have features"),
        (XS.astype(np.int32), "got int32", "must be floating point"),
        ("abc", "got str", "must be an array"),
        (np.float32(3), r"\(\)", "features along the last axis"),
    ],
    ids=["rank", "no_features", "int", "string", "scalar"],
)
@pytest.mark.parametrize("layer", [LAYER, tl.linen.StackedLSTM(M, 2)], ids=["tlstm", "stacked"])
def test_linen_init(layer, xs, given, expected):
    with refused(given, expected):
        layer.init(KEY, xs)
