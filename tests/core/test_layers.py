"""Arguments of the linen and nnx layers: fields or a configuration, options, initializers, precision, carry."""

import copy
import dataclasses
import functools
import inspect
import pickle
from collections import OrderedDict, defaultdict

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from flax.core import freeze

import tlstm_jax as tl
from tests.core.rows import CFG, SQUARE, XS, M, R
from tests.core.variants import load, nearly, normal, pure_dict, refused, same, signature
from tlstm_jax import stacked
from tlstm_jax.config import UNSET
from tlstm_jax.options import Options
from tlstm_jax.parameters import default_bias_init

KEY = jax.random.key(0)
FIELDS = [field.name for field in dataclasses.fields(tl.TLSTMConfig)]
INITIALIZERS = ["kernel_init", "recurrent_kernel_init", "bias_init", "carry_init"]
OPTIONS = {
    "features": M,
    "tensor_shape": (2, 2),
    "kernel_size": 2,
    "cell": "rnn",
    "norm": None,
    "norm_epsilon": 1e-3,
    "kernel_scale": 0.5,
    "forget_bias": 3.0,
    "conveyor_bias": 2.0,
    "memory_conv": False,
    "dtype": jnp.float32,
    "param_dtype": jnp.bfloat16,
    "precision": "highest",
    "learn_carry": True,
    "time_scale": None,
}


def linen(**arguments):
    return tl.linen.TLSTM(**arguments)


def linen_cell(**arguments):
    return tl.linen.TLSTMCell(**arguments)


def nnx_layer(**arguments):
    return tl.nnx.TLSTM(R, **arguments, rngs=nnx.Rngs(0))


def nnx_cell(**arguments):
    return tl.nnx.TLSTMCell(R, **arguments, rngs=nnx.Rngs(0))


KINDS = {"linen": linen, "linen_cell": linen_cell, "nnx": nnx_layer, "nnx_cell": nnx_cell}


def config_of(module):
    return module.cfg if isinstance(module, nn.Module) else module.config


def initialized(kind, key=KEY, **arguments):
    """The parameters that a kind of module starts with."""
    module = KINDS[kind](**arguments)
    if kind == "linen":
        return nn.unbox(module.init(key, XS))["params"]
    if kind == "linen_cell":
        zeros = jax.tree.map(jnp.zeros_like, module.initialize_carry(key, XS[..., 0, :].shape))
        return nn.unbox(module.init(key, zeros, XS[..., 0, :]))["params"]
    return pure_dict(module)


# Fields or a configuration


def test_every_field_is_an_option_of_every_kind():
    assert set(OPTIONS) == set(FIELDS)
    for kind in (tl.linen.TLSTM, tl.linen.TLSTMCell, tl.nnx.TLSTM, tl.nnx.TLSTMCell):
        arguments = inspect.signature(kind.__init__).parameters
        assert not {"args", "kwargs", "options"} & arguments.keys()
        assert all(arguments[name].default is UNSET for name in FIELDS)
        assert all(arguments[name].default is None for name in ["config", *INITIALIZERS])


@pytest.mark.parametrize("kind", KINDS)
def test_fields_make_the_configuration(kind):
    for chosen in (OPTIONS, {"features": M, "tensor_shape": 3}, {**OPTIONS, "cell": "lstm", "norm": "layer"}):
        cfg = tl.TLSTMConfig(**chosen)
        by_fields, by_config = KINDS[kind](**chosen), KINDS[kind](config=cfg)
        assert config_of(by_fields) == config_of(by_config) == cfg
        same(initialized(kind, **chosen), initialized(kind, config=cfg))


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_stays_the_first_argument(kind):
    make = {
        "linen": lambda: tl.linen.TLSTM(CFG, "reference"),
        "linen_cell": lambda: tl.linen.TLSTMCell(CFG),
        "nnx": lambda: tl.nnx.TLSTM(R, CFG, rngs=nnx.Rngs(0)),
        "nnx_cell": lambda: tl.nnx.TLSTMCell(R, CFG, rngs=nnx.Rngs(0)),
    }[kind]
    assert config_of(make()) == CFG
    if kind == "linen":
        assert make().implementation == "reference"
    if kind == "nnx":
        assert tl.nnx.TLSTM(R, M, tensor_shape=3, rngs=nnx.Rngs(0)).config == CFG


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_and_a_field(kind, field):
    """Refused for every value, including the configuration's value and the default."""
    for value in {id(v): v for v in (OPTIONS[field], getattr(CFG, field))}.values():
        with refused(rf"got both config and {field}", "either config or the fields of one"):
            KINDS[kind](config=CFG, **{field: value})


@pytest.mark.parametrize("kind", KINDS)
def test_neither_a_configuration_nor_its_fields(kind):
    for given, missing in (({}, "features nor tensor_shape"), ({"features": M}, "config nor tensor_shape")):
        with refused(rf"got neither .*{missing}", r"needs features and tensor_shape, or config=TLSTMConfig\(\.\.\)"):
            KINDS[kind](**given)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "given", "expected"),
    [
        ({"features": 2.5}, r"got 2\.5", "features must be an integer"),
        ({"kernel_size": 1}, "got 1", "kernel_size must be at least 2"),
        ({"norm": "batch"}, "got 'batch'", 'norm must be "channel", "layer" or None'),
        ({"precision": "fast"}, "got 'fast'", "precision must be None, a name"),
        ({"learn_carry": 1}, "got 1", "learn_carry must be True or False"),
        ({"kernel_init": 3}, "got 3", "kernel_init must be an initializer"),
        ({"carry_init": "zeros"}, "got 'zeros'", "carry_init must be an initializer"),
    ],
)
def test_errors_at_construction(kind, options, given, expected):
    with refused(given, expected):
        KINDS[kind](**{"features": M, "tensor_shape": (3,), **options})


@pytest.mark.parametrize("make", [tl.linen.TLSTM, lambda **kw: tl.nnx.TLSTM(R, **kw, rngs=nnx.Rngs(0))])
@pytest.mark.parametrize("option", ["remat", "unroll", "time_major", "return_carry", "implementation"])
def test_options_are_checked_at_construction(make, option):
    with refused("got 'all'", f"{option} must be"):
        make(config=CFG, **{option: "all"})


def test_linen_modules_are_copied():
    """Flax copies a module whenever it binds, lifts or nests it."""
    layer = tl.linen.TLSTM(features=M, tensor_shape=3)
    variables = layer.init(KEY, XS)
    assert layer.clone() == copy.deepcopy(layer) == pickle.loads(pickle.dumps(layer)) == layer
    assert layer.clone(features=5).cfg.features == 5
    assert hash(layer) == hash(tl.linen.TLSTM(features=M, tensor_shape=3))
    same(nn.remat(tl.linen.TLSTM)(features=M, tensor_shape=3).apply(variables, XS), layer.apply(variables, XS))


@pytest.mark.parametrize("module", [tl.linen, tl.nnx])
def test_call_is_documented_on_a_public_class(module):
    """Documentation generators show no members of private base classes."""
    for name in module.__all__:
        kind = getattr(module, name)
        owner = next(base for base in kind.__mro__ if "__call__" in vars(base))
        assert owner.__name__ in module.__all__
        assert "Returns:" in kind.__call__.__doc__


# Options


def defaults(function):
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


def test_options_and_defaults_are_the_same_everywhere():
    """A new option is a field of ``Options``, and in each of these signatures."""
    expected = {field.name: field.default for field in dataclasses.fields(Options)}
    for function in (tl.unroll, tl.linen.TLSTM.__init__, tl.nnx.TLSTM.__init__):
        assert {name: defaults(function).get(name, UNSET) for name in expected} == expected
    stack = {name: default for name, default in expected.items() if name != "implementation"}
    for function in (stacked.unroll, tl.linen.StackedLSTM.__init__, tl.nnx.StackedLSTM.__init__):
        found = defaults(function)
        assert {name: found.get(name, UNSET) for name in stack} == stack
        assert "implementation" not in found
    arguments = {"params", "xs", "cfg", "initial_state", "seq_lengths", "reset"}
    assert set(defaults(tl.unroll)) - arguments == set(expected)
    calls = [defaults(kind.__call__) for kind in (tl.linen.TLSTM, tl.nnx.TLSTM)]
    for call in calls:  # what one call may override
        assert {name for name in expected if name in call} == {"time_major", "aligned", "reverse", "keep_order"}
        assert all(call[name] is None for name in call.keys() & expected.keys())


# Initializers


def ones_like(key, shape, dtype):
    return jnp.ones(shape, dtype)


@pytest.mark.parametrize("kind", ["pure", *KINDS])
def test_initializers(kind):
    seen = []

    def recording(value):
        def init(key, shape, dtype):
            seen.append((value, shape, jnp.dtype(dtype).name))
            return jnp.full(shape, value, dtype)

        return init

    inits = {name: recording(float(i)) for i, name in enumerate(INITIALIZERS)}
    cfg = dataclasses.replace(SQUARE, learn_carry=True, param_dtype="bfloat16")
    params = tl.init_params(KEY, R, cfg, **inits) if kind == "pure" else initialized(kind, config=cfg, **inits)
    a, k = cfg.gate_features, cfg.kernel_shape
    assert {*seen} >= {
        (0.0, (R, M), "bfloat16"),
        (1.0, (*k, M, a), "bfloat16"),
        (2.0, (a,), "bfloat16"),
        (3.0, (2, 2, M), "bfloat16"),
    }
    assert signature(params) == signature(tl.init_params(KEY, R, cfg))
    arrays = params["input"]["kernel"], params["hidden"]["kernel"], params["hidden"]["bias"], params["carry"]["h"]
    for i, leaf in enumerate(arrays):
        assert (leaf == i).all()
    assert (params["input"]["bias"] == 0).all()


@pytest.mark.parametrize("kind", ["pure", *KINDS])
@pytest.mark.parametrize(
    ("init", "knob", "value"),
    [
        ("bias_init", "forget_bias", 4.0),
        ("bias_init", "conveyor_bias", 1.0),
        ("recurrent_kernel_init", "kernel_scale", 0.5),
    ],
)
def test_an_initializer_and_what_it_replaces(kind, init, knob, value):
    cfg = dataclasses.replace(CFG, **{knob: value})
    with refused(rf"got both {init} and {knob}={value}", f"{init} replaces {knob}"):
        if kind == "pure":
            tl.init_params(KEY, R, cfg, **{init: ones_like})
        else:
            KINDS[kind](config=cfg, **{init: ones_like})
    if kind != "pure":  # a field that is given counts even with its default value
        default = getattr(CFG, knob)
        with refused(rf"got both {init} and {knob}={default}", f"{init} replaces {knob}"):
            KINDS[kind](features=M, tensor_shape=3, **{init: ones_like, knob: default})


def test_default_initializers_are_what_they_replace():
    cfg = tl.TLSTMConfig(M, (2, 2), conveyor_bias=1.5, forget_bias=2.0)
    plain = dataclasses.replace(cfg, conveyor_bias=0.0, forget_bias=1.0)
    same(tl.init_params(KEY, R, plain, bias_init=default_bias_init(cfg)), tl.init_params(KEY, R, cfg))
    glorot, scaled = jax.nn.initializers.glorot_uniform(), jax.nn.initializers.variance_scaling(1, "fan_in", "uniform")
    same(tl.init_params(KEY, R, cfg, kernel_init=glorot, recurrent_kernel_init=scaled), tl.init_params(KEY, R, cfg))


# The same parameters everywhere


@pytest.mark.parametrize(
    "kind",
    [freeze, OrderedDict, functools.partial(defaultdict, dict)],
    ids=["FrozenDict", "OrderedDict", "defaultdict"],
)
def test_gradients_are_mappings_as_the_parameters_are(kind):
    def convert(tree):
        return kind({name: convert(node) if isinstance(node, dict) else node for name, node in tree.items()})

    layer, stack = tl.linen.TLSTM(CFG), tl.linen.StackedLSTM(M, 2)
    variables, of_stack = convert(layer.init(KEY, XS)), convert(stack.init(KEY, XS))
    state = tl.init_state(CFG, XS.shape[:-2])
    for run, tree in [
        (lambda v: layer.apply(v, XS), variables),
        (lambda p: tl.unroll(p, XS, CFG)[1], variables["params"]),
        (lambda p: tl.step(p, state, XS[..., 0, :], CFG)[1], variables["params"]),
        (lambda v: stack.apply(v, XS), of_stack),
    ]:
        gradients = jax.eval_shape(jax.grad(lambda tree, run=run: run(tree).sum()), tree)
        assert jax.tree.structure(gradients) == jax.tree.structure(tree)


@pytest.mark.parametrize("container", [dict, freeze], ids=["dict", "FrozenDict"])
def test_one_tree_with_everything(container):
    cfg = tl.TLSTMConfig(M, (2, 2), learn_carry=True, precision="highest")
    inits = {name: jax.nn.initializers.normal(0.7) for name in INITIALIZERS}
    params = container(tl.init_params(KEY, R, cfg, **inits))
    layer = tl.linen.TLSTM(cfg, return_carry=True, **inits)
    module = tl.nnx.TLSTM(R, cfg, return_carry=True, **inits, rngs=nnx.Rngs(0))
    assert signature(layer.init(KEY, XS)["params"]) == signature(dict(params)) == signature(pure_dict(module))
    expected = tl.unroll(params, XS, cfg)
    same(layer.apply(container({"params": params}), XS), expected)
    same(jax.jit(layer.apply)(container({"params": params}), XS), expected)
    load(module, jax.tree.map(jnp.asarray, {**params}))
    same(module(XS), expected)
    state = tl.init_state(cfg, XS.shape[:-2], params)
    stepped = tl.step(params, state, XS[..., 0, :], cfg)
    same(tl.linen.TLSTMCell(cfg).apply({"params": params}, state, XS[..., 0, :]), stepped)
    chex.assert_tree_all_finite(jax.grad(lambda p: layer.apply({"params": p}, XS)[1].sum())(params))


def test_apply_makes_missing_parameters_where_it_may():
    layer = tl.linen.TLSTM(CFG)
    ys, variables = layer.apply({}, XS, rngs={"params": KEY}, mutable=["params"])
    same((ys, variables), layer.init_with_output(KEY, XS))
    with refused("keys", "nested dict that init_params returns"):
        layer.apply({}, XS)


def test_a_scope_shared_with_a_wrapper_that_has_parameters_of_its_own():
    class Scaled(nn.Module):
        base: nn.Module

        def setup(self):
            nn.share_scope(self, self.base)
            self.gain = self.param("gain", nn.initializers.constant(2.0), (M,))

        def __call__(self, xs):
            return self.gain * self.base(xs)

    model = Scaled(tl.linen.TLSTM(CFG))
    variables = model.init(KEY, XS)
    assert set(variables["params"]) == {"gain", "input", "hidden", "norm"}
    params = {name: group for name, group in variables["params"].items() if name != "gain"}
    nearly(model.apply(variables, XS), 2 * tl.unroll(params, XS, CFG)[1])


# Summaries


@pytest.mark.parametrize("learn_carry", [False, True])
def test_tabulate(learn_carry):
    cfg = dataclasses.replace(CFG, learn_carry=learn_carry)
    count = sum(leaf.size for leaf in jax.tree.leaves(tl.init_params(KEY, R, cfg)))
    linen_table = tl.linen.TLSTM(cfg).tabulate(KEY, XS, console_kwargs={"width": 200})
    assert f"Total Parameters: {count}" in linen_table
    plain = {"width": 200, "force_terminal": False}
    module = tl.nnx.TLSTM(R, cfg, rngs=nnx.Rngs(0))
    assert f"Total Parameters: {count}" in nnx.tabulate(module, XS, console_kwargs=plain)
    ys = tl.nnx.TLSTM(R, cfg, rngs=nnx.Rngs(0))(XS)  # and nnx works as before
    same(ys, module(XS))


def test_tabulate_a_stack():
    layer, module = tl.linen.StackedLSTM(M, 2), tl.nnx.StackedLSTM(R, M, 2, rngs=nnx.Rngs(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(pure_dict(module)))
    assert f"Total Parameters: {count}" in layer.tabulate(KEY, XS, console_kwargs={"width": 200})
    plain = {"width": 200, "force_terminal": False}
    assert f"Total Parameters: {count}" in nnx.tabulate(module, XS, console_kwargs=plain)


def test_tabulate_a_larger_model():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.layer = tl.nnx.TLSTM(R, SQUARE, rngs=rngs)
            self.head = nnx.Linear(M, 3, rngs=rngs)

        def __call__(self, xs):
            return self.head(self.layer(xs))

    table = nnx.tabulate(Model(nnx.Rngs(0)), normal(0, (2, 4, R)), console_kwargs={"width": 200})
    assert "layer" in table
    assert "head" in table


def test_features_in_first_place():
    """As for Flax's cells, and for the nnx layers."""
    assert tl.linen.TLSTM(4, tensor_shape=(3,)).cfg == tl.TLSTMConfig(4, (3,))
    with refused("got int", "config must be a TLSTMConfig"):
        tl.linen.TLSTM(4, features=4, tensor_shape=(3,))


def test_an_annotated_carry_init_draws_a_plain_carry():
    init = nn.with_partitioning(nn.initializers.normal(), ("a", None, None))
    layer = tl.linen.TLSTM(4, tensor_shape=(3,), carry_init=init)
    ys, _ = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 3)))
    assert ys.shape == (2, 5, 4)
    init = nnx.with_partitioning(nnx.initializers.normal(), ("a", None, None))
    layer = tl.nnx.TLSTM(3, 4, tensor_shape=(3,), carry_init=init, rngs=nnx.Rngs(0))
    assert layer(jnp.ones((2, 5, 3)), rngs=nnx.Rngs(1)).shape == (2, 5, 4)


def test_equal_nnx_layers_have_equal_graphs():
    """With equal graphs, jit compiles once for both."""
    make = lambda: tl.nnx.TLSTM(  # noqa: E731
        3, 4, tensor_shape=(3,), learn_carry=True, carry_init=nnx.initializers.normal(), rngs=nnx.Rngs(0)
    )
    assert nnx.graphdef(make()) == nnx.graphdef(make())
