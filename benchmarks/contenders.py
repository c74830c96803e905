"""All contenders, by name."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

from benchmarks import floor, naive, pallas, stacks
from benchmarks.checking import Contender
from benchmarks.networks import IMPLEMENTATIONS, Network, inputs, parameters, stack_forward, tlstm_forward
from benchmarks.programs import Forward, Program, jax_program
from benchmarks.tasks import Task

BASE = "auto"
"""The contender to which all others are compared: the library with its default options."""
FLOOR = "floor"


def _jax(
    network: Network,
    forward: Callable[[Task], Forward],
    pack: Callable[[Any], Any] = lambda params: params,
    *,
    batch_major: bool = False,
) -> Callable[[Task], Program]:
    """The function that builds a JAX contender, from its forward pass."""

    def build(task: Task) -> Program:
        params = pack(parameters(network, task.size))
        return jax_program(forward(task), params, inputs(task.size), task, batch_major=batch_major)

    return build


def _ours() -> list[Contender]:
    summaries = {
        BASE: "this library as it comes",
        "reference": "this library's readable implementation: im2col and plain autodiff",
        "fused": "this library's hand-written derivative, its options chosen by platform",
        "fused-gates": "the same, all gates saved for the backward pass",
        "fused-states": "the same, gates computed again in the backward pass",
        "fused-built": "the same, patches built anew at every timestep, for one product",
        "xla": "the same, all of a timestep left to XLA",
        "mosaic": "the same, everything of a timestep but its product in a GPU kernel",
    }
    named = [ours(name, summary, name) for name, summary in summaries.items()]
    unrolled = [ours(f"unroll-{steps}", f"this library with unroll={steps}", BASE, unroll=steps) for steps in (1, 8)]
    return [*named, *unrolled]


def ours(name: str, summary: str, implementation: str, **options: Any) -> Contender:
    """An implementation of the library; the options are arguments of ``tlstm_jax.unroll``."""
    unavailable = pallas.unavailable if implementation == "mosaic" else lambda task: None
    forward = functools.partial(tlstm_forward, implementation=IMPLEMENTATIONS[implementation], **options)
    return Contender(name, summary, "tlstm", _jax("tlstm", forward), unavailable)


def _stacks(network: Network) -> list[Contender]:
    kind = f"LSTM layers, {network} parameters"
    wavefront, pack = functools.partial(stacks.wavefront_forward, network), stacks.pack_wavefront
    return [
        Contender(
            f"stack-{network}",
            f"{kind}: nn.RNN(nn.OptimizedLSTMCell)",
            network,
            _jax(network, functools.partial(stacks.flax_forward, network)),
        ),
        Contender(
            f"ours-{network}",
            f"{kind}: this library's stack",
            network,
            _jax(network, functools.partial(stack_forward, network)),
        ),
        Contender(
            f"wavefront-{network}",
            f"{kind}: skewed by hand into one scan, all layers at once",
            network,
            _jax(network, wavefront, pack),
            pack=pack,
        ),
    ]


def _cudnn() -> Contender:
    return Contender(
        "cudnn",
        "LSTM layers, unshared parameters: jax.experimental.rnn",
        "unshared",
        _jax("unshared", stacks.cudnn_forward, stacks.pack_cudnn, batch_major=True),
        stacks.cudnn_unavailable,
        pack=None,  # each layer has two biases
        biases=2,
    )


def _torch_tlstm(task: Task, flags: dict[str, bool]) -> Program:
    from benchmarks import torch_contenders

    return torch_contenders.tlstm_program(task, **flags)


def _torch_stack(task: Task, network: Network) -> Program:
    from benchmarks import torch_contenders

    return torch_contenders.stack_program(network, task)


def _torch() -> list[Contender]:
    def unavailable(task: Task) -> str | None:
        return None if importlib.util.find_spec("torch") else "PyTorch is not installed: pip install torch"

    loops: tuple[tuple[str, str, dict[str, bool]], ...] = (
        ("torch-loop", "eager cell, one product", {}),
        ("torch-conv", "eager cell with F.conv1d or F.conv2d", {"conv": True}),
        ("torch-compile", "cell under torch.compile", {"compiled": True}),
    )
    networks: tuple[Network, ...] = ("shared", "unshared")
    return [
        *(
            Contender(
                name,
                f"PyTorch, {how}, in a Python loop",
                "tlstm",
                functools.partial(_torch_tlstm, flags=flags),
                unavailable,
                apart=True,
            )
            for name, how, flags in loops
        ),
        *(
            Contender(
                f"torch-{network}",
                f"LSTM layers, {network} parameters: PyTorch's nn.LSTM",
                network,
                functools.partial(_torch_stack, network=network),
                unavailable,
                pack=None,  # each layer has two biases
                biases=2,
                apart=True,
            )
            for network in networks
        ),
    ]


CONTENDERS = {
    contender.name: contender
    for contender in (
        *_ours(),
        Contender(FLOOR, "the bare matrix products of the tLSTM", None, floor.build),
        Contender("conv", "naive Flax: nn.Conv in nn.RNN, plain autodiff", "tlstm", _jax("tlstm", naive.conv_forward)),
        *_stacks("shared"),
        *_stacks("unshared"),
        _cudnn(),
        *_torch(),
    )
}
