"""Timing: the calls of all contenders alternate on one machine, after a warm-up."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import jax
import numpy as np

Key = TypeVar("Key")


@dataclasses.dataclass(frozen=True)
class Limits:
    """How long to measure.

    Args:
        repetitions: timed calls of each contender, at most.
        seconds: time for the timed calls of one contender; a slow one makes fewer, at least 1.
        warmup: calls before anything is timed. XLA records command buffers for a GPU within the first few.
    """

    repetitions: int
    seconds: float
    warmup: int


@dataclasses.dataclass(frozen=True)
class Timing:
    """Milliseconds of one call."""

    median_ms: float
    min_ms: float
    q1_ms: float
    q3_ms: float
    repetitions: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """The summary of some calls."""
        low, q1, median, q3 = (1e3 * float(np.percentile(seconds, q)) for q in (0, 25, 50, 75))
        return cls(median, low, q1, q3, len(seconds))


class Elapsed(NamedTuple):
    """Returned by a call that measured its own time, because it ran in another process."""

    seconds: float


def interleave(calls: Mapping[Key, Callable[[], object]], limits: Limits) -> dict[Key, Timing]:
    """Times calls in rounds, A B C A B C .., so that whatever slows the machine for a while slows all of them.

    A call must return only when its work is done. The repetitions of a call that has fewer than the
    others are spread over all rounds.
    """
    planned = {name: _warm_up(call, limits) for name, call in calls.items()}
    seconds: dict[Key, list[float]] = {name: [] for name in calls}
    rounds = max(planned.values(), default=0)
    for r in range(rounds):
        for name, call in calls.items():
            if planned[name] * (r + 1) // rounds > planned[name] * r // rounds:
                seconds[name].append(seconds_of(call))
    return {name: Timing.of(each) for name, each in seconds.items()}


def _warm_up(call: Callable[[], object], limits: Limits) -> int:
    """Warms up and returns the number of repetitions for which there is time."""
    spent = last = 0.0
    for _ in range(limits.warmup):
        last = seconds_of(call)
        spent += last
        if spent > limits.seconds:
            break
    return max(1, min(limits.repetitions, int(limits.seconds / last)))


QUEUE = 16
"""Calls in a row, of :func:`queued`."""


def queued(starts: Mapping[Key, Callable[[], object]], rounds: int = 5) -> dict[Key, float]:
    """Milliseconds of a call when 16 are started one after the other, as in a loop that does not wait for results.

    ``starts`` start a call without waiting for the device. The median of some rounds, which alternate.
    """
    seconds: dict[Key, list[float]] = {name: [] for name in starts}

    def in_a_row(start: Callable[[], object]) -> Callable[[], object]:
        return lambda: jax.block_until_ready([start() for _ in range(QUEUE)])

    for _ in range(rounds):
        for name, start in starts.items():
            seconds[name].append(seconds_of(in_a_row(start)))
    return {name: 1e3 * float(np.median(each)) / QUEUE for name, each in seconds.items()}


def seconds_of(call: Callable[[], object]) -> float:
    """The duration of a call."""
    start = time.perf_counter()
    result = call()
    return result.seconds if isinstance(result, Elapsed) else time.perf_counter() - start
