"""The latency of a stream: from an arriving input to the output of that timestep, one example."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import tlstm_jax as tl
from benchmarks.networks import Network, parameters, stack_config
from benchmarks.tasks import Precision, Size
from tlstm_jax import stacked


def step_calls(network: Network, size: Size, precision: Precision) -> dict[str, Callable[[], Any]]:
    """The calls to time: ``step``, the function of the library, and ``jitted step``, the same compiled by the user.

    Every call carries the state on to the next. Build and call them under the precision's ``matmul``.
    """
    params = jax.tree.map(jnp.asarray, parameters(network, size))
    x = jnp.ones((1, size.in_features))
    if network == "tlstm":
        cfg = size.config(precision.dtype)
        state = tl.init_state(cfg, (1,))
        step = functools.partial(tl.step, cfg=cfg)
    else:
        stack = stack_config(network, size, precision.dtype)
        shape = (1, stack.num_layers, stack.features)
        state = tl.TLSTMState(jnp.zeros(shape), jnp.zeros(shape, precision.dtype))
        step = functools.partial(_stack_step, stack)
    return {
        "step": _calls(step, params, state, x),
        "jitted step": _calls(jax.jit(step), params, state, x),
    }


def _stack_step(cfg: stacked.StackedLSTMConfig, params: Any, state: tl.TLSTMState, x: Any) -> tuple[tl.TLSTMState, Any]:
    state, ys = stacked.unroll(params, x[None], cfg, initial_state=state, time_major=True)
    return state, ys[0]


def _calls(step: Any, params: Any, state: tl.TLSTMState, x: Any) -> Callable[[], Any]:
    def call() -> Any:
        nonlocal state
        state, y = step(params, state, x)
        return jax.block_until_ready(y)

    call()  # which compiles
    return call
