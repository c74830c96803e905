"""Tensorized LSTMs in JAX (He et al., NIPS 2017).

Recurrent layers in which width costs no kernel parameters, and depth costs a delay instead of sequential work.
"""

from tlstm_jax import inspect, linen, nnx, stacked
from tlstm_jax.config import TLSTMConfig
from tlstm_jax.options import Fused
from tlstm_jax.parameters import init_params
from tlstm_jax.resizing import resize
from tlstm_jax.state import init_state
from tlstm_jax.typing import TLSTMState
from tlstm_jax.unrolling import step, unroll

__version__ = "0.2.0"

__all__ = [
    "Fused",
    "TLSTMConfig",
    "TLSTMState",
    "init_params",
    "init_state",
    "inspect",
    "linen",
    "nnx",
    "resize",
    "stacked",
    "step",
    "unroll",
]
