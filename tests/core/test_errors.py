"""Bad input: a ``ValueError`` before any tracing error, that names what was given and what was expected."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import tlstm_jax as tl
from tlstm_jax import stacked

B, T, R, M = 2, 4, 3, 2
KEY = jax.random.key(0)
CFG = tl.TLSTMConfig(features=M, tensor_shape=(3,))
RNN = tl.TLSTMConfig(features=M, tensor_shape=(3,), cell="rnn")
STACK = stacked.StackedLSTMConfig(M, 3)
DICT = {"features": M, "tensor_shape": (3,)}
PARAMS = tl.init_params(KEY, R, CFG)
STACK_PARAMS = stacked.init_params(KEY, R, STACK)
STATE = tl.init_state(CFG, (B,))
XS = np.ones((B, T, R), np.float32)
RESET = np.zeros((B, T), bool)


def refused(given, expected):
    """A ``ValueError`` of ours, one line that says both; patterns. (Notes that JAX or Flax add are not looked at.)"""

    def says_both(error):
        message = str(error)
        found = re.search(given, message) and re.search(expected, message)
        assert found, f"{message!r} should say both {given!r} and {expected!r}"
        return "\n" not in message and 20 < len(message) < 500

    return pytest.raises(ValueError, match=given, check=says_both)


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
    ],
)
@pytest.mark.parametrize("face", ["config", "linen", "nnx"])
def test_stacked_configuration(options, given, expected, face):
    options = {"features": M, "num_layers": 2, **options}
    with refused(given, expected):
        if face == "config":
            stacked.StackedLSTMConfig(**options)
        elif face == "linen":
            tl.linen.StackedLSTM(**options).init(KEY, XS)
        else:
            tl.nnx.StackedLSTM(R, **options, rngs=nnx.Rngs(0))


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
    if call.startswith("linen") and cfg is None:  # the fields of one could have been given instead
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


# Initialization


@pytest.mark.parametrize("in_features", [0, -1, 2.0, "3", None, True, (3,)])
@pytest.mark.parametrize("face", ["pure", "nnx", "nnx_cell", "stacked", "nnx_stacked"])
def test_in_features(in_features, face):
    make = {
        "pure": lambda: tl.init_params(KEY, in_features, CFG),
        "nnx": lambda: tl.nnx.TLSTM(in_features, CFG, rngs=nnx.Rngs(0)),
        "nnx_cell": lambda: tl.nnx.TLSTMCell(in_features, CFG, rngs=nnx.Rngs(0)),
        "stacked": lambda: stacked.init_params(KEY, in_features, STACK),
        "nnx_stacked": lambda: tl.nnx.StackedLSTM(in_features, M, 2, rngs=nnx.Rngs(0)),
    }[face]
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


# Calls: the same bad argument through every face, eagerly and under jit

LAYER = tl.linen.TLSTM(CFG)
NNX = tl.nnx.TLSTM(R, CFG, rngs=nnx.Rngs(0))


def pure(xs=XS, **arguments):
    return tl.unroll(PARAMS, xs, CFG, **arguments)


def linen(xs=XS, initial_state=None, **arguments):
    return LAYER.apply({"params": PARAMS}, xs, initial_carry=initial_state, **arguments)


def nnx_layer(xs=XS, initial_state=None, **arguments):
    return NNX(xs, initial_carry=initial_state, **arguments)


def slstm(xs=XS, **arguments):
    return stacked.unroll(STACK_PARAMS, xs, STACK, **arguments)


FACES = {"pure": pure, "linen": linen, "nnx": nnx_layer, "stacked": slstm}
JITTED = {name: jax.jit(face, static_argnames=("time_major", "reverse")) for name, face in FACES.items()}

SHAPES_AND_TYPES = {  # arguments that can be traced
    "rank_1": ({"xs": XS[0, 0]}, r"\(3,\)", r"\(\*batch, T, R\)"),
    "rank_0": ({"xs": np.float32(1)}, r"\(\)", r"\(\*batch, T, R\)"),
    "features": ({"xs": XS[..., :2]}, r"2 features \(shape \(2, 4, 2\)", "in_features=3"),
    "features_time_major": ({"xs": XS[..., :2], "time_major": True}, r"\(2, 4, 2\)", r"\(T, \*batch, R\)"),
    "int": ({"xs": XS.astype(np.int32)}, "got int32", "must be floating point"),
    "uint8": ({"xs": XS.astype(np.uint8)}, "got uint8", "must be floating point"),
    "complex": ({"xs": XS.astype(np.complex64)}, "got complex64", "must be floating point"),
    "bool": ({"xs": XS.astype(bool)}, "got bool", "must be floating point"),
    "state_batch": ({"initial_state": tl.init_state(CFG, (5,))}, r"\(5, 3, 2\)", r"expected .*\(2, 3, 2\)"),
    "state_locations": (
        {"initial_state": tl.init_state(tl.TLSTMConfig(M, (4,)), (B,))},
        r"\(2, 4, 2\)",
        r"expected .*\(2, 3, 2\)",
    ),
    "state_features": (
        {"initial_state": tl.init_state(tl.TLSTMConfig(5, (3,)), (B,))},
        r"\(2, 3, 5\)",
        r"expected .*\(2, 3, 2\)",
    ),
    "state_rank": (
        {"initial_state": tl.init_state(tl.TLSTMConfig(M, (3, 3)), (B,))},
        r"\(2, 3, 3, 2\)",
        r"expected .*\(2, 3, 2\)",
    ),
    "state_half": ({"initial_state": STATE._replace(c=STATE.c[0])}, r"\.c has shape \(3, 2\)", r"\(2, 3, 2\)"),
    "state_of_rnn": ({"initial_state": tl.init_state(RNN, (B,))}, r"\.c must be.*None", "array"),
    "state_int": ({"initial_state": jax.tree.map(lambda s: s.astype(int), STATE)}, "int32", "must be floating point"),
    "state_array": ({"initial_state": STATE.h}, "got (ArrayImpl|.*Tracer|.*Array)", r"must be a TLSTMState\(c, h\)"),
    "state_triple": ({"initial_state": (*STATE, STATE.h)}, "got ", r"must be a TLSTMState\(c, h\)"),
    "state_dict": ({"initial_state": STATE._asdict()}, "got dict", r"must be a TLSTMState\(c, h\)"),
    "lengths_shape": ({"seq_lengths": np.array([1, 2, 3])}, r"got \(3,\)", r"batch shape \(2,\)"),
    "lengths_rank": ({"seq_lengths": np.ones((B, T), np.int32)}, r"got \(2, 4\)", r"batch shape \(2,\)"),
    "lengths_scalar": ({"seq_lengths": np.int32(2)}, r"got \(\)", r"batch shape \(2,\)"),
    "lengths_float": ({"seq_lengths": np.ones(B, np.float32)}, "got float32", "seq_lengths must hold integers"),
    "lengths_bool": ({"seq_lengths": np.ones(B, bool)}, "got bool", "seq_lengths must hold integers"),
    "reset_int": ({"reset": RESET.astype(np.int32)}, "got int32", "reset must hold booleans"),
    "reset_float": ({"reset": RESET.astype(np.float32)}, "got float32", "reset must hold booleans"),
    "reset_shape": ({"reset": RESET[:, :3]}, r"got \(2, 3\)", r"\(\*batch, T\) = \(2, 4\)"),
    "reset_time_major": ({"reset": RESET, "time_major": True, "xs": XS.swapaxes(0, 1)}, r"\(2, 4\)", r"= \(4, 2\)"),
    "reset_row": ({"reset": RESET[0]}, r"got \(4,\)", r"\(\*batch, T\) = \(2, 4\)"),
}


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("case", SHAPES_AND_TYPES)
def test_shapes_and_types(face, case, jitted):
    arguments, given, expected = SHAPES_AND_TYPES[case]
    with refused(given, expected):
        (JITTED if jitted else FACES)[face](**arguments)


VALUES = {  # what no tracer can show
    "string": ({"xs": "abc"}, "got str", "xs|inputs must be an array"),
    "strings": ({"xs": np.full((B, T, R), "a")}, "<U1|ndarray|str", "(xs|inputs) must be"),
    "objects": ({"xs": np.full((B, T, R), None)}, "object|ndarray", "(xs|inputs) must be"),
    "ragged": ({"xs": [[[1.0, 2.0, 3.0]], [[1.0, 2.0]]]}, "got list", "(xs|inputs) must be"),
    "None": ({"xs": None}, "got NoneType", "(xs|inputs) must be an array"),
    "huge_ints": ({"xs": [[[2**70] * R] * T] * B}, "list|int", "(xs|inputs) must be"),
    "lengths_negative": ({"seq_lengths": np.array([2, -1])}, "got -1", r"0\.\.T = 0\.\.4"),
    "lengths_beyond": ({"seq_lengths": np.array([5, 0])}, "got 5", r"0\.\.T = 0\.\.4"),
    "lengths_beyond_32_bits": ({"seq_lengths": np.array([2**32 + 1, 0])}, "got 4294967297", r"0\.\.T = 0\.\.4"),
    "lengths_beyond_64_bits": ({"seq_lengths": [2**70, 0]}, "seq_lengths", "seq_lengths must"),
    "lengths_list": ({"seq_lengths": [9, 1]}, "got 9", r"0\.\.T = 0\.\.4"),
    "lengths_time_major": (
        {"seq_lengths": np.array([5, 0]), "time_major": True, "xs": XS.swapaxes(0, 1)},
        "got 5",
        r"0\.\.4",
    ),
    "lengths_str": ({"seq_lengths": "long"}, "str|<U4", "seq_lengths must"),
    "lengths_strs": ({"seq_lengths": np.array(["1", "2"])}, "<U1|str|ndarray", "seq_lengths must"),
    "lengths_ragged": ({"seq_lengths": [[1], [1, 2]]}, "list", "seq_lengths must"),
    "lengths_None": ({"seq_lengths": [None, 1]}, "list", "seq_lengths must"),
    "reset_str": ({"reset": "yes"}, "str|<U3", "reset must"),
    "reset_ragged": ({"reset": [[True], [True, False]]}, "list", "reset must"),
    "reset_flag": ({"reset": True}, r"got \(\)", r"\(\*batch, T\) = \(2, 4\)"),
}


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("case", VALUES)
def test_values(face, case):
    arguments, given, expected = VALUES[case]
    with refused(given, expected):
        FACES[face](**arguments)


@pytest.mark.parametrize("lengths", [np.array([5, 0]), jnp.array([2, -1])], ids=["numpy", "jax"])
@pytest.mark.parametrize("face", FACES)
def test_lengths_known_while_others_are_traced(face, lengths):
    """Closed over by a jitted function, their values are still known: checked, and good ones are no error."""
    with refused("got (5|-1)", r"0\.\.T = 0\.\.4"):
        jax.jit(lambda xs: FACES[face](xs, seq_lengths=lengths))(XS)
    good = jnp.clip(lengths, 0, T)
    assert jax.eval_shape(lambda xs: FACES[face](xs, seq_lengths=good), XS) is not None


@pytest.mark.parametrize(
    ("options", "given", "expected"),
    [
        ({"remat": 0}, "got 0", "remat must be True, False or a positive number"),
        ({"remat": -2}, "got -2", "remat must be True, False or a positive number"),
        ({"remat": 2.5}, r"got 2\.5", "remat must be True, False or a positive number"),
        ({"remat": "dots"}, "got 'dots'", "remat must be True, False or a positive number"),
        ({"remat": None}, "got None", "remat must be True, False or a positive number"),
        ({"unroll": 0}, "got 0", "unroll must be True, False or a positive number"),
        ({"unroll": "all"}, "got 'all'", "unroll must be True, False or a positive number"),
    ],
)
@pytest.mark.parametrize("face", ["pure", "stacked", "linen", "nnx"])
def test_options(options, given, expected, face):
    with refused(given, expected):
        if face == "linen":
            tl.linen.TLSTM(CFG, **options).init(KEY, XS)
        elif face == "nnx":
            tl.nnx.TLSTM(R, CFG, rngs=nnx.Rngs(0), **options)(XS)
        else:
            FACES[face](**options)


# A step

STEPS = {
    "features": ({"x": XS[:, 0, :2]}, r"2 features \(shape \(2, 2\)", "in_features=3"),
    "rank_0": ({"x": np.float32(0)}, r"got shape \(\)", r"\(\*batch, R\)"),
    "int": ({"x": np.ones((B, R), int)}, "got int", "must be floating point"),
    "time_axis": ({"x": XS}, r"\(2, 3, 2\)", r"expected .*\(2, 4, 3, 2\)"),
    "state_batch": ({"state": tl.init_state(CFG)}, r"shape \(3, 2\)", r"expected .*\(2, 3, 2\)"),
    "state_None": ({"state": None}, "got NoneType", r"must be a TLSTMState\(c, h\)"),
    "state_of_rnn": ({"state": tl.init_state(RNN, (B,))}, "None", r"\.c must be"),
}


@pytest.mark.parametrize("face", ["pure", "linen", "nnx"])
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("case", STEPS)
def test_step(face, case, jitted):
    arguments, given, expected = STEPS[case]
    cell = tl.nnx.TLSTMCell(R, CFG, rngs=nnx.Rngs(0))
    step = {
        "pure": lambda state, x: tl.step(PARAMS, state, x, CFG),
        "linen": lambda state, x: tl.linen.TLSTMCell(CFG).apply({"params": PARAMS}, state, x),
        "nnx": lambda state, x: cell(state, x),
    }[face]
    with refused(given, expected):
        (jax.jit(step) if jitted else step)(**{"state": STATE, "x": XS[:, 0], **arguments})


def test_state_with_a_memory_for_the_rnn():
    params = tl.init_params(KEY, R, RNN)
    for call in (
        lambda: tl.step(params, STATE, XS[:, 0], RNN),
        lambda: tl.unroll(params, XS, RNN, initial_state=STATE),
    ):
        with refused("got ", r"c must be None, since cell=\"rnn\""):
            call()


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
@pytest.mark.parametrize("face", ["pure", "step", "linen", "linen_cell"])
def test_parameters_of_another_configuration(case, face):
    params, given, expected = OTHERS[case]
    with refused(given, expected):
        {
            "pure": lambda: tl.unroll(params, XS, CFG),
            "step": lambda: tl.step(params, STATE, XS[:, 0], CFG),
            "linen": lambda: LAYER.apply({"params": params}, XS),
            "linen_cell": lambda: tl.linen.TLSTMCell(CFG).apply({"params": params}, STATE, XS[:, 0]),
        }[face]()


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


@pytest.mark.parametrize("face", ["linen", "nnx"])
def test_modules_speak_of_their_own_arguments(face):
    """The module's argument is called ``inputs`` and ``initial_carry``; a message about ``xs`` names nothing there."""
    with pytest.raises(ValueError, match=r"^inputs "):
        FACES[face](XS[..., :2])
    with pytest.raises(ValueError, match=r"^initial_carry"):
        FACES[face](initial_state=tl.init_state(CFG, (5,)))


def test_numpy_arrays_and_lists_are_taken():
    expected = tl.unroll(PARAMS, jnp.asarray(XS), CFG, seq_lengths=jnp.array([4, 2]), reset=jnp.asarray(RESET))
    for face in ("pure", "linen", "nnx"):
        FACES[face](XS, seq_lengths=np.array([4, 2]), reset=RESET)
    given = tl.unroll(PARAMS, XS.tolist(), CFG, seq_lengths=[4, 2], reset=RESET.tolist())
    jax.tree.map(np.testing.assert_array_equal, given, expected)
