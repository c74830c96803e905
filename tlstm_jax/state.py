"""The recurrent state of every model of this package: initial values and dtypes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import meta

from tlstm_jax import checks, sharding
from tlstm_jax.config import Recurrent, TLSTMConfig
from tlstm_jax.layout import to_locations_major
from tlstm_jax.typing import Array, Params, TLSTMState


def init_state(cfg: TLSTMConfig, batch_shape: tuple[int, ...] = (), params: Params | None = None) -> TLSTMState:
    """The initial state: zeros, or the learned carry of ``params``, for every row of the batch.

    Args:
        cfg: the model.
        batch_shape: shape of the batch, maybe of several dimensions; ``()`` is a single row.
        params: parameters, as from :func:`init_params`; needed with ``cfg.learn_carry`` only.

    Returns:
        ``c`` and ``h``, each ``(*batch_shape, *tensor_shape, features)``; ``c`` is None for the tRNN. ``h`` has dtype
        ``cfg.dtype`` (or ``cfg.param_dtype``), ``c`` the same promoted to at least float32.

    Raises:
        ValueError: ``batch_shape`` is not a tuple of non-negative integers, or ``cfg`` has a learned carry and
            ``params`` are missing or do not fit it.

    Example:
        >>> import tlstm_jax as tl
        >>> tl.init_state(tl.TLSTMConfig(features=8, tensor_shape=(3,)), (2,)).h.shape
        (2, 3, 8)
    """
    checks.check_config("cfg", cfg, TLSTMConfig)
    batch_shape = checks.check_batch_shape(batch_shape)
    if cfg.learn_carry and params is None:
        raise ValueError(
            "params must be given for the initial state of a model with learn_carry=True, got None: "
            "use init_state(cfg, batch_shape, params)."
        )
    checked = {} if params is None else checks.check_params(params, cfg)
    return learned_state(checked, batch_shape, cfg)


def zero_state(cfg: Recurrent, batch_shape: tuple[int, ...]) -> TLSTMState:
    """Zeros, for any recurrent model of this package; shapes and dtypes as in :func:`init_state`."""
    shape = (*batch_shape, *cfg.tensor_shape, cfg.features)
    h = jnp.zeros(shape, cfg.hidden_dtype)
    return TLSTMState(None if cfg.cell == "rnn" else jnp.zeros(shape, cfg.memory_dtype(h.dtype)), h)


def fresh_state(params: Params, batch_shape: tuple[int, ...], cfg: Recurrent) -> TLSTMState:
    """The state before the first input: the learned carry, in the dtype of the parameters, or zeros."""
    if not cfg.learn_carry:
        return zero_state(cfg, batch_shape)
    shape = (*batch_shape, *cfg.tensor_shape, cfg.features)
    carry = TLSTMState(params["carry"].get("c"), params["carry"]["h"])
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, shape), carry)


def learned_state(params: Params, batch_shape: tuple[int, ...], cfg: Recurrent) -> TLSTMState:
    """:func:`fresh_state` with the dtypes of :func:`zero_state`, which do not depend on the inputs.

    Nothing is shared with the parameters, so that the state can be donated.
    """
    fresh = fresh_state(params, batch_shape, cfg)
    return jax.tree.map(lambda leaf, zero: jnp.array(leaf, zero.dtype, copy=True), fresh, zero_state(cfg, ()))


def drawn_state(carry_init: Callable[..., Any], next_key: Callable[[], Array], like: TLSTMState) -> TLSTMState:
    """``carry_init(key, shape, dtype)`` for c and h, with the shapes and dtypes of ``like`` and a key for each.

    Boxes and nnx metadata of an annotated initializer are removed: a drawn carry is not a parameter.
    """

    def draw(leaf: Array) -> Any:
        drawn = meta.unbox(carry_init(next_key(), leaf.shape, leaf.dtype))
        return getattr(drawn, "raw_value", drawn)

    return jax.tree.map(draw, like)


def start_state(
    params: Params, state: TLSTMState | None, x: Array, batch_shape: tuple[int, ...], cfg: Recurrent
) -> TLSTMState:
    """``state``, or :func:`fresh_state` for None, with H in the computation dtype and C in the memory cell's.

    The result varies over the manual axes over which ``x`` varies; zeros alone would vary over none.
    """
    state = fresh_state(params, batch_shape, cfg) if state is None else state
    dtype = cfg.computation_dtype(x)
    c = None if state.c is None else state.c.astype(cfg.memory_dtype(dtype))
    state, _ = sharding.vary_alike((TLSTMState(c, state.h.astype(dtype)), x))
    return state


def reset_state(params: Params, x: Array, cfg: Recurrent) -> TLSTMState | None:
    """The state after a reset in the internal layout, ``(*p, 1, m)``: the learned carry, or None for zeros."""
    return to_locations_major(start_state(params, None, x, (1,), cfg), (1,)) if cfg.learn_carry else None


def keep_dtypes(state: TLSTMState, given: TLSTMState | None) -> TLSTMState:
    """``state`` with the dtypes of the given state, if one was: the carry of a scan must keep its dtypes."""
    return state if given is None else jax.tree.map(lambda new, old: new.astype(old.dtype), state, given)
