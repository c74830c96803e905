"""The parameters of a tLSTM: one tree that the pure functions, linen and nnx share, and its initial values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn.initializers import glorot_uniform, variance_scaling

from tlstm_jax import checks
from tlstm_jax.config import Recurrent, TLSTMConfig
from tlstm_jax.typing import Array, Params

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


def cast_params(params: Params, x: Array, cfg: Recurrent) -> Params:
    """Kernels in the computation dtype, biases and gains in the memory cell's: once, outside any loop."""
    dtype = cfg.computation_dtype(x)
    other = cfg.memory_dtype(dtype)
    return {
        group: {name: leaf.astype(dtype if name == "kernel" else other) for name, leaf in leaves.items()}
        for group, leaves in params.items()
    }
