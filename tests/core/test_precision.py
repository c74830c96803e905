"""The precision of matrix products, and implicit promotion of ranks and dtypes, which JAX can forbid."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import tlstm_jax as tl
from tests.core.rows import CFG, LENGTHS, RESET, RNN, SQUARE, XS, M, R
from tests.core.variants import nearly, refused
from tlstm_jax import stacked

KEY = jax.random.key(0)


def products(jaxpr):
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            yield eqn.params["precision"], [var.aval.shape for var in eqn.invars]
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from products(inner)


def test_precisions_that_mean_the_same_are_equal():
    highest = jax.lax.Precision.HIGHEST
    for given in ("highest", "float32", highest):
        cfg = dataclasses.replace(CFG, precision=given)
        assert cfg.precision is highest
        assert hash(cfg) == hash(dataclasses.replace(CFG, precision=highest))
    pair = dataclasses.replace(CFG, precision=["high", highest])
    assert pair.precision == (jax.lax.Precision.HIGH, highest)
    hash(pair)
    for wrong in ("fast", 3.5, ("high",), ("high", "high", "high"), ("high", None), ()):
        with refused("got", "precision must be None, a name"):
            dataclasses.replace(CFG, precision=wrong)


def test_precision_of_the_input_projection():
    precision = jax.lax.Precision.HIGHEST
    cfg = dataclasses.replace(CFG, precision="highest")
    params = tl.init_params(KEY, R, cfg)
    state = tl.init_state(cfg, XS.shape[:-2])
    for traced in (
        jax.make_jaxpr(lambda xs: tl.unroll(params, xs, cfg))(XS),
        jax.make_jaxpr(lambda xs: tl.step(params, state, xs[..., 0, :], cfg))(XS),
        jax.make_jaxpr(lambda xs: tl.inspect.record(params, xs, cfg, lambda now: now.h))(XS),
    ):
        projections = [found for found, shapes in products(traced.jaxpr) if (R, M) in shapes]
        assert projections
        assert set(projections) == {(precision, precision)}
    nearly(tl.unroll(params, XS, cfg), tl.unroll(params, XS, CFG))


@pytest.mark.parametrize("precision", ["highest", None])
def test_precision_of_every_product_of_a_stack(precision):
    cfg = stacked.StackedLSTMConfig(M, 2, precision=precision)
    params = stacked.init_params(KEY, R, cfg)

    def loss(params):
        return stacked.unroll(params, XS, cfg)[1].sum()

    found = [found for found, _ in products(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)]
    assert len(found) > 4
    assert set(found) == {None if precision is None else (jax.lax.Precision.HIGHEST,) * 2}
    with refused(r"got \('high', 'highest'\)", "the same for both operands"):
        stacked.StackedLSTMConfig(M, 2, precision=("high", "highest"))


@pytest.mark.parametrize("forbidden", ["rank", "dtype"])
def test_nothing_is_promoted_implicitly(forbidden):
    """Traced, forward and backward: promotion is a matter of types alone."""
    everything = {"seq_lengths": LENGTHS, "reset": RESET, "reverse": True, "keep_order": True}
    built, reference = {"implementation": tl.Fused("states", 2, 16, "built")}, {"implementation": "reference"}
    half = dataclasses.replace(CFG, dtype=jnp.bfloat16, memory_conv=False)
    square = dataclasses.replace(SQUARE, norm="layer", learn_carry=True)
    context = jax.numpy_rank_promotion("raise") if forbidden == "rank" else jax.numpy_dtype_promotion("strict")

    def traces(run, params):
        jax.eval_shape(jax.grad(lambda params: run(params).astype(jnp.float32).sum()), params)

    with context:
        for cfg, options in [(CFG, everything), (half, {}), (square, built | everything), (RNN, reference)]:
            params = jax.eval_shape(lambda key, cfg=cfg: tl.init_params(key, R, cfg), KEY)
            traces(lambda p, cfg=cfg, options=options: tl.unroll(p, XS, cfg, **options)[1], params)
            larger = dataclasses.replace(cfg, tensor_shape=(5,) * len(cfg.tensor_shape))
            jax.eval_shape(lambda p, cfg=cfg, larger=larger: tl.resize(p, cfg, larger), params)
        params = tl.init_params(KEY, R, CFG)
        traces(lambda p: tl.step(p, tl.init_state(CFG, (2,)), XS[0, :, 0], CFG)[1], params)
        traces(lambda p: tl.inspect.record(p, XS, CFG, lambda now: now.h), params)
        stack = stacked.StackedLSTMConfig(M, 2, learn_carry=True)
        traces(lambda p: stacked.unroll(p, XS, stack, **everything)[1], stacked.init_params(KEY, R, stack))
