"""The paper's baseline, sLSTM: stacked LSTM layers, built from Flax's own cell.

The input is projected to M first, so that all layers are alike and may share one parameter set. The
state is that of a 2D tLSTM with one location for each layer.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import operator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlstm_jax import cell, checks, layout, parameters
from tlstm_jax import state as states
from tlstm_jax.checks import finite, float_dtype, positive_size
from tlstm_jax.config import Recurrent
from tlstm_jax.layout import Layout
from tlstm_jax.options import Options
from tlstm_jax.scan import run, scan_span
from tlstm_jax.typing import Array, Bool, Float, Lengths, Params, TLSTMState
from tlstm_jax.unrolling import check_arguments

__all__ = ["StackedLSTMConfig", "init_params", "unroll"]


@dataclasses.dataclass(frozen=True)
class StackedLSTMConfig(Recurrent):
    """Sizes and options of a stack of LSTM layers.

    Args:
        features: M, units in each layer.
        num_layers: L.
        shared: one parameter set for all layers (the paper's sLSTM), or one for each.
        forget_bias: initial bias of the forget gate.
        dtype: as in :class:`tlstm_jax.TLSTMConfig`.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: a size is not positive, or an option has the wrong type.

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

    cell = "lstm"

    def __post_init__(self) -> None:
        if not isinstance(self.shared, bool):
            raise ValueError(f"shared must be True or False, got {self.shared!r}.")
        normalized = {
            "features": positive_size("features", self.features),
            "num_layers": positive_size("num_layers", self.num_layers),
            "forget_bias": finite("forget_bias", self.forget_bias),
            "dtype": None if self.dtype is None else float_dtype("dtype", self.dtype),
            "param_dtype": float_dtype("param_dtype", self.param_dtype),
        }
        for name, value in normalized.items():
            object.__setattr__(self, name, value)

    @property
    def tensor_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """One location for each layer."""
        return (self.num_layers,)

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The parameter set of each layer."""
        return tuple(f"layer_{0 if self.shared else i}" for i in range(self.num_layers))

    @property
    def flax_cell(self) -> nn.OptimizedLSTMCell:
        """The cell of one layer."""
        return nn.OptimizedLSTMCell(self.features, dtype=self.dtype, param_dtype=self.param_dtype, parent=None)

    def param_shapes(self, in_features: int) -> dict[str, Any]:
        """The shape of every parameter, as a nested dict."""
        return copy.deepcopy(_param_shapes(in_features, self))


def init_params(key: Array, in_features: int, cfg: StackedLSTMConfig) -> Params:
    """Initial parameters: ``{"input": {"kernel", "bias"}, "layers": {"layer_0": ..}}``, a layer as Flax initializes it.

    Only the forget gate's bias differs from Flax's, ``cfg.forget_bias`` instead of 0.

    Raises:
        ValueError: ``in_features`` is not a positive integer, or ``key`` is not a key.

    Example:
        >>> import jax
        >>> from tlstm_jax import stacked
        >>> params = stacked.init_params(jax.random.key(0), 5, stacked.StackedLSTMConfig(features=8, num_layers=3))
        >>> sorted(params), list(params["layers"])
        (['input', 'layers'], ['layer_0'])
    """
    checks.check_config("cfg", cfg, StackedLSTMConfig)
    return parameters.init_groups(key, in_features, cfg, param_groups(cfg))


def param_groups(cfg: StackedLSTMConfig) -> parameters.Groups:
    """The initializer of each parameter group."""
    return {"input": parameters.init_input, "layers": init_layers}


def init_layers(key: Array, in_features: int, cfg: StackedLSTMConfig) -> Params:
    """One parameter set of Flax's cell for each distinct layer."""
    names = tuple(dict.fromkeys(cfg.layer_names))
    x = jnp.zeros((1, cfg.features), cfg.param_dtype)
    layers = {}
    for name, layer_key in zip(names, jax.random.split(key, len(names)), strict=True):
        params = cfg.flax_cell.init(layer_key, (x, x), x)["params"]
        params["hf"]["bias"] = jnp.full_like(params["hf"]["bias"], cfg.forget_bias)
        layers[name] = params
    return layers


@functools.cache
def _param_shapes(in_features: int, cfg: StackedLSTMConfig) -> dict[str, Any]:
    layers = jax.eval_shape(lambda key: init_layers(key, in_features, cfg), jax.random.key(0))
    group = {"kernel": (in_features, cfg.features), "bias": (cfg.features,)}
    return {"input": group, "layers": jax.tree.map(lambda leaf: leaf.shape, layers)}


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
    unroll: int | bool = 1,
    remat: int | bool = False,
) -> tuple[TLSTMState, Float[Array, "*bt m"]]:
    """Runs the stack over sequences; arguments, results and errors as in :func:`tlstm_jax.unroll`.

    A stack answers an input at once, so ``aligned`` makes no difference and no answer is ever lost
    to a reset. Layer l of the state is at location l: ``(*batch, num_layers, features)``.

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
    """:func:`unroll` behind its options; see :func:`tlstm_jax.unrolling.call`."""
    checks.check_config("cfg", cfg, StackedLSTMConfig)
    arguments = check_arguments(params, xs, cfg, initial_state, seq_lengths, reset, options, names)
    return _unroll(params, *arguments, cfg=cfg, options=options)


@functools.partial(jax.jit, static_argnames=("cfg", "options"))
def _unroll(
    params: Params,
    xs: Array,
    initial_state: TLSTMState | None,
    seq_lengths: Array | None,
    reset: Array | None,
    *,
    cfg: StackedLSTMConfig,
    options: Options,
) -> tuple[TLSTMState, Array]:
    batch_shape = Layout.of(xs.shape, options.time_major).batch_shape
    whole = layout.to_locations_major(states.start_state(initial_state, xs, batch_shape, cfg), batch_shape)
    state = tuple(jax.tree.map(operator.itemgetter(i), whole) for i in range(cfg.num_layers))
    dtype = whole.h.dtype

    def step(state: tuple[TLSTMState, ...], x: Array) -> tuple[tuple[TLSTMState, ...], Array]:
        layers = []
        for name, layer in zip(cfg.layer_names, state, strict=True):
            (c, h), _ = cfg.flax_cell.apply({"params": params["layers"][name]}, layer, x)
            x = h.astype(dtype)
            layers.append(TLSTMState(c, x))
        return tuple(layers), x

    project = functools.partial(cell.project, parameters.cast_params({"input": params["input"]}, xs, cfg))
    span = functools.partial(scan_span, step, options.unroll)
    state, ys = run(project, span, state, xs, seq_lengths, reset, options)
    whole = jax.tree.map(lambda *layers: jnp.stack(layers), *state)
    return states.keep_dtypes(layout.to_batch_major(whole, batch_shape), initial_state), ys
