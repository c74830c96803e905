"""The linen modules, compared with rows run one at a time; Flax's drivers and transformations around them."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tlstm_jax as tl
from tests.core.rows import (
    BATCH,
    CALLS,
    CFG,
    LENGTHS,
    RESET,
    RNN,
    SQUARE,
    XS,
    M,
    R,
    T,
    by_hand,
    each_model,
    random_state,
)
from tests.core.variants import abstract, lively, nearly, normal, same, signature

PARAMS = lively(abstract(tl.init_params, jax.random.key(0), R, CFG))
VARIABLES = {"params": PARAMS}
LAYER = tl.linen.TLSTM(CFG)


@functools.cache
def expected_of(name):
    """Carry and outputs of a case."""
    call = CALLS[name]
    return by_hand(PARAMS, XS, CFG, **call | ({"initial": random_state(CFG, BATCH)} if "initial" in call else {}))


def test_the_oracle_sees_a_difference_in_every_call():
    """The arguments of every case change the expected outputs; otherwise the case would test nothing."""
    for name in CALLS:
        differs = not np.allclose(expected_of(name)[1], expected_of("plain")[1], atol=1e-2)
        assert differs == (name not in ("plain", "keep_order_alone")), name


@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_every_argument_against_rows_run_alone(name, time_major):
    call = dict(CALLS[name])
    if call.get("initial"):
        call["initial"] = random_state(CFG, BATCH)
    expected_carry, expected = expected_of(name)
    assert np.abs(expected).max() > 0.1

    lengths = call.pop("lengths", None)
    xs = XS if lengths is None else np.where(np.arange(T)[:, None] < lengths[..., None, None], XS, np.float32(np.nan))
    reset, initial = call.pop("reset", None), call.pop("initial", None)

    def time_first(a):
        return np.moveaxis(np.asarray(a), 2, 0) if time_major else a

    carry, ys = LAYER.apply(
        VARIABLES,
        time_first(xs),
        initial_carry=initial,
        init_key=jax.random.key(7),
        seq_lengths=lengths,
        reset=None if reset is None else time_first(reset),
        return_carry=True,
        time_major=time_major,
        **call,
    )
    nearly(ys, time_first(expected))
    nearly(carry, expected_carry)
    if lengths is not None:
        padding = np.arange(T) >= lengths[..., None]
        assert (time_first(np.broadcast_to(padding[..., None], (*padding.shape, M))) <= (np.asarray(ys) == 0)).all()
        initial = tl.init_state(CFG, BATCH) if initial is None else initial
        carry, initial = jax.device_get((carry, initial))
        same(carry.c[0, 1], initial.c[0, 1])  # the row of length 0
        same(carry.h[0, 1], initial.h[0, 1])


def test_padding_and_lost_answers_have_no_gradient_and_never_nan():
    def loss(xs, params):
        carry, ys = LAYER.apply({"params": params}, xs, seq_lengths=LENGTHS, reset=RESET, return_carry=True)
        return (ys**2).sum() + (carry.c**2).sum()

    padded = np.where(np.arange(T)[:, None] < LENGTHS[..., None, None], XS, np.float32(np.nan))
    to_xs, to_params = jax.jit(jax.grad(loss, (0, 1)))(padded, PARAMS)
    padding = np.arange(T) >= LENGTHS[..., None]
    assert (np.asarray(to_xs)[padding] == 0).all()
    assert (np.abs(np.asarray(to_xs)[0, 0]).max(-1) > 0)[2:].all()
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(to_params))


@each_model
def test_layer_is_the_pure_function(cfg):
    variables = abstract(tl.linen.TLSTM(cfg).init, jax.random.key(0), XS)
    fresh = abstract(tl.init_params, jax.random.key(0), R, cfg)
    assert list(variables) == ["params"]
    assert jax.tree.map(lambda p: (p.shape, p.dtype), variables["params"]) == jax.tree.map(
        lambda p: (p.shape, p.dtype), fresh
    )
    params = lively(fresh)
    for arguments in ({}, {"seq_lengths": LENGTHS, "reset": RESET, "aligned": False}):
        same(
            tl.linen.TLSTM(cfg, return_carry=True).apply({"params": params}, XS, **arguments),
            tl.unroll(params, XS, cfg, **arguments),
        )


def test_variables_move_to_the_pure_functions_and_back():
    variables = LAYER.init(jax.random.key(3), XS)
    same(tl.unroll(variables["params"], XS, CFG)[1], LAYER.apply(variables, XS))
    params = tl.init_params(jax.random.key(4), R, CFG)
    same(LAYER.apply({"params": params}, XS), tl.unroll(params, XS, CFG)[1])
    state, y = tl.linen.TLSTMCell(CFG).apply({"params": params}, tl.init_state(CFG, BATCH), XS[:, :, 0])
    same((state, y), tl.step(params, tl.init_state(CFG, BATCH), XS[:, :, 0], CFG))


def test_initialization_as_documented():
    params = LAYER.init(jax.random.key(0), XS)["params"]
    np.testing.assert_array_equal(params["hidden"]["bias"][M:], [0] * M + [1] * M + [0] * (M + 3))
    same(params["norm"], {"scale": jnp.ones((3, M)), "bias": jnp.zeros((3, M))})
    same(params, LAYER.init(jax.random.key(0), XS[0, 0, :2])["params"])  # independent of the batch and of T
    other = LAYER.init({"params": jax.random.key(1)}, XS)["params"]
    assert (params["hidden"]["kernel"] != other["hidden"]["kernel"]).all()
    assert (params["input"]["kernel"] != other["input"]["kernel"]).all()
    bias = tl.linen.TLSTM(tl.TLSTMConfig(M, (3,), forget_bias=4.0)).init(jax.random.key(0), XS)["params"]["hidden"][
        "bias"
    ]
    np.testing.assert_array_equal(bias[2 * M : 3 * M], [4] * M)


def test_attributes_are_the_defaults_of_the_arguments():
    options = {"reverse": True, "keep_order": True, "time_major": True, "return_carry": True, "aligned": False}
    xs = np.moveaxis(XS, 2, 0)
    called = LAYER.apply(VARIABLES, xs, **options)
    same(tl.linen.TLSTM(CFG, **options).apply(VARIABLES, xs), called)
    assert isinstance(called, tuple)
    opposite = {name: not value for name, value in options.items()}
    same(tl.linen.TLSTM(CFG, **options).apply(VARIABLES, XS, **opposite), LAYER.apply(VARIABLES, XS))
    for name in options:  # each by itself
        expected = LAYER.apply(VARIABLES, XS, **{name: options[name]})
        same(tl.linen.TLSTM(CFG, **{name: options[name]}).apply(VARIABLES, XS), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"remat": True, "unroll": 2},
        *(pytest.param(slow, marks=pytest.mark.slow) for slow in ({"remat": 4}, {"unroll": True})),
    ],
)
def test_remat_and_unroll_change_nothing(options):
    def loss(params, layer):
        return (layer.apply({"params": params}, XS, seq_lengths=LENGTHS, reset=RESET) ** 2).sum()

    run = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    nearly(run(PARAMS, tl.linen.TLSTM(CFG, **options)), run(PARAMS, LAYER), atol=1e-5)


# Flax's own drivers


@each_model
def test_cell_in_rnn(cfg):
    rnn = nn.RNN(tl.linen.TLSTMCell(cfg))
    variables = abstract(rnn.init, jax.random.key(0), XS)
    params = lively(variables["params"]["cell"])
    assert jax.tree.map(jnp.shape, params) == cfg.param_shapes(R)
    carry, ys = rnn.apply({"params": {"cell": params}}, XS, return_carry=True)
    nearly((carry, ys), by_hand(params, XS, cfg, aligned=False))
    initial = random_state(cfg, BATCH)
    xs = np.moveaxis(XS, 2, 0)
    carry, ys = rnn.apply(
        {"params": {"cell": params}},
        xs,
        initial_carry=initial,
        return_carry=True,
        time_major=True,
        reverse=True,
        keep_order=True,
    )
    expected, by_row = by_hand(params, XS, cfg, aligned=False, initial=initial, reverse=True, keep_order=True)
    nearly((carry, np.moveaxis(np.asarray(ys), 0, 2)), (expected, by_row))


def test_cell_in_rnn_with_lengths():
    """Flax's driver takes one batch dimension and no empty rows, and leaves outputs on padding as they are."""
    lengths = jnp.array([6, 2])
    carry, ys = nn.RNN(tl.linen.TLSTMCell(CFG)).apply(
        {"params": {"cell": PARAMS}}, XS[0], seq_lengths=lengths, return_carry=True
    )
    expected_carry, expected = by_hand(PARAMS, XS[0], CFG, lengths=lengths, aligned=False)
    nearly(carry, expected_carry)
    ys = np.asarray(ys)
    np.testing.assert_allclose(ys[1, :2], expected[1, :2], atol=2e-6)
    np.testing.assert_allclose(ys[0], expected[0], atol=2e-6)


def test_cell_contract():
    cell = tl.linen.TLSTMCell(SQUARE)
    assert cell.num_feature_axes == 1
    same(cell.initialize_carry(jax.random.key(0), (4, 5, R)), tl.init_state(SQUARE, (4, 5)))
    same(cell.initialize_carry(jax.random.key(0), (R,)), tl.init_state(SQUARE))
    variables = abstract(cell.init, jax.random.key(0), tl.init_state(SQUARE, (4,)), np.ones((4, R), np.float32))
    assert signature(variables["params"]) == signature(abstract(tl.init_params, jax.random.key(0), R, SQUARE))


BIDIRECTIONAL = {
    "forward_rnn": lively(PARAMS, 10),
    "backward_rnn": lively(PARAMS, 20),
}


def test_cells_in_bidirectional():
    layer = nn.Bidirectional(nn.RNN(tl.linen.TLSTMCell(CFG)), nn.RNN(tl.linen.TLSTMCell(CFG)))
    params = {name: {"cell": tree} for name, tree in BIDIRECTIONAL.items()}
    fresh = abstract(layer.init, jax.random.key(0), XS)["params"]
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, params)
    ys = layer.apply({"params": params}, XS)
    forward = by_hand(BIDIRECTIONAL["forward_rnn"], XS, CFG, aligned=False)[1]
    backward = by_hand(BIDIRECTIONAL["backward_rnn"], XS, CFG, aligned=False, reverse=True, keep_order=True)[1]
    np.testing.assert_allclose(ys, np.concatenate([forward, backward], -1), atol=2e-6)


@pytest.mark.parametrize("time_major", [False, True])
def test_layer_in_bidirectional(time_major):
    layer = nn.Bidirectional(
        tl.linen.TLSTM(CFG), tl.linen.TLSTM(CFG), time_major=time_major, return_carry=True, merge_fn=lambda a, b: (a, b)
    )
    xs = np.moveaxis(XS, 2, 0) if time_major else XS
    init_shapes = jax.tree.map(jnp.shape, abstract(layer.init, jax.random.key(0), xs)["params"])
    assert init_shapes == jax.tree.map(jnp.shape, BIDIRECTIONAL)
    initial = random_state(CFG, BATCH, 60), random_state(CFG, BATCH, 70)
    (left, right), (forward, backward) = layer.apply(
        {"params": BIDIRECTIONAL}, xs, initial_carry=initial, seq_lengths=LENGTHS, init_key=jax.random.key(0)
    )
    if time_major:
        forward, backward = (np.moveaxis(np.asarray(ys), 0, 2) for ys in (forward, backward))
    expected = by_hand(BIDIRECTIONAL["forward_rnn"], XS, CFG, lengths=LENGTHS, initial=initial[0])
    nearly((left, forward), expected)
    expected = by_hand(
        BIDIRECTIONAL["backward_rnn"], XS, CFG, lengths=LENGTHS, initial=initial[1], reverse=True, keep_order=True
    )
    nearly((right, backward), expected)


def test_bidirectional_answers_see_their_own_side_only():
    """With the delay handled, the forward half of output t depends on inputs 0..t and the backward half on t..T-1."""
    layer = nn.Bidirectional(tl.linen.TLSTM(CFG), tl.linen.TLSTM(CFG))
    jacobian = jax.jit(jax.jacobian(lambda xs: layer.apply({"params": BIDIRECTIONAL}, xs)))(XS[0, 0])  # (T, 2M, T, R)
    sees = np.abs(jacobian.reshape(T, 2, M, T, R)).max((2, 4)) > 0
    np.testing.assert_array_equal(sees[:, 0], np.tril(np.ones((T, T), bool)))
    np.testing.assert_array_equal(sees[:, 1], np.triu(np.ones((T, T), bool)))


# Precision


@pytest.mark.parametrize("driver", ["layer", "rnn"])
def test_bfloat16_stays_bfloat16(driver):
    cfg = tl.TLSTMConfig(features=M, tensor_shape=(3,), dtype=jnp.bfloat16)
    if driver == "layer":
        layer, variables = tl.linen.TLSTM(cfg), VARIABLES
    else:
        layer, variables = nn.RNN(tl.linen.TLSTMCell(cfg)), {"params": {"cell": PARAMS}}
    carry, ys = layer.apply(variables, XS, return_carry=True)
    assert (ys.dtype, carry.h.dtype, carry.c.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    exact = LAYER.apply(VARIABLES, XS, aligned=driver == "layer")
    error = np.abs(ys.astype(jnp.float32) - exact).max()
    assert 0 < error < 0.1
    assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(abstract(layer.init, jax.random.key(0), XS)))
    next_carry, _ = layer.apply(variables, XS, initial_carry=carry, return_carry=True)
    assert jax.tree.map(lambda leaf: leaf.dtype, next_carry) == jax.tree.map(lambda leaf: leaf.dtype, carry)


def test_bfloat16_parameters():
    cfg = tl.TLSTMConfig(features=M, tensor_shape=(3,), param_dtype=jnp.bfloat16)
    ys, variables = tl.linen.TLSTM(cfg).init_with_output(jax.random.key(0), XS.astype(jnp.bfloat16))
    assert {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype(jnp.bfloat16)}
    assert ys.dtype == jnp.bfloat16


# Messages


@pytest.mark.parametrize(
    ("module", "path"),
    [
        (tl.linen.TLSTM(CFG), ()),
        (nn.RNN(tl.linen.TLSTMCell(CFG)), ("cell",)),
        (nn.Bidirectional(tl.linen.TLSTM(CFG), tl.linen.TLSTM(CFG)), None),
    ],
    ids=["layer", "rnn", "bidirectional"],
)
@pytest.mark.parametrize("jitted", [False, True])
def test_wrong_feature_size(module, path, jitted):
    params = BIDIRECTIONAL if path is None else functools.reduce(lambda p, k: {k: p}, path, PARAMS)
    apply = jax.jit(module.apply) if jitted else module.apply
    with pytest.raises(ValueError, match=r"has 5 features .*in_features=2"):
        apply({"params": params}, jnp.ones((*BATCH, T, 5)))


# Linen's transformations


def test_init_under_jit_and_eval_shape():
    eager = LAYER.init(jax.random.key(0), XS)
    nearly(jax.jit(LAYER.init)(jax.random.key(0), XS), eager)
    abstract = jax.eval_shape(LAYER.init, jax.random.key(0), jax.ShapeDtypeStruct(XS.shape, XS.dtype))
    assert jax.tree.map(lambda p: (p.shape, p.dtype), abstract) == jax.tree.map(lambda p: (p.shape, p.dtype), eager)
    ys = jax.eval_shape(
        functools.partial(LAYER.apply, seq_lengths=LENGTHS), abstract, jax.ShapeDtypeStruct(XS.shape, XS.dtype)
    )
    assert ys.shape == (*BATCH, T, M)


def test_lifted_scan_over_stacked_layers():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, xs, _):
            return tl.linen.TLSTM(SQUARE, name="layer")(xs), None

    stack = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)()
    xs = normal(5, (2, T, M))
    variables = jax.jit(lambda key: stack.init(key, xs, None))(jax.random.key(0))
    kernel = np.asarray(variables["params"]["layer"]["hidden"]["kernel"])
    assert kernel.shape[0] == 2
    assert (kernel[0] != kernel[1]).all()
    ys = xs
    for i in range(2):
        ys = tl.unroll(jax.tree.map(lambda p, i=i: np.asarray(p)[i], variables["params"]["layer"]), ys, SQUARE)[1]
    nearly(stack.apply(variables, xs, None)[0], ys)


def test_lifted_scan_over_chunks_of_time():
    chunked = nn.scan(
        lambda layer, carry, xs: layer(xs, initial_carry=carry, return_carry=True),
        variable_broadcast="params",
        split_rngs={"params": False},
        in_axes=0,
        out_axes=0,
    )

    class Chunks(nn.Module):
        @nn.compact
        def __call__(self, xs):
            layer = tl.linen.TLSTM(CFG, aligned=False, name="layer")
            return chunked(layer, tl.init_state(CFG, xs.shape[1:-2]), xs)

    xs = np.moveaxis(XS.reshape(*BATCH, 3, 2, R), 2, 0)
    carry, ys = Chunks().apply({"params": {"layer": PARAMS}}, xs)
    ys = np.moveaxis(np.asarray(ys), 0, 2).reshape(*BATCH, T, M)
    nearly((carry, ys), tl.unroll(PARAMS, XS, CFG, aligned=False))
    fresh = abstract(Chunks().init, jax.random.key(0), xs)["params"]["layer"]
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, PARAMS)


def test_lifted_remat():
    remat = nn.remat(tl.linen.TLSTM)(CFG)

    def loss(params, layer):
        return (layer.apply({"params": params}, XS, seq_lengths=LENGTHS) ** 2).sum()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    nearly(gradient(PARAMS, remat), gradient(PARAMS, LAYER), atol=1e-5)


def test_lifted_vmap_is_an_ensemble():
    ensemble = nn.vmap(
        tl.linen.TLSTM, in_axes=None, out_axes=0, axis_size=2, variable_axes={"params": 0}, split_rngs={"params": True}
    )(CFG)
    variables = jax.jit(ensemble.init)(jax.random.key(0), XS)
    members = [jax.tree.map(lambda p, i=i: np.asarray(p)[i], variables["params"]) for i in range(2)]
    assert (members[0]["hidden"]["kernel"] != members[1]["hidden"]["kernel"]).all()
    ys = ensemble.apply(variables, XS)
    nearly(ys, np.stack([tl.unroll(params, XS, CFG)[1] for params in members]))


def test_jax_vmap_over_ragged_rows():
    """Under vmap, the lengths and resets of each row are traced."""
    run = functools.partial(LAYER.apply, VARIABLES, return_carry=True)
    mapped = jax.vmap(lambda xs, lengths, reset: run(xs, seq_lengths=lengths, reset=reset))
    nearly(
        mapped(XS[1], LENGTHS[1], RESET[1]),
        run(XS[1], seq_lengths=LENGTHS[1], reset=RESET[1]),
    )


@pytest.mark.slow
def test_a_larger_model_learns():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, tokens, lengths):
            xs = nn.Embed(5, 4)(tokens)
            carry, ys = tl.linen.TLSTM(SQUARE, return_carry=True)(xs, seq_lengths=lengths)
            ys = tl.linen.TLSTM(RNN)(nn.Dense(M)(ys))
            return nn.Dense(3)(jnp.concatenate([ys.sum(-2), carry.h[..., -1, -1, :]], -1))

    model = Model()
    tokens = np.random.RandomState(0).randint(0, 5, (4, T))
    lengths, labels = jnp.array([6, 3, 1, 5]), np.array([0, 1, 2, 1])
    params = model.init(jax.random.key(0), tokens, lengths)["params"]
    assert set(params) == {"Embed_0", "TLSTM_0", "Dense_0", "TLSTM_1", "Dense_1"}

    @jax.jit
    def train(params):
        def loss(params):
            logits = model.apply({"params": params}, tokens, lengths)
            return -jax.nn.log_softmax(logits)[np.arange(4), labels].mean()

        value, grads = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 1e-4 * g, params, grads), value, grads

    params, before, grads = train(params)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))
    assert train(params)[1] < before


def test_batch_of_no_rows_and_sequence_of_no_steps():
    for options in ({}, {"remat": 2}):
        layer = tl.linen.TLSTM(CFG, return_carry=True, **options)
        carry, ys = layer.apply(VARIABLES, XS[:0])
        assert (ys.shape, carry.h.shape) == ((0, 2, T, M), (0, 2, 3, M))
        initial = random_state(CFG, BATCH)
        carry, ys = layer.apply(VARIABLES, XS[:, :, :0], initial_carry=initial)
        assert ys.shape == (*BATCH, 0, M)
        same(carry, initial)


def test_sequence_shorter_than_the_delay():
    nearly(LAYER.apply(VARIABLES, XS[:, :, :1]), by_hand(PARAMS, XS[:, :, :1], CFG)[1])
