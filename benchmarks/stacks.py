"""Stacks of LSTM layers in jax: layer by layer, as a wavefront, and cuDNN's."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import rnn

from benchmarks.networks import Network, stack_config
from benchmarks.programs import Forward
from benchmarks.tasks import Task

GATES = "ifgo"


def project(params: Any, xs: Any, dtype: Any) -> Any:
    """Projects the inputs to M features, for all timesteps at once."""
    return jnp.dot(xs.astype(dtype), params["kernel"].astype(dtype)) + params["bias"].astype(dtype)


def flax_forward(network: Network, task: Task) -> Forward:
    """``nn.RNN(nn.OptimizedLSTMCell)``, one layer after the other."""
    cfg = stack_config(network, task.size, task.precision.dtype)
    layer = nn.RNN(nn.OptimizedLSTMCell(cfg.features, dtype=cfg.dtype, parent=None), time_major=True)

    def forward(params: Any, xs: Any) -> Any:
        ys: Any = project(params["input"], xs, cfg.dtype)
        for name in cfg.layer_names:
            ys = layer.apply({"params": {"cell": params["layers"][name]}}, ys)
        return ys

    return forward


def wavefront_forward(network: Network, task: Task) -> Forward:
    """All layers at once, each a timestep behind the one below it, so that a timestep is one batched product.

    A layer's state is kept at zero until its first input arrives.
    """
    cfg = stack_config(network, task.size, task.precision.dtype)
    delay, dtype = cfg.num_layers - 1, cfg.dtype

    def forward(params: Any, xs: Any) -> Any:
        kernel, bias = params["kernel"].astype(dtype), params["bias"]
        xs = jnp.pad(project(params["input"], xs, dtype), ((0, delay), (0, 0), (0, 0)))
        started = jnp.arange(len(xs))[:, None] >= jnp.arange(cfg.num_layers)

        def step(carry: tuple[Any, Any], inputs: tuple[Any, Any]) -> tuple[Any, Any]:
            c, h = carry
            x, is_started = inputs
            below = jnp.concatenate([x[None], h[:-1]])
            both = jnp.concatenate([below, h], axis=-1)
            a = jnp.matmul(both, kernel, preferred_element_type=jnp.float32) + bias
            i, f, g, o = jnp.split(a, 4, axis=-1)
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * nn.tanh(g)
            h = nn.sigmoid(o) * nn.tanh(c)
            c, h = (jnp.where(is_started[:, None, None], s, 0) for s in (c, h))
            return (c, h.astype(dtype)), h[-1]

        shape = (cfg.num_layers, xs.shape[1], cfg.features)
        carry = jnp.zeros(shape), jnp.zeros(shape, dtype)
        return jax.lax.scan(step, carry, (xs, started))[1][delay:]

    return forward


def pack_wavefront(params: Any) -> Any:
    """Kernels ``(2M, 4M)`` from (below, own) to the gates, one for each layer if they are not shared."""
    layers = params["layers"].values()
    kernel = np.stack([np.block([[cell[s + gate]["kernel"] for gate in GATES] for s in "ih"]) for cell in layers])
    bias = np.stack([_gates(cell, "h", "bias")[None] for cell in layers])
    if len(layers) == 1:
        kernel, bias = kernel[0], bias[0]
    return {"input": params["input"], "kernel": kernel, "bias": bias}


def cudnn_forward(task: Task) -> Forward:
    """The LSTM of cuDNN, batch-major as jax has it."""
    cfg = stack_config("unshared", task.size)

    def forward(params: Any, xs: Any) -> Any:
        xs = project(params["input"], xs, jnp.float32)
        zero = jnp.zeros((cfg.num_layers, xs.shape[0], cfg.features))
        lengths = jnp.full(xs.shape[0], xs.shape[1], jnp.int32)
        sizes = cfg.features, cfg.features, cfg.num_layers
        ys, _, _ = rnn.lstm(xs, zero, zero, params["weights"], lengths, *sizes, 0.0, False)
        return ys

    return forward


def pack_cudnn(params: Any) -> Any:
    """The flat array of weights that cuDNN wants: each layer's W_ih and W_hh, then each layer's b_ih and b_hh."""
    layers = params["layers"].values()
    kernels = [_gates(cell, s, "kernel").T.ravel() for cell in layers for s in "ih"]
    biases = [b for cell in layers for b in (np.zeros_like(_gates(cell, "h", "bias")), _gates(cell, "h", "bias"))]
    return {"input": params["input"], "weights": np.concatenate([*kernels, *biases])}


def _gates(cell: Any, source: str, leaf: str) -> np.ndarray[Any, Any]:
    """A layer's kernels or biases side by side; ``source`` is "i" for its input, "h" for its hidden state."""
    return np.concatenate([cell[source + gate][leaf] for gate in GATES], axis=-1)


def cudnn_unavailable(task: Task) -> str | None:
    """Why cuDNN cannot run a task, or None."""
    if jax.default_backend() != "gpu":
        return "needs an NVIDIA GPU"
    return "knows float32 and TF32 only" if task.precision.is_bfloat16 else None
