"""Bad arguments of calls: a ``ValueError``, before any tracing error, that names what was given and expected."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import tlstm_jax as tl
from tests.core.small import (
    APIS,
    CFG,
    KEY,
    PARAMS,
    RESET,
    RNN,
    STATE,
    XS,
    B,
    M,
    R,
    T,
    pure,
    slstm,
)
from tests.core.variants import refused

# The same bad argument in every API, eagerly and under jit

JITTED = {name: jax.jit(api, static_argnames=("time_major", "reverse")) for name, api in APIS.items()}

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
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("case", SHAPES_AND_TYPES)
def test_shapes_and_types(api, case, jitted):
    arguments, given, expected = SHAPES_AND_TYPES[case]
    with refused(given, expected):
        (JITTED if jitted else APIS)[api](**arguments)


VALUES = {  # arguments whose values matter, which tracers do not have
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


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("case", VALUES)
def test_values(api, case):
    arguments, given, expected = VALUES[case]
    with refused(given, expected):
        APIS[api](**arguments)


@pytest.mark.parametrize("lengths", [np.array([5, 0]), jnp.array([2, -1])], ids=["numpy", "jax"])
@pytest.mark.parametrize("api", APIS)
def test_lengths_known_while_others_are_traced(api, lengths):
    """Lengths that a jitted function closes over have known values, which are checked."""
    with refused("got (5|-1)", r"0\.\.T = 0\.\.4"):
        jax.jit(lambda xs: APIS[api](xs, seq_lengths=lengths))(XS)
    good = jnp.clip(lengths, 0, T)
    assert jax.eval_shape(lambda xs: APIS[api](xs, seq_lengths=good), XS) is not None


@pytest.mark.parametrize("dtype", ["int32", "uint8", "uint32"])
@pytest.mark.parametrize("api", ["auto", "reference", "stacked"])
def test_traced_lengths_are_clipped(api, dtype):
    """Their values are unknown, so they cannot be refused."""
    unroll = slstm if api == "stacked" else functools.partial(pure, implementation=api)
    xs = np.random.default_rng(0).normal(size=(3, T, R)).astype(np.float32)
    lengths = np.array([9, -1 if dtype == "int32" else 0, 2]).astype(dtype)

    def both(xs, lengths):
        return [unroll(xs, seq_lengths=lengths, reverse=reverse) for reverse in (False, True)]

    def gradient(xs, lengths):
        return jax.grad(lambda xs: sum((z**2).sum() for z in jax.tree.leaves(both(xs, lengths))))(xs)

    for function in (both, gradient):
        function = jax.jit(function)
        jax.tree.map(np.testing.assert_array_equal, function(xs, lengths), function(xs, np.clip(lengths, 0, T)))
    expected = unroll(xs, seq_lengths=np.array([4, 0, 2]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), both(xs, np.array([4, 0, 2]))[0], expected)


def test_lengths_of_a_type_that_cannot_hold_the_number_of_timesteps():
    xs, lengths = np.ones((2, 300, R), np.float32), np.array([255, 3], np.uint8)
    state, _ = jax.jit(lambda lengths: slstm(xs, seq_lengths=lengths))(lengths)
    jax.tree.map(np.testing.assert_array_equal, state, slstm(xs, seq_lengths=lengths.astype(int))[0])


@pytest.mark.parametrize(
    ("options", "given", "expected"),
    [
        ({"remat": 0}, "got 0", "remat must be True, False or a positive number"),
        ({"remat": -2}, "got -2", "remat must be True, False or a positive number"),
        ({"remat": 2.5}, r"got 2\.5", "remat must be True, False or a positive number"),
        ({"remat": "dots"}, "got 'dots'", "remat must be True, False or a positive number"),
        ({"remat": None}, "got None", "remat must be True, False or a positive number"),
        ({"unroll": 0}, "got 0", r"unroll must be None \(by platform\), True, False or a positive number"),
        ({"unroll": "all"}, "got 'all'", r"unroll must be None \(by platform\), True, False or a positive number"),
    ],
)
@pytest.mark.parametrize("api", ["pure", "stacked", "linen", "nnx"])
def test_options(options, given, expected, api):
    with refused(given, expected):
        if api == "linen":
            tl.linen.TLSTM(CFG, **options).init(KEY, XS)
        elif api == "nnx":
            tl.nnx.TLSTM(R, CFG, rngs=nnx.Rngs(0), **options)(XS)
        else:
            APIS[api](**options)


@pytest.mark.parametrize("rngs", [3, KEY], ids=["int", "key"])
def test_keys_of_a_drawn_carry(rngs):
    drawn = {"carry_init": jax.nn.initializers.normal()}
    layer, cell = (module(R, CFG, rngs=nnx.Rngs(0), **drawn) for module in (tl.nnx.TLSTM, tl.nnx.TLSTMCell))
    for call in (lambda: layer(XS, rngs=rngs), lambda: cell.initialize_carry((R,), rngs)):
        with refused("got (int|PRNGKeyArray)", "rngs must be nnx.Rngs, .* or an nnx.RngStream"):
            call()
    variables = {"params": PARAMS}
    with refused("got 3", "^init_key must be a JAX PRNG key"):
        tl.linen.TLSTM(CFG, **drawn).apply(variables, XS, init_key=3)
    with refused("got 3", "^rng must be a JAX PRNG key"):
        tl.linen.TLSTMCell(CFG, **drawn).initialize_carry(3, (R,))


@pytest.mark.parametrize("api", ["linen", "nnx"])
def test_return_carry(api):
    with refused("got 'yes'", "return_carry must be True or False"):
        APIS[api](return_carry="yes")


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


@pytest.mark.parametrize("api", ["pure", "linen", "nnx"])
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("case", STEPS)
def test_step(api, case, jitted):
    arguments, given, expected = STEPS[case]
    cell = tl.nnx.TLSTMCell(R, CFG, rngs=nnx.Rngs(0))
    step = {
        "pure": lambda state, x: tl.step(PARAMS, state, x, CFG),
        "linen": lambda state, x: tl.linen.TLSTMCell(CFG).apply({"params": PARAMS}, state, x),
        "nnx": lambda state, x: cell(state, x),
    }[api]
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


@pytest.mark.parametrize("api", ["linen", "nnx"])
def test_modules_speak_of_their_own_arguments(api):
    """Messages name the module's arguments, ``inputs`` and ``initial_carry``, not those of ``unroll``."""
    with pytest.raises(ValueError, match=r"^inputs "):
        APIS[api](XS[..., :2])
    with pytest.raises(ValueError, match=r"^initial_carry"):
        APIS[api](initial_state=tl.init_state(CFG, (5,)))


def test_numpy_arrays_and_lists_are_taken():
    expected = tl.unroll(PARAMS, jnp.asarray(XS), CFG, seq_lengths=jnp.array([4, 2]), reset=jnp.asarray(RESET))
    for api in ("pure", "linen", "nnx"):
        APIS[api](XS, seq_lengths=np.array([4, 2]), reset=RESET)
    given = tl.unroll(PARAMS, XS.tolist(), CFG, seq_lengths=[4, 2], reset=RESET.tolist())
    jax.tree.map(np.testing.assert_array_equal, given, expected)
