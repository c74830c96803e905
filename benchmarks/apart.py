"""Runs a program in a separate process, for frameworks that slow JAX down in the process that imports them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks.measure import Elapsed, seconds_of
from benchmarks.programs import Program, Result
from benchmarks.tasks import Task


def program_apart(build: Callable[[Task], Program], task: Task) -> Program:
    """Builds a program in a new process, where its calls are also timed; the process ends with ``close``.

    Args:
        build: a function that can be pickled.
        task: its argument.
    """
    process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))  # a fork would share JAX's threads
    try:
        facts = process.submit(_build, build, task).result()
    except BaseException:
        process.shutdown()
        raise
    return Program(
        call=lambda: process.submit(_call).result(),
        fetch=lambda result: process.submit(_fetch).result(),
        close=process.shutdown,
        **facts,
    )


class _Here:
    """The state of the new process between requests."""

    program: Program
    result: object


def _build(build: Callable[[Task], Program], task: Task) -> dict[str, Any]:
    _Here.program = build(task)
    return {name: getattr(_Here.program, name) for name in ("parameters", "compile_seconds", "temp_bytes")}


def _call() -> Elapsed:
    def call() -> None:
        _Here.result = _Here.program.call()

    return Elapsed(seconds_of(call))


def _fetch() -> Result:
    return _Here.program.fetch(_Here.result)
