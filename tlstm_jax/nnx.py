"""The tLSTM and its baseline as Flax nnx modules.

    >>> import jax.numpy as jnp, tlstm_jax as tl
    >>> from flax import nnx
    >>> layer = tl.nnx.TLSTM(5, features=100, tensor_shape=(3, 3), rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((2, 10, 5))).shape
    (2, 10, 100)

``nnx.to_pure_dict(nnx.state(layer, nnx.Param))`` is the tree of :func:`tlstm_jax.init_params`: the same
parameters work with the pure functions, these modules and those of :mod:`tlstm_jax.linen`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx

from tlstm_jax import checks, layers, parameters, stacked, unrolling
from tlstm_jax import state as states
from tlstm_jax.config import UNSET, Recurrent, TLSTMConfig, Unset, given_fields, resolve_config
from tlstm_jax.options import Implementation, Options
from tlstm_jax.parameters import Initializer, Initializers
from tlstm_jax.typing import Array, Params, PrecisionLike, TLSTMState

__all__ = ["TLSTM", "RecurrentLayer", "StackedLSTM", "TLSTMCell"]


class TLSTMCell(nnx.RNNCellBase):
    """One timestep of a tLSTM (eqs. 14-19, :func:`tlstm_jax.step`) as a cell for ``nnx.RNN`` and ``nnx.Bidirectional``.

    ``nnx.RNN`` does not know the output delay (eq. 9): its k-th output answers input k - L + 1. :class:`TLSTM` is the
    layer that handles the delay.

    Args:
        in_features: R.
        features: M, channels at each location; or the model's configuration, a :class:`tlstm_jax.TLSTMConfig`.
        config: the model. Either this or ``features``, ``tensor_shape`` and any of the other fields of
            :class:`tlstm_jax.TLSTMConfig`, which documents them and their defaults.
        kernel_init: initializer of the input kernel (default: Glorot uniform).
        recurrent_kernel_init: initializer of the recurrent kernel, instead of ``kernel_scale``; for the default, see
            :func:`tlstm_jax.init_params`.
        bias_init: initializer of the recurrent bias, instead of ``forget_bias``, ``conveyor_bias`` and ``time_scale``;
            for the default, see :func:`tlstm_jax.init_params`.
        carry_init: initializer of the carry in :meth:`initialize_carry` (default: zeros). With ``learn_carry``,
            initializer of the learned carry.
        rngs: its ``params`` stream initializes the parameters.

    Raises:
        ValueError: both ``config`` and fields of it were given, or neither; a value is invalid; or an initializer was
            given together with a field that it replaces.

    Example:
        >>> import jax.numpy as jnp, tlstm_jax as tl
        >>> from flax import nnx
        >>> cell = tl.nnx.TLSTMCell(5, features=8, tensor_shape=(3,), rngs=nnx.Rngs(0))
        >>> nnx.RNN(cell)(jnp.ones((2, 10, 5))).shape
        (2, 10, 8)
    """

    def __init__(
        self,
        in_features: int,
        features: int | TLSTMConfig | Unset = UNSET,
        *,
        config: TLSTMConfig | None = None,
        tensor_shape: int | tuple[int, ...] | Unset = UNSET,
        kernel_size: int | tuple[int, ...] | Unset = UNSET,
        cell: Literal["lstm", "rnn"] | Unset = UNSET,
        memory_conv: bool | Unset = UNSET,
        norm: Literal["channel", "layer"] | Unset | None = UNSET,
        norm_epsilon: float | Unset = UNSET,
        kernel_scale: float | Unset = UNSET,
        forget_bias: float | Unset = UNSET,
        conveyor_bias: float | Unset = UNSET,
        dtype: Any = UNSET,
        param_dtype: Any = UNSET,
        precision: PrecisionLike | Unset = UNSET,
        learn_carry: bool | Unset = UNSET,
        time_scale: float | Unset | None = UNSET,
        kernel_init: Initializer | None = None,
        recurrent_kernel_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        carry_init: Initializer | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.config, groups = _resolve("TLSTMCell", locals())
        self.in_features = in_features
        self.carry_init = None if self.config.learn_carry else carry_init  # as a static attribute only where it is used
        _create_params(self, in_features, groups, rngs)

    def __call__(self, carry: TLSTMState, inputs: Array) -> tuple[TLSTMState, Array]:
        """Runs one timestep.

        Args:
            carry: c and h, each ``(*batch, *tensor_shape, M)``.
            inputs: ``(*batch, R)``, floating point.

        Returns:
            The next carry and h at the output corner, ``(*batch, M)``.

        Raises:
            ValueError: as :func:`tlstm_jax.step`.
        """
        return unrolling.step_call(_params(self), carry, inputs, self.config, ("inputs", "carry"))

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Initializer | None = None,
    ) -> TLSTMState:
        """The initial carry.

        Args:
            input_shape: shape of the inputs of one timestep, (*batch, R).
            rngs: its ``carry`` stream, or itself if it is a stream, gives the keys for ``carry_init``.
            carry_init: initializer of c and h; by default that of the constructor.

        Returns:
            c and h, each ``(*batch, *tensor_shape, M)``: drawn by ``carry_init`` if there is one, and zeros otherwise.
            With ``learn_carry`` it is the learned carry, unless ``carry_init`` is given here.

        Raises:
            ValueError: there is a ``carry_init``, but no ``rngs``.
        """
        batch_shape = tuple(input_shape[:-1])
        zeros = states.zero_state(self.config, batch_shape)
        if self.config.learn_carry and carry_init is None:
            return states.learned_state(_params(self), batch_shape, self.config)
        carry_init = carry_init or self.carry_init
        if carry_init is None:
            return zeros
        if rngs is None:
            raise ValueError("initialize_carry with carry_init needs rngs, such as rngs=nnx.Rngs(0), got None.")
        return states.drawn_state(carry_init, layers.stream_keys(rngs), zeros)

    @property
    def num_feature_axes(self) -> int:
        """The number of feature axes of the inputs."""
        return 1


class RecurrentLayer(nnx.Module):
    """Base of the recurrent layers, which have the interface of ``nnx.RNN``; not to be used by itself.

    Example:
        >>> import tlstm_jax as tl
        >>> issubclass(tl.nnx.TLSTM, tl.nnx.RecurrentLayer)
        True
    """

    in_features: int
    config: Recurrent
    carry_init: Initializer | None
    _unroll: Callable[..., tuple[TLSTMState, Array]]

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
            initial_carry: the state before the first input. By default the learned carry with ``learn_carry``, drawn
                by ``carry_init`` if there is one, and zeros otherwise.
            seq_lengths: ``(*batch,)`` integers, the length of each right-padded row.
            reset: ``(*batch, T)`` booleans; True resets the state to the initial one before that input.
            return_carry: overrides the attribute, as do the arguments that follow except ``rngs``.
            time_major: whether time is the first axis of inputs, ``reset`` and outputs.
            reverse: whether to run from the last input to the first.
            keep_order: with ``reverse``, whether to return outputs in the order of the inputs.
            aligned: whether output t answers input t.
            rngs: its ``carry`` stream, or itself if it is a stream, gives the keys for ``carry_init``;
                ``jax.random.key(0)`` by default.

        Returns:
            Outputs ``(*batch, T, M)``, or ``(T, *batch, M)`` with ``time_major``. With ``return_carry``, the carry
            after the last input of each row, then the outputs. See :func:`tlstm_jax.unroll`.

        Raises:
            ValueError: as :func:`tlstm_jax.unroll`.
        """
        return layers.run(
            self,
            type(self)._unroll,
            self.config,
            _params(self),
            inputs,
            initial_carry,
            layers.key_sequence(None) if rngs is None else layers.stream_keys(rngs),
            seq_lengths,
            reset,
            return_carry,
            time_major=time_major,
            reverse=reverse,
            keep_order=keep_order,
            aligned=aligned,
        )

    def _set_options(self, arguments: Mapping[str, Any]) -> None:
        """Checks the options and ``return_carry`` among the constructor's arguments and sets them as attributes."""
        options = Options(**{f.name: arguments[f.name] for f in dataclasses.fields(Options) if f.name in arguments})
        for name in vars(options).keys() & arguments.keys():
            setattr(self, name, getattr(options, name))
        self.return_carry = checks.flag("return_carry", arguments["return_carry"])


class TLSTM(RecurrentLayer):
    """A tLSTM layer (eqs. 14-23) that handles the output delay, with the interface of ``nnx.RNN``.

    It can be used in ``nnx.Bidirectional``. In contrast to ``nnx.RNN``, ``seq_lengths`` may have any number of batch
    dimensions and rows of length 0, outputs on padding are zero, and the carry after each row's last input is found
    without stacking the carries of all timesteps.

    Args:
        in_features: R.
        features: M, channels at each location; or the model's configuration, a :class:`tlstm_jax.TLSTMConfig`.
        config: the model. Either this or ``features``, ``tensor_shape`` and any of the other fields of
            :class:`tlstm_jax.TLSTMConfig`, which documents them and their defaults.
        kernel_init: initializer of the input kernel (default: Glorot uniform).
        recurrent_kernel_init: initializer of the recurrent kernel, instead of ``kernel_scale``; for the default, see
            :func:`tlstm_jax.init_params`.
        bias_init: initializer of the recurrent bias, instead of ``forget_bias``, ``conveyor_bias`` and ``time_scale``;
            for the default, see :func:`tlstm_jax.init_params`.
        carry_init: initializer of the initial carry (default: zeros). With ``learn_carry``, initializer of
            the learned carry.
        implementation: ``"auto"``, ``"reference"``, ``"fused"`` or ``Fused(..)``; see :func:`tlstm_jax.unroll`.
        time_major: whether time is the first axis of inputs and outputs.
        return_carry: whether to return ``(carry, outputs)`` instead of the outputs.
        reverse: whether to run from the last input to the first.
        keep_order: with ``reverse``, whether to return outputs in the order of the inputs.
        aligned: whether output t answers input t; see :func:`tlstm_jax.unroll`.
        unroll: timesteps in one iteration of the scan; None chooses by platform, see :func:`tlstm_jax.unroll`.
        remat: rematerialization; see :func:`tlstm_jax.unroll`.
        rngs: its ``params`` stream initializes the parameters.

    Initializers may attach metadata, as those of ``nnx.with_partitioning`` do; the parameters keep it.

    Attributes:
        config: the model's configuration, however it was given.

    Raises:
        ValueError: both ``config`` and fields of it were given, or neither; a value is invalid; or an initializer was
            given together with a field that it replaces.

    Example:
        >>> import jax.numpy as jnp, tlstm_jax as tl
        >>> from flax import nnx
        >>> layer = tl.nnx.TLSTM(5, features=8, tensor_shape=(3, 3), norm="channel", rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((2, 10, 5))).shape
        (2, 10, 8)

        With a configuration, in both directions:

        >>> cfg, rngs = tl.TLSTMConfig(features=8, tensor_shape=(3,)), nnx.Rngs(0)
        >>> layer = nnx.Bidirectional(tl.nnx.TLSTM(5, cfg, rngs=rngs), tl.nnx.TLSTM(5, cfg, rngs=rngs))
        >>> layer(jnp.ones((2, 10, 5))).shape
        (2, 10, 16)
    """

    _unroll = staticmethod(unrolling.call)

    def __init__(
        self,
        in_features: int,
        features: int | TLSTMConfig | Unset = UNSET,
        *,
        config: TLSTMConfig | None = None,
        tensor_shape: int | tuple[int, ...] | Unset = UNSET,
        kernel_size: int | tuple[int, ...] | Unset = UNSET,
        cell: Literal["lstm", "rnn"] | Unset = UNSET,
        memory_conv: bool | Unset = UNSET,
        norm: Literal["channel", "layer"] | Unset | None = UNSET,
        norm_epsilon: float | Unset = UNSET,
        kernel_scale: float | Unset = UNSET,
        forget_bias: float | Unset = UNSET,
        conveyor_bias: float | Unset = UNSET,
        dtype: Any = UNSET,
        param_dtype: Any = UNSET,
        precision: PrecisionLike | Unset = UNSET,
        learn_carry: bool | Unset = UNSET,
        time_scale: float | Unset | None = UNSET,
        kernel_init: Initializer | None = None,
        recurrent_kernel_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        carry_init: Initializer | None = None,
        implementation: Implementation = "auto",
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        aligned: bool = True,
        unroll: int | bool | None = None,
        remat: int | bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        arguments = locals()
        self.config, groups = _resolve("TLSTM", arguments)
        self.in_features = in_features
        self.carry_init = None if self.config.learn_carry else carry_init  # as a static attribute only where it is used
        self._set_options(arguments)
        _create_params(self, in_features, groups, rngs)


class StackedLSTM(RecurrentLayer):
    """The paper's baseline sLSTM with the same interface: a stack of LSTM layers of Flax's ``OptimizedLSTMCell``.

    Args:
        in_features: R.
        features: M. The inputs are first projected to M features.
        num_layers: L.
        shared: whether all layers share one set of parameters, as in the paper, or each has its own.
        forget_bias: initial bias of the forget gate.
        dtype: dtype of the computation; None is the one to which the inputs' dtype and ``param_dtype`` promote.
        param_dtype: dtype of the parameters.
        precision: precision of the matrix products, the same for both operands.
        learn_carry: whether the initial carry is a parameter.
        time_scale: for how many timesteps memory has to last, instead of ``forget_bias``; see
            :class:`tlstm_jax.stacked.StackedLSTMConfig`.
        carry_init: initializer of the initial carry (default: zeros). With ``learn_carry``, initializer of
            the learned carry.
        time_major: this and the following are as in :class:`TLSTM`.
        return_carry: see above.
        reverse: see above.
        keep_order: see above.
        aligned: see above; a stack has no output delay.
        unroll: see above.
        remat: see above.
        rngs: its ``params`` stream initializes the parameters.

    Raises:
        ValueError: a value is invalid.

    Example:
        >>> import jax.numpy as jnp, tlstm_jax as tl
        >>> from flax import nnx
        >>> layer = tl.nnx.StackedLSTM(5, features=8, num_layers=3, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((2, 10, 5))).shape
        (2, 10, 8)
    """

    _unroll = staticmethod(stacked.call)

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
        precision: PrecisionLike = None,
        learn_carry: bool = False,
        time_scale: float | None = None,
        carry_init: Initializer | None = None,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        aligned: bool = True,
        unroll: int | bool | None = None,
        remat: int | bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        arguments = locals()
        self.config = stacked.StackedLSTMConfig(
            features, num_layers, shared, forget_bias, dtype, param_dtype, precision, learn_carry, time_scale
        )
        self.in_features = in_features
        self.carry_init = None if self.config.learn_carry else carry_init  # as a static attribute only where it is used
        self._set_options(arguments)
        groups = stacked.param_groups(self.config, Initializers(carry_init=carry_init))
        _create_params(self, in_features, groups, rngs)


def _resolve(layer: str, arguments: Mapping[str, Any]) -> tuple[TLSTMConfig, parameters.Groups]:
    """The configuration and the initializers of its parameter groups from a constructor's arguments.

    The argument ``features`` may be a configuration.
    """
    features, config = arguments["features"], arguments["config"]
    if config is None and (features is None or isinstance(features, (Mapping, Recurrent))):
        config, arguments = checks.check_config("config", features, TLSTMConfig), {**arguments, "features": UNSET}
    given = given_fields(arguments)
    config = resolve_config(layer, config, given)
    names = [field.name for field in dataclasses.fields(Initializers)]
    initializers = Initializers(**{name: arguments[name] for name in names})
    parameters.check_initializers(initializers, config, given)
    return config, parameters.param_groups(config, initializers)


def _create_params(module: nnx.Module, in_features: int, groups: parameters.Groups, rngs: nnx.Rngs) -> None:
    checks.check_in_features(in_features)
    if not isinstance(rngs, nnx.Rngs):
        raise ValueError(f"rngs must be nnx.Rngs, such as nnx.Rngs(0), got {type(rngs).__name__}.")
    for name, init in groups.items():
        setattr(module, name, _to_module(init(rngs.params(), in_features)))


def _to_module(tree: Any) -> Any:
    return nnx.Dict({k: _to_module(v) for k, v in tree.items()}) if isinstance(tree, Mapping) else nnx.Param(tree)


def _params(module: TLSTMCell | RecurrentLayer) -> Params:
    """The module's parameters as the plain nested dict of the pure functions.

    The names come from the configuration: iterating over an ``nnx.Dict`` would call its methods, which
    ``nnx.tabulate`` replaces by methods that record submodules; here these would recurse without end.
    """
    return _read(module, module.config.param_shapes(module.in_features))


def _read(node: Any, shapes: dict[str, Any]) -> Params:
    return {
        name: _read(getattr(node, name), shape) if isinstance(shape, dict) else getattr(node, name)[...]
        for name, shape in shapes.items()
    }
