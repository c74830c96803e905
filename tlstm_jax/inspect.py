"""Analysis of a model: its state and gates at every timestep, and how outputs depend on inputs (appendix C).

Pure functions that return arrays; ``python -m experiments.inspect`` plots them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from tlstm_jax import cell, checks, sharding
from tlstm_jax import state as states
from tlstm_jax.config import TLSTMConfig
from tlstm_jax.layout import Layout, to_locations_major
from tlstm_jax.parameters import cast_params
from tlstm_jax.typing import Array, Bool, Float, Params, TLSTMState

__all__ = ["Moment", "channel_means", "diagonal", "receptive_field", "record", "sensitivity"]


class Moment(NamedTuple):
    """State and gates of a tLSTM at one timestep.

    Attributes:
        c: memory cell C_t, ``(*batch, *tensor_shape, M)``; None for the tRNN.
        h: hidden state H_t, same shape.
        g: new content G_t (eq. 15), same shape. G, I, F, O and Q are None for the tRNN.
        i: input gate I_t, same shape.
        f: forget gate F_t, same shape.
        o: output gate O_t, same shape.
        q: memory kernels Q_t, ``(*batch, *tensor_shape, <K>)``, which sum to 1 over the offsets
            :attr:`tlstm_jax.TLSTMConfig.offsets` at each location; None without a memory-cell convolution.

    Example:
        The memory kernel at the location of the output:

        >>> import jax
        >>> import tlstm_jax as tl
        >>> cfg = tl.TLSTMConfig(features=8, tensor_shape=(3,))
        >>> params = tl.init_params(jax.random.key(0), 5, cfg)
        >>> kernels = tl.inspect.record(params, jax.numpy.ones((10, 5)), cfg, lambda now: now.q[..., -1, :])
        >>> kernels.shape, cfg.offsets
        ((12, 3), ((-1,), (0,), (1,)))
    """

    c: Array | None
    h: Array
    g: Array | None
    i: Array | None
    f: Array | None
    o: Array | None
    q: Array | None


def record(
    params: Params,
    xs: Float[Array, "*bt r"],
    cfg: TLSTMConfig,
    what: Callable[[Moment], Any],
    *,
    initial_state: TLSTMState | None = None,
    flush: bool = True,
) -> Any:
    """Runs a tLSTM and records ``what(moment)`` at every timestep.

    Args:
        params: as from :func:`tlstm_jax.init_params`.
        xs: ``(*batch, T, R)``, floating point.
        cfg: the model.
        what: function from a :class:`Moment` to the pytree of arrays to record, such as a gate or a mean.
        initial_state: the state before the first input; zeros, or the learned carry, by default.
        flush: run L - 1 more timesteps with zero inputs, in which the outputs for the last inputs arrive, as
            :func:`tlstm_jax.unroll` does with ``aligned=True``.

    Returns:
        The results of ``what``, stacked along a new first axis: T timesteps, or T + L - 1 with ``flush``.

    Raises:
        ValueError: a shape or a dtype does not fit; the message names it.

    Example: the mean memory at each location of a 2D tLSTM, and the mean forget gate.
        >>> import jax, tlstm_jax as tl
        >>> cfg = tl.TLSTMConfig(features=8, tensor_shape=(3,))
        >>> params = tl.init_params(jax.random.key(0), 5, cfg)
        >>> xs = jax.random.normal(jax.random.key(1), (2, 10, 5))
        >>> kept = tl.inspect.record(params, xs, cfg, lambda now: {"c": now.c.mean(-1), "f": now.f.mean()})
        >>> kept["c"].shape, kept["f"].shape
        ((12, 2, 3), (12,))
    """
    params = checks.check_params(params, checks.check_config("cfg", cfg, TLSTMConfig))
    xs = checks.check_inputs("xs", xs, params, time_axes=1, time_major=False)
    if initial_state is not None:
        batch_shape = Layout.of(xs.shape, time_major=False).batch_shape
        initial_state = checks.check_state("initial_state", initial_state, batch_shape, cfg)
    run = functools.partial(_record, cfg, what, checks.flag("flush", flush))
    return sharding.call(run, params, xs, initial_state, out_specs=PartitionSpec)


def _record(
    cfg: TLSTMConfig,
    what: Callable[[Moment], Any],
    flush: bool,
    params: Params,
    xs: Array,
    initial_state: TLSTMState | None,
) -> Any:
    layout = Layout.of(xs.shape, time_major=False)
    batch_shape = layout.batch_shape
    state = to_locations_major(states.start_state(params, initial_state, xs, batch_shape, cfg), batch_shape)
    params = cast_params(params, xs, cfg)
    inputs = layout.flatten(xs)
    if flush:
        inputs = jnp.pad(inputs, ((0, cfg.delay), (0, 0), (0, 0)))

    def outside(z: Array | None) -> Array | None:
        return None if z is None else jnp.moveaxis(z, -2, 0).reshape(*batch_shape, *z.shape[:-2], z.shape[-1])

    def step(state: TLSTMState, x: Array) -> tuple[TLSTMState, Any]:
        a = cell.preactivations(params, state.h, x, cfg)
        state = cell.timestep(params, state, x, cfg)
        c, h = map(outside, state)
        if cfg.cell == "rnn":
            return state, what(Moment(c, cast(Array, h), *(None,) * 5))
        *gates, q = cell.gates(cell.split(a, cfg))
        shown = map(outside, (*gates, jnp.concatenate(q, axis=-1) if q else None))
        return state, what(Moment(c, cast(Array, h), *shown))

    _, kept = jax.lax.scan(step, state, cell.project(params, inputs, cfg.precision))
    return kept


def channel_means(z: Float[Array, "*bp m"]) -> Float[Array, "*bp"]:
    """The mean over the channels at each location, as figure 6 of the paper shows it for C.

    Example:
        >>> import jax.numpy as jnp, tlstm_jax as tl
        >>> tl.inspect.channel_means(jnp.ones((2, 3, 3, 8))).shape
        (2, 3, 3)
    """
    return checks.to_array("z", z).mean(-1)


def diagonal(z: Float[Array, "*bp m"], cfg: TLSTMConfig) -> Float[Array, "*b l m"]:
    """The L locations that an input reaches first, in order, from the input's corner to the output's.

    With K = 2 or 3 these are the diagonal (1, .., 1), (2, .., 2), .. (P, .., P) of figure 6; with a larger K
    information moves floor(K/2) locations a timestep.

    Args:
        z: ``(*batch, *tensor_shape, channels)``.
        cfg: the model.

    Returns:
        ``(*batch, L, channels)``.

    Raises:
        ValueError: the tensor does not have the locations of ``cfg``.

    Example:
        >>> import jax.numpy as jnp, tlstm_jax as tl
        >>> cfg = tl.TLSTMConfig(features=1, tensor_shape=(3, 3), norm=None)
        >>> tl.inspect.diagonal(jnp.arange(9.0).reshape(3, 3, 1), cfg)[:, 0].tolist()
        [0.0, 4.0, 8.0]
    """
    tensor: Any = checks.to_array("z", z)
    dims = len(checks.check_config("cfg", cfg, TLSTMConfig).tensor_shape)
    if tensor.ndim <= dims or tensor.shape[-1 - dims : -1] != cfg.tensor_shape:
        expected = f"(*batch, *tensor_shape, channels) with tensor_shape {cfg.tensor_shape}"
        raise ValueError(f"z must be {expected}, got {tensor.shape}.")
    fronts = np.arange(1, cfg.depth + 1)
    sizes = zip(cfg.tensor_shape, cfg.kernel_shape, strict=True)
    return tensor[(..., *(np.minimum(fronts * (k // 2), p) - 1 for p, k in sizes), slice(None))]


def sensitivity(layer: Callable[[Array], Array], xs: Float[Array, "t r"], timestep: Any) -> Float[Array, "*n t"]:
    """The dependence of an output on each input: the Frobenius norm of the Jacobian d y_timestep / d x_s for all s.

    As a function of the lag ``timestep - s`` it shows how far memory reaches (appendix C). An output of
    ``unroll(.., aligned=True)`` depends on the inputs up to its own timestep. With ``aligned=False`` it depends on
    inputs that are L - 1 timesteps older, the delay of eq. 9. :func:`receptive_field` predicts which inputs these are.

    Args:
        layer: function from a sequence ``(T, R)`` to outputs ``(T, M)``; need not be a tLSTM.
        xs: the sequence.
        timestep: the timestep of the output, counted from 0, or an array of timesteps. Outputs are differentiated one
            at a time to bound the memory, with one compilation.

    Returns:
        ``(*timestep.shape, T)``, so ``(T,)`` for a single timestep.

    Raises:
        ValueError: ``xs`` is not a single sequence, ``timestep`` is out of range, or ``layer`` returns something else.

    Example:
        >>> import jax, numpy as np, tlstm_jax as tl
        >>> cfg = tl.TLSTMConfig(features=8, tensor_shape=(3,))
        >>> params = tl.init_params(jax.random.key(0), 5, cfg)
        >>> xs = jax.random.normal(jax.random.key(1), (10, 5))
        >>> norms = tl.inspect.sensitivity(lambda xs: tl.unroll(params, xs, cfg, aligned=False)[1], xs, 6)
        >>> np.array_equal(norms > 0, tl.inspect.receptive_field(cfg, 10, 6, aligned=False))
        True
    """
    xs = checks.check_array("xs", xs)
    if xs.ndim != 2:
        raise ValueError(f"xs must be one sequence, (T, R), got shape {xs.shape}: pass one row, or use jax.vmap.")
    timesteps = _check_timestep(timestep, len(xs))
    ys = jax.eval_shape(layer, xs)
    if len(getattr(ys, "shape", ())) != 2 or ys.shape[0] < len(xs):
        given = f"shape {ys.shape}" if hasattr(ys, "shape") else f"a {type(ys).__name__}"
        raise ValueError(f"layer must return outputs (T, M) with T = {len(xs)}, as unroll(..)[1] is, got {given}.")

    def norms(t: Array) -> Array:
        jacobian = jax.jacrev(lambda xs: layer(xs)[t])(xs)
        return jnp.sqrt((jacobian.astype(jnp.promote_types(jacobian.dtype, jnp.float32)) ** 2).sum((0, 2)))

    return jax.lax.map(norms, timesteps.ravel()).reshape(*timesteps.shape, len(xs))


def receptive_field(cfg: TLSTMConfig, num_timesteps: int, timestep: Any, *, aligned: bool = True) -> Bool[Any, "*n t"]:
    """Which inputs an output depends on, according to eq. 9.

    Information takes L timesteps from the input's corner to the output's, counting both. With layer normalization,
    whose statistics span all locations, outputs depend on every input so far.

    Args:
        cfg: the model.
        num_timesteps: T.
        timestep: the timestep of the output, counted from 0, or an array of timesteps.
        aligned: as in :func:`tlstm_jax.unroll`.

    Returns:
        ``(*timestep.shape, T)`` booleans, a numpy array.

    Raises:
        ValueError: ``timestep`` is out of range, or ``cfg`` or another argument has an invalid value.

    Example: with a depth of 3, the unaligned output at timestep 6 answers input 4.
        >>> import numpy as np, tlstm_jax as tl
        >>> cfg = tl.TLSTMConfig(features=8, tensor_shape=(3,))
        >>> np.flatnonzero(tl.inspect.receptive_field(cfg, 10, 6, aligned=False)).tolist()
        [0, 1, 2, 3, 4]
    """
    checks.check_config("cfg", cfg, TLSTMConfig)
    num_timesteps, aligned = checks.positive_size("num_timesteps", num_timesteps), checks.flag("aligned", aligned)
    answered = _check_timestep(timestep, num_timesteps) - (0 if aligned else cfg.delay)
    last = answered + cfg.delay if cfg.norm == "layer" else answered
    return np.arange(num_timesteps) <= last[..., None]


def _check_timestep(timestep: Any, num_timesteps: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    found = np.asarray(timestep)
    if not np.issubdtype(found.dtype, np.integer):
        raise ValueError(f"timestep must be an integer, or an array of integers, got {timestep!r}.")
    for number in found.ravel().tolist():
        if not 0 <= number < num_timesteps:
            raise ValueError(f"timestep must be in 0..{num_timesteps - 1}, got {number}.")
    return found.astype(np.int64)
