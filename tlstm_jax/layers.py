"""Shared by the linen and nnx layers: turns a layer's attributes and arguments into one call of ``unroll``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax import nnx

from tlstm_jax import checks
from tlstm_jax import state as states
from tlstm_jax.config import Recurrent
from tlstm_jax.layout import Layout
from tlstm_jax.options import Options
from tlstm_jax.typing import Array, Params, TLSTMState


def run(
    layer: Any,
    unroll: Callable[..., tuple[TLSTMState, Array]],
    config: Recurrent,
    params: Params,
    inputs: Any,
    initial_carry: Any,
    next_key: Callable[[], Array],
    seq_lengths: Any,
    reset: Any,
    return_carry: bool | None,
    **overrides: bool | None,
) -> Array | tuple[TLSTMState, Array]:
    """Runs a layer over sequences.

    Args:
        layer: the module, which has the options and ``carry_init`` as attributes.
        unroll: runs the model, given parameters, inputs, configuration, state, lengths, resets, options and names.
        config: the model.
        params: its parameters, maybe boxed.
        inputs: as in the layer's ``__call__``.
        initial_carry: the state before the first input, or None.
        next_key: returns the keys with which ``carry_init`` draws the initial carry.
        seq_lengths: lengths of right-padded rows, or None.
        reset: the inputs before which the state is reset, or None.
        return_carry: overrides the layer's attribute where not None.
        **overrides: options that override the layer's attributes where not None.
    """
    options = Options.of(layer, **overrides)
    return_carry = layer.return_carry if return_carry is None else checks.flag("return_carry", return_carry)
    if initial_carry is None and layer.carry_init is not None and not config.learn_carry:
        if reset is not None:
            raise ValueError(
                "reset cannot return to a carry that carry_init draws anew in every call: leave out carry_init for "
                "zeros, use learn_carry=True, for which carry_init gives the initial value, or pass an initial_carry."
            )
        params = checks.check_params(params, config)
        inputs = checks.check_inputs("inputs", inputs, params, time_axes=1, time_major=options.time_major)
        batch_shape = Layout.of(inputs.shape, options.time_major).batch_shape
        zeros = states.start_state(params, None, inputs, batch_shape, config)
        initial_carry = states.drawn_state(layer.carry_init, next_key, zeros)
    names = ("inputs", "initial_carry")
    carry, outputs = unroll(params, inputs, config, initial_carry, seq_lengths, reset, options, names)
    return (carry, outputs) if return_carry else outputs


def key_sequence(key: Array | None, name: str = "init_key") -> Callable[[], Array]:
    """A function that can be called twice, for a new key each time; None is ``jax.random.key(0)``, as in Flax.

    ``name`` is the caller's for ``key``.
    """
    if key is not None:
        checks.check_key(key, name)

    def keys() -> Iterator[Array]:  # nothing is computed unless a key is asked for
        yield from jax.random.split(jax.random.key(0) if key is None else key)

    return keys().__next__


def stream_keys(rngs: nnx.Rngs | nnx.RngStream) -> Callable[[], Array]:
    """A function that returns a new key of the stream, or of the ``carry`` stream of ``nnx.Rngs``, at every call."""
    if not isinstance(rngs, (nnx.Rngs, nnx.RngStream)):
        raise ValueError(f"rngs must be nnx.Rngs, such as nnx.Rngs(0), or an nnx.RngStream, got {type(rngs).__name__}.")
    return rngs.carry if isinstance(rngs, nnx.Rngs) else rngs
