"""Unitary evolution RNNs: a complex state that is multiplied by a unitary matrix, so that no gradient vanishes there.

    z = h_ W + x V;   h = z max(|z| + b, 0) / (|z| + 1e-5);   y = [Re h, Im h] Wo + bo

uRNN (Arjovsky, Shah and Bengio, arXiv:1511.06464; read in amarshah/complex_RNN): W = D1 F R1 Pi D2 F^-1 R2 D3, in the
order in which a row vector is multiplied, with diagonals D of exp(i th), the unitary Fourier transform F, reflections
R: h - 2 (h v^T) conj(v) / (v v*), and a fixed random permutation Pi.
Full-capacity uRNN (Wisdom, Powers, Hershey, Le Roux and Atlas, arXiv:1611.00035; read in stwisdom/urnn): W is any
unitary matrix, see :func:`multiplicative_cayley`.

A layer with ``features`` outputs has M = features / 2 complex units and returns [Re h, Im h]. The dense layer that
reads the outputs is Wo and bo, and is not counted: core parameters are 2RM + 10M and 2RM + M^2 + 3M (with the learned
initial state, 2M). W of the latter is stored as 2M^2 numbers, of which unitarity determines M^2.

Initialization: th uniform in -pi..pi; v and V Glorot; b uniform in -0.01..0.01, and 0 for the full-capacity uRNN; the
initial state uniform in +-sqrt(3 / 2M); the full W that of the polar decomposition of a Gaussian matrix.
Recipes: RMSprop 1e-3 with decay 0.9, batch 20, no clipping; the full one on MNIST RMSprop 1e-4 (M=512) or 1e-3 (M=116)
with RMS-normalized steps of 1e-6 for W, batch 50; on copying T=1000 all at 1e-3, W's steps not normalized. MNIST and
permuted MNIST in percent: 95.1 and 91.4; full 96.9 and 94.1 (97.5 in a later table is UNVERIFIED).
Deviations: in ``dtype`` bfloat16 the full W is rounded, and so unitary to 3 digits only; the smallest normal number is
added to |z|^2, for gradients at 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.linen.dtypes import promote_dtype

from experiments.rivals.initializers import uniform_init
from experiments.rivals.layer import Carry, Rival, state_at_end

UNITARY = "unitary"
"""The name of the parameter that :func:`multiplicative_cayley` updates."""


class _Unitary(Rival):
    """The base class of both: everything except W.

    Args:
        bias_limit: the initial b is uniform between this number and its negative.
    """

    features_multiple: ClassVar[int] = 2

    bias_limit: float = 0.0

    def __post_init__(self) -> None:
        if self.features % 2:
            raise ValueError(
                f"features are the real and the imaginary parts of complex units, so an even number, not "
                f"{self.features}: use {self.features + 1}"
            )
        if jnp.dtype(self.param_dtype).itemsize < 4:
            raise ValueError(
                f"param_dtype must be float32 or float64, whose complex numbers exist, got "
                f"{jnp.dtype(self.param_dtype).name}: give float32"
            )
        super().__post_init__()

    @property
    def learns_start(self) -> bool:
        """True."""
        return True

    def transition(self) -> Callable[[jax.Array], jax.Array]:
        """The product with W: maps [Re h, Im h] to [Re hW, Im hW], each (*batch, 2M)."""
        raise NotImplementedError

    def forward(
        self, xs: jax.Array, initial_carry: Carry | None, seq_lengths: jax.Array | None, deterministic: bool
    ) -> tuple[Carry, jax.Array]:
        """See :meth:`experiments.rivals.Rival.forward`. The carry is the last output, (*batch, features)."""
        units = self.features // 2
        dense = nn.Dense(
            self.features,
            use_bias=False,
            kernel_init=nn.initializers.glorot_uniform(),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="input",
        )
        inputs = dense(xs).astype(self.param_dtype)
        bias = self.param("bias", uniform_init(self.bias_limit), (units,), self.param_dtype)
        start = self.param("start", uniform_init(math.sqrt(1.5 / units)), (self.features,), self.param_dtype)
        start = jnp.broadcast_to(start, (*xs.shape[:-2], self.features))
        if initial_carry is not None:
            start = initial_carry
        transition = self.transition()

        def step(h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            h = modrelu(transition(h) + x, bias)
            return h, h

        _, ys = jax.lax.scan(step, start, jnp.moveaxis(inputs, -2, 0))
        ys = jnp.moveaxis(ys, 0, -2)
        return state_at_end(start, ys, seq_lengths), ys


class URNN(_Unitary):
    """Unitary evolution RNN: a complex state times diagonals, Fourier transforms, reflections and a permutation.

    Its parameters grow with ``features``, not their square, so compare at an equal state or time.

    Args:
        bias_limit: the initial b is uniform between this number and its negative.
        permutation_seed: seed of the fixed permutation.

    Example:
        >>> import jax
        >>> layer = URNN(features=8)
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((3, 10, 5)))
        >>> ys.shape, variables["params"]["phases"].shape
        ((3, 10, 8), (3, 4))
    """

    bias_limit: float = 0.01
    permutation_seed: int = 0

    def transition(self) -> Callable[[jax.Array], jax.Array]:
        """See the module's docstring."""
        units = self.features // 2
        phases = self.param("phases", uniform_init(math.pi), (3, units), self.param_dtype)
        vs = self.param("reflections", nn.initializers.glorot_uniform(), (2, 2 * units), self.param_dtype)
        d1, d2, d3 = jax.lax.complex(jnp.cos(phases), jnp.sin(phases))
        v1, v2 = to_complex(vs)
        permutation = np.random.default_rng(self.permutation_seed).permutation(units)

        def multiply(h: jax.Array) -> jax.Array:
            z = reflect(jnp.fft.fft(to_complex(h) * over(d1, h), norm="ortho"), v1)
            z = jnp.fft.ifft(z[..., permutation] * over(d2, h), norm="ortho")
            return to_real(reflect(z, v2) * over(d3, h))

        return multiply


class FullURNN(_Unitary):
    """Full-capacity uRNN: a complex state times any unitary matrix, which is updated by a multiplication.

    Args:
        bias_limit: the initial b is uniform between this number and its negative.
        parametrized: whether W is the Cayley transform of a skew-Hermitian matrix, a parameter for any optimizer,
            instead of a parameter that :meth:`optimizer` updates. This is not the paper's.
        unitary_rate: the learning rate of W, see :func:`multiplicative_cayley`. 1e-6 with ``normalize`` in the paper's
            runs on MNIST, 1e-3 without on copying.
        normalize: whether W's gradients are divided by the root of their mean squares first.

    Example:
        >>> import jax, optax
        >>> layer = FullURNN(features=8)
        >>> ys, variables = layer.init_with_output(jax.random.key(0), jax.numpy.ones((3, 10, 5)))
        >>> ys.shape, variables["params"]["unitary"].shape
        ((3, 10, 8), (2, 4, 4))
        >>> optimizer = layer.optimizer(optax.rmsprop(1e-4))
        >>> state = optimizer.init(variables["params"])
    """

    parametrized: bool = False
    unitary_rate: float = 1e-6
    normalize: bool = True

    def transition(self) -> Callable[[jax.Array], jax.Array]:
        """See the module's docstring."""
        units = self.features // 2
        if self.parametrized:  # variance 1 / M puts the eigenvalues of W at angles up to 2 atan 4, 152 degrees
            init = nn.initializers.normal(1 / math.sqrt(units))
            w = skew_cayley(self.param("skew", init, (units, units), self.param_dtype))
        else:
            w = self.param(UNITARY, unitary_init, (2, units, units), self.param_dtype)
        matrix = real_form(w)

        def multiply(h: jax.Array) -> jax.Array:
            return jnp.matmul(*promote_dtype(h, matrix, dtype=self.dtype)).astype(self.param_dtype)

        return multiply

    @nn.nowrap
    def num_constraints(self) -> int:
        """M^2: so many of the 2M^2 numbers of W are determined by the others."""
        return 0 if self.parametrized else (self.features // 2) ** 2

    @nn.nowrap
    def optimizer(self, others: optax.GradientTransformation) -> optax.GradientTransformation:
        """An optimizer that updates W with :func:`multiplicative_cayley`, and with ``others`` all other parameters.

        Args:
            others: an optimizer; clipping and weight decay that are part of it do not apply to W.
        """
        unitary = multiplicative_cayley(self.unitary_rate, normalize=self.normalize)
        return optax.partition({UNITARY: unitary, "others": others}, unitary_labels)


def to_complex(z: jax.Array) -> jax.Array:
    """(.., M) complex numbers from their real parts and then their imaginary parts, (.., 2M)."""
    return jax.lax.complex(*jnp.split(z, 2, axis=-1))


def to_real(z: jax.Array) -> jax.Array:
    """The real parts and then the imaginary parts, (.., 2M), of (.., M) complex numbers."""
    return jnp.concatenate([z.real, z.imag], axis=-1)


def over(d: jax.Array, h: jax.Array) -> jax.Array:
    """Broadcasts a vector, (M,), to every row of h, (*batch, ..)."""
    return jnp.broadcast_to(d, (*h.shape[:-1], d.shape[-1]))


def reflect(h: jax.Array, v: jax.Array) -> jax.Array:
    """Reflects complex row vectors h, (*batch, M), along conj(v), (M,): h - 2 (h v^T) conj(v) / (v v*)."""
    along = jnp.matmul(h, v, precision="highest") / (v.real**2 + v.imag**2).sum()
    return h - 2 * along[..., None] * over(v.conj(), h)


def modrelu(z: jax.Array, bias: jax.Array) -> jax.Array:
    """Changes the absolute values of complex numbers by ``bias``, but not below 0, and keeps their phases.

    Args:
        z: real parts and imaginary parts, (*batch, 2M).
        bias: (M,).
    """
    re, im = jnp.split(z, 2, axis=-1)
    size = jnp.sqrt(re**2 + im**2 + np.finfo(z.dtype).tiny)
    scale = jnp.maximum(size + over(bias, z), 0) / (size + 1e-5)
    return jnp.concatenate([re * scale, im * scale], axis=-1)


def real_form(w: jax.Array) -> jax.Array:
    """The matrix (2M, 2M) that multiplies [Re h, Im h] as the complex one, (2, M, M), multiplies h."""
    re, im = w
    return jnp.block([[re, im], [-im, re]])


def unitary_init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """A uniformly distributed unitary matrix, real and imaginary parts of (2, M, M)."""
    u, _, v = jnp.linalg.svd(jax.lax.complex(*jax.random.normal(key, shape, dtype)))
    w = jnp.matmul(u, v, precision="highest")
    return jnp.stack([w.real, w.imag])


def skew_cayley(k: jax.Array) -> jax.Array:
    """(I + X)^-1 (I - X) with X = A - A* and A = (1 + i) k, which gives every skew-Hermitian X one k.

    Args:
        k: real numbers, (M, M).

    Returns:
        The real and the imaginary parts, (2, M, M), of a unitary matrix, of which -1 is no eigenvalue.
    """
    w = cayley(jax.lax.complex(k - k.T, k + k.T))
    return jnp.stack([w.real, w.imag])


def cayley(x: jax.Array) -> jax.Array:
    """(I + X)^-1 (I - X), unitary if X is skew-Hermitian, (M, M)."""
    eye = jnp.eye(x.shape[-1], dtype=x.dtype)
    return jnp.linalg.solve(eye + x, eye - x)


class CayleyState(NamedTuple):
    """State of :func:`multiplicative_cayley`."""

    num_updates: jax.Array
    """The number of updates so far."""
    mean_squares: Any
    """Running means of the squares of the gradients, in the parameters' tree; None if gradients are not normalized."""


def multiplicative_cayley(
    learning_rate: float | Callable[[jax.Array], jax.Array],
    *,
    normalize: bool = True,
    decay: float = 0.9,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Gradient descent on unitary matrices (Wisdom et al., arXiv:1611.00035, equations 8 and 9).

        A = G W* - W G*;   W <- (I + l/2 A)^-1 (I - l/2 A) W

    with the gradient G, for which dF = Re tr(G* dW), and the learning rate l. It is the same for row and column
    vectors: multiplied from the right, by the transform of W*G - G*W, the result is equal for unitary W.
    The update is the difference to W, as optax adds it.

    Args:
        learning_rate: l, a number or an optax schedule.
        normalize: whether every number of G is divided by the root of a running mean of its squares first.
        decay: the decay of this mean.
        eps: the number that is added to its root.

    Returns:
        A transformation of parameters (2, M, M), real and imaginary parts, for :func:`optax.partition` with
        :func:`unitary_labels`.
    """

    def init(params: Any) -> CayleyState:
        mean_squares = jax.tree.map(jnp.zeros_like, params) if normalize else None
        return CayleyState(jnp.zeros((), jnp.int32), mean_squares)

    def update(gradients: Any, state: CayleyState, params: Any = None) -> tuple[Any, CayleyState]:
        if params is None:
            raise ValueError("multiplicative_cayley needs the parameters: optimizer.update(gradients, state, params)")
        rate = learning_rate(state.num_updates) if callable(learning_rate) else learning_rate
        mean_squares = state.mean_squares
        if normalize:
            mean_squares = jax.tree.map(lambda v, g: decay * v + (1 - decay) * g**2, mean_squares, gradients)
            gradients = jax.tree.map(lambda g, v: g / (jnp.sqrt(v) + eps), gradients, mean_squares)
        updates = jax.tree.map(lambda g, w: _cayley_update(g, w, jnp.asarray(rate, w.dtype)), gradients, params)
        return updates, CayleyState(optax.safe_increment(state.num_updates), mean_squares)

    return optax.GradientTransformation(init, update)


def _cayley_update(gradient: jax.Array, param: jax.Array, rate: jax.Array) -> jax.Array:
    """The difference between the new W and the old one."""
    g, w = jax.lax.complex(*gradient), jax.lax.complex(*param)
    product = jnp.matmul(g, w.conj().T, precision="highest")
    new = jnp.matmul(cayley(rate / 2 * (product - product.conj().T)), w, precision="highest")
    return jnp.stack([new.real, new.imag]) - param


def unitary_labels(params: Any) -> Any:
    """Labels the parameters, as a tree: :data:`UNITARY` for parameters of this name, and "others" for all others."""

    def label(path: tuple[Any, ...], _: jax.Array) -> str:
        return UNITARY if getattr(path[-1], "key", None) == UNITARY else "others"

    return jax.tree_util.tree_map_with_path(label, params)
