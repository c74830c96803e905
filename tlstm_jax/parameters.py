"""The parameters of a tLSTM: one tree that the pure functions, linen and nnx share, and its initial values."""

from __future__ import annotations

import dataclasses
import functools
import reprlib
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn.initializers import glorot_uniform, variance_scaling, zeros

from tlstm_jax import checks
from tlstm_jax.biases import default_bias_init
from tlstm_jax.config import DEFAULTS, Recurrent, TLSTMConfig
from tlstm_jax.typing import Array, Params

Initializer = Callable[..., Any]
"""``init(key, shape, dtype)``, as in ``jax.nn.initializers`` and ``flax.linen.initializers``."""

Groups = dict[str, Callable[[Array, int], Params]]
"""For each parameter group, ``init(key, in_features)``."""


@dataclasses.dataclass(frozen=True)
class Initializers:
    """The initializers of a recurrent model, named as in Flax's cells; None is the model's default.

    Each is called as ``init(key, shape, dtype)`` and may return a boxed array, as those of
    ``flax.linen.with_partitioning`` do.

    Raises:
        ValueError: an initializer is not callable.
    """

    kernel_init: Initializer | None = None
    recurrent_kernel_init: Initializer | None = None
    bias_init: Initializer | None = None
    carry_init: Initializer | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not callable(value):
                raise ValueError(
                    f"{name} must be an initializer, init(key, shape, dtype), such as jax.nn.initializers.zeros, "
                    f"got {reprlib.repr(value)}."
                )

    @classmethod
    def of(cls, layer: Any) -> Initializers:
        """The initializers that a Flax layer has as attributes."""
        return cls(**{field.name: getattr(layer, field.name) for field in dataclasses.fields(cls)})


REPLACED = {"recurrent_kernel_init": ("kernel_scale",), "bias_init": ("forget_bias", "conveyor_bias", "time_scale")}
"""For each initializer, the fields of :class:`tlstm_jax.TLSTMConfig` that its default reads."""


def check_initializers(initializers: Initializers, cfg: TLSTMConfig, given: Collection[str] = ()) -> Initializers:
    """``initializers``, after a check that none of them replaces a field of ``cfg`` that is given.

    Args:
        initializers: as given.
        cfg: the model.
        given: fields of ``cfg`` known to be given; others count as given where they differ from their default.
    """
    for init, knobs in REPLACED.items():
        for knob in knobs if getattr(initializers, init) is not None else ():
            if knob in given or getattr(cfg, knob) != DEFAULTS[knob]:
                raise ValueError(
                    f"{init} replaces {knob}, got both {init} and {knob}={getattr(cfg, knob)!r}: leave {knob} unset, "
                    f"or leave out {init}."
                )
    return initializers


def check_carry_init(initializers: Initializers, cfg: Recurrent) -> Initializers:
    """``initializers``, whose ``carry_init`` must have a learned carry to initialize."""
    if initializers.carry_init is not None and not cfg.learn_carry:
        raise ValueError(
            "carry_init initializes a learned carry, got a configuration with learn_carry=False: use "
            "dataclasses.replace(cfg, learn_carry=True), or pass an initial state to unroll."
        )
    return initializers


def init_params(
    key: Array,
    in_features: int,
    cfg: TLSTMConfig,
    *,
    kernel_init: Initializer | None = None,
    recurrent_kernel_init: Initializer | None = None,
    bias_init: Initializer | None = None,
    carry_init: Initializer | None = None,
) -> Params:
    """Initializes parameters as a plain nested dict.

    ==========  =================================  ==================================================
    group       arrays                             meaning
    ==========  =================================  ==================================================
    ``input``   kernel (R, M), bias (M,)           W^x, b^x (eq. 5)
    ``hidden``  kernel (*K, M, A), bias (A,)       W^h, b^h (eqs. 6, 14); A = 4M + <K>, in the order
                                                   g, i, f, o, q, with q row-major over the offsets
    ``norm``    scale, bias (*tensor_shape, M)     gain and bias of eq. 20; absent without a norm
    ``carry``   c, h (*tensor_shape, M)            C_0, H_0; only with ``cfg.learn_carry``
    ==========  =================================  ==================================================

    Without the memory-cell convolution there is no q (A = 4M); the tRNN has A = M and no c.

    The kernels are uniform. The variance of the recurrent kernel is ``cfg.kernel_scale`` / fan-in, where the
    fan-in is <K> M. The default of 1 is Glorot's initialization of each gate separately, with fan-in and fan-out <K> M;
    Glorot's initialization of all gates at once (a scale of about 0.4 for an LSTM) would also count the outputs of the
    other gates. The initial bias of the forget gate is ``cfg.forget_bias``, and that of q's first offset, the one
    farthest towards the input, is ``cfg.conveyor_bias``; alternatively, ``cfg.time_scale`` sets the biases of the input
    gate, the forget gate and q (see :class:`tlstm_jax.TLSTMConfig`). The bias of g (of A for the tRNN) is uniform
    within 1 / sqrt(fan-in) rather than 0: with zero biases, the memory of a location is exactly zero until the first
    input reaches it, and the derivative of the norm at zero is 1 / sqrt(epsilon) at every timestep, so that the
    gradient of b^h explodes as P grows. All other biases are 0 and gains 1.

    Args:
        key: a JAX PRNG key.
        in_features: R.
        cfg: the model.
        kernel_init: initializer of the input kernel, called with shape (R, M); Glorot uniform by default.
        recurrent_kernel_init: initializer of the recurrent kernel, called with shape (*K, M, A); see above for the
            default. Replaces ``cfg.kernel_scale``.
        bias_init: initializer of b^h, called with shape (A,); :func:`tlstm_jax.biases.default_bias_init` by default.
            Replaces ``cfg.forget_bias``, ``cfg.conveyor_bias`` and ``cfg.time_scale``. (b^x is 0.)
        carry_init: initializer of the learned carry, called with shape (*tensor_shape, M) for c and for h; zeros by
            default. Needs ``cfg.learn_carry``.

    Returns:
        The parameters, each of dtype ``cfg.param_dtype``, or whatever an initializer returned.

    Raises:
        ValueError: ``in_features`` is not a positive integer, ``key`` is not a key, or an initializer is not callable
            or conflicts with ``cfg``.

    Example:
        >>> import jax, tlstm_jax as tl
        >>> cfg = tl.TLSTMConfig(features=100, tensor_shape=(3, 3))
        >>> params = tl.init_params(jax.random.key(0), 5, cfg)
        >>> params["hidden"]["kernel"].shape
        (3, 3, 100, 409)

        Another initialization of the recurrent kernel:

        >>> orthogonal = jax.nn.initializers.orthogonal()
        >>> params = tl.init_params(jax.random.key(0), 5, cfg, recurrent_kernel_init=orthogonal)
    """
    checks.check_config("cfg", cfg, TLSTMConfig)
    initializers = Initializers(kernel_init, recurrent_kernel_init, bias_init, carry_init)
    check_carry_init(check_initializers(initializers, cfg), cfg)
    return init_groups(key, in_features, param_groups(cfg, initializers))


def param_groups(cfg: TLSTMConfig, initializers: Initializers) -> Groups:
    """The initializer of each parameter group that ``cfg`` has."""
    groups: dict[str, Callable[..., Params]] = {"input": init_input, "hidden": init_hidden}
    if cfg.norm is not None:
        groups["norm"] = init_norm
    if cfg.learn_carry:
        groups["carry"] = init_carry
    return bind_groups(groups, cfg, initializers)


def bind_groups(groups: dict[str, Callable[..., Params]], cfg: Recurrent, initializers: Initializers) -> Groups:
    """Binds ``cfg`` and ``initializers`` in each group's ``init(key, in_features, cfg, initializers)``."""
    return {name: functools.partial(init, cfg=cfg, initializers=initializers) for name, init in groups.items()}


def init_groups(key: Array, in_features: int, groups: Groups) -> Params:
    """Initializes every parameter group with its own key."""
    checks.check_key(key)
    checks.check_in_features(in_features)
    keys = jax.random.split(key, len(groups))
    return {name: init(k, in_features) for k, (name, init) in zip(keys, groups.items(), strict=True)}


def init_input(key: Array, in_features: int, cfg: Recurrent, initializers: Initializers) -> Params:
    """W^x and b^x of eq. 5."""
    shapes = cfg.param_shapes(in_features)["input"]
    kernel_init = initializers.kernel_init or glorot_uniform()
    return {
        "kernel": kernel_init(key, shapes["kernel"], cfg.param_dtype),
        "bias": jnp.zeros(shapes["bias"], cfg.param_dtype),
    }


def init_hidden(key: Array, in_features: int, cfg: TLSTMConfig, initializers: Initializers) -> Params:
    """W^h and b^h of eqs. 6 and 14; see :func:`init_params`."""
    shapes = cfg.param_shapes(in_features)["hidden"]
    key_kernel, key_bias = jax.random.split(key)
    kernel_init = initializers.recurrent_kernel_init or variance_scaling(cfg.kernel_scale, "fan_in", "uniform")
    bias_init = initializers.bias_init or default_bias_init(cfg)
    return {
        "kernel": kernel_init(key_kernel, shapes["kernel"], cfg.param_dtype),
        "bias": bias_init(key_bias, shapes["bias"], cfg.param_dtype),
    }


def init_norm(key: Array, in_features: int, cfg: TLSTMConfig, initializers: Initializers) -> Params:
    """Gain 1 and bias 0 at every location and channel (eq. 20)."""
    shapes = cfg.param_shapes(in_features)["norm"]
    return {"scale": jnp.ones(shapes["scale"], cfg.param_dtype), "bias": jnp.zeros(shapes["bias"], cfg.param_dtype)}


def init_carry(key: Array, in_features: int, cfg: Recurrent, initializers: Initializers) -> Params:
    """C_0 and H_0 of a learned initial carry, for one row; no C_0 for the tRNN."""
    shapes = cfg.carry_shapes()["carry"]
    init = initializers.carry_init or zeros
    keys = jax.random.split(key, len(shapes))
    return {name: init(k, shape, cfg.param_dtype) for k, (name, shape) in zip(keys, shapes.items(), strict=True)}


def cast_params(params: Params, x: Array, cfg: Recurrent) -> Params:
    """Casts kernels to the computation dtype, everything else to the memory cell's: once, outside of the loops."""
    dtype = cfg.computation_dtype(x)
    other = cfg.memory_dtype(dtype)
    return {
        group: {name: leaf.astype(dtype if name == "kernel" else other) for name, leaf in leaves.items()}
        for group, leaves in params.items()
    }
