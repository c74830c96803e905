"""The tLSTM on inputs: one timestep (:func:`step`) or whole sequences with the output delay (:func:`unroll`)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from jax import export
from jax.sharding import PartitionSpec

from tlstm_jax import cell, checks, layout, parameters, sharding
from tlstm_jax import state as states
from tlstm_jax.config import Recurrent, TLSTMConfig
from tlstm_jax.fused import fused_span
from tlstm_jax.layout import Layout
from tlstm_jax.options import Implementation, Options
from tlstm_jax.scan import Span, run, scan_span
from tlstm_jax.typing import Array, Bool, Float, Inputs, Lengths, Outputs, Params, TLSTMState


def unroll(
    params: Params,
    xs: Float[Array, "*bt r"],
    cfg: TLSTMConfig,
    *,
    initial_state: TLSTMState | None = None,
    seq_lengths: Lengths | None = None,
    reset: Bool[Array, "*bt"] | None = None,
    time_major: bool = False,
    aligned: bool = True,
    reverse: bool = False,
    keep_order: bool = False,
    unroll: int | bool | None = None,
    remat: int | bool = False,
    implementation: Implementation = "auto",
) -> tuple[TLSTMState, Float[Array, "*bt m"]]:
    """Runs a tLSTM over sequences, with its output delay handled (eqs. 8, 23).

    With ``aligned=True``, L - 1 timesteps of zero inputs are run after the T real ones, and
    ``ys[t]`` is h at the output corner of timestep t + L - 1: it sees x_0 .. x_t and nothing later
    (except with layer normalization, whose statistics span all locations: there ``ys[t]`` also
    depends on the next L - 1 inputs). With ``aligned=False`` no further timesteps are run and
    ``ys[t]`` is the corner of timestep t itself, the output for input t - L + 1; use it for
    truncated backpropagation and streaming.

    Args:
        params: as from :func:`init_params`.
        xs: ``(*batch, T, R)``, or ``(T, *batch, R)`` with ``time_major``; floating point.
        cfg: the model.
        initial_state: the state before the first input; zeros, or the learned carry, by default. The returned
            state has its dtypes, so that it can be the carry of a scan over chunks.
        seq_lengths: ``(*batch,)`` integers in 0..T, the length of each right-padded row. Outputs
            beyond it are zero, and the row's state is the one after its last input; a row of length
            0 keeps its initial state. What the padding holds has no influence. Values outside 0..T
            are refused where they are known; traced ones (arguments of ``jit``, ``vmap``, ``grad``) are clipped.
        reset: ``(*batch, T)`` booleans (time-major with ``time_major``): the row's state is
            reset to zeros, or to the learned carry, before that input, so what follows equals a fresh
            sequence. The outputs for the last L - 1 inputs before a reset have not reached the output
            corner yet and are lost; with ``aligned=True`` they are zero. (Each chunk flushes its own
            outputs, so a reset at the start of the next chunk does not discard them.)
        time_major: time is the first axis of ``xs``, ``reset`` and the outputs.
        aligned: see above.
        reverse: run from the last input to the first; outputs come in that order. With ``seq_lengths``
            each row is reversed within its own length, and with ``reset`` each of its sequences ends
            where another begins, so that none sees another.
        keep_order: with ``reverse``, outputs in the order of the inputs.
        unroll: timesteps in one iteration of the scan, as in ``jax.lax.scan``; larger values launch fewer kernels on a
            GPU but take longer to compile. None is 1 with the reference implementation; with the fused one it chooses
            by platform (see :class:`Fused`).
        remat: True to rematerialize every timestep in the backward pass, or a number of timesteps
            for each rematerialized chunk: memory for T / n states and n timesteps' residuals (the least
            for n near sqrt(T)).
        implementation: ``"fused"`` has a custom derivative (:mod:`tlstm_jax.fused`), for speed and memory,
            with its options chosen by platform, or given as ``Fused(..)``; ``"reference"`` leaves the derivative of
            a plain scan to JAX, and is what forward-mode derivatives need. ``"auto"`` is ``"fused"``.

    Returns:
        The state after the real inputs (without the flush), so that chunks chain exactly, and the
        outputs, ``(*batch, T, M)`` or ``(T, *batch, M)``, in the computation dtype.

    Raises:
        ValueError: a shape, a dtype, a length or an option does not fit; the message names it.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, tlstm_jax as tl
        >>> cfg = tl.TLSTMConfig(features=8, tensor_shape=(3, 3))
        >>> params = tl.init_params(jax.random.key(0), 5, cfg)
        >>> xs = jax.random.normal(jax.random.key(1), (2, 10, 5))
        >>> state, ys = tl.unroll(params, xs, cfg)
        >>> ys.shape
        (2, 10, 8)

        A sequence in chunks, the state carried across, gives the same:

        >>> middle, first = tl.unroll(params, xs[:, :4], cfg)
        >>> end, second = tl.unroll(params, xs[:, 4:], cfg, initial_state=middle)
        >>> np.allclose(jnp.concatenate([first, second], axis=1), ys, atol=1e-6)
        True
    """
    options = Options(time_major, aligned, reverse, keep_order, unroll, remat, implementation)
    return call(params, xs, cfg, initial_state, seq_lengths, reset, options)


def call(
    params: Params,
    xs: Any,
    cfg: TLSTMConfig,
    initial_state: Any,
    seq_lengths: Any,
    reset: Any,
    options: Options,
    names: tuple[str, str] = ("xs", "initial_state"),
) -> tuple[TLSTMState, Array]:
    """:func:`unroll` with its options in one object; ``names`` are the caller's for ``xs`` and ``initial_state``."""
    checks.check_config("cfg", cfg, TLSTMConfig)
    arguments = check_arguments(params, xs, cfg, initial_state, seq_lengths, reset, options, names)
    return compiled(_run, cfg, options, *arguments)


def check_arguments(
    params: Params,
    xs: Any,
    cfg: Recurrent,
    initial_state: Any,
    seq_lengths: Any,
    reset: Any,
    options: Options,
    names: tuple[str, str],
) -> tuple[Params, Array, TLSTMState | None, Array | None, Array | None]:
    """``params``, ``xs``, ``initial_state``, ``seq_lengths`` and ``reset``, checked; the last three may be None."""
    params = checks.check_params(params, cfg)
    xs = checks.check_inputs(names[0], xs, params, time_axes=1, time_major=options.time_major)
    sizes = Layout.of(xs.shape, options.time_major)
    _check_unroll(options, sizes.num_steps)
    seq_lengths, reset = checks.check_sequences(seq_lengths, reset, sizes)
    if initial_state is not None:
        initial_state = checks.check_state(names[1], initial_state, sizes.batch_shape, cfg)
    return params, xs, initial_state, seq_lengths, reset


def _check_unroll(options: Options, num_steps: int) -> None:
    """A scan over a symbolic number of timesteps has one in each iteration; ``remat`` makes chunks of fixed size."""
    several = options.unroll is True or int(options.unroll or 1) > 1
    if several and not options.remat and export.is_symbolic_dim(num_steps):
        raise ValueError(
            f"unroll={options.unroll} needs a fixed number of timesteps, got a symbolic one, {num_steps}: "
            "pass unroll=1 or None, remat=n for chunks of n timesteps, or export for a fixed T."
        )


@functools.partial(jax.jit, static_argnames=("run", "cfg", "options"))
def compiled(
    run: Callable[..., tuple[TLSTMState, Array]],
    cfg: Recurrent,
    options: Options,
    params: Params,
    xs: Array,
    initial_state: TLSTMState | None,
    *sequences: Array | None,
) -> tuple[TLSTMState, Array]:
    """``run(cfg, options, params, xs, initial_state, *sequences)``, a model's unroll, compiled and on any mesh."""
    here = functools.partial(run, cfg, options)
    specs = functools.partial(out_specs, xs, initial_state, cfg, options)
    return sharding.call(here, params, xs, initial_state, *sequences, out_specs=specs)


def out_specs(xs: Array, initial_state: TLSTMState | None, cfg: Recurrent, options: Options) -> Any:
    """The specs of the state and the outputs of an unroll on a mesh with explicit axes.

    The outputs are divided as the inputs, along time and batch. The state is divided as the given state, since it may
    be the carry of a scan; without a given state, along the batch.
    """
    *axes, _ = sharding.spec(xs)
    batch = axes[1:] if options.time_major else axes[:-1]
    return sharding.state_spec(initial_state, tuple(batch), states.zero_state(cfg, ())), PartitionSpec(*axes)


def _run(
    cfg: TLSTMConfig,
    options: Options,
    params: Params,
    xs: Array,
    initial_state: TLSTMState | None,
    seq_lengths: Array | None,
    reset: Array | None,
) -> tuple[TLSTMState, Array]:
    batch_shape = Layout.of(xs.shape, options.time_major).batch_shape
    state = layout.to_locations_major(states.start_state(params, initial_state, xs, batch_shape, cfg), batch_shape)
    cast = parameters.cast_params(params, xs, cfg)
    fresh = states.reset_state(params, xs, cfg)

    def step(state: TLSTMState, projected: Array) -> tuple[TLSTMState, Array]:
        state = cell.timestep(cast, state, projected, cfg)
        return state, cell.output(state.h, cfg)

    if options.fused is None:
        span: Span[TLSTMState] = functools.partial(scan_span, step, options.unroll, fresh=fresh)
    else:
        span = fused_span(params, cfg, options.fused, options.unroll, fresh)
    state, ys = run(
        functools.partial(cell.project, cast, precision=cfg.precision),
        span,
        state,
        xs,
        seq_lengths,
        reset,
        options,
        delay=cfg.delay,
    )
    return states.keep_dtypes(layout.to_batch_major(state, batch_shape), initial_state), ys


def step(params: Params, state: TLSTMState, x: Inputs, cfg: TLSTMConfig) -> tuple[TLSTMState, Outputs]:
    """One timestep (eqs. 14-19), the streaming interface.

    The k-th output answers input k - L + 1, L being ``cfg.depth``: the first L - 1 outputs answer
    nothing yet. Whatever the depth, a step is one timestep: its work grows with the number of locations, but not the
    sequential part of that work. The state keeps its dtypes.

    Args:
        params: as from :func:`init_params`.
        state: as from :func:`init_state` or an earlier step.
        x: ``(*batch, R)``, floating point.
        cfg: the model.

    Returns:
        The state after this timestep and h at the output corner of this timestep, ``(*batch, M)``.

    Raises:
        ValueError: shapes or dtypes disagree with ``cfg``; the message names them.

    Example: on a stream, the outputs are those of the whole sequence, L - 1 steps late.
        >>> import jax, numpy as np, tlstm_jax as tl
        >>> cfg = tl.TLSTMConfig(features=8, tensor_shape=(3,))
        >>> params = tl.init_params(jax.random.key(0), 5, cfg)
        >>> xs = jax.random.normal(jax.random.key(1), (7, 5))
        >>> state, outputs = tl.init_state(cfg), []
        >>> for x in xs:  # each costs one timestep, at any depth
        ...     state, y = tl.step(params, state, x, cfg)
        ...     outputs.append(y)
        >>> _, ys = tl.unroll(params, xs, cfg)
        >>> np.allclose(outputs[cfg.depth - 1 :], ys[: 7 - (cfg.depth - 1)], atol=1e-6)
        True
    """
    return step_call(params, state, x, cfg)


def step_call(
    params: Params, state: Any, x: Any, cfg: TLSTMConfig, names: tuple[str, str] = ("x", "state")
) -> tuple[TLSTMState, Array]:
    """:func:`step`; ``names`` are the caller's for ``x`` and ``state``."""
    params = checks.check_params(params, checks.check_config("cfg", cfg, TLSTMConfig))
    x = checks.check_inputs(names[0], x, params, time_axes=0)
    state = checks.check_state(names[1], state, x.shape[:-1], cfg)
    return _step(params, state, x, cfg)


@functools.partial(jax.jit, static_argnames="cfg")
def _step(params: Params, state: TLSTMState, x: Array, cfg: TLSTMConfig) -> tuple[TLSTMState, Array]:
    def out_specs() -> Any:
        batch = sharding.spec(x)[:-1]
        return sharding.state_spec(state, batch, state), PartitionSpec(*batch)

    return sharding.call(functools.partial(_timestep, cfg), params, state, x, out_specs=out_specs)


def _timestep(cfg: TLSTMConfig, params: Params, state: TLSTMState, x: Array) -> tuple[TLSTMState, Array]:
    batch_shape = x.shape[:-1]
    params = parameters.cast_params(params, x, cfg)
    projected = cell.project(params, x.reshape(math.prod(batch_shape), x.shape[-1]), cfg.precision)
    inner = layout.to_locations_major(states.start_state(params, state, x, batch_shape, cfg), batch_shape)
    inner = cell.timestep(params, inner, projected, cfg)
    y = cell.output(inner.h, cfg).reshape(*batch_shape, cfg.features)
    return states.keep_dtypes(layout.to_batch_major(inner, batch_shape), state), y
