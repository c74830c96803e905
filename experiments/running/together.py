"""Groups runs into programs: runs whose models have the same shape train together, as many as fit in memory."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from experiments.running import devices, steps
from experiments.running.members import Member
from experiments.running.models import SET_BY_TIME_SCALE

FREE = ("seed", "learning_rate", "time_scale", "kernel_scale", "start_sha256", "start_samples", *SET_BY_TIME_SCALE)
"""The configuration entries in which the runs of a population may differ: initial parameters, data and optimizer."""
MEMORY = 0.8
"""The fraction of the memory that a population may take."""


def shape(member: Member) -> str:
    """The configuration that the runs of a population share, as JSON: all of it except for :data:`FREE`."""
    return json.dumps({name: x for name, x in member.config.items() if name not in FREE}, sort_keys=True)


def populations(members: Iterable[Member]) -> list[list[Member]]:
    """Groups runs by their shape, in their order."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(shape(member), []).append(member)
    return list(groups.values())


class Trial:
    """A compiled training step of a population, to measure its memory and its time.

    Args:
        group: the runs.
    """

    def __init__(self, group: Sequence[Member]) -> None:
        task, options = group[0].task, group[0].options
        mesh = devices.data_mesh(options.devices)
        rows = devices.padded_size(options.batch_size, mesh)
        params = [each.experiment.params for each in group]
        starts = steps.starting_states([each.task for each in group], params, options, rows)
        self._start = steps.stack(starts)
        batches = devices.shard_batches([[each.task.batch(0)] for each in group], options.batch_size, mesh)
        settings = devices.replicate(steps.settings([each.options for each in group]), mesh)
        self._mesh, self._rest = mesh, (batches, settings, devices.replicate(task.data, mesh))
        program = steps.Program.of(task, options, len(group))
        self._step = steps.train_steps.lower(program, steps.placed(self._start, mesh), *self._rest).compile()

    @property
    def memory(self) -> int:
        """The bytes that the step needs on a device, as the compiler states them."""
        found: Any = self._step.memory_analysis()
        return int(found.temp_size_in_bytes + found.argument_size_in_bytes)  # results reuse the donated arguments

    def seconds(self, repetitions: int = 3) -> float:
        """The time of a step: the median of a few, after a first one."""
        times = []
        for _ in range(repetitions + 1):
            state = jax.block_until_ready(steps.placed(self._start, self._mesh))  # the step donates it
            begin = time.perf_counter()
            jax.block_until_ready(self._step(state, *self._rest))
            times.append(time.perf_counter() - begin)
        return statistics.median(times[1:])


def divided(group: Sequence[Member], limit: float) -> list[tuple[list[Member], Trial | None]]:
    """Halves a group until the program of each part needs at most ``limit`` bytes, or the part is a single run.

    Returns:
        The parts, each with its compiled step; None for a single run, which is trained even if it needs more.
    """
    if len(group) == 1:
        return [(list(group), None)]
    trial = Trial(group)
    if trial.memory <= limit:
        return [(list(group), trial)]
    half = (len(group) + 1) // 2
    return [*divided(group[:half], limit), *divided(group[half:], limit)]


def memory_limit() -> float:
    """The bytes on a device that a population may take."""
    stats = jax.devices()[0].memory_stats() or {}
    whole = stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return float(MEMORY * whole)
