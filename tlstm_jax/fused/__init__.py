"""The unroll of :mod:`tlstm_jax.unrolling` with a custom derivative: fewer passes and a fraction of the memory.

Differentiating the scan of :func:`tlstm_jax.cell.timestep` saves every intermediate value of every timestep. Here the
forward loop saves H_{t-1}, C_{t-1} and, if asked, the pre-activations A_t; the backward loop recomputes the rest. The
equations are those of :mod:`tlstm_jax.cell`: both loops call :func:`tlstm_jax.cell.pointwise`, and the backward loop
differentiates it with :func:`jax.vjp`. Only linear maps are transposed by hand, because that is faster: the hidden
convolution (:mod:`tlstm_jax.fused.hidden`) and the memory-cell convolution (:mod:`tlstm_jax.fused.memory`).

With ``Fused(kernel="mosaic")`` one GPU kernel computes everything in a timestep except the matrix product, forward and
backward. It calls the same function or its :func:`jax.vjp` (:mod:`tlstm_jax.fused.mosaic`).

With d() for the derivative of the loss, s_k for the kernel's offsets, from the last timestep to the first:

    dA_t, dC_{t-1} = vjp(pointwise)(dC_t, dH_t)                                          (15-21, 31)
    dpatches = dA W^h^T      dH^cat(p+s_k) += dpatches_k(p)                              (14)
    dW^h += patches^T dA     db^h += sum dA
"""

from tlstm_jax.fused.loops import fused_span

__all__ = ["fused_span"]
