"""Growing a trained model: more locations, or another dimension, for parameters that are there already."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from tlstm_jax import checks
from tlstm_jax.config import TLSTMConfig
from tlstm_jax.typing import Array, Float, Params

OFF_DIAGONAL = -10.0
"""The bias of a new memory-kernel logit that the model from which it grew does not have: a weight below 5e-5."""


def resize(params: Params, cfg: TLSTMConfig, new_cfg: TLSTMConfig) -> Params:
    """Parameters for another ``tensor_shape`` from those of a trained model.

    The kernels know no location, so they stay as they are. Gain and bias of the norm, which are the only parameters
    that each location has for itself, are interpolated linearly along every dimension, the input's corner staying the
    input's and the output's the output's; from a single location they are repeated.

    A 2D model can become one of more dimensions with the same kernel size along each. Its kernel then acts along the
    diagonal, all else is zero, and memory stays on the diagonal but for weights below 5e-5 (the bias of the other
    logits is -10, not minus infinity, so that they can learn). So the outputs stay what they were, but for that leak
    (not with layer normalization, whose statistics then span more locations). From more dimensions to fewer there is
    no such mapping, since what the kernel does off the diagonal would be lost.

    A model of another depth gives other outputs, and its answers leave at another time: train it on.

    Args:
        params: as from :func:`tlstm_jax.init_params` for ``cfg``.
        cfg: the model that they are of.
        new_cfg: the model that they shall be for; differs in ``tensor_shape`` alone, dtypes and initial biases aside.

    Returns:
        New parameters; those that stay as they are are the same arrays. Dtypes are those of ``params``.

    Raises:
        ValueError: the parameters are not of ``cfg``, the models differ in more than ``tensor_shape``, or the new one
            has fewer dimensions.

    Example: the kernel of a tLSTM of three locations drives one of six, twice as deep.
        >>> import jax, tlstm_jax as tl
        >>> cfg = tl.TLSTMConfig(features=8, tensor_shape=(3,))
        >>> params = tl.init_params(jax.random.key(0), 5, cfg)
        >>> grown = tl.resize(params, cfg, tl.TLSTMConfig(features=8, tensor_shape=(6,)))
        >>> grown["hidden"]["kernel"] is params["hidden"]["kernel"], grown["norm"]["scale"].shape
        (True, (6, 8))
    """
    checks.check_params(params, checks.check_config("cfg", cfg, TLSTMConfig))
    checks.check_config("new_cfg", new_cfg, TLSTMConfig)
    for name in ("features", "cell", "memory_conv", "norm"):
        if getattr(cfg, name) != getattr(new_cfg, name):
            raise ValueError(
                f"new_cfg may differ from cfg in tensor_shape alone, got {name} {getattr(cfg, name)!r} there and "
                f"{getattr(new_cfg, name)!r} here: use dataclasses.replace(cfg, tensor_shape=..)."
            )
    grows = len(cfg.tensor_shape) != len(new_cfg.tensor_shape)
    if grows and len(cfg.tensor_shape) > 1:
        raise ValueError(
            f"only a 2D model can get more dimensions, got tensor_shape {cfg.tensor_shape} to become "
            f"{new_cfg.tensor_shape}: what the kernel does off the diagonal has no place there."
        )
    if (cfg.kernel_shape * len(new_cfg.tensor_shape) if grows else cfg.kernel_shape) != new_cfg.kernel_shape:
        raise ValueError(
            f"kernel_size cannot change, got {cfg.kernel_shape} in cfg and {new_cfg.kernel_shape} in new_cfg."
        )
    resized = dict(params)
    if grows:
        resized["hidden"] = _embed(params["hidden"], cfg, new_cfg)
    if cfg.norm is not None:
        stretch = _along_diagonal if grows else _interpolate
        resized["norm"] = {name: stretch(z, new_cfg.tensor_shape) for name, z in params["norm"].items()}
    return resized


def _embed(hidden: Params, cfg: TLSTMConfig, new_cfg: TLSTMConfig) -> Params:
    """The kernel of a 2D model on the diagonal of one with more dimensions."""
    dims = len(new_cfg.tensor_shape)
    shapes = new_cfg.param_shapes(1)["hidden"]
    diagonal = [new_cfg.offsets.index(offset * dims) for offset in cfg.offsets]
    num_gates = cfg.gate_features - (cfg.num_offsets if cfg.has_memory_kernel else 0)
    columns = [*range(num_gates), *(num_gates + at for at in diagonal if cfg.has_memory_kernel)]
    kernel = jnp.zeros((new_cfg.num_offsets, *shapes["kernel"][dims:]), hidden["kernel"].dtype)
    kernel = kernel.at[np.array(diagonal)[:, None, None], np.arange(cfg.features)[:, None], np.array(columns)].set(
        hidden["kernel"]
    )
    bias = jnp.full(shapes["bias"], OFF_DIAGONAL, hidden["bias"].dtype).at[np.array(columns)].set(hidden["bias"])
    return {"kernel": kernel.reshape(shapes["kernel"]), "bias": bias}


def _along_diagonal(z: Float[Array, "p m"], tensor_shape: tuple[int, ...]) -> Float[Array, "*p m"]:
    """Linear interpolation between the corners of a tensor by how far along its diagonal a location is."""
    fractions = [np.linspace(0, 1, size) if size > 1 else np.ones(1) for size in tensor_shape]
    return _take(z, (len(z) - 1) * np.mean(np.meshgrid(*fractions, indexing="ij"), axis=0), axis=0)


def _interpolate(z: Float[Array, "*p m"], tensor_shape: tuple[int, ...]) -> Float[Array, "*p m"]:
    """Linear interpolation along every dimension, first to first and last to last."""
    for axis, size in enumerate(tensor_shape):
        last = z.shape[axis] - 1
        z = _take(z, np.linspace(0, last, size) if size > 1 else np.full(1, last), axis)  # a single one is the output's
    return z


def _take(z: Array, places: NDArray[Any], axis: int) -> Array:
    """Values at places along an axis, between two of them in proportion."""
    last = z.shape[axis] - 1
    low = np.minimum(np.floor(places).astype(int), max(last - 1, 0))
    part = (places - low).reshape(*(1,) * axis, *places.shape, *(1,) * (z.ndim - axis - 1))
    below, above = jnp.take(z, low, axis), jnp.take(z, np.minimum(low + 1, last), axis)
    return (below + part.astype(z.dtype) * (above - below)).astype(z.dtype)
