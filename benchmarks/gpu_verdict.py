"""The values for ``kernel=None``, ``unroll=None`` and XLA_FLAGS on a GPU, from the parts of ``benchmarks.gpu_suite``.

Parts are as in suite.json. A choice that no finished part supports is "not measured", with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks import cell_kernel
from benchmarks.cell_kernel import Verdict
from benchmarks.race import outcome
from benchmarks.record import number

Part = Mapping[str, Any]

CHECKS = "kernel-check"
DEPTH = "kernel-depth"
UNROLL = "unroll"
TIMES = ("kernel-10x10", UNROLL, "kernel-3x3")
"""The parts that time the cell kernel."""
FLAGS = "flags-"
"""The prefix of the names of parts with XLA_FLAGS."""
NO_FLAGS = f"{FLAGS}none"
LEAST_GAIN = 0.05
"""The fraction of the time that flags must save to be chosen: parts run one after the other and not in turns, and the
median of one program differs by a few percent from process to process."""


def verdict(parts: Sequence[Part], platform: str, device: str) -> list[str]:
    """Three lines, each with a choice and its reason: for the kernel, ``unroll`` and XLA_FLAGS.

    Args:
        parts: the parts that ran.
        platform: where they ran, "gpu" or "cpu".
        device: its name.
    """
    found = {part["name"]: part for part in parts}
    kernel = choose_kernel(found, platform)
    # If the choice of kernel was not measured, judge the rest for the one that runs on every GPU.
    used = kernel.choice or "xla"
    return [
        line(f"kernel: None on {device} should choose", kernel),
        line(f"unroll: None on {device} should choose", choose_unroll(found, used)),
        line(f"flags: XLA_FLAGS on {device} should have", choose_flags(found, used)),
    ]


def line(beginning: str, found: Verdict) -> str:
    """A choice and its reason in one line."""
    if found.choice is None:
        return f"{beginning.partition(':')[0]}: not measured: {found.reason}"
    return f"{beginning} {found.choice}: {found.reason}"


def choose_kernel(parts: Mapping[str, Part], platform: str) -> Verdict:
    """Mosaic if it passed all checks and was faster at every size that was timed."""
    rows = [row for name in (CHECKS, *TIMES) for row in rows_of(parts.get(name))]
    # The depth part, too, compares the kernel with the reference before timing it.
    deep = [row for row in rows_of(parts.get(DEPTH)) if row["model"].endswith("-mosaic") and "error" in row]
    rows += [{"check": f"{row['model']} with L={row['depth']}", "error": row["error"]} for row in deep]
    found = cell_kernel.verdict(rows, platform)
    missing = {name: absence(name, parts.get(name)) for name in (CHECKS, *TIMES)}
    if found.choice == "mosaic" and missing[CHECKS]:
        return Verdict(None, f"{missing[CHECKS]}, so that the kernel may be wrong where it is faster")
    return Verdict(found.choice, clauses([found.reason, *missing.values()]))


def choose_unroll(parts: Mapping[str, Part], kernel: str) -> Verdict:
    """The number of timesteps in an iteration with which this kernel is fastest."""
    missing = absence(UNROLL, parts.get(UNROLL))
    rows = [row for row in rows_of(parts.get(UNROLL)) if row["contender"].startswith(f"{kernel}-")]
    failed = [f"{row['contender']}: {outcome(row)}" for row in rows if outcome(row)]
    timed = sorted((row for row in rows if "median_ms" in row), key=lambda row: row["median_ms"])
    names = [row["contender"].removeprefix(f"{kernel}-") for row in timed]
    if len(timed) < 2:
        alone = f"{kernel} was timed with unroll={names[0]} alone" if names else f"{kernel} was not timed"
        return Verdict(None, clauses([missing, *failed]) or alone)
    # Compile times are shown as well, since they grow with the number of timesteps in an iteration.
    figures = ", ".join(
        f"{name} {number(row['median_ms'])} ms and {number(row['compile_seconds'], 2)} s to compile"
        for name, row in zip(names, timed, strict=True)
    )
    return Verdict(names[0], clauses([f"{kernel} at size {timed[0]['size']}: {figures}", missing, *failed]))


def choose_flags(parts: Mapping[str, Part], kernel: str) -> Verdict:
    """The flags with which this kernel is fastest, if it is clearly faster than without flags."""
    names = list(dict.fromkeys([NO_FLAGS, *(name for name in parts if name.startswith(FLAGS))]))
    missing = [absence(name, parts.get(name)) for name in names]
    rows = {name: row for name in names for row in rows_of(parts.get(name)) if row["contender"] == kernel}
    failed = [f"{kernel} in {name}: {outcome(row)}" for name, row in rows.items() if outcome(row)]
    times = {name: row["median_ms"] for name, row in rows.items() if "median_ms" in row}
    if NO_FLAGS not in times or len(times) < 2:
        return Verdict(None, clauses([*missing, *failed]) or f"{kernel} was timed in {NO_FLAGS} alone")
    best = min(times, key=times.__getitem__)
    share = times[best] / times[NO_FLAGS]
    choice = parts[best]["xla_flags"] if share < 1 - LEAST_GAIN else "nothing added"
    shown = sorted((ms, name.removeprefix(FLAGS)) for name, ms in times.items())
    figures = f"{kernel} at size {rows[best]['size']}: {', '.join(f'{name} {number(ms)} ms' for ms, name in shown)}"
    gain = "" if best == NO_FLAGS else f"{best.removeprefix(FLAGS)} takes {share:.2f} of the time without"
    return Verdict(choice, clauses([figures, gain, *missing, *failed]))


def absence(name: str, part: Part | None) -> str:
    """The reason why a part has no results or only some; empty if it has all."""
    if part is None:
        return f"{name} was not run"
    if part["status"] == "cut off":
        return f"{name} was cut off after {part['seconds']:.0f} s"
    if part["status"] == "done" or any("error" in row for row in rows_of(part)):
        return ""  # a command that ran to its end fails if one of its rows did, and that row says why
    return f"{name} {'failed' if part['status'] == 'failed' else 'was skipped'}: {part.get('error') or 'no message'}"


def rows_of(part: Part | None) -> list[dict[str, Any]]:
    """The rows that a part has written."""
    return part["results"]["rows"] if part and part["results"] else []


def clauses(texts: Iterable[str]) -> str:
    """The texts that are not empty, in one line."""
    return "; ".join(text for text in texts if text)
