"""The nnx modules, compared with rows run one at a time; Flax's drivers and transformations around them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

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
from tests.core.variants import abstract, lively, load, nearly, normal, pure_dict, same

PARAMS = {cfg: lively(abstract(tl.init_params, jax.random.key(0), R, cfg)) for cfg in (CFG, SQUARE, RNN)}


@functools.cache
def fresh(cfg):
    return tl.init_params(jax.random.key(0), R, cfg)


def make(cfg=CFG, **options):
    return load(tl.nnx.TLSTM(R, cfg, rngs=nnx.Rngs(0), **options), PARAMS[cfg])


def make_cell(cfg=CFG):
    return load(tl.nnx.TLSTMCell(R, cfg, rngs=nnx.Rngs(0)), PARAMS[cfg])


@pytest.mark.parametrize("name", [name for name in CALLS if name != "plain"])
def test_every_argument_against_rows_run_alone(name):
    call = dict(CALLS[name])
    if call.get("initial"):
        call["initial"] = random_state(CFG, BATCH)
    expected = by_hand(PARAMS[CFG], XS, CFG, **call)
    renamed = {"lengths": "seq_lengths", "initial": "initial_carry"}
    call = {renamed.get(key, key): value for key, value in call.items()}
    layer = make()
    carry, ys = layer(XS, return_carry=True, rngs=nnx.Rngs(0), **call)
    nearly((carry, ys), expected)
    same(layer(XS, **call), ys)
    reset = call.pop("reset", None)
    major = {"reset": None if reset is None else np.moveaxis(reset, 2, 0), "time_major": True}
    carry, ys = layer(np.moveaxis(XS, 2, 0), return_carry=True, **major, **call)
    nearly((carry, np.moveaxis(np.asarray(ys), 0, 2)), expected)


@each_model
@pytest.mark.parametrize("kind", [tl.nnx.TLSTM, tl.nnx.TLSTMCell])
def test_tree_is_that_of_init_params(cfg, kind):
    module = kind(R, cfg, rngs=nnx.Rngs(0))
    tree = pure_dict(module)
    signature = jax.tree.map(lambda p: (p.shape, p.dtype), fresh(cfg))
    assert jax.tree.map(lambda p: (p.shape, p.dtype), tree) == signature
    assert len(jax.tree.leaves(nnx.state(module))) == len(jax.tree.leaves(tree))  # Params and nothing else
    # biases and gains are constants, kernels random and in Glorot's bounds
    for group in set(tree) - {"norm"}:
        same(tree[group]["bias"], fresh(cfg)[group]["bias"])
    assert tree.get("norm") is None or (tree["norm"]["scale"] == 1).all()
    kernel = tree["hidden"]["kernel"]
    assert 0 < np.abs(kernel).max() <= np.sqrt(3 / np.prod(kernel.shape[:-1]))


def test_streams_of_randomness():
    rngs = nnx.Rngs(params=0)
    first, second = tl.nnx.TLSTM(R, CFG, rngs=rngs), tl.nnx.TLSTM(R, CFG, rngs=rngs)
    assert (first.hidden.kernel[...] != second.hidden.kernel[...]).all()
    assert (first.input.kernel[...] != second.input.kernel[...]).all()
    same(pure_dict(tl.nnx.TLSTM(R, CFG, rngs=nnx.Rngs(params=0))), pure_dict(first))
    same(pure_dict(tl.nnx.TLSTM(R, CFG, rngs=nnx.Rngs(params=0, carry=9))), pure_dict(first))
    assert not np.array_equal(tl.nnx.TLSTM(R, CFG, rngs=nnx.Rngs(params=1)).hidden.kernel[...], first.hidden.kernel)


def test_attributes_are_the_defaults_of_the_arguments():
    options = {"reverse": True, "keep_order": True, "time_major": True, "return_carry": True, "aligned": False}
    plain, xs = make(), np.moveaxis(XS, 2, 0)
    same(make(**options)(xs), plain(xs, **options))
    same(make(**options)(XS, **{name: not value for name, value in options.items()}), plain(XS))
    for name, value in options.items():
        same(make(**{name: value})(XS), plain(XS, **{name: value}))
    nearly(make(remat=4, unroll=2)(XS), plain(XS))
    with pytest.raises(TypeError, match="no_such_option"):
        make(no_such_option=1)


# Flax's own drivers


@each_model
def test_cell_in_rnn(cfg):
    rnn = nnx.RNN(make_cell(cfg), return_carry=True)
    nearly(rnn(XS), by_hand(PARAMS[cfg], XS, cfg, aligned=False))
    initial = random_state(cfg, BATCH)
    carry, ys = rnn(np.moveaxis(XS, 2, 0), initial_carry=initial, time_major=True, reverse=True, keep_order=True)
    expected = by_hand(PARAMS[cfg], XS, cfg, initial=initial, reverse=True, keep_order=True, aligned=False)
    nearly((carry, np.moveaxis(np.asarray(ys), 0, 2)), expected)


def test_cells_in_bidirectional():
    layer = nnx.Bidirectional(nnx.RNN(make_cell()), nnx.RNN(make_cell()))
    load(layer.backward_rnn.cell, fresh(CFG))
    forward = by_hand(PARAMS[CFG], XS, CFG, aligned=False)[1]
    backward = by_hand(fresh(CFG), XS, CFG, aligned=False, reverse=True, keep_order=True)[1]
    np.testing.assert_allclose(layer(XS), np.concatenate([forward, backward], -1), atol=2e-6)


@pytest.mark.parametrize("time_major", [False, True])
def test_layer_in_bidirectional(time_major):
    layer = nnx.Bidirectional(make(), load(make(), lively(PARAMS[CFG], 40)), time_major=time_major, return_carry=True)
    initial = random_state(CFG, BATCH, 60), random_state(CFG, BATCH, 70)
    xs = np.moveaxis(XS, 2, 0) if time_major else XS
    (left, right), ys = layer(xs, initial_carry=initial, seq_lengths=LENGTHS, rngs=nnx.Rngs(0))
    ys = np.asarray(ys)
    forward, backward = np.split(np.moveaxis(ys, 0, 2) if time_major else ys, 2, axis=-1)
    nearly((left, forward), by_hand(PARAMS[CFG], XS, CFG, lengths=LENGTHS, initial=initial[0]))
    expected = by_hand(
        lively(PARAMS[CFG], 40), XS, CFG, lengths=LENGTHS, initial=initial[1], reverse=True, keep_order=True
    )
    nearly((right, backward), expected)


@pytest.mark.parametrize("cfg", [SQUARE, RNN], ids=["square", "rnn"])
def test_initial_carry(cfg):
    cell = make_cell(cfg)
    assert cell.num_feature_axes == 1
    same(cell.initialize_carry((4, 5, R)), tl.init_state(cfg, (4, 5)))
    same(cell.initialize_carry((R,), nnx.Rngs(0)), tl.init_state(cfg))
    for rngs in (nnx.Rngs(0), nnx.Rngs(carry=0), nnx.Rngs(carry=0).carry):
        carry = cell.initialize_carry((4, R), rngs, nnx.initializers.normal(1.0))
        assert carry.h.shape == (4, *cfg.tensor_shape, M)
        assert len(np.unique(carry.h)) == carry.h.size
        if cfg is SQUARE:
            assert not np.isin(carry.c, carry.h).any()  # separate keys
        else:
            assert carry.c is None
    with pytest.raises(ValueError, match=r"carry_init.*needs rngs.*None"):
        cell.initialize_carry((4, R), carry_init=nnx.initializers.normal(1.0))


def test_initial_carry_dtypes():
    cell = tl.nnx.TLSTMCell(R, tl.TLSTMConfig(M, (2,), dtype=jnp.bfloat16), rngs=nnx.Rngs(0))
    carry = cell.initialize_carry((4, R), nnx.Rngs(0), nnx.initializers.ones_init())
    assert (carry.h.dtype, carry.c.dtype) == (jnp.bfloat16, jnp.float32)


@pytest.mark.parametrize("driver", ["layer", "rnn"])
def test_bfloat16_stays_bfloat16(driver):
    cfg = tl.TLSTMConfig(features=M, tensor_shape=(3,), dtype=jnp.bfloat16)
    cell = tl.nnx.TLSTMCell(R, cfg, rngs=nnx.Rngs(0))
    layer = tl.nnx.TLSTM(R, cfg, rngs=nnx.Rngs(0)) if driver == "layer" else nnx.RNN(cell)
    load(layer if driver == "layer" else cell, PARAMS[CFG])
    carry, ys = layer(XS, return_carry=True)
    assert (ys.dtype, carry.h.dtype, carry.c.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    assert 0 < np.abs(ys.astype(jnp.float32) - make()(XS, aligned=driver == "layer")).max() < 0.1


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize(
    "made",
    [make, lambda: nnx.RNN(make_cell()), lambda: nnx.Bidirectional(make(), make())],
    ids=["layer", "rnn", "bidirectional"],
)
def test_wrong_feature_size(made, jitted):
    call = nnx.jit(lambda layer, xs: layer(xs)) if jitted else lambda layer, xs: layer(xs)
    with pytest.raises(ValueError, match=r"has 5 features .*in_features=2"):
        call(made(), jnp.ones((*BATCH, T, 5)))


# nnx's transformations


def test_split_and_merge():
    layer = make(SQUARE, return_carry=True)
    graphdef, state = nnx.split(layer)
    hash(graphdef)
    expected = layer(XS)
    same(nnx.merge(graphdef, state)(XS), expected)
    nearly(jax.jit(lambda state, xs: nnx.merge(graphdef, state)(xs))(state, XS), expected)
    nearly(nnx.jit(lambda layer, xs: layer(xs))(layer, XS), expected)
    same(nnx.clone(layer)(XS), expected)
    doubled = nnx.merge(graphdef, jax.tree.map(lambda p: 2 * p, state))
    same(doubled(XS), tl.unroll(jax.tree.map(lambda p: 2 * p, PARAMS[SQUARE]), XS, SQUARE))


def test_abstract_construction():
    abstract = nnx.eval_shape(lambda: tl.nnx.TLSTM(R, CFG, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(abstract)
    assert jax.tree.map(jnp.shape, nnx.to_pure_dict(state)) == jax.tree.map(jnp.shape, fresh(CFG))
    nnx.replace_by_pure_dict(state, PARAMS[CFG])
    same(nnx.merge(graphdef, state)(XS), make()(XS))


def test_gradient_is_that_of_the_pure_function():
    def loss(ys):
        return (ys**2).sum()

    arguments = {"seq_lengths": LENGTHS, "reset": RESET}
    value, grads = nnx.jit(nnx.value_and_grad(lambda layer: loss(layer(XS, **arguments))))(make())
    expected = jax.jit(jax.value_and_grad(lambda params: loss(tl.unroll(params, XS, CFG, **arguments)[1])))(PARAMS[CFG])
    nearly((value, nnx.to_pure_dict(grads)), expected, atol=1e-5)
    remat = nnx.jit(nnx.grad(lambda layer: loss(nnx.remat(lambda m, xs: m(xs))(layer, XS))))(make())
    plain = nnx.jit(nnx.grad(lambda layer: loss(layer(XS))))(make())
    nearly(nnx.to_pure_dict(remat), nnx.to_pure_dict(plain), atol=1e-5)


def test_vmap_is_an_ensemble():
    @nnx.split_rngs(splits=2)
    @nnx.vmap
    def create(rngs):
        return tl.nnx.TLSTM(R, SQUARE, rngs=rngs)

    ensemble = create(nnx.Rngs(0))
    params = pure_dict(ensemble)
    assert params["hidden"]["kernel"].shape == (2, *fresh(SQUARE)["hidden"]["kernel"].shape)
    assert (params["hidden"]["kernel"][0] != params["hidden"]["kernel"][1]).all()
    ys = nnx.vmap(lambda layer, xs: layer(xs), in_axes=(0, None))(ensemble, XS)
    members = [jax.tree.map(lambda p, i=i: np.asarray(p)[i], params) for i in range(2)]
    nearly(ys, np.stack([tl.unroll(member, XS, SQUARE)[1] for member in members]))


def test_scan_over_stacked_layers():
    @nnx.split_rngs(splits=2)
    @nnx.vmap
    def create(rngs):
        return tl.nnx.TLSTM(M, SQUARE, rngs=rngs)

    layers, xs = create(nnx.Rngs(0)), normal(5, (2, T, M))
    ys = nnx.scan(lambda xs, layer: layer(xs), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(xs, layers)
    expected = xs
    for i in range(2):
        expected = tl.unroll(jax.tree.map(lambda p, i=i: p[i], pure_dict(layers)), expected, SQUARE)[1]
    nearly(ys, expected)


def test_a_larger_model_learns():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(5, 4, rngs=rngs)
            self.first = tl.nnx.TLSTM(4, SQUARE, return_carry=True, rngs=rngs)
            self.second = tl.nnx.TLSTM(M, RNN, rngs=rngs)
            self.head = nnx.Linear(2 * M, 3, rngs=rngs)

        def __call__(self, tokens, lengths):
            carry, ys = self.first(self.embed(tokens), seq_lengths=lengths)
            ys = self.second(ys, seq_lengths=lengths)
            return self.head(jnp.concatenate([ys.sum(-2), carry.h[..., -1, -1, :]], -1))

    tokens = np.random.RandomState(0).randint(0, 5, (4, T))
    lengths, labels = jnp.array([6, 3, 2, 5]), np.array([0, 1, 2, 1])

    @nnx.jit
    def train(model, lengths):
        def loss(model):
            return -jax.nn.log_softmax(model(tokens, lengths))[np.arange(4), labels].mean()

        value, grads = nnx.value_and_grad(loss)(model)
        params = nnx.state(model, nnx.Param)
        nnx.update(model, jax.tree.map(lambda p, g: p - 1e-4 * g, params, grads))
        return value, grads

    model = Model(nnx.Rngs(0))
    before, grads = train(model, lengths)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))
    assert train(model, lengths)[0] < before
