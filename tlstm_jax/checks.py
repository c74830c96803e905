"""Input validation: each error states the value, the requirement and a fix."""

from __future__ import annotations

import math
import operator
import reprlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.core import meta
from jax import export
from numpy.typing import NDArray

from tlstm_jax.typing import Array, Params, TLSTMState

if TYPE_CHECKING:
    from tlstm_jax.config import Recurrent
    from tlstm_jax.layout import Layout

C = TypeVar("C")


def check_config(name: str, cfg: Any, kind: type[C]) -> C:
    """``cfg``, which must be a configuration of this class."""
    if isinstance(cfg, jax.core.Tracer):
        raise ValueError(
            f"{name} must be a {kind.__name__}, got a tracer: {name} cannot be a traced argument of jax.jit. Make it "
            f'static, jax.jit(function, static_argnames="{name}"), or bind it before: '
            f"jax.jit(functools.partial(function, {name}={name}))."
        )
    if not isinstance(cfg, kind):
        raise ValueError(
            f"{name} must be a {kind.__name__}, got {type(cfg).__name__}: make one with {kind.__name__}(..)."
        )
    return cfg


def check_key(key: Any, name: str = "key") -> None:
    """``key`` must be a single PRNG key, typed or raw (uint32)."""
    dtype = getattr(key, "dtype", None)
    new_style = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and key.ndim == 0
    raw = dtype == jnp.uint32 and key.ndim == 1 and key.shape[0] in (2, 4)
    if not (new_style or raw):
        given = repr(key) if dtype is None else f"{dtype} of shape {key.shape}"
        raise ValueError(f"{name} must be a JAX PRNG key such as jax.random.key(0), got {given}.")


def check_in_features(in_features: Any) -> None:
    """``in_features``, R, must be a positive integer."""
    if isinstance(in_features, bool) or not isinstance(in_features, (int, np.integer)) or in_features < 1:
        raise ValueError(f"in_features must be a positive integer, got {in_features!r}.")


def check_batch_shape(batch_shape: Any) -> tuple[int, ...]:
    """``batch_shape`` as a tuple of non-negative integers; an integer means one batch dimension."""
    try:
        sizes = tuple(operator.index(size) for size in np.atleast_1d(np.asarray(batch_shape, dtype=object)))
        if any(size < 0 for size in sizes):
            raise TypeError
    except TypeError:
        raise ValueError(f"batch_shape must be a tuple of non-negative integers, got {batch_shape!r}.") from None
    return sizes


def to_array(name: str, value: Any) -> Array | NDArray[Any]:
    """``value`` as an array of numbers: JAX arrays unchanged, anything else as a numpy array of full width.

    Converting to JAX at once would truncate 64-bit integers before their values are checked.
    """
    if isinstance(value, jax.Array):
        return value
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, OverflowError):
        array = np.asarray(None)
    if array.dtype.kind not in "biufcV":  # V: bfloat16 and the other types of ml_dtypes
        given = f"{array.dtype} array" if isinstance(value, np.ndarray) else type(value).__name__
        raise ValueError(f"{name} must be an array of numbers, got {given}: {reprlib.repr(value):.60}.")
    return array


def check_array(name: str, value: Any) -> Array:
    """``value`` as a floating-point array. Integers, which may be token ids, and complex numbers are not cast."""
    array = to_array(name, value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"{name} must be floating point, got {array.dtype} of shape {array.shape}: "
            "cast it with .astype(jnp.float32), or one-hot encode or embed it if it holds symbols."
        )
    return jnp.asarray(array)


def last_axis(name: str, array: Array) -> int:
    """The size of the last axis, R."""
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(f"{name} must have features along the last axis, got shape {array.shape}.")
    return int(array.shape[-1])


def check_inputs(name: str, value: Any, params: Params, *, time_axes: int, time_major: bool = False) -> Array:
    """``value`` as inputs for these parameters, without a time axis (``step``) or with one (``unroll``)."""
    array = check_array(name, value)
    layout = "(*batch, R)" if time_axes == 0 else "(T, *batch, R)" if time_major else "(*batch, T, R)"
    if array.ndim < 1 + time_axes:
        raise ValueError(f"{name} must have shape {layout}, got shape {array.shape}.")
    in_features = params["input"]["kernel"].shape[0]
    if array.shape[-1] != in_features:
        raise ValueError(
            f"{name} has {array.shape[-1]} features (shape {array.shape}, expected {layout}), but the parameters "
            f"were made for in_features={in_features}: pass inputs whose last axis is {in_features}, "
            f"or initialize parameters for {array.shape[-1]}."
        )
    return array


def check_params(params: Any, cfg: Recurrent) -> Params:
    """``params`` as plain dicts of arrays; must have the tree and shapes of ``cfg`` and floating-point dtypes."""
    params = _plain(params)
    given_leaves = _by_name(params) if isinstance(params, Mapping) else {}
    for name, leaf in given_leaves.items():
        _check_leaf(name, leaf)
    try:
        in_features = params["input"]["kernel"].shape[0]
    except (TypeError, KeyError, IndexError, AttributeError):
        given = f"a dict with keys {sorted(map(str, params))}" if isinstance(params, Mapping) else type(params).__name__
        raise ValueError(
            f"params must be the nested dict that init_params returns, got {given}; "
            'of a linen module\'s variables, pass variables["params"].'
        ) from None
    expected_shapes = _by_name(cfg.param_shapes(in_features))
    for name in sorted({*given_leaves, *expected_shapes}):
        leaf = given_leaves.get(name)
        got = "missing" if leaf is None else jnp.shape(leaf)
        want = expected_shapes.get(name, "no such array")
        if got != want:
            raise ValueError(
                f"params do not fit the configuration: {name} is {got}, expected {want}. They were made for another "
                "configuration: pass that one, or initialize parameters for this one."
            )
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(
                f"params must be floating point, but {name} is {jnp.result_type(leaf)}: cast it with .astype."
            )
    return params


def _plain(tree: Any) -> Any:
    """``tree`` with Flax's FrozenDicts replaced by dicts and its boxes by arrays; unchanged nodes are not copied."""
    if isinstance(tree, Mapping):
        plain = {name: _plain(node) for name, node in tree.items()}
        unchanged = type(tree) is dict and all(plain[name] is node for name, node in tree.items())
        return tree if unchanged else plain
    return meta.unbox(tree) if isinstance(tree, meta.AxisMetadata) else tree


def _check_leaf(name: str, leaf: Any) -> None:
    """A leaf of ``params`` must be an array."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise ValueError(
            f"params holds shapes, not arrays: {name} is a ShapeDtypeStruct, as jax.eval_shape returns. Pass the "
            "parameters themselves, or call this function inside of jax.eval_shape, too."
        )
    if not isinstance(leaf, (jax.Array, np.ndarray)):
        fix = "pass nnx.to_pure_dict(state)" if isinstance(leaf, nnx.Variable) else "convert it with jnp.asarray"
        raise ValueError(f"params must hold arrays, but {name} is of type {type(leaf).__name__}: {fix}.")


def _by_name(tree: Any) -> dict[str, Any]:
    """The leaves of nested dicts, arrays or not, by their path; None counts as missing."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: not isinstance(x, dict | None))
    return {jax.tree_util.keystr(path, simple=True, separator="."): shape for path, shape in leaves}


def check_state(name: str, state: Any, batch_shape: tuple[int, ...], cfg: Recurrent) -> TLSTMState:
    """``state`` as a state of this model and batch shape: ``(c, h)``, or ``(None, h)`` for the tRNN."""
    if not isinstance(state, tuple) or len(state) != 2:
        raise ValueError(f"{name} must be a TLSTMState(c, h), such as init_state returns, got {type(state).__name__}.")
    c, h = state
    expected = (*batch_shape, *cfg.tensor_shape, cfg.features)
    if cfg.cell == "lstm" and c is None:
        raise ValueError(
            f'{name}.c must be an array, since cell="lstm" has a memory, got None: use init_state(cfg, ..).'
        )
    fields = {"h": h} if cfg.cell == "rnn" else {"c": c, "h": h}
    if cfg.cell == "rnn" and c is not None:
        raise ValueError(f'{name}.c must be None, since cell="rnn" has no memory, got {type(c).__name__}.')
    arrays: dict[str, Array] = {}
    for field, value in fields.items():
        arrays[field] = check_array(f"{name}.{field}", value)
        if arrays[field].shape != expected:
            raise ValueError(
                f"{name}.{field} has shape {arrays[field].shape}, expected (*batch, *tensor_shape, features) = "
                f"{expected}: make it with init_state(cfg, {batch_shape})."
            )
    return TLSTMState(arrays.get("c"), arrays["h"])


def check_sequences(seq_lengths: Any, reset: Any, layout: Layout) -> tuple[Array | None, Array | None]:
    """``seq_lengths`` as integers in 0..T of shape ``(*batch,)``, and ``reset`` as one boolean for each input.

    Traced lengths, whose values are unknown, are clipped to 0..T.
    """
    lengths = None if seq_lengths is None else _check_lengths(seq_lengths, layout)
    if reset is None:
        return lengths, None
    reset = to_array("reset", reset)
    if reset.dtype != jnp.bool_:
        raise ValueError(f"reset must hold booleans, got {reset.dtype}: compare or cast it with .astype(bool).")
    if reset.shape != layout.time_and_batch:
        axes = "(T, *batch)" if layout.time_major else "(*batch, T)"
        raise ValueError(f"reset must have shape {axes} = {layout.time_and_batch}, got {reset.shape}.")
    return lengths, jnp.asarray(reset)


def _check_lengths(seq_lengths: Any, layout: Layout) -> Array:
    lengths = to_array("seq_lengths", seq_lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"seq_lengths must hold integers, got {lengths.dtype}: cast it with .astype(jnp.int32).")
    if lengths.shape != layout.batch_shape:
        raise ValueError(
            f"seq_lengths must have the batch shape {layout.batch_shape}, one length for each row, got {lengths.shape}."
        )
    known = isinstance(lengths, np.ndarray) or (
        not isinstance(lengths, jax.core.Tracer) and lengths.is_fully_addressable
    )
    if not known:
        return _clip_lengths(jnp.asarray(lengths), layout.num_steps)
    any_time = export.is_symbolic_dim(layout.num_steps)
    if lengths.size:
        values = np.asarray(lengths)  # in a trace, jnp operations on concrete arrays return tracers
        shortest, longest = values.min(), values.max()
        if shortest < 0 or (not any_time and longest > layout.num_steps):
            raise ValueError(
                f"seq_lengths must lie in 0..T = 0..{layout.num_steps}, got {shortest if shortest < 0 else longest}: "
                "a row cannot be longer than the inputs that hold it."
            )
    if any_time:  # T is known when the exported program runs
        largest = np.iinfo(jax.dtypes.canonicalize_dtype(int)).max
        lengths = np.minimum(np.asarray(lengths).astype(np.uint64), largest).astype(int)
        return _clip_lengths(jnp.asarray(lengths), layout.num_steps)
    return jnp.asarray(lengths)


def _clip_lengths(lengths: Array, num_steps: int) -> Array:
    """``lengths`` clipped to 0..T, in JAX's default integer type; T may be symbolic and exceed the given type."""
    dtype = jax.dtypes.canonicalize_dtype(int)
    lengths = jnp.maximum(lengths, 0)
    if lengths.dtype.itemsize >= dtype.itemsize:  # it may exceed the default type
        lengths = jnp.minimum(lengths, np.iinfo(dtype).max)
    return jnp.minimum(lengths.astype(dtype), jnp.asarray(num_steps, dtype))


def finite(name: str, value: Any) -> float:
    """``value`` as a float; must be a finite number."""
    try:
        if isinstance(value, bool) or not math.isfinite(value):
            raise TypeError
    except (TypeError, OverflowError):
        raise ValueError(f"{name} must be a finite number, got {value!r}.") from None
    return float(value)


def positive(name: str, value: Any) -> float:
    """``value`` as a float; must be a positive, finite number."""
    if finite(name, value) <= 0:
        raise ValueError(f"{name} must be a positive number, got {value!r}.")
    return float(value)


def check_initial_values(cfg: Recurrent) -> None:
    """The fields that set initial values must not make them infinite in ``cfg.param_dtype``.

    Kernels are uniform up to sqrt(3 ``kernel_scale`` / fan-in), and biases are log u, with u up to 2 ``time_scale``
    drawn in the memory dtype.
    """
    at_most = {"forget_bias": 1.0, "conveyor_bias": 1.0, "kernel_scale": 3.0, "time_scale": 2.0}
    for name, factor in at_most.items():
        dtype = cfg.memory_dtype(cfg.param_dtype) if name == "time_scale" else jnp.dtype(cfg.param_dtype)
        value, largest = getattr(cfg, name, None), float(jnp.finfo(dtype).max) / factor  # type: ignore[no-untyped-call]
        if value is not None and abs(value) > largest:
            raise ValueError(
                f"{name} must be at most {largest:.4g} in magnitude, got {value!r}: the initial parameters would be "
                f"infinite in {dtype.name}. Make it smaller, or use a wider param_dtype."
            )


def timesteps(name: str, value: Any) -> float | None:
    """``value`` as a float, or None; must be a number of timesteps, at least 1."""
    if value is None:
        return None
    try:
        if finite(name, value) < 1:
            raise ValueError
    except ValueError:
        raise ValueError(f"{name} must be None or a number of timesteps, at least 1, got {value!r}.") from None
    return float(value)


def positive_size(name: str, value: object, at_least: int = 1) -> int:
    """``value`` as an int; must be an integer of at least ``at_least``."""
    try:
        if isinstance(value, bool):
            raise TypeError
        size = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(f"{name} must be an integer of at least {at_least}, got {value!r}.") from None
    if size < at_least:
        hint = ": a kernel of size 1 would never move information to the output" if at_least == 2 else ""
        raise ValueError(f"{name} must be at least {at_least}, got {size}{hint}.")
    return size


def sizes(name: str, value: object, ndim: int | None = None, at_least: int = 1) -> tuple[int, ...]:
    """``value`` as a tuple with one size for each dimension; an integer is repeated for all of them."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str):
        return (positive_size(name, value, at_least),) * (ndim or 1)
    sizes = tuple(positive_size(f"{name}[{i}]", v, at_least) for i, v in enumerate(value))
    if not sizes:
        raise ValueError(f"{name} needs at least one dimension, got {value!r}; (P,) is the paper's 2D tLSTM.")
    if ndim is not None and len(sizes) != ndim:
        raise ValueError(f"{name} must be an int or have one entry for each of the {ndim} dimensions, got {value!r}.")
    return sizes


def flag(name: str, value: Any) -> bool:
    """``value`` as a bool; must be True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False, got {reprlib.repr(value)}.")
    return bool(value)


def float_dtype(name: str, value: Any) -> Any:
    """``value`` as the scalar type of a floating-point dtype: equal types have equal hashes, and none equals None.

    (``np.dtype("float64") == None`` is True, which would make two different configurations equal.)
    """
    try:
        dtype = jnp.dtype(value)
    except TypeError:
        raise ValueError(f"{name} must be a floating-point dtype such as jnp.bfloat16, got {value!r}.") from None
    if value is None or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name} must be a floating-point dtype such as jnp.bfloat16, got {value!r}.")
    return dtype.type


def matmul_precision(name: str, value: Any) -> Any:
    """``value`` as None, a ``jax.lax.Precision`` or a pair of these; must be a precision that Flax's layers take."""
    if value is None:
        return None
    parts = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    try:
        if None in parts or len(parts) > 2 or (isinstance(value, (tuple, list)) and len(parts) != 2):
            raise ValueError
        precisions = tuple(jax.lax.Precision(part) for part in parts)
    except (TypeError, ValueError):
        raise ValueError(
            f'{name} must be None, a name such as "default", "high" or "highest", a jax.lax.Precision, or a pair of '
            f"these, got {reprlib.repr(value)}."
        ) from None
    return precisions if len(parts) == 2 else precisions[0]
