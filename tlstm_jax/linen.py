"""The tLSTM and its baseline as Flax linen modules: thin faces over the pure functions.

    >>> import jax, jax.numpy as jnp, tlstm_jax as tl
    >>> layer = tl.linen.TLSTM(tl.TLSTMConfig(features=100, tensor_shape=(3, 3)))
    >>> xs = jnp.ones((2, 10, 5))
    >>> variables = layer.init(jax.random.key(0), xs)
    >>> layer.apply(variables, xs).shape
    (2, 10, 100)

``variables["params"]`` is the tree of :func:`tlstm_jax.init_params`: the same parameters drive the
pure functions, these modules and those of :mod:`tlstm_jax.nnx`.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from tlstm_jax import checks, parameters, stacked, unrolling
from tlstm_jax.config import TLSTMConfig
from tlstm_jax.options import Implementation, Options
from tlstm_jax.state import init_state
from tlstm_jax.typing import Array, Params, TLSTMState

__all__ = ["TLSTM", "StackedLSTM", "TLSTMCell"]


class TLSTMCell(nn.RNNCellBase):
    """One timestep of a tLSTM (:func:`tlstm_jax.step`) as a Flax cell, for ``nn.RNN`` and ``nn.Bidirectional``.

    ``nn.RNN`` knows no output delay: its k-th output answers input k - L + 1. :class:`TLSTM` is the
    layer that handles it.

    Attributes:
        config: the model.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp, tlstm_jax as tl
        >>> rnn = nn.RNN(tl.linen.TLSTMCell(tl.TLSTMConfig(features=8, tensor_shape=(3,))))
        >>> y, variables = rnn.init_with_output(jax.random.key(0), jnp.ones((2, 10, 5)))
        >>> y.shape
        (2, 10, 8)
    """

    config: TLSTMConfig

    @nn.compact
    def __call__(self, carry: TLSTMState, inputs: Array) -> tuple[TLSTMState, Array]:
        """One timestep: carry and ``inputs`` (*batch, R) to the next carry and ``(*batch, M)``."""
        config = checks.check_config("config", self.config, TLSTMConfig)
        inputs = checks.check_array("inputs", inputs)
        params = _params(self, inputs, config, parameters.param_groups(config))
        return unrolling.step_call(params, carry, inputs, config, ("inputs", "carry"))

    @nn.nowrap
    def initialize_carry(self, rng: Array, input_shape: tuple[int, ...]) -> TLSTMState:
        """The zero state for inputs of ``input_shape``, (*batch, R); ``rng`` is not used."""
        checks.check_config("config", self.config, TLSTMConfig)
        return init_state(self.config, tuple(input_shape[:-1]))

    @property
    def num_feature_axes(self) -> int:
        """Axes of the *input* that are features."""
        return 1


class _Layer(nn.Module, kw_only=True):
    """A recurrent layer that stands where ``nn.RNN`` stands; the attributes are the defaults of the call's arguments.

    Attributes:
        time_major: time is the first axis of inputs and outputs.
        return_carry: return ``(carry, outputs)`` instead of the outputs.
        reverse: run from the last input to the first.
        keep_order: with ``reverse``, outputs in the order of the inputs.
        aligned: output t answers input t; see :func:`tlstm_jax.unroll`.
        unroll: timesteps in one iteration of the scan.
        remat: rematerialization; see :func:`tlstm_jax.unroll`.
    """

    time_major: bool = False
    return_carry: bool = False
    reverse: bool = False
    keep_order: bool = False
    aligned: bool = True
    unroll: int | bool = 1
    remat: int | bool = False

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
            initial_carry: the state before the first input; zeros by default.
            init_key: accepted for the sake of ``nn.RNN``'s signature and not used.
            seq_lengths: ``(*batch,)`` integers, the length of each right-padded row.
            reset: ``(*batch, T)`` booleans: the state is zero before that input.
            return_carry: return ``(carry, outputs)`` instead of the outputs.
            time_major: time is the first axis of inputs and outputs.
            reverse: run from the last input to the first.
            keep_order: with ``reverse``, outputs in the order of the inputs.
            aligned: output t answers input t. These five override the layer's own where not None.

        Returns:
            Outputs ``(*batch, T, M)``, with ``return_carry`` preceded by the state after each row's
            last input. Everything is as in :func:`tlstm_jax.unroll`.

        Raises:
            ValueError: as :func:`tlstm_jax.unroll`.
        """
        config, groups, call = self._model()
        inputs = checks.check_array("inputs", inputs)
        params = _params(self, inputs, config, groups)
        options = Options.of(self, time_major=time_major, aligned=aligned, reverse=reverse, keep_order=keep_order)
        names = ("inputs", "initial_carry")
        carry, outputs = call(params, inputs, config, initial_carry, seq_lengths, reset, options, names)
        return_carry = self.return_carry if return_carry is None else return_carry
        return (carry, outputs) if return_carry else outputs

    @nn.nowrap
    def _model(self) -> tuple[Any, parameters.Groups, Any]:
        raise NotImplementedError


class TLSTM(_Layer):
    """A tLSTM layer with its output delay handled; stands where ``nn.RNN`` stands, inside ``nn.Bidirectional`` too.

    Better than ``nn.RNN`` at what the delay makes harder: ``seq_lengths`` with any number of batch
    dimensions and rows of length 0, outputs on padding zero, no stacking of the state's history.

    Attributes:
        config: the model. Further attributes: ``time_major``, ``return_carry``, ``reverse``,
            ``keep_order``, ``aligned``, ``unroll``, ``remat``, the defaults of the call's arguments.
        implementation: ``"auto"``, ``"reference"``, ``"fused"`` or ``Fused(..)``; see :func:`tlstm_jax.unroll`.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp, tlstm_jax as tl
        >>> cfg = tl.TLSTMConfig(features=8, tensor_shape=(3,))
        >>> layer = nn.Bidirectional(tl.linen.TLSTM(cfg), tl.linen.TLSTM(cfg))
        >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 10, 5)))
        >>> y.shape
        (2, 10, 16)
    """

    config: TLSTMConfig
    implementation: Implementation = "auto"

    @nn.nowrap
    def _model(self) -> tuple[Any, parameters.Groups, Any]:
        config = checks.check_config("config", self.config, TLSTMConfig)
        return config, parameters.param_groups(config), unrolling.call


class StackedLSTM(_Layer):
    """The paper's sLSTM under the same interface: stacked LSTM layers of Flax's ``OptimizedLSTMCell``.

    Attributes:
        features: M. The input is projected to M first.
        num_layers: L.
        shared: one parameter set for all layers, as in the paper, or one for each.
        forget_bias: initial bias of the forget gate.
        dtype: dtype of the computation; None infers it.
        param_dtype: dtype of the parameters.

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

    @nn.nowrap
    def _model(self) -> tuple[Any, parameters.Groups, Any]:
        config = stacked.StackedLSTMConfig(
            self.features, self.num_layers, self.shared, self.forget_bias, self.dtype, self.param_dtype
        )
        return config, stacked.param_groups(config), stacked.call


def _params(module: nn.Module, inputs: Array, config: Any, groups: parameters.Groups) -> Params:
    """The module's parameters, made for the features of ``inputs`` while it initializes.

    Afterwards they are taken as they are, so that what does not fit is reported by the checks of the
    pure functions, which name the array and the mend.
    """
    if not module.is_initializing():
        return {name: module.get_variable("params", name) for name in module.variables.get("params", {})}
    in_features = checks.last_axis("inputs", inputs)
    return {name: module.param(name, init, in_features, config) for name, init in groups.items()}
