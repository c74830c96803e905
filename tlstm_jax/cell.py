"""Parameters, state, and one timestep of the tLSTM, equation by equation (section 2 of the paper).

He, Gao, Xiao, Liu, He, Barber, "Wider and Deeper, Cheaper and Faster: Tensorized LSTMs for
Sequence Learning", NIPS 2017, https://arxiv.org/abs/1711.01577.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn.initializers import glorot_uniform, variance_scaling

from tlstm_jax import checks
from tlstm_jax.config import Recurrent, TLSTMConfig
from tlstm_jax.convolution import hidden_convolution, memory_convolution
from tlstm_jax.normalization import normalize
from tlstm_jax.typing import Array, Float, Inputs, Locations, MemoryKernels, Outputs, Params, Preactivations, TLSTMState

Groups = dict[str, Callable[[Array, int, Any], Params]]
"""For each parameter group, ``init(key, in_features, cfg)``."""


def init_params(key: Array, in_features: int, cfg: TLSTMConfig) -> Params:
    """Initial parameters, a plain nested dict.

    ==========  =================================  ==================================================
    group       arrays                             meaning
    ==========  =================================  ==================================================
    ``input``   kernel (R, M), bias (M,)           W^x, b^x (eq. 5)
    ``hidden``  kernel (*K, M, A), bias (A,)       W^h, b^h (eqs. 6, 14); A = 4M + <K>, in the order
                                                   g, i, f, o, q, with q row-major over the offsets
    ``norm``    scale, bias (*tensor_shape, M)     gain and bias of eq. 20; absent without a norm
    ==========  =================================  ==================================================

    Without the memory-cell convolution there is no q (A = 4M); the tRNN has A = M.

    The kernels are uniform; that of ``hidden`` has variance ``cfg.kernel_scale`` / fan-in, where fan-in is <K> M.
    With the default of 1 that is Glorot's initialization taken gate by gate, each of them being a <K> M -> <K> M
    map by Glorot's count; Glorot over all the gates at once, about 0.4 for an LSTM's, counts outputs that no gate
    has. The forget gate's bias is ``cfg.forget_bias``, that of q's first offset,
    which reaches farthest towards the input, ``cfg.conveyor_bias``. That of g (of A for
    the tRNN) is uniform within 1 / sqrt(fan-in), and not 0: with zero biases a location's memory is exactly
    zero until the first input arrives, where the derivative of the norm is 1 / sqrt(epsilon) at every
    timestep, and the gradient of b^h explodes as P grows. All other biases are 0, gains 1.

    Args:
        key: a JAX PRNG key.
        in_features: R.
        cfg: the model.

    Raises:
        ValueError: ``in_features`` is not a positive integer, or ``key`` is not a key.

    Example:
        >>> import jax, tlstm_jax as tl
        >>> cfg = tl.TLSTMConfig(features=100, tensor_shape=(3, 3))
        >>> params = tl.init_params(jax.random.key(0), 5, cfg)
        >>> params["hidden"]["kernel"].shape
        (3, 3, 100, 409)
    """
    return init_groups(key, in_features, cfg, param_groups(checks.check_config("cfg", cfg, TLSTMConfig)))


def param_groups(cfg: TLSTMConfig) -> Groups:
    """The initializer of each parameter group that ``cfg`` has."""
    groups: Groups = {"input": init_input, "hidden": init_hidden}
    return groups if cfg.norm is None else {**groups, "norm": init_norm}


def init_groups(key: Array, in_features: int, cfg: Recurrent, groups: Groups) -> Params:
    """Every parameter group, each from a key of its own."""
    checks.check_key(key)
    checks.check_in_features(in_features)
    keys = jax.random.split(key, len(groups))
    return {name: init(k, in_features, cfg) for k, (name, init) in zip(keys, groups.items(), strict=True)}


def init_input(key: Array, in_features: int, cfg: Recurrent) -> Params:
    """W^x and b^x of eq. 5."""
    shapes = cfg.param_shapes(in_features)["input"]
    kernel = glorot_uniform()(key, shapes["kernel"], cfg.param_dtype)
    return {"kernel": kernel, "bias": jnp.zeros(shapes["bias"], cfg.param_dtype)}


def init_hidden(key: Array, in_features: int, cfg: TLSTMConfig) -> Params:
    """W^h and b^h of eqs. 6 and 14; see :func:`init_params`."""
    shapes = cfg.param_shapes(in_features)["hidden"]
    key_kernel, key_bias = jax.random.split(key)
    kernel = variance_scaling(cfg.kernel_scale, "fan_in", "uniform")(key_kernel, shapes["kernel"], cfg.param_dtype)
    m, bound = cfg.features, (cfg.num_offsets * cfg.features) ** -0.5
    bias = jnp.zeros(shapes["bias"], cfg.param_dtype)
    bias = bias.at[:m].set(jax.random.uniform(key_bias, (m,), cfg.param_dtype, -bound, bound))
    if cfg.cell == "lstm":
        bias = bias.at[2 * m : 3 * m].set(cfg.forget_bias)
    if cfg.has_memory_kernel:
        bias = bias.at[4 * m].set(cfg.conveyor_bias)  # q's first offset, -floor(K/2) in every dimension
    return {"kernel": kernel, "bias": bias}


def init_norm(key: Array, in_features: int, cfg: TLSTMConfig) -> Params:
    """Gain 1 and bias 0 at every location and channel (eq. 20)."""
    shapes = cfg.param_shapes(in_features)["norm"]
    return {"scale": jnp.ones(shapes["scale"], cfg.param_dtype), "bias": jnp.zeros(shapes["bias"], cfg.param_dtype)}


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


def step(params: Params, state: TLSTMState, x: Inputs, cfg: TLSTMConfig) -> tuple[TLSTMState, Outputs]:
    """One timestep (eqs. 14-19), the streaming interface.

    The k-th output answers input k - L + 1, L being ``cfg.depth``: the first L - 1 outputs answer
    nothing yet. Whatever the depth, a step is one timestep: its work grows with the locations, the
    sequential part of it does not. The state keeps its dtypes.

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
    return call(params, state, x, cfg)


def call(
    params: Params, state: Any, x: Any, cfg: TLSTMConfig, names: tuple[str, str] = ("x", "state")
) -> tuple[TLSTMState, Array]:
    """:func:`step`; ``names`` are what the caller calls ``x`` and ``state``."""
    checks.check_params(params, checks.check_config("cfg", cfg, TLSTMConfig))
    x = checks.check_inputs(names[0], x, params, time_axes=0)
    state = checks.check_state(names[1], state, x.shape[:-1], cfg)
    return _step(params, state, x, cfg)


@functools.partial(jax.jit, static_argnames="cfg")
def _step(params: Params, state: TLSTMState, x: Array, cfg: TLSTMConfig) -> tuple[TLSTMState, Array]:
    batch_shape = x.shape[:-1]
    params = cast_params(params, x, cfg)
    projected = project(params, x.reshape(math.prod(batch_shape), x.shape[-1]))
    inner = to_locations_major(start_state(state, x, batch_shape, cfg), batch_shape)
    inner = timestep(params, inner, projected, cfg)
    y = output(inner, cfg).reshape(*batch_shape, cfg.features)
    return keep_dtypes(to_batch_major(inner, batch_shape), state), y


def timestep(params: Params, state: TLSTMState, projected: Float[Array, "b m"], cfg: TLSTMConfig) -> TLSTMState:
    """H_t and C_t from H_{t-1}, C_{t-1} and the projected input, locations-major (eqs. 14-19; the tRNN's 5-7)."""
    a = preactivations(params, state, projected, cfg)
    return update(params.get("norm"), state, gates(a, cfg), cfg)


def preactivations(
    params: Params, state: TLSTMState, projected: Float[Array, "b m"], cfg: TLSTMConfig
) -> Preactivations:
    """A_t from H_{t-1} and the projected input (eqs. 5, 14; the tRNN's 6)."""
    kernel, bias = params["hidden"]["kernel"], params["hidden"]["bias"]
    return hidden_convolution(state.h, projected, kernel.reshape(-1, kernel.shape[-1]), bias, cfg)


def gates(a: Preactivations, cfg: TLSTMConfig) -> tuple[Any, ...]:
    """[G, I, F, O, Q] = [tanh(A^g), sigm(A^i), sigm(A^f), sigm(A^o), softmax(A^q)] (eq. 15).

    Q is None for tLSTM-M. The tRNN has no gates: (A,).
    """
    if cfg.cell == "rnn":
        return (a,)
    m = cfg.features
    g, i, f, o, q = jnp.split(a, (m, 2 * m, 3 * m, 4 * m), axis=-1)
    sigm = jax.nn.sigmoid
    return jnp.tanh(g), sigm(i), sigm(f), sigm(o), _softmax(q) if cfg.memory_conv else None


def _softmax(a: Float[Array, "*p b k"]) -> MemoryKernels:
    """Softmax over the few kernel offsets, one by one: a reduction would be a kernel of its own on a GPU."""
    parts = jnp.split(a, a.shape[-1], axis=-1)
    largest = jax.lax.stop_gradient(functools.reduce(jnp.maximum, parts))
    exponentials = [jnp.exp(part - largest) for part in parts]
    total = functools.reduce(jnp.add, exponentials)
    return jnp.concatenate([part / total for part in exponentials], axis=-1)


def update(
    norm_params: Params | None,
    state: TLSTMState,
    gates: tuple[Any, ...],
    cfg: TLSTMConfig,
    convolve: Callable[[Locations, MemoryKernels, TLSTMConfig], Locations] = memory_convolution,
) -> TLSTMState:
    """The new state from the old one and the gates (eqs. 16-19, 31; eqs. 10-13 without Q; the tRNN's 7)."""
    if state.c is None:  # the tRNN has no memory
        (a,) = gates
        return TLSTMState(None, jnp.tanh(norm(norm_params, a, cfg)).astype(state.h.dtype))
    g, i, f, o, q = gates
    c = state.c if q is None else convolve(state.c, q, cfg)
    c = g * i + c * f  # eq. 18; without Q, eq. 12
    h = jnp.tanh(norm(norm_params, c, cfg)) * o  # eqs. 19, 31
    return TLSTMState(c.astype(state.c.dtype), h.astype(state.h.dtype))


def norm(params: Params | None, z: Locations, cfg: TLSTMConfig) -> Locations:
    """N(z) of eq. 31, or z itself without a norm."""
    return z if params is None else normalize(z, params["scale"], params["bias"], cfg)


def project(params: Params, x: Float[Array, "*tb r"]) -> Float[Array, "*tb m"]:
    """x_t W^x + b^x (eq. 5), for any number of timesteps at once."""
    kernel, bias = params["input"]["kernel"], params["input"]["bias"]
    y = jnp.dot(x.astype(kernel.dtype), kernel, preferred_element_type=bias.dtype) + bias
    return y.astype(kernel.dtype)


def output(state: TLSTMState, cfg: TLSTMConfig) -> Float[Array, "b m"]:
    """Output corner of h, (P_1, .., P_{D-1}), eqs. 8 and 23, of a locations-major state."""
    return state.h[(-1,) * len(cfg.tensor_shape)]


def cast_params(params: Params, x: Array, cfg: Recurrent) -> Params:
    """Kernels in the computation dtype, biases and gains in the memory cell's: once, outside any loop."""
    dtype = cfg.computation_dtype(x)
    other = cfg.memory_dtype(dtype)
    return {
        group: {name: leaf.astype(dtype if name == "kernel" else other) for name, leaf in leaves.items()}
        for group, leaves in params.items()
    }


def start_state(state: TLSTMState | None, x: Array, batch_shape: tuple[int, ...], cfg: Recurrent) -> TLSTMState:
    """The state to begin from, zeros for None, with H in the computation dtype and C in the memory cell's."""
    state = zero_state(cfg, batch_shape) if state is None else state
    dtype = cfg.computation_dtype(x)
    c = None if state.c is None else state.c.astype(cfg.memory_dtype(dtype))
    return TLSTMState(c, state.h.astype(dtype))


def keep_dtypes(state: TLSTMState, given: TLSTMState | None) -> TLSTMState:
    """``state`` with the dtypes of the state that was given, if one was: the carry of a scan must not change type."""
    return state if given is None else jax.tree.map(lambda new, old: new.astype(old.dtype), state, given)


def to_locations_major(state: TLSTMState, batch_shape: tuple[int, ...]) -> TLSTMState:
    """``(*b, *p, m)`` to ``(*p, b, m)``."""

    def convert(leaf: Array) -> Array:
        flat = leaf.reshape(math.prod(batch_shape), *leaf.shape[len(batch_shape) :])
        return jnp.moveaxis(flat, 0, -2)

    return jax.tree.map(convert, state)


def to_batch_major(state: TLSTMState, batch_shape: tuple[int, ...]) -> TLSTMState:
    """``(*p, b, m)`` to ``(*b, *p, m)``."""

    def convert(leaf: Array) -> Array:
        flat = jnp.moveaxis(leaf, -2, 0)
        return flat.reshape(*batch_shape, *flat.shape[1:])

    return jax.tree.map(convert, state)
