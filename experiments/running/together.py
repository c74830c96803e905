"""Which runs are trained in one program: those whose models have one shape, as many as the memory holds."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.running import devices, steps
from experiments.running.members import Member
from experiments.running.models import SET_BY_TIME_SCALE

FREE = ("seed", "learning_rate", "time_scale", "kernel_scale", "start_sha256", "start_samples", *SET_BY_TIME_SCALE)
"""The configuration in which the runs of a population may differ: that of initial parameters, data and optimizer."""
MEMORY = 0.8
"""The part of the memory that a population may take."""


class Speed(NamedTuple):
    """Seconds of a training step: of all runs together, and of one alone."""

    together: float
    alone: float


def shape(member: Member) -> str:
    """What the runs of a population have in common: all of the configuration except for :data:`FREE`."""
    return json.dumps({name: x for name, x in member.config.items() if name not in FREE}, sort_keys=True)


def populations(members: Iterable[Member]) -> list[list[Member]]:
    """Groups runs by their shape, in their order, and divides a group until a program with it fits the memory."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(shape(member), []).append(member)
    return [part for group in groups.values() for part in divided(group, memory_limit())]


def divided(group: Sequence[Member], limit: float) -> list[list[Member]]:
    """Halves a group until a program with it needs at most ``limit`` bytes, or each has a part of its own."""
    if len(group) == 1 or memory(group) <= limit:
        return [list(group)]
    half = (len(group) + 1) // 2
    return [*divided(group[:half], limit), *divided(group[half:], limit)]


def memory(group: Sequence[Member]) -> float:
    """The bytes that a training step of the group needs on a device, as the compiler states them."""
    found = _compiled(group)[0].memory_analysis()
    return float(found.temp_size_in_bytes + found.argument_size_in_bytes)  # the results reuse the donated arguments


def memory_limit() -> float:
    """The bytes on a device that a population may take."""
    stats = jax.devices()[0].memory_stats() or {}
    whole = stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return float(MEMORY * whole)


def speed(group: Sequence[Member], repetitions: int = 3) -> Speed:
    """Times a training step of the group and one of its first run; the median of a few, the first one excepted."""
    seconds = []
    for part in (group, group[:1]):
        step, arguments = _compiled(part)
        times = []
        for _ in range(repetitions + 1):
            own = jax.device_put(arguments[0])  # which the step donates
            begin = time.perf_counter()
            jax.block_until_ready(step(jax.block_until_ready(own), *arguments[1:]))
            times.append(time.perf_counter() - begin)
        seconds.append(float(np.median(times[1:])))
    return Speed(*seconds)


def _compiled(group: Sequence[Member]) -> tuple[Any, tuple[Any, ...]]:
    """One training step of a group, compiled, and its arguments on the host."""
    task, options = group[0].task, group[0].options
    mesh = devices.data_mesh(options.devices)
    rows = devices.padded_size(options.batch_size, mesh)
    starts = [steps.starting_state(each.task, each.experiment.params, options, rows) for each in group]
    state = steps.placed(steps.stack(starts), mesh)
    batches = devices.shard_batches([[each.task.batch(0)] for each in group], options.batch_size, mesh)
    rates = devices.replicate(steps.learning_rates([each.options.learning_rate for each in group]), mesh)
    arguments = (state, batches, rates, devices.replicate(task.data, mesh))
    train_steps, _ = steps.make_steps(task, options, len(group))
    return train_steps.lower(*arguments).compile(), (jax.device_get(state), *arguments[1:])
