"""A small model with parameters, a state and inputs, and every way to call it."""

import jax
import numpy as np
from flax import nnx

import tlstm_jax as tl
from tests.core.variants import abstract, lively
from tlstm_jax import stacked

B, T, R, M = 2, 4, 3, 2
KEY = jax.random.key(0)
CFG = tl.TLSTMConfig(features=M, tensor_shape=(3,))
RNN = tl.TLSTMConfig(features=M, tensor_shape=(3,), cell="rnn")
STACK = stacked.StackedLSTMConfig(M, 3)
DICT = {"features": M, "tensor_shape": (3,)}
PARAMS = lively(abstract(tl.init_params, KEY, R, CFG))
STACK_PARAMS = lively(abstract(stacked.init_params, KEY, R, STACK))
STATE = tl.init_state(CFG, (B,))
XS = np.ones((B, T, R), np.float32)
RESET = np.zeros((B, T), bool)


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


APIS = {"pure": pure, "linen": linen, "nnx": nnx_layer, "stacked": slstm}
