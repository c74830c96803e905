"""How a model runs over sequences: options that validate themselves, shared by ``unroll`` and the Flax layers."""

from __future__ import annotations

import dataclasses
import reprlib
from typing import Any, Literal

import numpy as np

from tlstm_jax.checks import flag, positive_size


@dataclasses.dataclass(frozen=True)
class Fused:
    """How the fused implementation of :func:`tlstm_jax.unroll` computes gradients; None chooses by platform.

    Args:
        save: the residuals that the forward loop saves besides the inputs. ``"gates"`` saves H, C and the
            pre-activations of the gates, so that no matrix product is computed twice; the fastest on a CPU.
            ``"states"`` saves H and C only and recomputes the pre-activations of many timesteps in one matrix product;
            it launches the fewest kernels on a GPU, where each write inside a loop is a kernel.
        gather: the largest number of timesteps for which the backward pass recomputes pre-activations and accumulates
            weight gradients at once, in one matrix product each (a few with ``patches="kept"``). 1 keeps everything
            in a CPU's caches; more timesteps need fewer kernels on a GPU.
        align: matrix products are padded with zeros, outside of the loops, to a multiple of this many channels.
        patches: ``"built"`` assembles the patches (the receptive field of each location) anew at every timestep, for a
            single matrix product; it launches the fewest kernels on a GPU. ``"kept"`` carries them from one timestep
            to the next, so that the padding is not written again and, with two or more tensorized dimensions, part
            of it is not multiplied either; the fastest on a CPU.
        kernel: ``"mosaic"`` computes everything in a timestep except the matrix product in one GPU kernel, written in
            Pallas Mosaic from the same equations, forward and backward; ``"xla"`` leaves all of it to XLA. ``"mosaic"``
            is for GPUs of compute capability 9.0 (H100) or later and jax 0.11 or later, and for LSTM cells with channel
            normalization or none, at most 512 features, in float32 or bfloat16, on one device; not under ``jax.vmap``,
            for second derivatives, or in programs that ``jax.export`` compiles for several platforms at once. Anything
            else raises ``ValueError``, at the latest when the program is compiled. Without a GPU the device is not
            checked, so that programs can be compiled for another machine.
            With ``"mosaic"``, ``save="gates"`` also saves the patches of all timesteps, ignores ``gather``, and is the
            default if these patches fill at most 1 GiB and ``gather`` is None or not less than T.

            None is ``"mosaic"`` for models like those with which it took 0.52 to 0.63 of XLA's time on an H100: 2D and
            3D tLSTM+CN with kernels of size 3, 96 to 128 features and at most 100 locations, in float32 with products
            in TF32 (JAX's default), on a GPU of compute capability 9.0 (H100, H200), without a mesh, and unless
            ``patches="kept"``; ``save="gates"`` then means ``"states"`` if the patches of all timesteps fill more than
            1 GiB or ``gather`` is less than T. Otherwise None is ``"xla"``, also for everything that ``"mosaic"`` does
            not support, and for results without derivatives if the states of all timesteps, which the kernel writes
            and XLA's loop does not, fill more than 1 GiB. The guide's performance page says what was timed.

    A CPU gets ``Fused("gates", 1, 16, "kept")`` and ``unroll=1``. Other platforms, with ``kernel="xla"``, get
    ``Fused("states", n, 16, "built")``, where n is the number of timesteps whose patches fill 1 GiB, and ``unroll=6``,
    7 or 8, whichever compiles the fewest timesteps: an iteration of several timesteps launches fewer kernels on a GPU,
    since states are written, counters advanced and arrays copied once per iteration. With ``kernel="mosaic"`` the
    default is ``unroll=8``.

    Raises:
        ValueError: an option has an invalid value.

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
    kernel: Literal["mosaic", "xla"] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.save, str | None) or self.save not in ("gates", "states", None):
            raise ValueError(f'save must be "gates", "states" or None (by platform), got {self.save!r}.')
        if not isinstance(self.patches, str | None) or self.patches not in ("kept", "built", None):
            raise ValueError(f'patches must be "kept", "built" or None (by platform), got {self.patches!r}.')
        if not isinstance(self.kernel, str | None) or self.kernel not in ("mosaic", "xla", None):
            raise ValueError(f'kernel must be "mosaic", "xla" or None (by platform), got {self.kernel!r}.')
        if self.kernel == "mosaic" and self.patches == "kept":
            raise ValueError('patches must be "built" or None with kernel="mosaic", which builds them, got "kept".')
        for name in ("gather", "align"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else positive_size(name, value))

    def or_else(
        self, save: Literal["gates", "states"], gather: int, align: int, patches: Literal["kept", "built"]
    ) -> Fused:
        """These options, with the arguments in place of those that are None."""
        return dataclasses.replace(
            self,
            save=self.save or save,
            gather=self.gather or gather,
            align=self.align or align,
            patches=self.patches or patches,
        )


Implementation = Literal["auto", "reference", "fused"] | Fused
"""A value of ``implementation``; see :func:`tlstm_jax.unroll`."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of :func:`tlstm_jax.unroll`, where they are documented. Hashable, a static argument of ``jax.jit``.

    To add an option, add a field here and a check in ``__post_init__``. ``unroll`` and the Flax layers repeat the
    options in their signatures, which the tests compare with these fields.

    Raises:
        ValueError: an option has an invalid value; the message names the option.
    """

    time_major: bool = False
    aligned: bool = True
    reverse: bool = False
    keep_order: bool = False
    unroll: int | bool | None = None
    remat: int | bool = False
    implementation: Implementation = "auto"

    def __post_init__(self) -> None:
        for name in ("time_major", "aligned", "reverse", "keep_order"):
            object.__setattr__(self, name, flag(name, getattr(self, name)))
        if self.unroll is not None:
            object.__setattr__(self, "unroll", _timesteps("unroll", self.unroll, "None (by platform), True, False"))
        object.__setattr__(self, "remat", _timesteps("remat", self.remat, "True, False"))
        named = isinstance(self.implementation, str) and self.implementation in ("auto", "reference", "fused")
        if not (named or isinstance(self.implementation, Fused)):
            given = reprlib.repr(self.implementation)
            raise ValueError(f'implementation must be "auto", "reference", "fused" or Fused(..), got {given}.')

    @property
    def fused(self) -> Fused | None:
        """The options of the fused implementation; None for the reference implementation."""
        if self.implementation == "reference":
            return None
        return self.implementation if isinstance(self.implementation, Fused) else Fused()

    @classmethod
    def of(cls, source: Any, **overrides: Any) -> Options:
        """The options among the attributes of an object, replaced by the overrides that are not None.

        A model whose only implementation is a plain scan has no attribute ``implementation``.
        """
        names = [field.name for field in dataclasses.fields(cls) if hasattr(source, field.name)]
        chosen = {name: getattr(source, name) for name in names}
        return cls(**chosen | {name: value for name, value in overrides.items() if value is not None})


def _timesteps(name: str, value: Any, others: str) -> int | bool:
    """``value`` as a number of timesteps or a flag; the error message lists ``others`` as further valid values."""
    if not isinstance(value, (bool, int, np.integer)) or (not isinstance(value, bool) and value < 1):
        raise ValueError(f"{name} must be {others} or a positive number of timesteps, got {value!r}.")
    return value if isinstance(value, bool) else int(value)
