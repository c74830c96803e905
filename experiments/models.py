"""The models of the paper on the command line, and what turns their outputs into predictions."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

import tlstm_jax as tl


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The recurrent layer."""

    model: Literal["tlstm", "trnn", "slstm"] = "tlstm"
    """tlstm; trnn, without memory cells (eqs. 5-8; the paper's has `--norm none`); slstm, stacked LSTM layers."""
    features: int = 64
    """M: channels at each location, or units in each layer. Decides the number of parameters."""
    tensor_shape: tuple[int, ...] = (3,)
    """Locations along each tensorized dimension: `3` is the paper's 2D tLSTM, `3 3` its 3D."""
    kernel_size: tuple[int, ...] = (3,)
    """Kernel size along each dimension, or one for all. 2 has no feedback (the paper's tLSTM-F)."""
    memory_conv: bool = True
    """The memory-cell convolution; without it, the paper's tLSTM-M."""
    norm: Literal["channel", "layer", "none"] = "channel"
    """Normalization of the hidden state's output."""
    norm_epsilon: float = 1e-6
    """Added to the variance."""
    forget_bias: float = 4.0
    """Initial bias of the forget gate; the paper's 4 for images."""
    num_layers: int = 3
    """Layers of slstm."""
    shared: bool = True
    """slstm: one parameter set for all layers, as in the paper, or one for each."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products and hidden states; memory cells, gates and norms are always float32."""
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the parameters."""
    remat: int = 0
    """Rematerialize in chunks of this many timesteps, to save memory; 0 does not."""

    def check(self) -> None:
        """Raises a ValueError for an option that the model chosen does not have."""
        tensor = ("tensor_shape", "kernel_size", "memory_conv", "norm", "norm_epsilon")
        others = {"tlstm": ("num_layers", "shared"), "trnn": ("memory_conv", "forget_bias", "num_layers", "shared")}
        for name in others.get(self.model, tensor):
            if getattr(self, name) != getattr(ModelOptions, name):
                raise ValueError(f"{name} means nothing to {self.model}, got {getattr(self, name)}: leave it out.")

    @property
    def config(self) -> tl.TLSTMConfig:
        """The configuration of the tLSTM or tRNN.

        Raises:
            ValueError: as :class:`tlstm_jax.TLSTMConfig`.
        """
        return tl.TLSTMConfig(
            features=self.features,
            tensor_shape=self.tensor_shape,
            kernel_size=self.kernel_size[0] if len(self.kernel_size) == 1 else self.kernel_size,
            cell="rnn" if self.model == "trnn" else "lstm",
            memory_conv=self.memory_conv,
            norm=None if self.norm == "none" else self.norm,
            norm_epsilon=self.norm_epsilon,
            forget_bias=self.forget_bias,
            dtype=jnp.dtype(self.precision),
            param_dtype=jnp.dtype(self.param_dtype),
        )

    def layer(self) -> nn.Module:
        """The layer itself.

        Raises:
            ValueError: an option does not fit; the message names it.
        """
        if self.remat < 0:
            raise ValueError(f"remat must be 0 or a positive number of timesteps, got {self.remat}.")
        remat = self.remat or False
        if self.model != "slstm":
            return tl.linen.TLSTM(self.config, remat=remat)
        return tl.linen.StackedLSTM(
            self.features,
            self.num_layers,
            shared=self.shared,
            forget_bias=self.forget_bias,
            dtype=jnp.dtype(self.precision),
            param_dtype=jnp.dtype(self.param_dtype),
            remat=remat,
        )

    @property
    def title(self) -> str:
        """The model in the paper's words, as short as a legend needs it."""
        if self.model == "slstm":
            return f"sLSTM{'' if self.shared else ' (unshared)'} L={self.num_layers} M={self.features}"
        cfg = self.config
        name = f"{len(cfg.tensor_shape) + 1}D {'tRNN' if self.model == 'trnn' else 'tLSTM'}"
        if self.model == "tlstm" and not self.memory_conv:
            name += "-M"
        if max(cfg.kernel_shape) == 2:
            name += "-F"
        name += {"channel": "+CN", "layer": "+LN", "none": ""}[self.norm]
        sizes = "x".join(map(str, cfg.tensor_shape))
        return f"{name} L={cfg.depth} P={sizes} M={self.features}"


class LastStepClassifier(nn.Module):
    """Classes from the output that answers the last input: y_T = h_{T+L-1, P} W^y + b^y (eq. 8)."""

    layer: nn.Module
    num_classes: int

    @nn.compact
    def __call__(self, xs: jax.Array) -> jax.Array:
        """Inputs ``(batch, T, R)`` to logits ``(batch, num_classes)``, float32."""
        ys = self.layer(xs)
        return nn.Dense(self.num_classes, name="head")(ys[:, -1].astype(jnp.float32))


def count_parameters(params: Any) -> int:
    """How many numbers a parameter tree holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
