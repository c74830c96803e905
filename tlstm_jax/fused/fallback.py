"""A function that JAX can only compile as it is, with another that takes its place everywhere else.

The GPU kernels have no rule for :func:`jax.vmap`, nor for forward mode, which second derivatives need. Nor can they be
part of a program that :func:`jax.export.export` lowers for several platforms at once, or whose arrays XLA divides among
several devices; both are known only when a program is lowered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

Flat = Callable[..., Any]

_call = Primitive("tlstm_jax_with_fallback")
_call.multiple_results = True


def with_fallback(function: Callable[..., Any], fallback: Callable[[str], Callable[..., Any]]) -> Callable[..., Any]:
    """``function``, in whose place another runs where JAX can only compile the function as it is.

    Args:
        function: from trees of arrays to a tree of arrays.
        fallback: returns the other one, with the same arguments and results, or raises an error. Its argument says what
            JAX cannot do.
    """

    def call(*arguments: Any) -> Any:
        leaves, structure = jax.tree.flatten(arguments)

        def flat(*leaves: Any) -> Any:
            return function(*jax.tree.unflatten(structure, leaves))

        config: Any = jax.config
        precision = config.jax_default_matmul_precision  # the fallback may be traced outside of the user's context

        def flat_fallback(what: str) -> Flat:
            other = fallback(what)

            def flat(*leaves: Any) -> Any:
                with jax.default_matmul_precision(precision):
                    return jax.tree.leaves(other(*jax.tree.unflatten(structure, leaves)))

            return flat

        jaxpr, shapes = jax.make_jaxpr(flat, return_shape=True)(*leaves)
        found = _call.bind(*leaves, jaxpr=jaxpr, fallback=flat_fallback)
        return jax.tree.unflatten(jax.tree.structure(shapes), found)

    return call


def _abstract(*_: Any, jaxpr: ClosedJaxpr, **__: Any) -> Any:
    return jaxpr.out_avals, jaxpr.effects


def _run(*arguments: Any, **parameters: Any) -> Any:
    with jax.disable_jit(False):  # it would come back here
        return jax.jit(lambda *arguments: _call.bind(*arguments, **parameters))(*arguments)


def _batch(arguments: Sequence[Any], axes: Sequence[Any], *, fallback: Callable[[str], Flat], **_: Any) -> Any:
    found = jax.vmap(fallback("an axis of jax.vmap"), in_axes=tuple(axes))(*arguments)
    return found, [0] * len(found)


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, fallback: Callable[[str], Flat], **_: Any) -> Any:
    return jax.jvp(fallback("a second derivative"), tuple(primals), tuple(map(ad.instantiate_zeros, tangents)))


def _lower(context: Any, *arguments: Any, jaxpr: ClosedJaxpr, fallback: Callable[[str], Flat]) -> Any:
    def lower(function: Flat) -> Any:
        return mlir.lower_fun(function, multiple_results=True)(context, *arguments)

    module = context.module_context
    if len(module.platforms) > 1:
        return lower(fallback("a program for several platforms"))
    if getattr(module.axis_context, "num_devices", 1) > 1:
        return lower(fallback("a program for several devices"))
    if module.platforms[0] == "cuda":
        return lower(jaxpr_as_fun(jaxpr))
    try:  # traced for Pallas' interpreter, they run anywhere
        return lower(jaxpr_as_fun(jaxpr))
    except (AssertionError, ValueError) as error:
        refused = error
    fallback(f'the platform "{module.platforms[0]}"')  # an error that says more, if they were asked for by name
    raise refused


_call.def_effectful_abstract_eval(_abstract)
_call.def_impl(_run)
batching.primitive_batchers[_call] = _batch
ad.primitive_jvps[_call] = _jvp
mlir.register_lowering(_call, _lower)
