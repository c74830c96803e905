"""Registers and spills of the GPU kernels that this library writes itself, as the assembler reports them."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

ENVIRONMENT = {"MOSAIC_GPU_DUMP_PTXAS": "1"}
"""Makes Mosaic GPU print the reports of ptxas on the standard output of the process."""
REPORT = re.compile(
    r"Compiling entry function '(\w+?)(?:_mosaic_gpu_kernel)?' for '(\w+)'.*?"
    r"(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
    re.DOTALL,
)


class Resources(NamedTuple):
    """Registers of each thread of a kernel, and bytes of spilled registers, stores and loads together."""

    name: str
    architecture: str
    registers: int
    spilled: int

    def __str__(self) -> str:
        return f"{self.name} ({self.architecture}): {self.registers} registers, {self.spilled} bytes spilled"


def resources(text: str) -> list[Resources]:
    """The resources of every kernel in the reports of ptxas."""
    return [
        Resources(name, architecture, int(registers), int(stores) + int(loads))
        for name, architecture, stores, loads, registers in REPORT.findall(text)
    ]


@contextlib.contextmanager
def reported() -> Iterator[list[Resources]]:
    """A context that collects the reports of ptxas, which go to the file descriptor and not to ``sys.stdout``."""
    found: list[Resources] = []
    sys.stdout.flush()
    with tempfile.TemporaryFile() as file:
        kept = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            yield found
        finally:
            sys.stdout.flush()
            os.dup2(kept, 1)
            os.close(kept)
            file.seek(0)
            found += resources(file.read().decode(errors="replace"))
