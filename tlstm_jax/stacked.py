"""The paper's baseline, sLSTM: a stack of LSTM layers, built from Flax's cell.

The input is first projected to M features, so that all layers have the same shapes and can share parameters.
The state has the layout of a 2D tLSTM's, with one location for each layer.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import operator
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlstm_jax import biases, cell, checks, layout, parameters
from tlstm_jax import state as states
from tlstm_jax.checks import finite, flag, float_dtype, matmul_precision, positive_size, timesteps
from tlstm_jax.config import Recurrent, check_time_scale
from tlstm_jax.layout import Layout
from tlstm_jax.options import Options
from tlstm_jax.scan import run, scan_span
from tlstm_jax.typing import Array, Bool, Float, Lengths, Params, PrecisionLike, TLSTMState
from tlstm_jax.unrolling import check_arguments, compiled

__all__ = ["StackedLSTMConfig", "init_params", "unroll"]


@dataclasses.dataclass(frozen=True)
class StackedLSTMConfig(Recurrent):
    """Sizes and options of a stack of LSTM layers. Hashable, so it can be a static argument of ``jax.jit``.

    Args:
        features: M, units in each layer.
        num_layers: L.
        shared: whether all layers share one set of parameters (the paper's sLSTM) or each has its own.
        forget_bias: initial bias of the forget gate.
        dtype: as in :class:`tlstm_jax.TLSTMConfig`.
        param_dtype: as in :class:`tlstm_jax.TLSTMConfig`.
        precision: precision of the matrix products, as in :class:`tlstm_jax.TLSTMConfig`, except that Flax's cell
            does not take a pair of two different precisions.
        learn_carry: whether the initial carry is a parameter, as in :class:`tlstm_jax.TLSTMConfig`.
        time_scale: T, for how many timesteps memory has to last; gives the forget gate of each unit the initial bias
            log u instead of ``forget_bias``, and its input gate -log u, with u uniform in 1..2T, as in
            :class:`tlstm_jax.TLSTMConfig`.

    Raises:
        ValueError: a size is not positive, or an option has an invalid value.

    Example:
        >>> from tlstm_jax import stacked
        >>> cfg = stacked.StackedLSTMConfig(features=8, num_layers=3)
        >>> cfg.layer_names
        ('layer_0', 'layer_0', 'layer_0')
    """

    features: int
    num_layers: int
    shared: bool = True
    forget_bias: float = 1.0
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: PrecisionLike = None
    learn_carry: bool = False
    time_scale: float | None = None

    cell = "lstm"

    def __post_init__(self) -> None:
        precision = matmul_precision("precision", self.precision)
        if isinstance(precision, tuple):
            if precision[0] != precision[1]:
                raise ValueError(f"precision must be the same for both operands of a product, got {self.precision!r}.")
            precision = precision[0]
        normalized = {
            "shared": flag("shared", self.shared),
            "precision": precision,
            "learn_carry": flag("learn_carry", self.learn_carry),
            "time_scale": timesteps("time_scale", self.time_scale),
            "features": positive_size("features", self.features),
            "num_layers": positive_size("num_layers", self.num_layers),
            "forget_bias": finite("forget_bias", self.forget_bias),
            "dtype": None if self.dtype is None else float_dtype("dtype", self.dtype),
            "param_dtype": float_dtype("param_dtype", self.param_dtype),
        }
        for name, value in normalized.items():
            object.__setattr__(self, name, value)
        checks.check_initial_values(self)
        if self.forget_bias != 1.0:
            check_time_scale({"time_scale": self.time_scale, "forget_bias": self.forget_bias}, self.cell)

    @property
    def tensor_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """One location for each layer."""
        return (self.num_layers,)

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The name of each layer's set of parameters."""
        return tuple(f"layer_{0 if self.shared else i}" for i in range(self.num_layers))

    @property
    def flax_cell(self) -> nn.OptimizedLSTMCell:
        """The cell of one layer."""
        return nn.OptimizedLSTMCell(self.features, dtype=self.dtype, param_dtype=self.param_dtype, parent=None)

    @property
    def matmul_precision(self) -> contextlib.AbstractContextManager[Any]:
        """A context in which Flax's cell, which has no ``precision`` argument, uses this configuration's precision."""
        if self.precision is None:
            return contextlib.nullcontext()
        return jax.default_matmul_precision(cast(jax.lax.Precision, self.precision).name.lower())

    def param_shapes(self, in_features: int) -> dict[str, Any]:
        """The shape of every parameter, as a nested dict."""
        return copy.deepcopy(_param_shapes(in_features, self))


def init_params(
    key: Array, in_features: int, cfg: StackedLSTMConfig, *, carry_init: parameters.Initializer | None = None
) -> Params:
    """Initializes parameters: ``{"input": {"kernel", "bias"}, "layers": {"layer_0": ..}}``.

    Layers are initialized as Flax's cell, except that the bias of the forget gate is ``cfg.forget_bias`` instead of 0,
    or, with ``cfg.time_scale``, the biases of the forget gate and the input gate are drawn as
    :class:`StackedLSTMConfig` describes. With ``cfg.learn_carry`` there is a group ``carry``, with ``c`` and ``h`` of
    shape (L, M).

    Args:
        key: a JAX PRNG key.
        in_features: R.
        cfg: the model.
        carry_init: initializer of the learned carry; zeros by default. Needs ``cfg.learn_carry``.

    Raises:
        ValueError: ``in_features`` is not a positive integer, ``key`` is not a key, or ``carry_init`` is not an
            initializer or has no learned carry to initialize.

    Example:
        >>> import jax
        >>> from tlstm_jax import stacked
        >>> params = stacked.init_params(jax.random.key(0), 5, stacked.StackedLSTMConfig(features=8, num_layers=3))
        >>> sorted(params), list(params["layers"])
        (['input', 'layers'], ['layer_0'])
    """
    checks.check_config("cfg", cfg, StackedLSTMConfig)
    initializers = parameters.Initializers(carry_init=carry_init)
    return parameters.init_groups(key, in_features, param_groups(cfg, parameters.check_carry_init(initializers, cfg)))


def param_groups(cfg: StackedLSTMConfig, initializers: parameters.Initializers) -> parameters.Groups:
    """The initializer of each parameter group that ``cfg`` has."""
    groups: dict[str, Any] = {"input": parameters.init_input, "layers": init_layers}
    if cfg.learn_carry:
        groups["carry"] = parameters.init_carry
    return parameters.bind_groups(groups, cfg, initializers)


def init_layers(
    key: Array, in_features: int, cfg: StackedLSTMConfig, initializers: parameters.Initializers | None = None
) -> Params:
    """The parameters of Flax's cell for each distinct layer.

    They are drawn in at least float32, since the orthogonal kernels need a QR decomposition, and then cast.
    """
    names = tuple(dict.fromkeys(cfg.layer_names))
    drawn = cfg.memory_dtype(cfg.param_dtype)
    flax_cell, x = cfg.flax_cell.clone(param_dtype=drawn), jnp.zeros((1, cfg.features), drawn)
    layers = {}
    for name, layer_key in zip(names, jax.random.split(key, len(names)), strict=True):
        params = flax_cell.init(layer_key, (x, x), x)["params"]
        if drawn != jnp.dtype(cfg.param_dtype):
            params = jax.tree.map(lambda leaf: leaf.astype(cfg.param_dtype), params)
        if cfg.time_scale is None:
            params["hf"]["bias"] = jnp.full_like(params["hf"]["bias"], cfg.forget_bias)
        else:
            u_key = jax.random.fold_in(layer_key, 1)
            i, f = biases.chrono_biases(u_key, cfg.features, cfg.time_scale, cfg.param_dtype)
            params["hi"]["bias"], params["hf"]["bias"] = i, f
        layers[name] = params
    return layers


@functools.cache
def _param_shapes(in_features: int, cfg: StackedLSTMConfig) -> dict[str, Any]:
    layers = jax.eval_shape(lambda key: init_layers(key, in_features, cfg), jax.random.key(0))
    group = {"kernel": (in_features, cfg.features), "bias": (cfg.features,)}
    return {"input": group, "layers": jax.tree.map(lambda leaf: leaf.shape, layers)} | cfg.carry_shapes()


def unroll(
    params: Params,
    xs: Float[Array, "*bt r"],
    cfg: StackedLSTMConfig,
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
) -> tuple[TLSTMState, Float[Array, "*bt m"]]:
    """Runs the stack over sequences; arguments, results and errors as in :func:`tlstm_jax.unroll`.

    A stack has no output delay, so ``aligned`` has no effect and no output is lost to a
    reset. The state of layer l is at location l: ``(*batch, num_layers, features)``.

    Example:
        >>> import jax
        >>> from tlstm_jax import stacked
        >>> cfg = stacked.StackedLSTMConfig(features=8, num_layers=3)
        >>> params = stacked.init_params(jax.random.key(0), 5, cfg)
        >>> state, ys = stacked.unroll(params, jax.numpy.ones((2, 10, 5)), cfg)
        >>> state.h.shape, ys.shape
        ((2, 3, 8), (2, 10, 8))
    """
    options = Options(time_major, aligned, reverse, keep_order, unroll, remat, "reference")
    return call(params, xs, cfg, initial_state, seq_lengths, reset, options)


def call(
    params: Params,
    xs: Any,
    cfg: StackedLSTMConfig,
    initial_state: Any,
    seq_lengths: Any,
    reset: Any,
    options: Options,
    names: tuple[str, str] = ("xs", "initial_state"),
) -> tuple[TLSTMState, Array]:
    """:func:`unroll` with its options in one object; see :func:`tlstm_jax.unrolling.call`."""
    checks.check_config("cfg", cfg, StackedLSTMConfig)
    arguments = check_arguments(params, xs, cfg, initial_state, seq_lengths, reset, options, names)
    return compiled(_run, cfg, options, *arguments)


def _run(
    cfg: StackedLSTMConfig,
    options: Options,
    params: Params,
    xs: Array,
    initial_state: TLSTMState | None,
    seq_lengths: Array | None,
    reset: Array | None,
) -> tuple[TLSTMState, Array]:
    batch_shape = Layout.of(xs.shape, options.time_major).batch_shape
    whole = layout.to_locations_major(states.start_state(params, initial_state, xs, batch_shape, cfg), batch_shape)
    fresh = states.reset_state(params, xs, cfg)

    def by_layer(whole: TLSTMState) -> tuple[TLSTMState, ...]:
        return tuple(jax.tree.map(operator.itemgetter(i), whole) for i in range(cfg.num_layers))

    dtype = whole.h.dtype

    def step(state: tuple[TLSTMState, ...], x: Array) -> tuple[tuple[TLSTMState, ...], Array]:
        layers = []
        for name, layer in zip(cfg.layer_names, state, strict=True):
            with cfg.matmul_precision:
                (c, h), _ = cfg.flax_cell.apply({"params": params["layers"][name]}, layer, x)
            x = h.astype(dtype)
            layers.append(TLSTMState(c, x))
        return tuple(layers), x

    projection = parameters.cast_params({"input": params["input"]}, xs, cfg)
    project = functools.partial(cell.project, projection, precision=cfg.precision)
    span = functools.partial(scan_span, step, options.unroll, fresh=None if fresh is None else by_layer(fresh))
    state, ys = run(project, span, by_layer(whole), xs, seq_lengths, reset, options)
    whole = jax.tree.map(lambda *layers: jnp.stack(layers), *state)
    return states.keep_dtypes(layout.to_batch_major(whole, batch_shape), initial_state), ys
