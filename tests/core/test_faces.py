"""The same parameters in the pure functions, linen and nnx give the same numbers, bit for bit."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, serialization

import tlstm_jax as tl
from tests.core.variants import load, pure_dict, same, signature
from tlstm_jax import stacked

R, M, T = 2, 3, 4
XS = jnp.asarray(np.random.RandomState(0).normal(size=(2, T, R)), jnp.float32)
LENGTHS = jnp.array([4, 2])
RESET = jnp.array([[0, 0, 1, 0], [0, 1, 0, 0]], bool)


def tlstm(tensor_shape, **options):
    cfg = tl.TLSTMConfig(features=M, tensor_shape=tensor_shape, **options)
    return (
        lambda key: tl.init_params(key, R, cfg),
        lambda params, xs, **kw: tl.unroll(params, xs, cfg, **kw),
        tl.linen.TLSTM(cfg, return_carry=True),
        lambda rngs: tl.nnx.TLSTM(R, cfg, return_carry=True, rngs=rngs),
    )


def slstm(**options):
    cfg = stacked.StackedLSTMConfig(features=M, num_layers=2, **options)
    return (
        lambda key: stacked.init_params(key, R, cfg),
        lambda params, xs, **kw: stacked.unroll(params, xs, cfg, **kw),
        tl.linen.StackedLSTM(M, 2, return_carry=True, **options),
        lambda rngs: tl.nnx.StackedLSTM(R, M, 2, return_carry=True, rngs=rngs, **options),
    )


APIS = {
    "2D": tlstm((3,)),
    "2D-M": tlstm((3,), memory_conv=False, norm=None),
    "2D-F": tlstm((2,), kernel_size=2, norm=None),
    "3D-LN": tlstm((2, 2), norm="layer"),
    "3D-mixed": tlstm((2, 4), kernel_size=(3, 4), memory_conv=False),
    "tRNN": tlstm((3,), cell="rnn", norm=None),
    "tRNN-CN": tlstm((2, 2), cell="rnn"),
    "bfloat16": tlstm((2,), dtype=jnp.bfloat16),
    "sLSTM": slstm(),
    "sLSTM-unshared": slstm(shared=False, forget_bias=2.0),
}


@pytest.fixture(params=APIS)
def apis(request):
    return APIS[request.param]


def checkpointed(params, seed=0):
    """The tree with random values, written to bytes and read back, as a checkpoint library does."""
    rng = np.random.RandomState(seed)
    lively = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(p.dtype) * 0.7, params)
    return serialization.msgpack_restore(serialization.msgpack_serialize(lively))


def test_one_tree(apis):
    init, _, linen, make_nnx = apis
    expected = signature(init(jax.random.key(0)))
    assert type(expected) is dict
    assert signature(linen.init(jax.random.key(1), XS)["params"]) == expected
    assert signature(pure_dict(make_nnx(nnx.Rngs(2)))) == expected


def test_one_checkpoint_serves_all(apis):
    init, unroll, linen, make_nnx = apis
    params = checkpointed(init(jax.random.key(0)))
    layer = make_nnx(nnx.Rngs(5))
    untouched = layer(XS)[1]
    load(layer, params)
    params = jax.tree.map(jnp.asarray, params)
    arguments = {"seq_lengths": LENGTHS, "reset": RESET}

    pure = unroll(params, XS, **arguments)
    assert np.abs(pure[1].astype(jnp.float32)).max() > 0.05
    assert not np.array_equal(unroll(params, XS)[1], untouched)
    same(linen.apply({"params": params}, XS, **arguments), pure)
    same(layer(XS, **arguments), pure)
    # the parameters of the module are those of the checkpoint
    same(pure_dict(layer), params)
    same(unroll(pure_dict(layer), XS, **arguments), pure)


@pytest.mark.parametrize("name", ["2D", "tRNN-CN", "sLSTM-unshared"])
def test_gradients_agree(name):
    init, unroll, linen, make_nnx = APIS[name]
    params = jax.tree.map(jnp.asarray, checkpointed(init(jax.random.key(0))))
    layer = make_nnx(nnx.Rngs(5))
    load(layer, params)

    def loss(result):
        return (result[1] ** 2).sum() + result[0].h.sum()

    pure = jax.grad(lambda params: loss(unroll(params, XS)))(params)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(pure))
    same(jax.grad(lambda params: loss(linen.apply({"params": params}, XS)))(params), pure)
    same(nnx.to_pure_dict(nnx.grad(lambda layer: loss(layer(XS)))(layer)), pure)


def test_cells_agree():
    cfg = tl.TLSTMConfig(features=M, tensor_shape=(2, 2))
    params = jax.tree.map(jnp.asarray, checkpointed(tl.init_params(jax.random.key(0), R, cfg)))
    cell = tl.nnx.TLSTMCell(R, cfg, rngs=nnx.Rngs(0))
    assert signature(pure_dict(cell)) == signature(params)
    load(cell, params)
    carry = tl.unroll(params, XS, cfg)[0]
    pure = tl.step(params, carry, XS[:, 0], cfg)
    same(tl.linen.TLSTMCell(cfg).apply({"params": params}, carry, XS[:, 0]), pure)
    same(cell(carry, XS[:, 0]), pure)


def test_a_carry_passes_between_apis():
    """The state returned by one API can be the initial state in another."""
    _, unroll, linen, make_nnx = APIS["2D"]
    layer = make_nnx(nnx.Rngs(5))
    params = pure_dict(layer)
    carry, _ = layer(XS)
    first = unroll(params, XS, initial_state=carry)
    same(linen.apply({"params": params}, XS, initial_carry=carry), first)
    same(layer(XS, initial_carry=unroll(params, XS)[0]), first)


@pytest.mark.parametrize("module", [tl, tl.linen, tl.nnx, tl.inspect, stacked], ids=lambda module: module.__name__)
def test_every_public_name_has_an_example(module):
    public = {name: getattr(module, name) for name in module.__all__}
    documented = {name: value.__doc__ for name, value in public.items() if not inspect.ismodule(value)}
    assert documented
    assert not [name for name, doc in documented.items() if ">>>" not in doc]
