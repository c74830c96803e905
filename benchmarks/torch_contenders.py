"""The same networks in PyTorch; imported only where it is installed."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.networks import Network, inputs, parameters, stack_config
from benchmarks.programs import Program, Result
from benchmarks.stacks import GATES
from benchmarks.tasks import Task

if TYPE_CHECKING:
    torch: Any = None
    functional: Any = None
else:
    import torch
    import torch.nn.functional as functional


class TLSTMCell(torch.nn.Module):  # type: ignore[misc] # torch is optional and so unknown
    """One timestep. The convolution is one product with the shifted copies side by side, faster here than F.conv2d.

    Parameters have the shapes that the library gives them.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.cfg = task.size.config()
        params = parameters("tlstm", task.size)
        for group, name in (("hidden", "kernel"), ("hidden", "bias"), ("norm", "scale"), ("norm", "bias")):
            self.register_parameter(f"{group}_{name}", torch.nn.Parameter(tensor(params[group][name])))

    def forward(self, projected: Any, h: Any, c: Any) -> tuple[Any, Any]:
        """The next state, from projected inputs ``(B, M)`` and the state, each ``(B, *P, M)``."""
        m = self.cfg.features
        dims = len(self.cfg.tensor_shape)
        hcat = functional.pad(h, (0, 0, *(1, 1) * dims))
        hcat[:, *(0,) * dims] = projected
        patches = torch.cat(self.shifted(hcat), dim=-1)
        a = functional.linear(patches, self.hidden_kernel.flatten(0, dims).T, self.hidden_bias)
        g, i, f, o, q = a.split((m, m, m, m, self.cfg.num_offsets), dim=-1)
        weights = q.softmax(-1).split(1, dim=-1)
        mixed = sum(w * s for w, s in zip(weights, self.shifted(replicate_edges(c, dims)), strict=True))
        c = g.tanh() * i.sigmoid() + mixed * f.sigmoid()
        normalized = functional.layer_norm(c, (m,), eps=self.cfg.norm_epsilon) * self.norm_scale + self.norm_bias
        return normalized.tanh() * o.sigmoid(), c

    def shifted(self, padded: Any) -> list[Any]:
        """A padded tensor shifted by each kernel offset."""
        return [padded[:, *window] for window in self.cfg.windows]


class ConvTLSTMCell(torch.nn.Module):  # type: ignore[misc]
    """One timestep in the most common form: ``F.conv1d`` or ``F.conv2d``, and so channels before locations."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.cfg = task.size.config()
        self.convolve = getattr(functional, f"conv{len(self.cfg.tensor_shape)}d")
        params = parameters("tlstm", task.size)
        kernel = np.moveaxis(params["hidden"]["kernel"], (-1, -2), (0, 1))
        self.hidden_kernel = torch.nn.Parameter(tensor(kernel))
        self.hidden_bias = torch.nn.Parameter(tensor(params["hidden"]["bias"]))
        for name in ("scale", "bias"):
            self.register_parameter(f"norm_{name}", torch.nn.Parameter(tensor(params["norm"][name])))

    def forward(self, projected: Any, h: Any, c: Any) -> tuple[Any, Any]:
        """Projected inputs ``(B, M)`` and the state, each ``(B, *P, M)`` with the channels second in memory."""
        m = self.cfg.features
        dims = len(self.cfg.tensor_shape)
        h, c = h.movedim(-1, 1), c.movedim(-1, 1)
        hcat = functional.pad(h, (1, 1) * dims)
        hcat[:, :, *(0,) * dims] = projected
        a = self.convolve(hcat, self.hidden_kernel, self.hidden_bias)
        g, i, f, o, q = a.split((m, m, m, m, self.cfg.num_offsets), dim=1)
        padded = functional.pad(c, (1, 1) * dims, mode="replicate")
        weights = q.softmax(1).split(1, dim=1)
        mixed = sum(w * padded[:, :, *window] for w, window in zip(weights, self.cfg.windows, strict=True))
        c = g.tanh() * i.sigmoid() + mixed * f.sigmoid()
        normalized = functional.layer_norm(c.movedim(1, -1), (m,), eps=self.cfg.norm_epsilon)
        normalized = normalized * self.norm_scale + self.norm_bias
        return normalized.tanh() * o.sigmoid().movedim(1, -1), c.movedim(1, -1)


class TLSTM(torch.nn.Module):  # type: ignore[misc]
    """A cell in a Python loop, with L - 1 zero inputs at the end for the outputs that have not arrived yet."""

    def __init__(self, task: Task, cell: type[TLSTMCell | ConvTLSTMCell], *, compiled: bool) -> None:
        super().__init__()
        self.cell = cell(task)
        if compiled:
            self.cell.compile(dynamic=False)
        self.project = projection(parameters("tlstm", task.size)["input"])

    def forward(self, xs: Any) -> Any:
        """``(T, B, R)`` to ``(T, B, M)``."""
        cfg = self.cell.cfg
        projected = self.project(functional.pad(xs, (0, 0, 0, 0, 0, cfg.delay)))
        h = c = xs.new_zeros((xs.shape[1], *cfg.tensor_shape, cfg.features))
        outputs = []
        for x in projected:
            h, c = self.cell(x, h, c)
            outputs.append(h.flatten(1, -2)[:, -1])
        return torch.stack(outputs[cfg.delay :])

    def gradients(self) -> Any:
        """The gradients in the library's layout."""
        tree: dict[str, dict[str, Any]] = {"input": {"kernel": self.project.weight.grad.T}, "hidden": {}, "norm": {}}
        tree["input"]["bias"] = self.project.bias.grad
        for name, leaf in self.cell.named_parameters():
            group, kind = name.split("_")
            conv_kernel = name == "hidden_kernel" and isinstance(self.cell, ConvTLSTMCell)
            tree[group][kind] = leaf.grad.movedim((0, 1), (-1, -2)) if conv_kernel else leaf.grad
        return tree


class StackedLSTM(torch.nn.Module):  # type: ignore[misc]
    """``nn.LSTM`` with L layers, or one layer applied L times if layers share parameters."""

    def __init__(self, network: Network, task: Task) -> None:
        super().__init__()
        params = parameters(network, task.size)
        layers = list(params["layers"].values())
        features = stack_config(network, task.size).features
        self.passes = task.size.depth // len(layers)
        self.project = projection(params["input"])
        self.lstm = torch.nn.LSTM(features, features, len(layers))
        with torch.no_grad():
            for n, cell in enumerate(layers):
                for source in "ih":
                    kernel = np.concatenate([cell[source + gate]["kernel"].T for gate in GATES])
                    getattr(self.lstm, f"weight_{source}h_l{n}").copy_(tensor(kernel))
                bias = np.concatenate([cell["h" + gate]["bias"] for gate in GATES])
                getattr(self.lstm, f"bias_ih_l{n}").copy_(tensor(bias))
                getattr(self.lstm, f"bias_hh_l{n}").zero_()

    def forward(self, xs: Any) -> Any:
        """``(T, B, R)`` to ``(T, B, M)``."""
        ys = self.project(xs)
        for _ in range(self.passes):
            ys, _ = self.lstm(ys)
        return ys

    def gradients(self) -> None:
        """Not comparable: each layer has two biases."""


def tlstm_program(task: Task, *, conv: bool = False, compiled: bool = False) -> Program:
    """The loop over an eager or a compiled cell; the first call of a compiled cell counts as its compilation."""
    cell = ConvTLSTMCell if conv else TLSTMCell
    if not compiled:
        return program(TLSTM(task, cell, compiled=False), task)
    torch._dynamo.reset()  # else a cell compiled for another size would count against this one's recompilations
    built = program(TLSTM(task, cell, compiled=True), task)
    start = time.perf_counter()
    built.call()
    return dataclasses.replace(built, compile_seconds=time.perf_counter() - start)


def stack_program(network: Network, task: Task) -> Program:
    """``nn.LSTM``."""
    return program(StackedLSTM(network, task), task)


def program(model: Any, task: Task) -> Program:
    """One pass over a model, on a GPU if torch has one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    allow_tf32 = task.precision.matmul is None
    torch.set_float32_matmul_precision("high" if allow_tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = allow_tf32
    model.to(device)
    xs = tensor(inputs(task.size)).to(device).requires_grad_(task.training)

    def forward() -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=task.precision.is_bfloat16):
            return model(xs)

    def inference() -> Result:
        with torch.inference_mode():
            return Result(forward(), None)

    def training() -> Result:
        model.zero_grad()
        xs.grad = None
        ys = forward()
        ys.float().square().mean().backward()
        return Result(ys.detach(), None)

    def call() -> Result:
        result = training() if task.training else inference()
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    def fetch(result: Result) -> Result:
        gradients = (to_numpy(model.gradients()), to_numpy(xs.grad)) if task.training else None
        return Result(to_numpy(result.outputs), gradients)

    return Program(call, fetch, parameters=sum(p.numel() for p in model.parameters()))


def projection(params: Any) -> Any:
    """``nn.Linear`` with these parameters."""
    layer = torch.nn.Linear(*params["kernel"].shape)
    with torch.no_grad():
        layer.weight.copy_(tensor(params["kernel"].T))
        layer.bias.copy_(tensor(params["bias"]))
    return layer


def replicate_edges(c: Any, dims: int) -> Any:
    """Pads each dimension by one at both ends, with the values there."""
    for axis in range(1, dims + 1):
        first, last = c.narrow(axis, 0, 1), c.narrow(axis, c.shape[axis] - 1, 1)
        c = torch.cat((first, c, last), dim=axis)
    return c


def tensor(x: np.ndarray[Any, Any]) -> Any:
    """A copy of an array."""
    return torch.tensor(np.ascontiguousarray(x))


def to_numpy(tree: Any) -> Any:
    """Tensors in dicts as float32 arrays."""
    if isinstance(tree, dict):
        return {name: to_numpy(leaf) for name, leaf in tree.items()}
    return None if tree is None else tree.detach().float().cpu().numpy()
