"""GPU kernels for a timestep of the tLSTM without its matrix product, and for its derivative (Pallas Mosaic).

The equations are those of :func:`tlstm_jax.cell.pointwise`: the forward kernel calls it, and the backward kernel calls
its :func:`jax.vjp`. This module only determines where values are read and written.

Each block of a kernel's grid computes one location p of one row b of the batch. It has one warpgroup, which keeps
vectors of channels in registers, padded to a multiple of 128, its number of threads. Arrays are updated in place (they
are ``jax.Ref``), so that a loop over timesteps copies nothing else. Operands and results of matrix products have
:attr:`Sizes.stride` channels for each gate or kernel offset instead. Reading a vector from them also reads the channels
that follow it, which are masked. The gates of dA are written in order, so that each overwrites the padding of the gate
before. Patches are written by bulk copies of their exact length, since their padding would overwrite another block's.
The padding is zero in every result, except in columns of dA and of the kept pre-activations that nothing reads.
"""

from __future__ import annotations

import functools
import importlib
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from tlstm_jax import cell
from tlstm_jax.fused.geometry import Sizes, Tables, input_taps, memory_offsets
from tlstm_jax.typing import Array, Params

plgpu: Any = importlib.import_module("jax.experimental.pallas.mosaic_gpu")  # its interface depends on jax's version

BULK = 256
"""The largest number of channels that one bulk copy moves."""
Ref = Any


class Arrival(NamedTuple):
    """The cotangents of the state after ``ends[b]`` timesteps; ``ends`` is ``(b,)``, the others ``(p, b, padded)``."""

    ends: Ref
    d_c: Ref
    d_h: Ref


class Common(NamedTuple):
    """The arrays that both kernels read; ``bias`` is ``(width,)``, and :class:`Forward` describes the rest."""

    bias: Ref
    pointwise: Any
    fresh: Any
    reset: Ref | None
    c: Ref
    tables: Tables
    steps: Ref


class Kept(NamedTuple):
    """The residuals of n timesteps that the forward kernel saves for the backward pass.

    Attributes:
        a: ``(n, p, b, width)``, ``Forward.a`` summed over its parts.
        patches: ``(n, p, b, k * stride)``, without padding at the end.
    """

    a: Ref
    patches: Ref


class Forward(NamedTuple):
    """The arrays of the forward kernel, for n timesteps.

    Attributes:
        common: ``pointwise``, the groups of :func:`tlstm_jax.cell.pointwise_params`, each leaf ``(p, padded)``;
            ``fresh``, the state (c, h) after a reset, ``(p, padded)`` each, or None for zeros; ``reset``,
            ``(n + 1, b)`` integers, or None; ``c``, ``(n + 1, p, b, padded)``, the memory cell after 0, 1, ..
            timesteps, before any reset; ``steps``, ``(p, b)``, the current timestep, which each block counts itself, so
            that no other kernel is needed for it.
        a: ``(parts[0], p, b, width)``, the product of the patches and the kernel.
        xs: ``(n, b, padded)``, projected inputs.
        h: the hidden state, with the shape of ``c``.
        patches: ``(p, b, depth)``, of the next timestep.
        kept: the residuals for the backward pass, or None.
    """

    common: Common
    a: Ref
    xs: Ref
    h: Ref
    patches: Ref
    kept: Kept | None


class Backward(NamedTuple):
    """The arrays of the backward kernel.

    Attributes:
        common: as above; ``steps`` counts down.
        d_patches: ``(parts[1], p, b, depth)``, the cotangents of the patches, from the timestep after this one.
        d_ys: ``(n, b, padded)``, the cotangents of the outputs.
        a: ``(chunk, p, b, width)``, ``Forward.a`` summed over its parts, for each timestep of the chunk.
        arriving: cotangents of states within the sequence.
        d_c: ``(2, b, p k, padded)``, the terms that each location adds to dC of its neighbours, of this timestep and
            the next.
        d_a: ``(chunk, p, b, width)``.
        now: ``(p, b, width)``, dA of this timestep in the dtype of matrix products.
        d_pointwise: the gradient of ``pointwise`` for each row, leaves ``(p, b, padded)``, summed over timesteps.
        d_fresh: the gradient of ``fresh`` in the same form.
    """

    common: Common
    d_patches: Ref
    d_ys: Ref
    a: Ref
    arriving: list[Arrival]
    d_c: Ref
    d_a: Ref
    now: Ref
    d_pointwise: Any
    d_fresh: Any


def forward_step(s: Sizes, refs: Forward) -> None:
    """C_t and H_t from the matrix product of a timestep, and the patches of the next timestep."""

    def tlstm_forward(refs: Forward, h_copy: Ref, x_copy: Ref, zeros: Ref | None = None) -> None:
        p, b = lax.axis_index("p"), lax.axis_index("b")
        common, geometry, kept = refs.common, refs.common.tables, refs.kept
        t = common.steps[p, b]
        is_last = t + 1 == refs.xs.shape[0]
        # Everything is read before anything is written, since a read that follows a write may have to wait for it.
        a = _preactivations(s, refs.a, [(n, p, b) for n in range(s.parts[0])])
        readers = [geometry.reader[p, k] for k in range(s.cfg.num_offsets)]
        is_zero = [geometry.zero[p, k] > 0 for k in range(s.cfg.num_offsets)]
        x = refs.xs[lax.min(t + 1, jnp.int32(refs.xs.shape[0] - 1)), b, :]
        c, h = lowerable(_pointwise(s))(*_arguments(s, common, a, p, b, t))
        common.c[t + 1, p, b, :] = c
        refs.h[t + 1, p, b, :] = h.astype(refs.h.dtype)
        if common.reset is not None:
            h = _select(common.reset[t + 1, b] > 0, _fresh(s, common.fresh, 1, p), h)
        h_copy[...] = h.astype(h_copy.dtype)
        x_copy[...] = x
        if kept is not None and zeros is not None:
            _write_gates(s, [kept.a], (t, p, b), *a)
            zeros[...] = _keep(p < 0, h).astype(zeros.dtype)  # a constant cannot be stored if s.padded is 384
        _barrier()

        def copy(source: Ref, place: Any, k: int) -> None:
            _copy_part(s, source, refs.patches.at[place, b], k)
            if kept is not None:
                pl.when(~is_last)(lambda: _copy_part(s, source, kept.patches.at[t + 1, place, b], k))

        for k in range(s.cfg.num_offsets):
            pl.when(readers[k] >= 0)(functools.partial(copy, h_copy, readers[k], k))
            if kept is not None:
                to = kept.patches.at[t + 1, p, b]
                pl.when(is_zero[k] & ~is_last)(functools.partial(_copy_part, s, zeros, to, k))
        for k, place in input_taps(s.cfg):
            pl.when((p == place) & ~is_last)(functools.partial(copy, x_copy, p, k))
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        common.steps[p, b] = t + 1

    copies = [plgpu.SMEM((s.padded,), ref.dtype) for ref in (refs.h, refs.xs)]
    if refs.kept is not None:
        copies.append(plgpu.SMEM((s.padded,), refs.h.dtype))
    _launch(tlstm_forward, s, refs, copies)


def backward_step(s: Sizes, refs: Backward) -> None:
    """dA_t, and the terms that a timestep adds to dC_{t-1} and to the gradients of ``pointwise`` and ``fresh``."""

    def tlstm_backward(refs: Backward) -> None:
        p, b = lax.axis_index("p"), lax.axis_index("b")
        common, geometry = refs.common, refs.common.tables
        t = common.steps[p, b]
        parity, now = lax.rem(t, jnp.int32(2)), lax.rem(t, jnp.int32(s.chunk))
        d_c: Array = jnp.zeros((s.padded,), jnp.float32)
        d_h: Array = jnp.zeros((s.padded,), jnp.float32)
        for k in range(s.cfg.num_offsets):
            to = geometry.reader[p, k]
            places = [(n, lax.max(to, jnp.int32(0)), b) for n in range(s.parts[1])]
            d_h += _part(s, refs.d_patches, places, k, to >= 0)
        for j in range(geometry.pairs.shape[1]):
            pair = geometry.pairs[p, j]
            d_c += _keep(pair >= 0, refs.d_c[parity, b, lax.max(pair, jnp.int32(0)), :])
        if common.reset is not None:  # after this timestep: the next state does not depend on this one
            is_reset = common.reset[t + 1, b] > 0
            for total, d in zip(refs.d_fresh or (), (d_c, d_h), strict=False):
                total[p, b, :] = total[p, b, :] + _keep(is_reset, d)
            d_c, d_h = _keep(~is_reset, d_c), _keep(~is_reset, d_h)
        for arrival in refs.arriving:
            here = arrival.ends[b] == t + 1
            d_c += _keep(here, arrival.d_c[p, b, :])
            d_h += _keep(here, arrival.d_h[p, b, :])
        d_h += _keep(p == s.locations - 1, refs.d_ys[t, b, :])

        def transposed(arguments: Any, cotangents: Any) -> Any:
            return jax.vjp(_pointwise(s), *arguments)[1](cotangents)

        a = _preactivations(s, refs.a, [(now, p, b)])
        (*gates, q), d_neighbours, d_pointwise = lowerable(transposed)(_arguments(s, common, a, p, b, t), (d_c, d_h))
        totals = [total[p, b, :] for total in jax.tree.leaves(refs.d_pointwise)]
        _write_gates(s, [refs.d_a.at[now], refs.now], (p, b), gates, q)
        for k, d in enumerate(d_neighbours):
            refs.d_c[1 - parity, b, p * len(d_neighbours) + k, :] = d
        leaves = map(jax.tree.leaves, (refs.d_pointwise, d_pointwise))
        for ref, d, total in zip(*leaves, totals, strict=True):
            ref[p, b, :] = total + d
        common.steps[p, b] = t - 1

    _launch(tlstm_backward, s, refs, [])


def _launch(body: Callable[..., None], s: Sizes, refs: Any, scratch: Sequence[Any]) -> None:
    """Runs a kernel on arrays, some of which it updates in place."""
    structure: Any
    leaves, structure = jax.tree.flatten(refs)

    def entry(*refs: Ref) -> None:
        body(structure.unflatten(refs[: len(leaves)]), *refs[len(leaves) :])

    entry.__name__ = body.__name__  # the kernel's name in profiles
    # Barriers around every store would be half of all barriers; those that are needed are written out.
    semantics = plgpu.LoweringSemantics.Warpgroup
    compiler_params = plgpu.CompilerParams(lowering_semantics=semantics, unsafe_no_auto_barriers=True)
    grid = {"grid": (s.locations, s.batch), "grid_names": ("p", "b")}
    plgpu.kernel(entry, out_type=(), scratch_types=scratch, compiler_params=compiler_params, **grid)(*leaves)


def _pointwise(s: Sizes) -> Callable[..., Any]:
    """:func:`tlstm_jax.cell.pointwise` of one location and row, with the logits of q in a separate list."""

    def mean(z: Array) -> Array:
        total = jnp.sum(jnp.where(_channels(z) < s.cfg.features, z, 0.0))
        return lax.broadcast_in_dim(total / s.cfg.features, z.shape, ())

    def pointwise(a: Sequence[Any], neighbours: Sequence[Array], params: Params) -> Any:
        *gates, q = a
        return cell.pointwise([*gates, *q], neighbours, params, s.cfg, mean=mean)

    return pointwise


def _preactivations(s: Sizes, a: Ref, places: Sequence[tuple[Any, ...]]) -> tuple[list[Array], list[Any]]:
    """Gates and logits, before the bias: the sum of some rows of ``a``."""
    gates = [_part(s, a, places, n) for n in range(4)]
    ks = [4 * s.stride + k for k in range(memory_offsets(s.cfg))]
    return gates, [functools.reduce(operator.add, [a[(*place, k)] for place in places]) for k in ks]


def _write_gates(s: Sizes, arrays: Sequence[Ref], place: tuple[Any, ...], gates: Sequence[Array], q: Any) -> None:
    """Writes rows that :func:`_preactivations` reads; each gate overwrites the padding of the gate before."""
    for n, z in enumerate(gates):
        for array in arrays:
            array[(*place, pl.ds(n * s.stride, s.padded))] = z.astype(array.dtype)
        _barrier()
    for array in arrays:
        for k, z in enumerate(q):
            array[(*place, 4 * s.stride + k)] = z.astype(array.dtype)


def _arguments(s: Sizes, common: Common, a: tuple[list[Array], list[Any]], p: Any, b: Any, t: Any) -> Any:
    """The arguments of :func:`_pointwise` at location p of row b in timestep t, from pre-activations without bias."""
    gates = [z + _part(s, common.bias, [()], n) for n, z in enumerate(a[0])]
    q = [z + common.bias[4 * s.stride + k] for k, z in enumerate(a[1])]
    places = [common.tables.neighbour[p, k] for k in range(common.tables.neighbour.shape[1])]
    neighbours = [common.c[t, place, b, :] for place in places]
    if common.reset is not None:
        is_reset = common.reset[t, b] > 0
        fresh = [_fresh(s, common.fresh, 0, place) for place in places]
        neighbours = [_select(is_reset, new, old) for new, old in zip(fresh, neighbours, strict=True)]
    return [*gates, q], neighbours, jax.tree.map(lambda leaf: leaf[p, :], common.pointwise)


def _fresh(s: Sizes, fresh: Any, which: int, p: Any) -> Array:
    return jnp.zeros((s.padded,), jnp.float32) if fresh is None else fresh[which][p, :]


def _barrier() -> None:
    """Waits for all threads of the warpgroup: after that they see what each of them wrote before.

    No test on a CPU notices that one is missing between stores: Pallas' interpreter runs a warpgroup as one thread.
    """
    plgpu.commit_smem()


def _channels(z: Array) -> Array:
    """The number of each channel."""
    return lax.broadcasted_iota(jnp.int32, z.shape, 0)


def _keep(condition: Any, z: Array, count: int | None = None) -> Array:
    """``z``, or its first ``count`` channels, where a scalar condition holds; elsewhere zeros."""
    return _select(condition, z, jnp.zeros_like(z), count)


def _select(condition: Any, one: Array, other: Array, count: int | None = None) -> Array:
    """``one``, or its first ``count`` channels, where a scalar condition holds; elsewhere ``other``.

    Written as a comparison of vectors, since Mosaic GPU selects by nothing else.
    """
    bound = jnp.where(condition, jnp.int32(count or one.shape[0]), jnp.int32(0))
    return jnp.where(_channels(one) < bound, one, other)


def _part(s: Sizes, ref: Ref, places: Sequence[tuple[Any, ...]], part: int, condition: Any = True) -> Array:
    """The channels of one gate or kernel offset in an array of a product, zero padded and summed over ``places``.

    Zeros where the scalar ``condition`` does not hold.
    """
    z = functools.reduce(operator.add, [ref[(*place, pl.ds(part * s.stride, s.padded))] for place in places])
    return z if condition is True and s.stride == s.padded else _keep(condition, z, s.stride)


def _copy_part(s: Sizes, source: Ref, patches: Ref, k: int) -> None:
    """Starts to copy the channels of one kernel offset into the patches of a location."""
    for first in range(0, s.stride, BULK):
        count = min(BULK, s.stride - first)
        to = patches.at[pl.ds(k * s.stride + first, count)]
        plgpu.copy_smem_to_gmem(source.at[pl.ds(first, count)], to)


def lowerable(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` without the primitives that only derivatives use, which Mosaic GPU cannot lower."""

    def evaluate(jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))

        def read(atom: Any) -> Any:
            return atom.val if hasattr(atom, "val") else values[atom]

        for eqn in jaxpr.eqns:
            given, name = [read(atom) for atom in eqn.invars], eqn.primitive.name
            inner = next((eqn.params[key] for key in ("jaxpr", "call_jaxpr") if key in eqn.params), None)
            if inner is not None:  # jit, custom_jvp_call
                results = evaluate(inner.jaxpr, inner.consts, given)
            elif name == "add_any":
                results = [given[0] + given[1]]
            else:
                bound = eqn.primitive.bind(*given, **eqn.params)
                results = bound if eqn.primitive.multiple_results else [bound]
            values.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def call(*arguments: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        return jax.tree.unflatten(
            jax.tree.structure(shapes), evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(arguments))
        )

    return call
