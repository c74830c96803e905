"""The initial carry: learned, drawn by an initializer, or given."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import tlstm_jax as tl
from tests.core.rows import CFG, LENGTHS, RESET, XS, M, R, each_model
from tests.core.variants import abstract, lively, load, nearly, refused, same, signature
from tlstm_jax import stacked
from tlstm_jax.typing import TLSTMState

KEY = jax.random.key(0)


def ones_like(key, shape, dtype):
    return jnp.ones(shape, dtype)


# A learned initial carry


def learned(cfg=CFG, scale=1.0):
    cfg = dataclasses.replace(cfg, learn_carry=True)
    return cfg, lively(abstract(tl.init_params, KEY, R, cfg), scale=scale)


def carry_state(params, batch):
    carry = TLSTMState(params["carry"].get("c"), params["carry"]["h"])
    return jax.tree.map(lambda leaf: np.broadcast_to(leaf, (*batch, *leaf.shape)), carry)


@each_model
def test_a_learned_carry_is_where_sequences_start(cfg):
    plain, (cfg, params) = cfg, learned(cfg)
    without = {name: group for name, group in params.items() if name != "carry"}
    start = carry_state(params, XS.shape[:-2])
    arguments = {"seq_lengths": LENGTHS, "aligned": False}
    expected = tl.unroll(without, XS, plain, initial_state=start, **arguments)
    assert np.abs(np.subtract(expected[1], tl.unroll(without, XS, plain, **arguments)[1])).max() > 0.01
    same(tl.unroll(params, XS, cfg, **arguments), expected)
    same(tl.linen.TLSTM(cfg, return_carry=True).apply({"params": params}, XS, **arguments), expected)
    same(load(tl.nnx.TLSTM(R, cfg, return_carry=True, rngs=nnx.Rngs(0)), params)(XS, **arguments), expected)
    same(tl.init_state(cfg, XS.shape[:-2], params), start)
    given = jax.tree.map(jnp.zeros_like, start)
    same(tl.unroll(params, XS, cfg, initial_state=given), tl.unroll(without, XS, plain))
    recorded = tl.inspect.record(params, XS, cfg, lambda now: now.h[(..., *(-1,) * len(cfg.tensor_shape), slice(None))])
    nearly(np.moveaxis(np.asarray(recorded)[cfg.delay :], 0, 2), tl.unroll(params, XS, cfg)[1], atol=1e-4)


def test_flaxs_drivers_start_from_the_learned_carry():
    cfg, params = learned()
    expected = tl.unroll(params, XS, cfg, aligned=False)
    rnn = nn.RNN(tl.linen.TLSTMCell(cfg), return_carry=True)
    nearly(rnn.apply({"params": {"cell": params}}, XS), expected)
    fresh = abstract(rnn.init, KEY, XS)["params"]["cell"]
    assert signature(fresh) == signature(params)
    cell = load(tl.nnx.TLSTMCell(R, cfg, rngs=nnx.Rngs(0)), params)
    nearly(nnx.RNN(cell, return_carry=True)(XS), expected)
    both = nn.Bidirectional(tl.linen.TLSTM(cfg), tl.linen.TLSTM(cfg))
    variables = {"params": {"forward_rnn": params, "backward_rnn": params}}
    nearly(both.apply(variables, XS)[..., :M], tl.unroll(params, XS, cfg)[1])


def test_gradients_reach_the_learned_carry():
    cfg, params = learned()

    def loss(outputs):
        return (outputs**2).sum()

    pure = jax.jit(jax.grad(lambda p: loss(tl.unroll(p, XS, cfg)[1])))(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(pure["carry"]))
    reference = jax.jit(jax.grad(lambda p: loss(tl.unroll(p, XS, cfg, implementation="reference")[1])))(params)
    nearly(pure, reference, atol=1e-5)
    rnn = nn.RNN(tl.linen.TLSTMCell(cfg))
    driven = jax.jit(jax.grad(lambda p: loss(rnn.apply({"params": {"cell": p}}, XS))))(params)
    nearly(driven, jax.jit(jax.grad(lambda p: loss(tl.unroll(p, XS, cfg, aligned=False)[1])))(params), atol=1e-5)
    layer = load(tl.nnx.TLSTM(R, cfg, rngs=nnx.Rngs(0)), params)
    nearly(nnx.to_pure_dict(nnx.jit(nnx.grad(lambda layer: loss(layer(XS))))(layer)), pure, atol=1e-5)
    by_row = jax.grad(lambda p, xs: loss(tl.unroll(p, xs, cfg)[1]))
    mapped = jax.jit(jax.vmap(by_row, in_axes=(None, 0)))(params, XS)
    nearly(jax.tree.map(lambda leaf: np.asarray(leaf).sum(0), mapped), pure, atol=1e-5)


def test_the_learned_carry_of_a_stack():
    cfg = stacked.StackedLSTMConfig(M, 2, learn_carry=True)
    plain = dataclasses.replace(cfg, learn_carry=False)
    params = lively(abstract(stacked.init_params, KEY, R, cfg))
    without = {name: group for name, group in params.items() if name != "carry"}
    expected = stacked.unroll(without, XS, plain, initial_state=carry_state(params, XS.shape[:-2]))
    options = {"learn_carry": True, "return_carry": True}
    same(stacked.unroll(params, XS, cfg), expected)
    same(tl.linen.StackedLSTM(M, 2, **options).apply({"params": params}, XS), expected)
    same(load(tl.nnx.StackedLSTM(R, M, 2, rngs=nnx.Rngs(0), **options), params)(XS), expected)
    started = stacked.init_params(KEY, R, cfg, carry_init=ones_like)["carry"]
    same(started, tl.linen.StackedLSTM(M, 2, learn_carry=True, carry_init=ones_like).init(KEY, XS)["params"]["carry"])
    assert (started["c"] == 1).all()
    with refused("learn_carry=False", "carry_init initializes a learned carry"):
        stacked.init_params(KEY, R, plain, carry_init=ones_like)


@pytest.mark.parametrize("implementation", ["reference", "fused", "stack"])
def test_a_reset_returns_to_the_learned_carry(implementation):
    """After the reset, outputs equal those of a new sequence."""
    cfg, params = learned()
    run = lambda xs, **arguments: tl.unroll(  # noqa: E731
        params, xs, cfg, aligned=False, implementation=implementation, **arguments
    )
    if implementation == "stack":
        cfg = stacked.StackedLSTMConfig(M, 2, learn_carry=True)
        params = lively(abstract(stacked.init_params, KEY, R, cfg))
        run = lambda xs, **arguments: stacked.unroll(params, xs, cfg, **arguments)  # noqa: E731
    reset = np.zeros(XS.shape[:-1], bool)
    reset[..., 2] = True
    state, ys = jax.device_get(run(XS, reset=reset))
    nearly(ys[..., :2, :], run(XS[..., :2, :])[1])
    nearly((state, ys[..., 2:, :]), run(XS[..., 2:, :]))


def test_state_of_a_learned_carry_needs_the_parameters():
    cfg, params = learned()
    with refused("got None", "params must be given"):
        tl.init_state(cfg, (2,))
    state = tl.init_state(dataclasses.replace(cfg, dtype="bfloat16"), (2,), params)
    assert (state.h.dtype, state.c.dtype) == (jnp.bfloat16, jnp.float32)
    with refused(r"carry\.c.* missing", "expected"):
        tl.unroll(lively(abstract(tl.init_params, KEY, R, CFG)), XS, cfg)
    with refused("carry.c is .*, expected no such array", "another configuration"):
        tl.unroll(params, XS, CFG)
    with refused("learn_carry=False", "carry_init initializes a learned carry"):
        tl.init_params(KEY, R, CFG, carry_init=ones_like)


@pytest.mark.parametrize("options", [{}, {"cell": "rnn"}], ids=["lstm", "rnn"])
def test_a_state_of_a_learned_carry_can_be_donated(options):
    cfg, params = learned(dataclasses.replace(CFG, **options))
    cell = load(tl.nnx.TLSTMCell(R, cfg, rngs=nnx.Rngs(0)), params)
    bound = tl.linen.TLSTMCell(cfg).bind({"params": params})
    starts = tl.init_state(cfg, (), params), cell.initialize_carry((R,)), bound.initialize_carry(KEY, (R,))
    for start in (*starts, jax.jit(lambda p: tl.init_state(cfg, (), p))(params)):
        jax.jit(lambda state: tl.step(params, state, XS[0, 0, 0], cfg)[0], donate_argnums=0)(start)
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((params, nnx.state(cell))))
    gradient = jax.grad(lambda p: (tl.init_state(cfg, (2,), p).h * 3.0).sum())(params)["carry"]["h"]
    same(gradient, jnp.full_like(gradient, 6.0))


@pytest.mark.parametrize("tensor_shape", [(5,), (3, 3)])
def test_resizing_a_learned_carry(tensor_shape):
    cfg, params = learned()
    new = dataclasses.replace(cfg, tensor_shape=tensor_shape, kernel_size=3)
    grown = tl.resize(params, cfg, new)
    assert jax.tree.map(jnp.shape, grown) == new.param_shapes(R)
    first, last = (0,) * len(tensor_shape), (-1,) * len(tensor_shape)
    for name in ("c", "h"):
        same(grown["carry"][name][first], params["carry"][name][0])
        nearly(grown["carry"][name][last], params["carry"][name][-1])
    if len(tensor_shape) == 2:
        nearly(tl.unroll(grown, XS, new)[1], tl.unroll(params, XS, cfg)[1], atol=1e-3)
    with refused("learn_carry=True in cfg and False in new_cfg", "cfg and new_cfg must agree in learn_carry"):
        tl.resize(params, cfg, dataclasses.replace(new, learn_carry=False))


# An initial carry that is drawn, as in Flax's cells


def test_carry_init_without_a_learned_carry():
    normal_init = jax.nn.initializers.normal(1.0)
    params = lively(abstract(tl.init_params, KEY, R, CFG))
    layer = tl.linen.TLSTM(CFG, carry_init=normal_init, return_carry=True)
    cell = tl.linen.TLSTMCell(CFG, carry_init=normal_init)
    key = jax.random.key(5)
    carry = cell.initialize_carry(key, (*XS.shape[:-2], R))
    assert len(np.unique(carry.h)) == carry.h.size
    assert not np.isin(carry.c, carry.h).any()
    expected = tl.unroll(params, XS, CFG, initial_state=carry)
    same(layer.apply({"params": params}, XS, init_key=key), expected)
    time_major = layer.apply({"params": params}, np.moveaxis(XS, 2, 0), init_key=key, time_major=True)
    same((time_major[0], np.moveaxis(np.asarray(time_major[1]), 0, 2)), expected)
    same(layer.apply({"params": params}, XS), layer.apply({"params": params}, XS, init_key=jax.random.key(0)))
    nearly(
        nn.RNN(cell).apply({"params": {"cell": params}}, XS, init_key=key),
        tl.unroll(params, XS, CFG, initial_state=carry, aligned=False)[1],
    )
    module = load(tl.nnx.TLSTM(R, CFG, carry_init=normal_init, return_carry=True, rngs=nnx.Rngs(0)), params)
    cell = tl.nnx.TLSTMCell(R, CFG, carry_init=normal_init, rngs=nnx.Rngs(0))
    carry = cell.initialize_carry((*XS.shape[:-2], R), nnx.Rngs(carry=3))
    same(module(XS, rngs=nnx.Rngs(carry=3)), tl.unroll(params, XS, CFG, initial_state=carry))
    same(module(XS), layer.apply({"params": params}, XS))
    for call in (lambda: layer.apply({"params": params}, XS, reset=RESET), lambda: module(XS, reset=RESET)):
        with refused("carry_init draws anew", "learn_carry=True"):
            call()
    with refused(r"5 features", "in_features=2"):
        layer.apply({"params": params}, jnp.ones((2, 4, 5)))


def test_initial_value_of_a_learned_carry_in_an_unbound_cell():
    cell = tl.linen.TLSTMCell(features=M, tensor_shape=3, learn_carry=True)
    same(cell.initialize_carry(KEY, (4, R)), tl.init_state(CFG, (4,)))
    cfg, params = learned()
    bound = tl.linen.TLSTMCell(cfg).bind({"params": params})
    same(bound.initialize_carry(KEY, (4, R)), tl.init_state(cfg, (4,), params))
