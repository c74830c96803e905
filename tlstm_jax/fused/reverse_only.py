"""A clear error message for forward-mode differentiation of a function with a custom reverse-mode derivative.

The message of ``jax.custom_vjp`` cannot name another implementation. The inputs therefore pass through an
identity whose tangent is a primitive that can be transposed, which is all that reverse mode does with it, but
not evaluated or compiled, as forward mode would do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

T = TypeVar("T")

_identity = Primitive("tlstm_jax_reverse_only")
_tangent = Primitive("tlstm_jax_reverse_only_tangent")


def reverse_only(tree: T) -> T:
    """``tree`` unchanged; a forward-mode derivative with respect to it raises a ``ValueError`` that says what to do."""
    return jax.tree.map(_identity.bind, tree)


def _jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    (x,), (tangent,) = primals, tangents
    return x, tangent if isinstance(tangent, ad.Zero) else _tangent.bind(tangent)


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise ValueError(
        'implementation="auto" and "fused" have a derivative for reverse mode only (jax.grad, jax.vjp), and this is '
        'forward mode (jax.jvp, jax.jacfwd, jax.linearize): pass implementation="reference".'
    )


_identity.def_impl(lambda x: x)
_identity.def_abstract_eval(lambda aval: aval)
ad.primitive_jvps[_identity] = _jvp
batching.defvectorized(_identity)
mlir.register_lowering(_identity, lambda _, x: [x])

_tangent.def_impl(_refuse)
_tangent.def_abstract_eval(lambda aval: aval)
ad.deflinear2(_tangent, lambda cotangent, _: [cotangent])
batching.primitive_batchers[_tangent] = _refuse
mlir.register_lowering(_tangent, _refuse)
