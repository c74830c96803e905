"""How a model runs over sequences: options that check themselves, built by ``unroll`` and by the Flax layers."""

from __future__ import annotations

import dataclasses
import reprlib
from typing import Any, Literal

import numpy as np

from tlstm_jax.checks import positive_size


@dataclasses.dataclass(frozen=True)
class Fused:
    """How the fused implementation of :func:`tlstm_jax.unroll` differentiates; None chooses by platform.

    Args:
        save: what the forward loop keeps for the backward loop besides inputs: ``"gates"`` (H, C, G, I, F, O, Q:
            nothing is computed twice; the fastest on a CPU) or ``"states"`` (H and C; the gates of many timesteps are
            then recomputed in one matrix product; the fewest kernels on a GPU, where each write inside a loop is one).
        gather: for how many timesteps at a time the backward pass recomputes gates and gathers weight gradients, in
            one matrix product each (a few with patches kept). 1 keeps everything in a CPU's caches; more are fewer
            kernels on a GPU.
        align: channels of matrix products are padded with zeros, outside of the loops, to a multiple of this.
        patches: ``"built"`` (what the kernel sees at each location is put together anew at every timestep, and
            multiplied with it in one product; the fewest kernels on a GPU) or ``"kept"`` (by the loops of a
            derivative, from one timestep to the next, so that padding is not written again; with two or more
            dimensions of locations, a share of it is not multiplied either; the fastest on a CPU). See
            :mod:`tlstm_jax.products`.

    A CPU gets ``Fused("gates", 1, 1, "kept")``. Everything else gets ``Fused("states", n, 16, "built")``, n being the
    timesteps whose patches (see :func:`tlstm_jax.convolution.patches`) fill 1 GiB.

    Raises:
        ValueError: an option is not one of those above.

    Example:
        Less memory on a CPU, for more work:

        >>> import tlstm_jax as tl
        >>> cfg = tl.TLSTMConfig(features=8, tensor_shape=(3,))
        >>> layer = tl.linen.TLSTM(cfg, implementation=tl.Fused(save="states", gather=4))
    """

    save: Literal["gates", "states"] | None = None
    gather: int | None = None
    align: int | None = None
    patches: Literal["kept", "built"] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.save, str | None) or self.save not in ("gates", "states", None):
            raise ValueError(f'save must be "gates", "states" or None (by platform), got {self.save!r}.')
        if not isinstance(self.patches, str | None) or self.patches not in ("kept", "built", None):
            raise ValueError(f'patches must be "kept", "built" or None (by platform), got {self.patches!r}.')
        for name in ("gather", "align"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else positive_size(name, value))

    def or_else(
        self, save: Literal["gates", "states"], gather: int, align: int, patches: Literal["kept", "built"]
    ) -> Fused:
        """These options, the arguments where they are None."""
        return Fused(self.save or save, self.gather or gather, self.align or align, self.patches or patches)


Implementation = Literal["auto", "reference", "fused"] | Fused
"""What ``implementation=`` takes: see :func:`tlstm_jax.unroll`."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of :func:`tlstm_jax.unroll`, which says what each means; hashable, a static argument of ``jit``.

    A new option is a field here, with its check. ``unroll`` and the Flax layers list it in their signatures, which a
    test compares with these fields.

    Raises:
        ValueError: an option has a value that it cannot have; the message names it.
    """

    time_major: bool = False
    aligned: bool = True
    reverse: bool = False
    keep_order: bool = False
    unroll: int | bool = 1
    remat: int | bool = False
    implementation: Implementation = "auto"

    def __post_init__(self) -> None:
        for name in ("time_major", "aligned", "reverse", "keep_order"):
            value = getattr(self, name)
            if not isinstance(value, (bool, np.bool_)):
                raise ValueError(f"{name} must be True or False, got {reprlib.repr(value)}.")
            object.__setattr__(self, name, bool(value))
        for name in ("unroll", "remat"):
            value = getattr(self, name)
            if not isinstance(value, (bool, int, np.integer)) or (not isinstance(value, bool) and value < 1):
                raise ValueError(f"{name} must be True, False or a positive number of timesteps, got {value!r}.")
            object.__setattr__(self, name, value if isinstance(value, bool) else int(value))
        named = isinstance(self.implementation, str) and self.implementation in ("auto", "reference", "fused")
        if not (named or isinstance(self.implementation, Fused)):
            given = reprlib.repr(self.implementation)
            raise ValueError(f'implementation must be "auto", "reference", "fused" or Fused(..), got {given}.')

    @property
    def fused(self) -> Fused | None:
        """How to differentiate with the fused implementation; None for the reference."""
        if self.implementation == "reference":
            return None
        return self.implementation if isinstance(self.implementation, Fused) else Fused()

    @classmethod
    def of(cls, layer: Any, **overrides: Any) -> Options:
        """The options that a Flax layer has as attributes, replaced by the overrides that are not None."""
        names = [field.name for field in dataclasses.fields(cls) if hasattr(layer, field.name)]
        chosen = {name: getattr(layer, name) for name in names}
        return cls(**chosen | {name: value for name, value in overrides.items() if value is not None})
