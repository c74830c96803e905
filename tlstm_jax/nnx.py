"""The tLSTM and its baseline as Flax nnx modules: thin faces over the pure functions.

    >>> import jax.numpy as jnp, tlstm_jax as tl
    >>> from flax import nnx
    >>> layer = tl.nnx.TLSTM(5, tl.TLSTMConfig(features=100, tensor_shape=(3, 3)), rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((2, 10, 5))).shape
    (2, 10, 100)

``nnx.to_pure_dict(nnx.state(layer, nnx.Param))`` is the tree of :func:`tlstm_jax.init_params`: the same
parameters drive the pure functions, these modules and those of :mod:`tlstm_jax.linen`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tlstm_jax import checks, parameters, stacked, unrolling
from tlstm_jax.config import TLSTMConfig
from tlstm_jax.options import Implementation, Options
from tlstm_jax.state import init_state
from tlstm_jax.typing import Array, Params, TLSTMState

__all__ = ["TLSTM", "StackedLSTM", "TLSTMCell"]


class TLSTMCell(nnx.RNNCellBase):
    """One timestep of a tLSTM (:func:`tlstm_jax.step`) as a Flax cell, for ``nnx.RNN`` and ``nnx.Bidirectional``.

    ``nnx.RNN`` knows no output delay: its k-th output answers input k - L + 1. :class:`TLSTM` is the
    layer that handles it.

    Args:
        in_features: R.
        config: the model.
        rngs: its ``params`` stream initializes the parameters.

    Example:
        >>> import jax.numpy as jnp, tlstm_jax as tl
        >>> from flax import nnx
        >>> cell = tl.nnx.TLSTMCell(5, tl.TLSTMConfig(features=8, tensor_shape=(3,)), rngs=nnx.Rngs(0))
        >>> nnx.RNN(cell)(jnp.ones((2, 10, 5))).shape
        (2, 10, 8)
    """

    def __init__(self, in_features: int, config: TLSTMConfig, *, rngs: nnx.Rngs) -> None:
        self.in_features = in_features
        self.config = checks.check_config("config", config, TLSTMConfig)
        _create_params(self, in_features, config, parameters.param_groups(config), rngs)

    def __call__(self, carry: TLSTMState, inputs: Array) -> tuple[TLSTMState, Array]:
        """One timestep: carry and ``inputs`` (*batch, R) to the next carry and ``(*batch, M)``."""
        params = _params(self, parameters.param_groups(self.config))
        return unrolling.step_call(params, carry, inputs, self.config, ("inputs", "carry"))

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Callable[..., Array] | None = None,
    ) -> TLSTMState:
        """The state for inputs of shape (*batch, R): zeros, or ``carry_init(key, shape, dtype)`` for c and h."""
        zeros = init_state(self.config, tuple(input_shape[:-1]))
        if carry_init is None:
            return zeros
        if rngs is None:
            raise ValueError("initialize_carry with carry_init needs rngs, such as rngs=nnx.Rngs(0), got None.")
        key = rngs.carry if isinstance(rngs, nnx.Rngs) else rngs
        return jax.tree.map(lambda zero: carry_init(key(), zero.shape, zero.dtype), zeros)

    @property
    def num_feature_axes(self) -> int:
        """Axes of the *input* that are features."""
        return 1


class _Layer(nnx.Module):
    """A recurrent layer that stands where ``nnx.RNN`` stands."""

    def _create(
        self,
        in_features: int,
        config: Any,
        rngs: nnx.Rngs,
        *,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        aligned: bool = True,
        unroll: int | bool = 1,
        remat: int | bool = False,
    ) -> None:
        self.in_features = in_features
        self.config = config
        self.time_major = time_major
        self.return_carry = return_carry
        self.reverse = reverse
        self.keep_order = keep_order
        self.aligned = aligned
        self.unroll = unroll
        self.remat = remat
        _create_params(self, in_features, config, self._groups(), rngs)

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: TLSTMState | None = None,
        seq_lengths: Array | None = None,
        reset: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        aligned: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> Array | tuple[TLSTMState, Array]:
        """Runs the layer over sequences.

        Args:
            inputs: ``(*batch, T, R)``, or ``(T, *batch, R)`` with ``time_major``; floating point.
            initial_carry: the state before the first input; zeros by default.
            seq_lengths: ``(*batch,)`` integers, the length of each right-padded row.
            reset: ``(*batch, T)`` booleans: the state is zero before that input.
            return_carry: return ``(carry, outputs)`` instead of the outputs.
            time_major: time is the first axis of inputs and outputs.
            reverse: run from the last input to the first.
            keep_order: with ``reverse``, outputs in the order of the inputs.
            aligned: output t answers input t. These five override the layer's own where not None.
            rngs: accepted for the sake of ``nnx.RNN``'s signature and not used.

        Returns:
            Outputs ``(*batch, T, M)``, with ``return_carry`` preceded by the state after each row's
            last input. Everything is as in :func:`tlstm_jax.unroll`.

        Raises:
            ValueError: as :func:`tlstm_jax.unroll`.
        """
        params = _params(self, self._groups())
        options = Options.of(self, time_major=time_major, aligned=aligned, reverse=reverse, keep_order=keep_order)
        names = ("inputs", "initial_carry")
        carry, outputs = self._call(params, inputs, self.config, initial_carry, seq_lengths, reset, options, names)
        return_carry = self.return_carry if return_carry is None else return_carry
        return (carry, outputs) if return_carry else outputs

    _call: Any

    def _groups(self) -> parameters.Groups:
        raise NotImplementedError


class TLSTM(_Layer):
    """A tLSTM layer with its output delay handled; stands where ``nnx.RNN`` stands, inside ``nnx.Bidirectional`` too.

    Args:
        in_features: R.
        config: the model.
        implementation: ``"auto"``, ``"reference"``, ``"fused"`` or ``Fused(..)``; see :func:`tlstm_jax.unroll`.
        rngs: its ``params`` stream initializes the parameters.
        **options: defaults of the call's arguments: ``time_major``, ``return_carry``, ``reverse``,
            ``keep_order`` (False), ``aligned`` (True), and ``unroll`` (1) and ``remat`` (False)
            of :func:`tlstm_jax.unroll`.

    Example:
        >>> import jax.numpy as jnp, tlstm_jax as tl
        >>> from flax import nnx
        >>> cfg, rngs = tl.TLSTMConfig(features=8, tensor_shape=(3,)), nnx.Rngs(0)
        >>> layer = nnx.Bidirectional(tl.nnx.TLSTM(5, cfg, rngs=rngs), tl.nnx.TLSTM(5, cfg, rngs=rngs))
        >>> layer(jnp.ones((2, 10, 5))).shape
        (2, 10, 16)
    """

    _call = staticmethod(unrolling.call)

    def __init__(
        self,
        in_features: int,
        config: TLSTMConfig,
        *,
        implementation: Implementation = "auto",
        rngs: nnx.Rngs,
        **options: Any,
    ) -> None:
        checks.check_config("config", config, TLSTMConfig)
        self.implementation = implementation
        self._create(in_features, config, rngs, **options)

    def _groups(self) -> parameters.Groups:
        return parameters.param_groups(self.config)


class StackedLSTM(_Layer):
    """The paper's sLSTM under the same interface: stacked LSTM layers of Flax's ``OptimizedLSTMCell``.

    Args:
        in_features: R.
        features: M. The input is projected to M first.
        num_layers: L.
        shared: one parameter set for all layers, as in the paper, or one for each.
        forget_bias: initial bias of the forget gate.
        dtype: dtype of the computation; None infers it.
        param_dtype: dtype of the parameters.
        rngs: its ``params`` stream initializes the parameters.
        **options: as in :class:`TLSTM`.

    Example:
        >>> import jax.numpy as jnp, tlstm_jax as tl
        >>> from flax import nnx
        >>> layer = tl.nnx.StackedLSTM(5, features=8, num_layers=3, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((2, 10, 5))).shape
        (2, 10, 8)
    """

    _call = staticmethod(stacked.call)

    def __init__(
        self,
        in_features: int,
        features: int,
        num_layers: int,
        *,
        shared: bool = True,
        forget_bias: float = 1.0,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
        **options: Any,
    ) -> None:
        config = stacked.StackedLSTMConfig(features, num_layers, shared, forget_bias, dtype, param_dtype)
        self._create(in_features, config, rngs, **options)

    def _groups(self) -> parameters.Groups:
        return stacked.param_groups(self.config)


def _create_params(
    module: nnx.Module, in_features: int, config: Any, groups: parameters.Groups, rngs: nnx.Rngs
) -> None:
    checks.check_in_features(in_features)
    if not isinstance(rngs, nnx.Rngs):
        raise ValueError(f"rngs must be nnx.Rngs, such as nnx.Rngs(0), got {type(rngs).__name__}.")
    for name, init in groups.items():
        setattr(module, name, _to_module(init(rngs.params(), in_features, config)))


def _to_module(tree: Any) -> Any:
    return nnx.Dict({k: _to_module(v) for k, v in tree.items()}) if isinstance(tree, Mapping) else nnx.Param(tree)


def _params(module: nnx.Module, groups: Iterable[str]) -> Params:
    """The module's parameters as the plain nested dict of the pure functions."""
    return {name: _to_dict(getattr(module, name)) for name in groups}


def _to_dict(tree: Any) -> Any:
    return {k: _to_dict(v) for k, v in tree.items()} if isinstance(tree, nnx.Dict) else tree[...]
