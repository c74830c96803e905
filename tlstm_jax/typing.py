"""Names of axes and types of arrays: every shape in this package is written with these letters.

========  ===================================================================================
letter    meaning
========  ===================================================================================
``*b``    batch dimensions, any number of them; ``b`` alone: all of them flattened
``t``     timesteps (T)
``r``     input features (R)
``m``     features, that is channels at one location (M)
``*p``    locations along each tensorized dimension (P_1, .., P_{D-1})
``*bp``   ``*b`` followed by ``*p`` (jaxtyping allows one starred axis in an annotation)
``*k``    kernel size along each tensorized dimension (K_1, .., K_{D-1})
``k``     kernel offsets: <K>, the product of all K_d, in row-major order
``km``    <K> M: the channels of the patch at one location, or of some of its offsets, maybe padded
``n``     timesteps of a part of the sequence
``a``     channels of the pre-activation A: 4M + <K>, 4M or M (:attr:`TLSTMConfig.gate_features`)
========  ===================================================================================

Public functions have the batch dimensions first. Internally the batch is flattened to one axis and the
layout is ``(*p, b, m)``: a shift by a kernel offset is then one contiguous block, whatever the
number of dimensions.

The annotations are jaxtyping's, which checks them in the tests. The package runs without jaxtyping; the
aliases are then plain arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Integer
else:
    try:
        from jaxtyping import Bool, Float, Integer
    except ModuleNotFoundError:

        class _Unchecked:
            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                return item[0]

        Bool = Float = Integer = _Unchecked

Array = jax.Array

PrecisionLike = None | str | jax.lax.Precision | tuple[str, str] | tuple[jax.lax.Precision, jax.lax.Precision]
"""The precision of a matrix product, as Flax's layers take it."""

Params = dict[str, Any]
"""A plain nested dict of arrays, as :func:`tlstm_jax.init_params` returns it."""

Inputs = Float[Array, "*b r"]
"""x_t: one timestep of inputs."""
Outputs = Float[Array, "*b m"]
"""h at the output corner, one timestep."""
Locations = Float[Array, "*p b m"]
"""H_t, C_t or G, I, F, O in the internal layout."""
Preactivations = Float[Array, "*p b a"]
"""A_t, eq. 14."""
Lengths = Integer[Array, "*b"]
"""The number of inputs in each right-padded row."""


class TLSTMState(NamedTuple):
    """State of a tLSTM between two timesteps.

    Attributes:
        c: memory cell C_t, ``(*batch, *tensor_shape, features)``, at least float32;
            None for ``cell="rnn"``, which has no memory.
        h: hidden state H_t, same shape, in the computation dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> import tlstm_jax as tl
        >>> cfg = tl.TLSTMConfig(features=8, tensor_shape=(3,))
        >>> state = tl.init_state(cfg, (2,))
        >>> state.h.shape
        (2, 3, 8)
        >>> warmer = state._replace(c=jnp.ones_like(state.c))
    """

    c: Float[Array, "*bp m"] | None
    h: Float[Array, "*bp m"]


__all__ = [
    "Array",
    "Bool",
    "Float",
    "Inputs",
    "Integer",
    "Lengths",
    "Locations",
    "Outputs",
    "Params",
    "Preactivations",
    "PrecisionLike",
    "TLSTMState",
]
