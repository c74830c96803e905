"""Growing a trained model: its parameters for more locations, or for another dimension."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from numpy.typing import NDArray

from tlstm_jax import checks, sharding
from tlstm_jax.config import TLSTMConfig
from tlstm_jax.typing import Array, Float, Params

OFF_DIAGONAL = -10.0
"""The bias of the logits of new memory-kernel offsets, which gives them weights below 5e-5."""


def resize(params: Params, cfg: TLSTMConfig, new_cfg: TLSTMConfig) -> Params:
    """Converts the parameters of a trained model to another ``tensor_shape``.

    The kernels do not depend on the location and are kept. The gain and bias of the norm and the learned carry, the
    only parameters with a value for each location, are interpolated linearly along every dimension, so that the
    values at the input's and the output's corners are kept; values of a single location are repeated.

    A 2D model can become a model of more dimensions with the same kernel size along each. Its kernel then acts along
    the diagonal and is zero elsewhere, and memory stays on the diagonal up to weights below 5e-5 (the bias of the other
    logits is -10 rather than minus infinity, so that they can learn). Up to that leak the outputs equal those of the 2D
    model, except with layer normalization, whose statistics span more locations. A model cannot lose dimensions,
    since the part of the kernel off the diagonal would be lost.

    A model of a different depth has different outputs and a different delay, and should be trained further.

    Args:
        params: as from :func:`tlstm_jax.init_params` for ``cfg``.
        cfg: the model of ``params``.
        new_cfg: the model to convert to. It may differ from ``cfg`` in ``tensor_shape``, dtypes, precision and what
            only sets initial values: ``kernel_scale``, ``forget_bias``, ``conveyor_bias`` and ``time_scale``.

    Returns:
        New parameters, with the dtypes of ``params``. Arrays that do not change are shared, not copied: donating either
        tree to a jitted function deletes them in both.

    Raises:
        ValueError: the parameters do not fit ``cfg``, the models differ in more than the above, or the new one
            has fewer dimensions.

    Example: the kernel of a tLSTM of three locations is used for one of six, twice as deep.
        >>> import jax, tlstm_jax as tl
        >>> cfg = tl.TLSTMConfig(features=8, tensor_shape=(3,))
        >>> params = tl.init_params(jax.random.key(0), 5, cfg)
        >>> grown = tl.resize(params, cfg, tl.TLSTMConfig(features=8, tensor_shape=(6,)))
        >>> grown["hidden"]["kernel"] is params["hidden"]["kernel"], grown["norm"]["scale"].shape
        (True, (6, 8))
    """
    params = checks.check_params(params, checks.check_config("cfg", cfg, TLSTMConfig))
    checks.check_config("new_cfg", new_cfg, TLSTMConfig)
    for name in ("features", "cell", "memory_conv", "norm", "norm_epsilon", "learn_carry"):
        if getattr(cfg, name) != getattr(new_cfg, name):
            raise ValueError(
                f"cfg and new_cfg must agree in {name}, got {name}={getattr(cfg, name)!r} in cfg and "
                f"{getattr(new_cfg, name)!r} in new_cfg: use dataclasses.replace(cfg, tensor_shape=..)."
            )
    grows = len(cfg.tensor_shape) != len(new_cfg.tensor_shape)
    if grows and len(cfg.tensor_shape) > 1:
        raise ValueError(
            f"only a 2D model can get more dimensions, got tensor_shape {cfg.tensor_shape} and "
            f"{new_cfg.tensor_shape}: a kernel of several dimensions has parts off the diagonal."
        )
    if (cfg.kernel_shape * len(new_cfg.tensor_shape) if grows else cfg.kernel_shape) != new_cfg.kernel_shape:
        raise ValueError(
            f"kernel_size cannot change, got {cfg.kernel_shape} in cfg and {new_cfg.kernel_shape} in new_cfg."
        )
    resized = dict(params)
    if grows:
        resized["hidden"] = _on_any_mesh(functools.partial(_embed, cfg, new_cfg), params, "hidden", new_cfg)
    stretch = functools.partial(_along_diagonal if grows else _interpolate, new_cfg.tensor_shape)
    for group in params.keys() & {"norm", "carry"}:
        resized[group] = _on_any_mesh(functools.partial(jax.tree.map, stretch), params, group, new_cfg)
    return resized


def _on_any_mesh(convert: Callable[[Params], Params], params: Params, name: str, new_cfg: TLSTMConfig) -> Params:
    """``convert(params[name])``; explicit mesh axes divide the same channels as before, and no other axis."""
    group, shapes = params[name], new_cfg.param_shapes(1)[name]

    def out_specs() -> Any:
        return {
            leaf: PartitionSpec(*[None] * (len(shapes[leaf]) - 1), sharding.spec(z)[-1]) for leaf, z in group.items()
        }

    return sharding.call(convert, group, out_specs=out_specs)


def _embed(cfg: TLSTMConfig, new_cfg: TLSTMConfig, hidden: Params) -> Params:
    """The hidden kernel of a 2D model, put on the diagonal of a kernel of more dimensions."""
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


def _along_diagonal(tensor_shape: tuple[int, ...], z: Float[Array, "p m"]) -> Float[Array, "*p m"]:
    """Linear interpolation by the position of each location along the diagonal between the tensor's corners."""
    fractions = [np.linspace(0, 1, size) if size > 1 else np.ones(1) for size in tensor_shape]
    return _take(z, (len(z) - 1) * np.mean(np.meshgrid(*fractions, indexing="ij"), axis=0), axis=0)


def _interpolate(tensor_shape: tuple[int, ...], z: Float[Array, "*p m"]) -> Float[Array, "*p m"]:
    """Linear interpolation along every dimension; the first and last locations keep their values."""
    for axis, size in enumerate(tensor_shape):
        last = z.shape[axis] - 1
        z = _take(
            z, np.linspace(0, last, size) if size > 1 else np.full(1, last), axis
        )  # a single location gets the value of the output's corner
    return z


def _take(z: Array, places: NDArray[Any], axis: int) -> Array:
    """Values at fractional positions along an axis, interpolated linearly."""
    last = z.shape[axis] - 1
    low = np.minimum(np.floor(places).astype(int), max(last - 1, 0))
    part = (places - low).reshape(*(1,) * axis, *places.shape, *(1,) * (z.ndim - axis - 1))
    below, above = jnp.take(z, low, axis), jnp.take(z, np.minimum(low + 1, last), axis)
    return (below + part.astype(z.dtype) * (above - below)).astype(z.dtype)
