"""The tLSTM and its baseline as Flax linen modules.

    >>> import jax, jax.numpy as jnp, tlstm_jax as tl
    >>> layer = tl.linen.TLSTM(features=100, tensor_shape=(3, 3))
    >>> xs = jnp.ones((2, 10, 5))
    >>> variables = layer.init(jax.random.key(0), xs)
    >>> layer.apply(variables, xs).shape
    (2, 10, 100)

``variables["params"]`` is the tree of :func:`tlstm_jax.init_params`: the same parameters work with the
pure functions, these modules and those of :mod:`tlstm_jax.nnx`.
"""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from tlstm_jax import checks, layers, parameters, stacked, unrolling
from tlstm_jax import state as states
from tlstm_jax.config import UNSET, Recurrent, TLSTMConfig, Unset, given_fields, resolve_config
from tlstm_jax.options import Fused, Implementation, Options
from tlstm_jax.parameters import Initializer, Initializers
from tlstm_jax.typing import Array, Params, PrecisionLike, TLSTMState

__all__ = ["TLSTM", "RecurrentLayer", "StackedLSTM", "TLSTMCell"]


class _Model(nn.Module, kw_only=True):
    """The attributes that describe the model in :class:`TLSTMCell` and :class:`TLSTM`, which document them."""

    features: int | Unset = UNSET
    tensor_shape: int | tuple[int, ...] | Unset = UNSET
    kernel_size: int | tuple[int, ...] | Unset = UNSET
    cell: Literal["lstm", "rnn"] | Unset = UNSET
    memory_conv: bool | Unset = UNSET
    norm: Literal["channel", "layer"] | Unset | None = UNSET
    norm_epsilon: float | Unset = UNSET
    kernel_scale: float | Unset = UNSET
    forget_bias: float | Unset = UNSET
    conveyor_bias: float | Unset = UNSET
    dtype: Any = UNSET
    param_dtype: Any = UNSET
    precision: PrecisionLike | Unset = UNSET
    learn_carry: bool | Unset = UNSET
    time_scale: float | Unset | None = UNSET
    kernel_init: Initializer | None = None
    recurrent_kernel_init: Initializer | None = None
    bias_init: Initializer | None = None
    carry_init: Initializer | None = None

    def __post_init__(self) -> None:
        attributes = vars(self)
        if isinstance(attributes["config"], (int, np.integer)) and self.features is UNSET:  # as in Flax's cells
            attributes["features"], attributes["config"] = attributes["config"], None
        parameters.check_initializers(Initializers.of(self), self.cfg, given_fields(vars(self)))
        super().__post_init__()

    @property
    def cfg(self) -> TLSTMConfig:
        """The model's configuration, whether it was given as ``config`` or by its fields."""
        arguments = vars(self)
        return resolve_config(type(self).__name__, arguments["config"], given_fields(arguments))


class TLSTMCell(_Model, nn.RNNCellBase):
    """One timestep of a tLSTM (eqs. 14-19, :func:`tlstm_jax.step`) as a cell for ``nn.RNN`` and ``nn.Bidirectional``.

    ``nn.RNN`` does not know the output delay (eq. 9): its k-th output answers input k - L + 1. :class:`TLSTM` is the
    layer that handles the delay.

    Attributes:
        config: the model. Either this or, as keywords, ``features``, ``tensor_shape`` and any of the other fields of
            :class:`tlstm_jax.TLSTMConfig`, which documents them and their defaults.
        kernel_init: initializer of the input kernel (default: Glorot uniform).
        recurrent_kernel_init: initializer of the recurrent kernel, instead of ``kernel_scale``; for the default, see
            :func:`tlstm_jax.init_params`.
        bias_init: initializer of the recurrent bias, instead of ``forget_bias``, ``conveyor_bias`` and ``time_scale``;
            for the default, see :func:`tlstm_jax.init_params`.
        carry_init: initializer of the carry in :meth:`initialize_carry` (default: zeros). With ``learn_carry``,
            initializer of the learned carry.

    Raises:
        ValueError: both ``config`` and fields of it were given, or neither; a value is invalid; or an initializer was
            given together with a field that it replaces.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp, tlstm_jax as tl
        >>> rnn = nn.RNN(tl.linen.TLSTMCell(features=8, tensor_shape=(3,)))
        >>> y, variables = rnn.init_with_output(jax.random.key(0), jnp.ones((2, 10, 5)))
        >>> y.shape
        (2, 10, 8)
    """

    config: TLSTMConfig | None = None

    def setup(self) -> None:
        """Makes the learned carry, which needs no inputs, so that :meth:`initialize_carry` finds it."""
        groups = parameters.param_groups(self.cfg, Initializers.of(self))
        self.carry = _params(self, {name: groups[name] for name in groups.keys() & {"carry"}}).get("carry")

    @nn.compact
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
        config = self.cfg
        inputs = checks.check_array("inputs", inputs)
        groups = parameters.param_groups(config, Initializers.of(self))
        params = _params(self, groups, inputs)
        return unrolling.step_call(params, carry, inputs, config, ("inputs", "carry"))

    @nn.nowrap
    def initialize_carry(self, rng: Array, input_shape: tuple[int, ...]) -> TLSTMState:
        """The initial carry.

        Args:
            rng: the key for ``carry_init``.
            input_shape: shape of the inputs of one timestep, (*batch, R).

        Returns:
            c and h, each ``(*batch, *tensor_shape, M)``: zeros, or drawn by ``carry_init``. With ``learn_carry`` it is
            the learned carry where the module is bound to its variables, as inside ``nn.RNN``. An unbound module has no
            parameters, and returns the initial value of a learned carry.
        """
        config, batch_shape = self.cfg, tuple(input_shape[:-1])
        zeros = states.zero_state(config, batch_shape)
        if config.learn_carry and self.scope is not None and self.carry is not None:
            return states.learned_state({"carry": nn.unbox(self.carry)}, batch_shape, config)
        if self.carry_init is None:
            return zeros
        return states.drawn_state(self.carry_init, layers.key_sequence(rng, "rng"), zeros)

    @property
    def num_feature_axes(self) -> int:
        """The number of feature axes of the inputs."""
        return 1


class RecurrentLayer(nn.Module, kw_only=True):
    """Base of the recurrent layers, which have the interface of ``nn.RNN``; not to be used by itself.

    Attributes:
        time_major: whether time is the first axis of inputs and outputs.
        return_carry: whether to return ``(carry, outputs)`` instead of the outputs.
        reverse: whether to run from the last input to the first.
        keep_order: with ``reverse``, whether to return outputs in the order of the inputs.
        aligned: whether output t answers input t; see :func:`tlstm_jax.unroll`.
        unroll: timesteps in one iteration of the scan; None chooses by platform, see :func:`tlstm_jax.unroll`.
        remat: rematerialization; see :func:`tlstm_jax.unroll`.

    Raises:
        ValueError: an option has an invalid value.

    Example:
        >>> import tlstm_jax as tl
        >>> isinstance(tl.linen.TLSTM(features=8, tensor_shape=(3,)), tl.linen.RecurrentLayer)
        True
    """

    time_major: bool = False
    return_carry: bool = False
    reverse: bool = False
    keep_order: bool = False
    aligned: bool = True
    unroll: int | bool | None = None
    remat: int | bool = False

    def __post_init__(self) -> None:
        Options.of(self)
        checks.flag("return_carry", self.return_carry)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: TLSTMState | None = None,
        init_key: Array | None = None,
        seq_lengths: Array | None = None,
        reset: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        aligned: bool | None = None,
    ) -> Array | tuple[TLSTMState, Array]:
        """Runs the layer over sequences.

        Args:
            inputs: ``(*batch, T, R)``, or ``(T, *batch, R)`` with ``time_major``; floating point.
            initial_carry: the state before the first input. By default the learned carry with ``learn_carry``, drawn
                by ``carry_init`` if there is one, and zeros otherwise.
            init_key: the key for ``carry_init``; ``jax.random.key(0)`` by default, as in ``nn.RNN``.
            seq_lengths: ``(*batch,)`` integers, the length of each right-padded row.
            reset: ``(*batch, T)`` booleans; True resets the state to the initial one before that input.
            return_carry: overrides the attribute, as do the arguments that follow.
            time_major: whether time is the first axis of inputs, ``reset`` and outputs.
            reverse: whether to run from the last input to the first.
            keep_order: with ``reverse``, whether to return outputs in the order of the inputs.
            aligned: whether output t answers input t.

        Returns:
            Outputs ``(*batch, T, M)``, or ``(T, *batch, M)`` with ``time_major``. With ``return_carry``, the carry
            after the last input of each row, then the outputs. See :func:`tlstm_jax.unroll`.

        Raises:
            ValueError: as :func:`tlstm_jax.unroll`.
        """
        config, groups, unroll = self._model()
        inputs = checks.check_array("inputs", inputs)
        return layers.run(
            self,
            unroll,
            config,
            _params(self, groups, inputs),
            inputs,
            initial_carry,
            layers.key_sequence(init_key),
            seq_lengths,
            reset,
            return_carry,
            time_major=time_major,
            reverse=reverse,
            keep_order=keep_order,
            aligned=aligned,
        )

    @nn.nowrap
    def _model(self) -> tuple[Recurrent, parameters.Groups, Any]:
        """The configuration, the initializers of its parameter groups and its function ``unroll``."""
        raise NotImplementedError


class TLSTM(RecurrentLayer, _Model):
    """A tLSTM layer (eqs. 14-23) that handles the output delay, with the interface of ``nn.RNN``.

    It can be used in ``nn.Bidirectional``. In contrast to ``nn.RNN``, ``seq_lengths`` may have any number of batch
    dimensions and rows of length 0, outputs on padding are zero, and the carry after each row's last input is found
    without stacking the carries of all timesteps.

    Attributes:
        config: the model. Either this or, as keywords, ``features``, ``tensor_shape`` and any of the other fields of
            :class:`tlstm_jax.TLSTMConfig`, which documents them and their defaults.
        implementation: ``"auto"``, ``"reference"``, ``"fused"`` or ``Fused(..)``; see :func:`tlstm_jax.unroll`.
        kernel_init: initializer of the input kernel (default: Glorot uniform).
        recurrent_kernel_init: initializer of the recurrent kernel, instead of ``kernel_scale``; for the default, see
            :func:`tlstm_jax.init_params`.
        bias_init: initializer of the recurrent bias, instead of ``forget_bias``, ``conveyor_bias`` and ``time_scale``;
            for the default, see :func:`tlstm_jax.init_params`.
        carry_init: initializer of the initial carry (default: zeros). With ``learn_carry``, initializer of
            the learned carry.
        time_major: whether time is the first axis of inputs and outputs (default: False).
        return_carry: whether to return ``(carry, outputs)`` instead of the outputs (default: False).
        reverse: whether to run from the last input to the first (default: False).
        keep_order: with ``reverse``, whether to return outputs in the order of the inputs (default: False).
        aligned: whether output t answers input t (default: True); see :func:`tlstm_jax.unroll`.
        unroll: timesteps in one iteration of the scan (default: None, by platform); see :func:`tlstm_jax.unroll`.
        remat: rematerialization (default: False); see :func:`tlstm_jax.unroll`.

    The attributes have the values that were given; the property ``cfg`` is the model's configuration in either case.
    Initializers may return boxed arrays, as those of ``nn.with_partitioning`` do.

    Raises:
        ValueError: both ``config`` and fields of it were given, or neither; a value is invalid; or an initializer was
            given together with a field that it replaces.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp, tlstm_jax as tl
        >>> layer = tl.linen.TLSTM(features=8, tensor_shape=(3, 3), kernel_size=3, norm="channel")
        >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 10, 5)))
        >>> y.shape
        (2, 10, 8)

        With a configuration, in both directions:

        >>> cfg = tl.TLSTMConfig(features=8, tensor_shape=(3,))
        >>> layer = nn.Bidirectional(tl.linen.TLSTM(cfg), tl.linen.TLSTM(cfg))
        >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 10, 5)))
        >>> y.shape
        (2, 10, 16)

        With the channels of the recurrent kernel annotated for sharding:

        >>> init = nn.with_partitioning(nn.initializers.orthogonal(), (None, None, "model"))
        >>> layer = tl.linen.TLSTM(cfg, recurrent_kernel_init=init)
        >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 10, 5)))
        >>> list(nn.get_partition_spec(variables)["params"]["hidden"]["kernel"])
        [None, None, 'model']
    """

    config: TLSTMConfig | None = None
    implementation: Implementation = "auto"

    def __post_init__(self) -> None:
        given = self.implementation
        features_first = isinstance(self.config, (int, np.integer)) and self.tensor_shape is UNSET
        if features_first and not isinstance(given, str | Fused):  # it is the shape
            raise ValueError(
                f"tensor_shape is a keyword, got {given!r} as the second argument, implementation: use "
                f"TLSTM(features, tensor_shape={given!r})."
            )
        super().__post_init__()

    @nn.nowrap
    def _model(self) -> tuple[Recurrent, parameters.Groups, Any]:
        config = self.cfg
        return config, parameters.param_groups(config, Initializers.of(self)), unrolling.call


class StackedLSTM(RecurrentLayer):
    """The paper's baseline sLSTM with the same interface: a stack of LSTM layers of Flax's ``OptimizedLSTMCell``.

    Attributes:
        features: M. The inputs are first projected to M features.
        num_layers: L.
        shared: whether all layers share one set of parameters, as in the paper, or each has its own (default: True).
        forget_bias: initial bias of the forget gate (default: 1).
        dtype: dtype of the computation (default: the one to which the inputs' dtype and ``param_dtype`` promote).
        param_dtype: dtype of the parameters (default: float32).
        precision: precision of the matrix products, the same for both operands (default: None).
        learn_carry: whether the initial carry is a parameter (default: False).
        time_scale: for how many timesteps memory has to last, instead of ``forget_bias`` (default: None); see
            :class:`tlstm_jax.stacked.StackedLSTMConfig`.
        carry_init: initializer of the initial carry (default: zeros). With ``learn_carry``, initializer of
            the learned carry.

    The other attributes are those of :class:`TLSTM`, from ``time_major`` on.

    Raises:
        ValueError: a value is invalid.

    Example:
        >>> import jax, jax.numpy as jnp, tlstm_jax as tl
        >>> layer = tl.linen.StackedLSTM(features=8, num_layers=3)
        >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 10, 5)))
        >>> y.shape, list(variables["params"]["layers"])
        ((2, 10, 8), ['layer_0'])
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
    carry_init: Initializer | None = None

    def __post_init__(self) -> None:
        self._model()
        super().__post_init__()

    @nn.nowrap
    def _model(self) -> tuple[Recurrent, parameters.Groups, Any]:
        config = stacked.StackedLSTMConfig(
            self.features,
            self.num_layers,
            self.shared,
            self.forget_bias,
            self.dtype,
            self.param_dtype,
            self.precision,
            self.learn_carry,
            self.time_scale,
        )
        return config, stacked.param_groups(config, Initializers(carry_init=self.carry_init)), stacked.call


def _params(module: nn.Module, groups: parameters.Groups, inputs: Array | None = None) -> Params:
    """The module's parameter groups, created where they do not exist and ``params`` is mutable.

    Existing groups are returned unchanged, maybe boxed; the checks of the pure functions then report groups that do
    not fit, with messages that say what to do. Only the model's own groups are read, since the scope may
    hold other parameters, as with ``nn.share_scope``. The learned carry does not depend on the inputs.
    """
    params: Params = {}
    for name, init in groups.items():
        if module.has_variable("params", name):
            params[name] = module.get_variable("params", name)
        elif module.is_mutable_collection("params"):
            in_features = 0 if inputs is None else checks.last_axis("inputs", inputs)
            params[name] = module.param(name, init, in_features)
    return params
