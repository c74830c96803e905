"""The precision of matrix products."""

import dataclasses

import jax
import pytest

import tlstm_jax as tl
from tests.core.rows import CFG, XS, M, R
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
