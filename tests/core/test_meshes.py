"""Meshes with explicit axes, and ``jax.shard_map``: types checked by traces, values by a few compiled runs."""

import contextlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import tlstm_jax as tl
from tests.core.variants import abstract, lively, nearly, normal
from tlstm_jax import stacked

R, M, T, B = 3, 2, 3, 4
KEY = jax.random.key(0)
CFG = tl.TLSTMConfig(M, (2,), memory_conv=False, learn_carry=True)
CONV = tl.TLSTMConfig(M, (2, 2))
STACK = stacked.StackedLSTMConfig(M, 2)
STACK_PARAMS = lively(abstract(stacked.init_params, KEY, R, STACK))
PARAMS = lively(abstract(tl.init_params, KEY, R, CFG))
XS = normal(1, (B, T, R))
STATE = lively(abstract(tl.init_state, CFG, (B,), PARAMS))
LENGTHS = jnp.array([3, 0, 2, 1])
RESET = jnp.zeros((B, T), bool).at[2, 1].set(True)
BUILT = tl.Fused("states", 2, 16, "built")
IMPLEMENTATIONS = pytest.mark.parametrize(
    "implementation",
    ["auto", "reference", pytest.param(BUILT, marks=pytest.mark.slow)],
    ids=["auto", "reference", "built"],
)


def mesh(kind=AxisType.Explicit):
    return jax.make_mesh((2, 2), ("data", "model"), axis_types=(kind, kind))


def put(tree, *spec):
    """The arrays with their last axes divided as ``spec`` says, or with a spec for all axes."""
    return jax.tree.map(lambda z: jax.device_put(z, NamedSharding(mesh(), P(*spec))), tree)


def channels(params):
    """The parameters with their last axis, channels, divided over "model"."""
    return jax.tree.map(lambda z: put(z, *[None] * (z.ndim - 1), "model"), params)


def specs(function, *arguments):
    """The sharding of every result, from a trace alone."""
    return [aval.sharding.spec for aval in jax.make_jaxpr(function)(*arguments).out_avals]


def gradient(run):
    """The sum of squares of what ``run`` returns, with the gradients."""

    def loss(*arguments):
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(run(*arguments)))

    return jax.value_and_grad(loss, argnums=(0, 1))


# Explicit axes


@IMPLEMENTATIONS
def test_unroll_on_explicit_axes(implementation):
    def run(params, xs, state):
        arguments = {"initial_state": state, "seq_lengths": LENGTHS, "reset": RESET, "implementation": implementation}
        return tl.unroll(params, xs, CFG, **arguments)

    params, xs, state = channels(PARAMS), put(XS, "data"), put(STATE, "data", None, "model")
    found = jax.jit(gradient(run))(params, xs, state)
    nearly(jax.device_get(found), jax.jit(gradient(run))(PARAMS, XS, STATE), atol=1e-5)
    kernel = found[1][0]["hidden"]["kernel"]
    assert kernel.sharding.spec == P(None, None, "model")
    assert kernel.addressable_shards[0].data.shape == (3, M, 2 * M)
    assert found[1][1].sharding.spec == P("data", None, None)


def test_results_are_divided_as_the_arguments():
    params, xs, state = channels(PARAMS), put(XS, "data"), put(STATE, "data", None, "model")
    rows, tensor = P("data", None, None), P("data", None, "model")

    def run(params, xs, state=None, **options):
        return tl.unroll(params, xs, CFG, initial_state=state, **options)

    assert specs(run, params, xs) == [rows, rows, rows]
    assert specs(run, put(PARAMS), xs, state) == [tensor, tensor, rows]
    assert specs(run, PARAMS, xs, put(STATE)) == [P(None, None, None)] * 2 + [
        rows
    ]  # the carry of a scan keeps its type
    turned = specs(lambda xs: run(params, xs, time_major=True, remat=2), jnp.swapaxes(xs, 0, 1))
    assert turned == [rows, rows, P(None, "data", None)]
    assert specs(lambda x: tl.step(params, state, x, CFG), xs[:, 0]) == [tensor, tensor, P("data", None)]
    assert specs(lambda xs: stacked.unroll(put(STACK_PARAMS), xs, STACK), xs) == [rows] * 3
    kept = specs(lambda xs: tl.inspect.record(params, xs, CFG, lambda now: now.c.mean(-1)), xs)
    assert kept == [P(None, None, None)]
    larger = tl.TLSTMConfig(M, (2, 2), memory_conv=False, learn_carry=True)
    grown = specs(lambda params: tl.resize(params, CFG, larger), params)
    assert grown == [P(None, None, "model")] * 2 + [P("model"), P(None, None, None, "model")] + [
        P("model"), P(None, "model"), P(None, None, "model"), P(None, None, "model"),
    ]  # fmt: skip


@pytest.mark.parametrize("ambient", [False, True], ids=["from the arrays", "set_mesh"])
def test_layers_and_cells_on_explicit_axes(ambient):
    def to_inputs(run):
        return specs(jax.grad(lambda xs: run(xs).sum()), put(XS, "data"))

    layer, cell = tl.linen.TLSTM(CONV), tl.linen.TLSTMCell(CONV)
    rngs = nnx.Rngs(0)
    both = nn.Bidirectional(layer, tl.linen.TLSTM(CONV))
    modules = [layer, nn.RNN(cell), both, tl.linen.StackedLSTM(M, 2)]
    variables = [lively(abstract(module.init, KEY, XS)) for module in modules]
    nnx_modules = [
        tl.nnx.TLSTM(R, CONV, rngs=rngs),
        nnx.RNN(tl.nnx.TLSTMCell(R, CONV, rngs=rngs)),
        tl.nnx.StackedLSTM(R, M, 2, rngs=rngs),
    ]
    with jax.set_mesh(mesh()) if ambient else contextlib.nullcontext():
        for module, values in zip(modules, variables, strict=True):
            assert to_inputs(lambda xs, m=module, v=values: m.apply(v, xs)) == [P("data", None, None)]
        for module in nnx_modules:
            to_xs = nnx.eval_shape(nnx.grad(lambda m, xs: m(xs).sum(), argnums=1), module, put(XS, "data"))
            assert to_xs.sharding.spec == P("data", None, None)


# shard_map


def divided(run, *arguments):
    """``gradient(run)`` inside ``shard_map``, with replicated parameters and everything else divided by rows."""

    def here(*arguments):
        loss, gradients = gradient(run)(*arguments)
        return jax.lax.psum(loss, "data"), gradients

    rows = [P("data")] * (len(arguments) - 1)
    inside = jax.shard_map(
        here, mesh=mesh(AxisType.Auto), in_specs=(P(), *rows), out_specs=(P(), (P(), P("data"))), axis_names={"data"}
    )
    return jax.jit(inside)


@IMPLEMENTATIONS
def test_unroll_in_shard_map(implementation):
    def run(params, xs, lengths, reset):
        return tl.unroll(params, xs, CFG, seq_lengths=lengths, reset=reset, implementation=implementation)

    arguments = (PARAMS, XS, LENGTHS, RESET)
    nearly(divided(run, *arguments)(*arguments), jax.jit(gradient(run))(*arguments), atol=1e-5)


def test_everything_in_shard_map():
    def traces(run, params, *rows):
        divided(run, params, *rows).trace(params, *rows)

    params = lively(abstract(tl.init_params, KEY, R, CONV))
    variables = {"params": params}
    for options in ({}, {"implementation": BUILT, "remat": 2}, {"implementation": "reference", "reverse": True}):
        traces(lambda p, xs, o=options: tl.unroll(p, xs, CONV, **o), params, XS)
    traces(lambda p, xs: tl.step(p, tl.init_state(CFG, xs.shape[:1], p), xs[:, 0], CFG), PARAMS, XS)
    traces(lambda p, xs, state: tl.unroll(p, xs, CFG, initial_state=state), PARAMS, XS, STATE)
    traces(lambda p, xs: tl.inspect.record(p, xs, CFG, lambda now: now.h), PARAMS, XS)
    traces(lambda p, xs: stacked.unroll(p, xs, STACK), STACK_PARAMS, XS)
    traces(lambda v, xs: tl.linen.TLSTM(CONV).apply(v, xs), variables, XS)
    drawn = tl.linen.TLSTM(CONV, carry_init=nn.initializers.normal())
    traces(lambda v, xs: drawn.apply(v, xs), variables, XS)
