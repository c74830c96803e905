"""The shapes that the annotations promise, checked by jaxtyping and beartype while every variant is traced.

It runs in a separate process: the checks wrap the functions, where they would report bad input before the
package's own checks do.
"""

import subprocess
import sys

import pytest

PROGRAM = """
import itertools, sys, jax, jax.numpy as jnp
from jaxtyping import install_import_hook
with install_import_hook("tlstm_jax", "beartype.beartype"):
    import tlstm_jax as tl
    from tlstm_jax import stacked
from flax import nnx

R, T = 3, 4
batch = (2, 5)
xs = jnp.ones((*batch, T, R))
options = dict(seq_lengths=jnp.ones(batch, int), reset=jnp.zeros((*batch, T), bool), reverse=True)

def trace(init, unroll, cfg):
    params = jax.eval_shape(lambda key: init(key, R, cfg), jax.random.key(0))
    jax.eval_shape(lambda p, x: unroll(p, x, cfg), params, xs)
    state, ys = jax.eval_shape(lambda p, x: unroll(p, x, cfg, **options), params, xs)
    assert ys.shape == (*batch, T, 6) and state.h.shape == (*batch, *cfg.tensor_shape, 6)
    return params, state

traced = 0
for shape, (cell, memory_conv), norm, dtype in itertools.product(
    [(3,), (2, 2), (2, 2, 2)], [("lstm", True), ("lstm", False), ("rnn", True)],
    ["channel", "layer", None], [None, jnp.bfloat16]
):
    if dtype and norm != "channel" or len(shape) not in map(int, sys.argv[1:]):
        continue
    cfg = tl.TLSTMConfig(6, shape, 3, cell, memory_conv, norm, dtype=dtype)
    params, state = trace(tl.init_params, tl.unroll, cfg)
    jax.eval_shape(lambda p, s: tl.step(p, s, xs[..., 0, :], cfg), params, state)
    if norm == "channel":  # of the layers' own functions no shape depends on the norm
        jax.eval_shape(tl.linen.TLSTM(cfg).init_with_output, jax.random.key(0), xs)
        jax.eval_shape(lambda: tl.nnx.TLSTM(R, cfg, rngs=nnx.Rngs(0))(xs))
    plans = ("reference", tl.Fused("gates", 1, 1), tl.Fused("states", 3, 16))
    for implementation in plans if shape == (2, 2) and norm == "channel" else ():
        loss = lambda p: tl.unroll(p, xs, cfg, **options, implementation=implementation)[1].sum()
        jax.eval_shape(jax.grad(loss), params)
    traced += 1
for shared in (True, False):
    trace(stacked.init_params, stacked.unroll, stacked.StackedLSTMConfig(6, 3, shared))
try:
    tl.typing.TLSTMState
    from tlstm_jax.convolution import concatenate_input
    concatenate_input(jnp.ones((3, 2, 6)), jnp.ones((3, 6)), tl.TLSTMConfig(6, (3,)))
except Exception as error:
    assert type(error).__name__ == "TypeCheckError", error
else:
    raise SystemExit("a wrong shape went through: the checks are not on")
print("traced", traced)
"""


@pytest.mark.parametrize("ranks", [("2",), ("1", "3")], ids=["2", "1 and 3"])
def test_annotated_shapes_hold_for_every_variant(ranks):
    """For every rank of the tensor of locations."""
    result = subprocess.run([sys.executable, "-c", PROGRAM, *ranks], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.split() == ["traced", str(12 * len(ranks))]
