"""The recurrent state of every model here: initial values and dtypes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tlstm_jax import checks
from tlstm_jax.config import Recurrent, TLSTMConfig
from tlstm_jax.typing import Array, TLSTMState


def init_state(cfg: TLSTMConfig, batch_shape: tuple[int, ...] = ()) -> TLSTMState:
    """The zero state, ``c`` and ``h`` each ``(*batch_shape, *tensor_shape, features)``.

    ``c`` is None for the tRNN. Dtypes: ``h`` has ``cfg.dtype`` (or ``param_dtype``), ``c`` the same
    but float32 at least.

    Raises:
        ValueError: ``batch_shape`` is not a tuple of non-negative integers.

    Example:
        >>> import tlstm_jax as tl
        >>> tl.init_state(tl.TLSTMConfig(features=8, tensor_shape=(3,)), (2,)).h.shape
        (2, 3, 8)
    """
    checks.check_config("cfg", cfg, TLSTMConfig)
    return zero_state(cfg, checks.check_batch_shape(batch_shape))


def zero_state(cfg: Recurrent, batch_shape: tuple[int, ...]) -> TLSTMState:
    """:func:`init_state` for any recurrent model here."""
    shape = (*batch_shape, *cfg.tensor_shape, cfg.features)
    h = jnp.zeros(shape, cfg.hidden_dtype)
    return TLSTMState(None if cfg.cell == "rnn" else jnp.zeros(shape, cfg.memory_dtype(h.dtype)), h)


def start_state(state: TLSTMState | None, x: Array, batch_shape: tuple[int, ...], cfg: Recurrent) -> TLSTMState:
    """The state to begin from, zeros for None, with H in the computation dtype and C in the memory cell's."""
    state = zero_state(cfg, batch_shape) if state is None else state
    dtype = cfg.computation_dtype(x)
    c = None if state.c is None else state.c.astype(cfg.memory_dtype(dtype))
    return TLSTMState(c, state.h.astype(dtype))


def keep_dtypes(state: TLSTMState, given: TLSTMState | None) -> TLSTMState:
    """``state`` with the dtypes of the state that was given, if one was: the carry of a scan must not change type."""
    return state if given is None else jax.tree.map(lambda new, old: new.astype(old.dtype), state, given)
