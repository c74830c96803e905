"""The environment recorded with every result, and the files of results."""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

from experiments.common.files import write_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"


def environment() -> dict[str, Any]:
    """The machine, the versions of the packages, and the commit."""
    device = jax.devices()[0]
    names = ("jax", "jaxlib", "flax", "numpy", "torch")
    return {
        "device_kind": device.device_kind,
        "device_count": jax.device_count(),
        "platform": device.platform,
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) if importlib.util.find_spec(name) else None for name in names},
        "xla_flags": os.environ.get("XLA_FLAGS"),
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES"),
        **moment(),
    }


def moment() -> dict[str, str | None]:
    """The commit and the date."""
    return {"commit": commit(), "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}


def commit(root: Path = ROOT) -> str | None:
    """The commit of the checkout, with "-dirty" if a tracked file is modified; None outside a git repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("-dirty" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def default_path(command: str, suffix: str = "") -> Path:
    """The default file of a command's results, named for the command and the device."""
    device = re.sub(r"[^a-z0-9]+", "-", jax.devices()[0].device_kind.lower()).strip("-")
    return RESULTS / f"{command}-{device}{suffix}.json"


class Report:
    """Rows of results, written to a file whenever rows are added."""

    def __init__(self, path: Path, command: str, options: Mapping[str, Any]) -> None:
        self.path = path
        self.head: dict[str, Any] = {"command": command, "environment": environment(), "options": dict(options)}
        self.rows: list[Mapping[str, Any]] = []

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds rows and writes the file."""
        self.rows.extend(rows)
        write_json(self.path, {**self.head, "rows": self.rows}, indent=1)

    @property
    def failures(self) -> list[Mapping[str, Any]]:
        """The rows with an error instead of a result."""
        return [row for row in self.rows if "error" in row]


def number(value: float | None, digits: int = 3) -> str:
    """Formats a number for a table with ``digits`` significant digits or more; None is empty."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:#.{digits}g}".rstrip(".")
