"""Contenders side by side: build, check, time; one row of facts for each."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from benchmarks.checking import Contender, build
from benchmarks.measure import Limits, interleave, queued
from benchmarks.networks import features
from benchmarks.programs import Program
from benchmarks.tasks import Task


class Entry(NamedTuple):
    """A contender and its task."""

    contender: Contender
    task: Task


def race(entries: Mapping[str, Entry], limits: Limits, *, queue: bool = False) -> list[dict[str, Any]]:
    """One row for each entry, by label.

    A row has the key ``unavailable`` with the reason if the contender cannot run here, ``error`` if it
    failed or computes something else, and otherwise the milliseconds of :class:`~benchmarks.measure.Timing`, and with
    ``queue`` also the ``queued_ms`` of :func:`~benchmarks.measure.queued`.
    """
    rows = {label: _facts(label, entry) for label, entry in entries.items()}
    programs: dict[str, Program] = {}
    for label, (contender, task) in entries.items():
        if reason := contender.unavailable(task):
            rows[label]["unavailable"] = reason
            continue
        try:
            program = programs[label] = build(contender, task)
        except Exception as error:  # an error of one contender must not stop the others
            traceback.print_exc()
            rows[label]["error"] = describe(error)
            continue
        for name in ("parameters", "compile_seconds", "temp_bytes"):
            rows[label][name] = getattr(program, name)
    try:
        timings = interleave({label: program.call for label, program in programs.items()}, limits)
        starts = {label: program.start for label, program in programs.items() if queue and program.start is not None}
        in_queue = _queued(starts)
    finally:
        for program in programs.values():
            program.close()
    for label, timing in timings.items():
        rows[label].update(dataclasses.asdict(timing))
        if label in in_queue:
            rows[label]["queued_ms"] = in_queue[label]
    return list(rows.values())


def _queued(starts: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    try:
        return queued(starts)
    except Exception:  # the results of so many calls may not fit into memory: the other times stay
        traceback.print_exc()
        return {}


def describe(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def outcome(row: Mapping[str, Any]) -> str:
    """Why a row has no time; empty if it has one."""
    return row.get("error") or row.get("unavailable") or ""


def _facts(label: str, entry: Entry) -> dict[str, Any]:
    contender, task = entry
    size = dataclasses.asdict(task.size)
    width, depth = features(contender.network, task.size), task.size.depth
    if contender.shape is not None:
        width, depth = contender.shape(task.size)
    return {
        "contender": label,
        "summary": contender.summary,
        "network": contender.network,
        "size": size.pop("name"),
        **size,
        "features": width,
        "depth": depth,
        "pass": task.pass_name,
        "precision": task.precision.name,
    }
