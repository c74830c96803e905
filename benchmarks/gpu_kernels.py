"""Count the kernels that one timestep launches, without the accelerator: XLA compiles for an absent device.

There "auto" means XLA's kernels: the library takes its own by default only in a process that has the GPU.

At the sizes of the paper the arithmetic of a timestep takes about as long as launching one kernel, so
that the number of kernels decides the speed.

Examples:
    python -m benchmarks.gpu_kernels
    python -m benchmarks.gpu_kernels --sizes 100x10 --implementations fused --no-lstm --hlo-breakdown
    XLA_FLAGS=--xla_gpu_enable_while_loop_unrolling=WHILE_LOOP_UNROLLING_DOUBLE_BUFFER python -m benchmarks.gpu_kernels
    python -m benchmarks.gpu_kernels --platform tpu
    python -m benchmarks.gpu_kernels --implementations mosaic --unroll 8 --no-lstm

The last example also compiles the kernels of Fused(kernel="mosaic") and prints their registers and spills. That
needs ptxas, from NVIDIA's CUDA toolkit, on the PATH or in /usr/local/cuda.

Kernels and copies are counted per timestep of each loop of the program; the loop's number of timesteps is in
brackets. A copy is a kernel that only moves data: it copies an array, reads a slice or writes a slice. Launches are
counted for the whole program, in all and per timestep. They include the kernels outside of the loops, so that the
number per timestep is the one that a profiler finds. (On an H200 it was 19.9 and 22.0 at two sizes where the loops
have 19 and 21.) Two things cannot be counted: how long a kernel takes, and matrix products for which a library
launches two kernels. Autotuning needs the device and is off, so the device may use other kernels for the matrix
products.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import itertools
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import ptxas
from benchmarks.hlo import Module
from experiments.common.commandline import command_line, exit_status, user_path
from experiments.common.files import write_json

JAX = {"jax": "0.11.2", "jaxlib": "0.11.2"}
PLUGINS = {"cuda": {"jax-cuda13-plugin": "0.11.2", "jax-cuda13-pjrt": "0.11.2"}, "tpu": {"libtpu": "0.0.48.1"}}
"""Exact versions, so that counts can be compared. Plugins are installed without dependencies: CUDA is not needed."""
TARGETS = {"cuda": str(Path(__file__).with_name("h100.txtpb")), "tpu": "v5e:2x2"}
ENVIRONMENT = {
    "cuda": {
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
        "XLA_FLAGS": "--xla_gpu_autotune_level=0",
        **ptxas.ENVIRONMENT,
    },
    # Otherwise libtpu asks the network what machine this is, and complains about the answer.
    "tpu": {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"},
}

IMPLEMENTATIONS = ("auto", "reference", "fused", "mosaic")
"""Names in :data:`benchmarks.networks.IMPLEMENTATIONS`."""


class Program(NamedTuple):
    """A program to compile: its name in results, its timesteps in all and per iteration, its function and shapes."""

    size: str
    implementation: str
    which: str
    timesteps: int
    unroll: int
    function: Callable[[Any, Any], Any]
    arguments: tuple[Any, Any]


def programs(options: argparse.Namespace) -> Iterator[Program]:
    """Everything that the options ask for."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    import tlstm_jax as tl
    from benchmarks import networks
    from tlstm_jax.fused.loops import KERNEL_UNROLL, several

    def passes(
        size: str, name: str, timesteps: int, unroll: int, model: Callable[[Any, Any], Any], params: Any, xs: Any
    ) -> Iterator[Program]:
        def train(params: Any, xs: Any) -> Any:
            return jax.value_and_grad(lambda params: jnp.mean(model(params, xs)))(params)

        for which in options.passes:
            function = train if which == "training" else model
            yield Program(size, name, which, timesteps, unroll, function, (params, xs))

    def unroll(params: Any, xs: Any, cfg: tl.TLSTMConfig, **options: Any) -> Any:
        return tl.unroll(params, xs, cfg, **options)[1]

    def inputs(features: int) -> Any:
        return jax.ShapeDtypeStruct((options.batch_size, options.timesteps, features), options.dtype)

    key = jax.random.key(0)
    for (features, *tensor_shape), implementation in itertools.product(options.sizes, options.implementations):
        size = f"{len(tensor_shape) + 1}D M={features} P={'x'.join(map(str, tensor_shape))}"
        cfg = tl.TLSTMConfig(features, tuple(tensor_shape), dtype=options.dtype)
        chosen = networks.IMPLEMENTATIONS[implementation]
        model = functools.partial(unroll, cfg=cfg, implementation=chosen, unroll=options.unroll)
        params = jax.eval_shape(functools.partial(tl.init_params, in_features=features, cfg=cfg), key)
        timesteps = options.timesteps + cfg.delay
        by_default = {"reference": 1, "mosaic": KERNEL_UNROLL}.get(implementation, several(timesteps))
        yield from passes(
            size, implementation, timesteps, options.unroll or by_default, model, params, inputs(features)
        )
    for features in dict.fromkeys(size[0] for size in options.sizes if options.lstm):
        rnn, xs = nn.RNN(nn.OptimizedLSTMCell(features, dtype=options.dtype)), inputs(features)
        params = jax.eval_shape(rnn.init, key, xs)
        yield from passes(f"M={features}, 1 layer", "flax LSTM", options.timesteps, 1, rnn.apply, params, xs)


def device(platform: str, target: str) -> Any:
    """A device to compile for, which need not be present."""
    import jax
    from jax.experimental import topologies

    if platform == "tpu":
        return topologies.get_topology_desc(target, "tpu").devices[0]
    jax.devices()  # registers the plugins that jax finds; jax would register one added by hand again
    config = Path(target).read_text()
    return topologies.get_topology_desc("", "cuda", target_config=config, topology="1x1x1").devices[0]


def measure(program: Program, place: Any, platform: str) -> tuple[dict[str, Any], Module]:
    """Compiles a program for a device and counts its kernels.

    Returns:
        A dict and the compiled program. The dict has the ``launches`` of the whole program, in all and per timestep,
        the kernels ``outside`` of all loops, the ``temp_bytes`` besides arguments and results, the ``compile_seconds``
        in XLA, a report on each of the ``loops``, and the ``resources`` of our own kernels unless this process has
        compiled them before.
    """
    import jax

    sharding = jax.sharding.SingleDeviceSharding(place)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), program.arguments)
    lowered = jax.jit(program.function).trace(*shapes).lower(lowering_platforms=(platform,))
    start = time.perf_counter()
    with ptxas.reported() as resources:
        compiled = lowered.compile()
    seconds = time.perf_counter() - start
    module = Module(compiled.as_text(), platform == "tpu", program.timesteps, program.unroll)
    launches = module.program.launches
    return {
        "size": program.size,
        "implementation": program.implementation,
        "pass": program.which,
        "launches": launches,
        "launches_per_timestep": None if launches is None else launches / program.timesteps,
        "outside": len(module.program.kernels),
        "temp_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "compile_seconds": round(seconds, 2),
        "loops": [loop.report() for loop in module.program.all_loops()],
        "resources": [kernel._asdict() for kernel in resources],
    }, module


TABLE = "{size:<15} {implementation:<14} {pass:<8} {kernels:<36} {copies:<13} {outside:>7} {launches:>8} "
TABLE += "{per_timestep:>12} {compile_seconds:>15} {temp_bytes:>10}  {cycles}"
HEADER = TABLE.format(**{column: column for column in re.findall(r"\{(\w+)", TABLE)})


def row(result: dict[str, Any]) -> str:
    """A line of the table; kernels, copies and cycles are per timestep, for each loop in turn."""
    columns = {name: str(value) for name, value in result.items()}
    loops, each = result["loops"], result["launches_per_timestep"]
    columns["per_timestep"] = "?" if each is None else f"{each:.1f}"
    columns["kernels"] = " + ".join(f"{loop['kernels_per_timestep']:g} [{loop['timesteps'] or '?'}]" for loop in loops)
    columns["copies"] = " + ".join(f"{loop['copies_per_timestep']:g}" for loop in loops)
    columns["cycles"] = " + ".join(str(loop["cycles_per_timestep"] or "-") for loop in loops)
    return TABLE.format(**columns)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; exits with status 2 if they are invalid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--platform", choices=("cuda", "tpu"), default="cuda")
    add("--target", help="cuda: a file, by default an H100's target config; tpu: a topology, by default v5e:2x2")
    add("--sizes", type=sizes, nargs="+", default=[(100, 10), (400, 7), (100, 5, 5)], help="100x5x5: M, then P, P")
    add("--implementations", nargs="+", choices=IMPLEMENTATIONS, default=["auto", "reference"])
    add("--passes", nargs="+", choices=("forward", "training"), default=["forward", "training"])
    add("--batch-size", type=positive, default=15)
    add("--timesteps", type=positive, default=50)
    add("--unroll", type=positive, metavar="N", help="timesteps in an iteration (default: by platform)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--lstm", action=argparse.BooleanOptionalAction, default=True, help="flax's LSTM, a yardstick")
    add("--hlo-breakdown", action="store_true", help="print every kernel of every loop")
    add("--dump", type=user_path, metavar="DIR", help="write the HLO texts there")
    add("--out", type=user_path, metavar="FILE", help="write the results there, as JSON")
    return parser.parse_args(arguments)


def positive(text: str) -> int:
    """A positive integer."""
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def sizes(text: str) -> tuple[int, ...]:
    """The features and the tensor shape in a text such as ``100x5x5``."""
    if "x" not in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 100x10 or 100x5x5, features and tensor shape")
    return tuple(map(positive, text.split("x")))


def complaint(platform: str, installed: Mapping[str, str]) -> str | None:
    """One line that names missing packages and wrong versions and says what to install; None if there are none."""
    wanted = JAX | PLUGINS[platform]
    found = ", ".join(f"{name} {installed.get(name, '-')}" for name in wanted if installed.get(name) != wanted[name])
    jax, plugins = (" ".join(map("==".join, packages.items())) for packages in (JAX, PLUGINS[platform]))
    install = f"pip install {jax} flax && pip install --no-deps {plugins}"
    python = ".".join(map(str, sys.version_info[:2]))
    return f"in an environment of Python 3.12 or newer: {install} (here: Python {python}, {found})." if found else None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = parse(arguments)
    platform, target = options.platform, options.target or TARGETS[options.platform]
    if error := complaint(platform, {found.name: found.version for found in importlib.metadata.distributions()}):
        print(f"error: {error}", file=sys.stderr)
        return 2
    environment = ENVIRONMENT[platform]
    flags = f"{environment.get('XLA_FLAGS', '')} {os.environ.get('XLA_FLAGS', '')}".strip()  # later ones win
    os.environ.update(environment | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags})  # read when jax is imported, below
    try:
        place, todo = device(platform, target), list(programs(options))
    except (OSError, RuntimeError, ValueError) as error:  # no such target, or sizes that do not fit together
        print(f"error: {error}", file=sys.stderr)
        return 2
    results = []
    print(HEADER)
    for program in todo:
        result, module = measure(program, place, platform)
        results.append(result)
        print(row(result), flush=True)
        for kernel in result["resources"]:
            print(f"  {ptxas.Resources(**kernel)}", flush=True)
        for loop in module.program.all_loops() if options.hlo_breakdown else ():
            print(f"  {loop.name} x {loop.trip_count}", *map(module.describe, loop.body.kernels), sep="\n    ")
        if options.dump:
            options.dump.mkdir(parents=True, exist_ok=True)
            name = re.sub(r"\W+", "_", f"{program.size} {program.implementation} {program.which}")
            (options.dump / f"{name}.hlo").write_text(module.text)
    if options.out:
        from benchmarks import record  # imports jax

        given = sys.argv[1:] if arguments is None else arguments
        about: dict[str, Any] = {"command": command_line("benchmarks.gpu_kernels", given), **record.moment()}
        about |= {name: getattr(options, name) for name in ("platform", "batch_size", "timesteps", "unroll", "dtype")}
        about |= {"target": Path(target).name, "versions": JAX | PLUGINS[platform], "xla_flags": flags}
        write_json(options.out, about | {"results": results})
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, resumable=False))
