"""TT-dense: a dense layer whose matrix is a tensor train (Novikov et al., arXiv:1509.06569).

Inputs and outputs are read as tensors with modes n1 x .. x nd and m1 x .. x md, the last mode fastest, and

    y(j1..jd) = sum_{i1..id} G1[i1,j1] .. Gd[id,jd] x(i1..id) + b

where G_k[i,j] is a matrix (r_{k-1}, r_k) and r_0 = r_d = 1. Parameters: sum_k r_{k-1} n_k m_k r_k, and M biases. With
the largest ranks, the layer can be any dense layer. The matrix is never formed: the input is contracted with one
core after the other, so that a timestep costs more operations than the layer has parameters, by a factor of about
the largest mode.

Cores may start with normal entries of the variance with which the entries of the matrix have a given standard
deviation s, that is (s^2 / prod r_k)^(1/d): s = 0.05 in Tjandra et al. (arXiv:1705.08052), Glorot's in Onu et al.; or
orthogonalized by QR from left to right and scaled by 0.1 / (prod n_k prod r_k)^(1/d), as in Yang et al.
(arXiv:1707.01786).

Deviation: modes that are not given are chosen so that every size has some. They are as equal as possible, and their
product is at least the size; surplus inputs are 0 and surplus outputs are left out. The originals demand exact
products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from experiments.rivals.initializers import decomposable

Shape = tuple[int, int, int, int]
"""The shape of a core, (r_{k-1}, n_k, m_k, r_k)."""
CoresInit = Callable[[jax.Array, Sequence[Shape], Any], list[jax.Array]]
"""Initializes all cores of a train: a function of a key, their shapes and their dtype."""


def balanced_modes(size: int, num_modes: int) -> tuple[int, ...]:
    """The modes for a size: they differ by at most 1, and their product is the smallest that is at least ``size``.

    Example:
        >>> balanced_modes(100, 2), balanced_modes(97, 2), balanced_modes(128, 3), balanced_modes(1, 2)
        ((10, 10), (10, 10), (6, 5, 5), (1, 1))
    """
    root = max(1, round(size ** (1 / num_modes)))
    while root**num_modes > size:
        root -= 1
    modes = [root] * num_modes
    for k in range(num_modes):
        if math.prod(modes) < size:
            modes[k] += 1
    return tuple(modes)


def check_modes(name: str, modes: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Returns the modes, or raises a ValueError if their product is not ``size``."""
    if not modes or min(modes) < 1 or math.prod(modes) != size:
        raise ValueError(
            f"{name} must be positive and have the product {size}, got {modes}, whose product is {math.prod(modes)}: "
            f"leave it out for {balanced_modes(size, max(1, len(modes)))}, which is padded if need be."
        )
    return modes


def core_shapes(in_modes: tuple[int, ...], out_modes: tuple[int, ...], ranks: tuple[int, ...]) -> list[Shape]:
    """The shapes of the cores; ranks that are larger than those of any matrix are reduced to these.

    Args:
        in_modes: n_1..n_d.
        out_modes: m_1..m_d.
        ranks: r_1..r_{d-1}, or one number for all of them.

    Raises:
        ValueError: the numbers of modes or ranks do not agree.
    """
    order = len(in_modes)
    if len(out_modes) != order:
        raise ValueError(f"in_modes and out_modes must be as many, got {in_modes} and {out_modes}.")
    if len(ranks) not in (1, order - 1) or min(ranks) < 1:
        raise ValueError(
            f"ranks must be positive, one number for all or one for each of the {order - 1} pairs of neighboring "
            f"cores, got {ranks} for {order} modes."
        )
    inner = ranks[:1] * (order - 1) if len(ranks) == 1 else ranks
    found = [1, *inner, 1]
    for k in range(order):
        found[k + 1] = min(found[k + 1], found[k] * in_modes[k] * out_modes[k])
    for k in reversed(range(order)):
        found[k] = min(found[k], in_modes[k] * out_modes[k] * found[k + 1])
    return [(found[k], in_modes[k], out_modes[k], found[k + 1]) for k in range(order)]


def matrix_of(cores: Sequence[jax.Array]) -> jax.Array:
    """The matrix of a tensor train, (prod n_k, prod m_k)."""
    rows = math.prod(core.shape[1] for core in cores)
    return contract(jnp.eye(rows, dtype=cores[0].dtype), cores)


def contract(x: jax.Array, cores: Sequence[jax.Array]) -> jax.Array:
    """The product of x, (*batch, prod n_k), with the matrix of a tensor train, core by core: (*batch, prod m_k)."""
    batch, done = x.shape[:-1], 1
    for core in cores:
        r, n, m, _ = core.shape
        rest = math.prod(x.shape[len(batch) :]) // (done * r * n)
        x = x.reshape(*batch, done, r, n, rest)  # outputs so far, rank, this input, inputs to come
        x = jnp.einsum("...orns,rnmq->...omqs", x, core)
        done *= m
    return x.reshape(*batch, done)


def normal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Normal numbers, drawn as a vector: XLA takes minutes to compile some shapes of four dimensions on CPUs."""
    return jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)


def normal_cores(std: float | None) -> CoresInit:
    """Normal cores, with which the entries of the matrix have the standard deviation ``std``, or None for Glorot's."""

    def init(key: jax.Array, shapes: Sequence[Shape], dtype: Any) -> list[jax.Array]:
        sizes = math.prod(shape[1] for shape in shapes) + math.prod(shape[2] for shape in shapes)
        variance = 2 / sizes if std is None else std**2
        each = (variance / math.prod(shape[3] for shape in shapes)) ** (1 / (2 * len(shapes)))
        keys = jax.random.split(key, len(shapes))
        return [each * normal(k, shape, dtype) for k, shape in zip(keys, shapes, strict=True)]

    return init


def orthogonal_cores(key: jax.Array, shapes: Sequence[Shape], dtype: Any) -> list[jax.Array]:
    """The cores of a random train, orthogonalized from left to right and scaled, as in Yang et al."""
    order = len(shapes)
    scale = 0.1 / math.prod(n * q for _, n, _, q in shapes) ** (1 / order)
    rest, cores = jnp.eye(1, dtype=dtype), []
    for k, (each, (r, n, m, q)) in enumerate(zip(jax.random.split(key, order), shapes, strict=True)):
        tall = (rest @ normal(each, (r, n * m * q), dtype)).reshape(r * n * m, q)
        if k < order - 1:
            tall, rest = (z.astype(dtype) for z in jnp.linalg.qr(tall.astype(decomposable(dtype))))
        cores.append(scale * tall.reshape(r, n, m, q))
    return cores


class TTDense(nn.Module):
    """A dense layer whose matrix is a tensor train: maps (*batch, N) to (*batch, M).

    Args:
        features: M.
        in_modes: n_1..n_d, with the product N. Default: as equal as possible, padded.
        out_modes: m_1..m_d, with the product M. Default: as equal as possible, padded.
        num_modes: d, where no modes are given.
        ranks: r_1..r_{d-1}, or one number for all; reduced to the largest that a matrix can have.
        use_bias: whether b is added.
        kernel_init: initializes the cores.
        bias_init: initializes b.
        dtype: dtype of the products; None infers it from their operands.
        param_dtype: dtype of the parameters.

    Example:
        >>> import jax
        >>> layer = TTDense(features=256, in_modes=(4, 4, 4), out_modes=(8, 8, 4), ranks=(3,))
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((2, 64)))
        >>> ys.shape, [core.shape for core in variables["params"]["cores"].values()]
        ((2, 256), [(1, 4, 8, 3), (3, 4, 8, 3), (3, 4, 4, 1)])
    """

    features: int
    in_modes: tuple[int, ...] | None = None
    out_modes: tuple[int, ...] | None = None
    num_modes: int = 2
    ranks: tuple[int, ...] = (16,)
    use_bias: bool = True
    kernel_init: CoresInit = normal_cores(None)
    bias_init: Callable[..., jax.Array] = nn.initializers.zeros
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer to x, (*batch, N)."""
        size = x.shape[-1]
        order = len(self.in_modes or self.out_modes or (1,) * self.num_modes)
        if order < 1:
            raise ValueError(f"num_modes must be at least 1, got {self.num_modes}.")
        inputs = balanced_modes(size, order) if self.in_modes is None else self.in_modes
        outputs = balanced_modes(self.features, order) if self.out_modes is None else self.out_modes
        if self.in_modes is not None:
            check_modes("in_modes", inputs, size)
        if self.out_modes is not None:
            check_modes("out_modes", outputs, self.features)
        shapes = core_shapes(inputs, outputs, self.ranks)

        def init(key: jax.Array) -> dict[str, jax.Array]:
            return {f"core_{k}": core for k, core in enumerate(self.kernel_init(key, shapes, self.param_dtype))}

        named = self.param("cores", init)
        x, bias, *cores = promote_dtype(
            x,
            self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None,
            *(named[f"core_{k}"] for k in range(order)),
            dtype=self.dtype,
        )
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, math.prod(inputs) - size)])
        y = contract(x, cores)[..., : self.features]
        return y if bias is None else y + jnp.broadcast_to(bias, y.shape)
