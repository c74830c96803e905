"""The overhead of the training loop over the compiled step."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

ROUNDS = 15
ROUND_SECONDS = 1.0


def profile(
    state: Any,
    dispatch: Callable[[Any, int, int], Any],
    at_once: int,
    *,
    wait: Callable[[], None],
    report: Callable[[str], None],
    bare_steps: Callable[[Any], Any],
    trace: Path,
) -> str:
    """Times steps of the loop and of the compiled step alone in turns, and writes a trace of the loop.

    Args:
        state: the initial state; it is copied, since steps donate their state.
        dispatch: starts steps of the loop, given the state, the number of the first batch, and the number of steps.
        at_once: the number of steps per dispatch.
        wait: waits for all steps of the loop in flight.
        report: called with lines about the progress.
        bare_steps: takes the same number of compiled steps, on batches that are already on the devices.
        trace: folder for the trace, for TensorBoard or Perfetto.

    Returns:
        A line with the medians and their ratio.
    """

    def loop(state: Any, steps: int) -> Any:
        for number in range(0, steps, at_once):
            state = dispatch(state, number, at_once)
        wait()
        return state

    def bare(state: Any, steps: int) -> Any:
        for _ in range(0, steps, at_once):
            state = bare_steps(state)
        return jax.block_until_ready(state)

    def seconds(run: Callable[[Any, int], Any], state: Any, steps: int) -> tuple[float, Any]:
        begin = time.perf_counter()
        state = run(state, steps)
        return (time.perf_counter() - begin) / steps, state

    report("profiling: compiling")
    state = bare(loop(jax.tree.map(jnp.copy, state), at_once), at_once)
    once, state = seconds(bare, state, 2 * at_once)
    steps = at_once * math.ceil(max(5, ROUND_SECONDS / once) / at_once)
    times: list[tuple[float, float]] = []
    report(f"profiling: {ROUNDS} rounds of {steps} steps, in the loop and alone, about {2 * steps * once:.1f} s each")
    for number in range(1, ROUNDS + 1):
        if number % 5 == 0:
            report(f"profiling: round {number} of {ROUNDS}")
        with_loop, state = seconds(loop, state, steps)
        alone, state = seconds(bare, state, steps)
        times.append((with_loop, alone))
    report("profiling: writing a trace")
    with jax.profiler.trace(str(trace)):
        loop(state, max(5, at_once))
    with_loop, alone = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(a / b for a, b in times)
    return (
        f"{1e3 * with_loop:.2f} ms a step in the loop, {1e3 * alone:.2f} ms the compiled step alone, {at_once} a call: "
        f"the loop adds {ratio - 1:+.1%} (medians of {ROUNDS} rounds of {steps} steps in turns); trace in {trace}"
    )
