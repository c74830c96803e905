"""The networks that map the outputs of a recurrent layer to predictions, and how they are applied in training."""

from __future__ import annotations

import functools
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import tlstm_jax as tl
from experiments.rivals import Rival

Layer = tl.linen.TLSTM | tl.linen.StackedLSTM | Rival
PARAMS = "params"


class Network(nn.Module):
    """A network with a recurrent layer."""

    layer: Layer

    @nn.nowrap
    def optimizer(self, others: optax.GradientTransformation) -> optax.GradientTransformation:
        """The optimizer of the network, from the usual one: see :meth:`experiments.rivals.Rival.optimizer`."""
        return self.layer.optimizer(others) if isinstance(self.layer, Rival) else others


class LastStepClassifier(Network):
    """Classification from the output for the last input: y_T = h_{T+L-1, P} W^y + b^y (eq. 8)."""

    num_classes: int

    @nn.compact
    def __call__(self, xs: jax.Array, *, rows: jax.Array | None = None, deterministic: bool = True) -> jax.Array:
        """Maps inputs ``(batch, T, R)`` to logits ``(batch, num_classes)``, float32; see :func:`call`."""
        ys = call(self.layer, xs, rows, deterministic)
        return nn.Dense(self.num_classes, name="head")(ys[:, -1].astype(jnp.float32))


class SymbolLabeler(Network):
    """A label for every symbol: y_t = h_{t+L-1, P} W^y + b^y (eq. 8); the inputs are one-hot."""

    num_symbols: int

    @nn.nowrap
    def zero_carry(self, rows: int) -> Any:
        """The carry before the first symbols, for a batch of ``rows`` rows; equivalent to no carry."""
        symbols = jax.ShapeDtypeStruct((rows, 1), jnp.int32)
        (carry, _), _ = jax.eval_shape(self.init_with_output, jax.random.key(0), symbols)
        return jax.tree.map(lambda z: np.zeros(z.shape, z.dtype), carry)

    @nn.compact
    def __call__(
        self,
        symbols: jax.Array,
        carry: Any = None,
        *,
        aligned: bool = True,
        rows: jax.Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Any, jax.Array]:
        """Maps integers ``(batch, T)`` to the final carry and logits ``(batch, T, num_symbols)``, float32.

        With ``aligned=False`` the logits at t are y_{t-L+1}; see :func:`tlstm_jax.unroll`. A layer that cannot
        continue a sequence has an empty carry. For ``rows`` and ``deterministic`` see :func:`call`.
        """
        xs = jax.nn.one_hot(symbols, self.num_symbols)
        if not isinstance(self.layer, Rival):
            carry, ys = self.layer(xs, initial_carry=carry, aligned=aligned, return_carry=True)
        elif not self.layer.carries:
            carry, ys = (), call(self.layer, xs, rows, deterministic)
        else:
            carry, ys = self._continued(self.layer, xs, carry, rows, deterministic)
        return carry, nn.Dense(self.num_symbols, name="head")(ys.astype(jnp.float32))

    def _continued(
        self, layer: Rival, xs: jax.Array, carry: Any, rows: jax.Array | None, deterministic: bool
    ) -> tuple[Any, jax.Array]:
        """A rival's carry and outputs. If the initial state is learned, the carry includes which rows have begun."""
        if not layer.learns_start:
            return cast(Any, call(layer, xs, rows, deterministic, initial_carry=carry, return_carry=True))
        start = None
        if carry is not None:
            first, _ = call(layer, xs[:, :0], rows, deterministic, return_carry=True)
            begun, latest = carry

            def chosen(first: jax.Array, later: jax.Array) -> jax.Array:
                return jnp.where(begun.reshape(-1, *[1] * (later.ndim - 1)), later, first)

            start = jax.tree.map(chosen, first, latest)
        carry, ys = call(layer, xs, rows, deterministic, initial_carry=start, return_carry=True)
        return (jnp.ones(len(xs), bool), carry), ys


def call(layer: Layer, xs: jax.Array, rows: jax.Array | None, deterministic: bool, **options: Any) -> Any:
    """Calls a layer; only rivals take ``deterministic``.

    Args:
        layer: the layer.
        xs: its inputs, (batch, T, R).
        rows: weights of the rows, (batch,): rows of weight 0 are padding, which batch statistics must leave out.
        deterministic: whether dropout and the like are off.
        options: more arguments of the layer.
    """
    if not isinstance(layer, Rival):
        return layer(xs, **options)
    if layer.batch_statistics and rows is not None and not deterministic:
        options["seq_lengths"] = jnp.where(rows > 0, xs.shape[1], 0)
    return layer(xs, deterministic=deterministic, **options)


@functools.partial(jax.jit, static_argnums=0)
def initialized(network: nn.Module, seed: int, inputs: jax.Array) -> Any:
    """The initial parameters of a network; compiled once for networks that are equal, as in a population.

    If the network has other variables too, such as batch statistics, returns a dict of the collections, including the
    parameters.
    """
    variables = dict(network.init(jax.random.key(seed), inputs))
    return variables[PARAMS] if set(variables) == {PARAMS} else variables


def apply(
    network: nn.Module, params: Any, *inputs: Any, key: jax.Array | None = None, **options: Any
) -> tuple[Any, dict[str, Any]]:
    """Applies a network, in training if there is a key.

    Args:
        network: the network.
        params: as :func:`initialized` returns them.
        inputs: its inputs.
        key: the key for dropout in a training step; None in evaluation.
        options: more arguments of the network.

    Returns:
        The outputs, and the collections of variables that a training step has changed.
    """
    variables = params if PARAMS in params else {PARAMS: params}
    if key is None:
        return network.apply(variables, *inputs, **options), {}
    mutable = [name for name in variables if name != PARAMS]
    rngs = {"dropout": key}
    outputs, changed = network.apply(variables, *inputs, rngs=rngs, mutable=mutable, deterministic=False, **options)
    return outputs, dict(changed)


def count_parameters(params: Any) -> int:
    """The number of parameters in a tree that :func:`initialized` returns."""
    return sum(leaf.size for leaf in jax.tree.leaves(params.get(PARAMS, params)))
