"""The kernels in the text of a program that XLA has compiled, grouped by loop."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FREE = frozenset({"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "add-dependency"})
"""Nothing runs for these. Every other operation outside of fusions counts as a kernel, including copies and fills."""
MOVES = frozenset({"copy", "slice", "dynamic-slice", "dynamic-update-slice"})
COMPUTATION = re.compile(r"(ENTRY )?%?(\S+) .*\{$")
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?(\S+) = (.+)$")
OPCODE = re.compile(r"\s*([\w-]+)\(")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of HLO: ``name = shape opcode(operands), attributes``; the operands are kept with the attributes."""

    name: str
    shape: str
    opcode: str
    attributes: str

    @classmethod
    def parse(cls, line: str) -> Instruction | None:
        """The instruction on a line, if there is one."""
        match = INSTRUCTION.match(line)
        name, rest = match.groups() if match else ("", "")
        end = rest.find(" ")
        if rest.startswith("("):  # a tuple: its shape has spaces, and parentheses in the layouts
            depths = itertools.accumulate((c == "(") - (c == ")") for c in rest)
            end = next((i for i, depth in enumerate(depths, 1) if depth == 0), -1)
        opcode = OPCODE.match(rest, end) if end > 0 else None
        return cls(name, rest[:end], opcode.group(1), rest[opcode.end() :]) if opcode else None

    @property
    def operation(self) -> str:
        """The opcode; of an asynchronous pair, the first half counts as the operation and the second as nothing."""
        return "bitcast" if self.opcode.endswith(("-done", "-update")) else self.opcode.removesuffix("-start")

    def find(self, pattern: str) -> str | None:
        """The first group of the pattern where it first matches among the attributes."""
        match = re.search(pattern, self.attributes)
        return match.group(1) if match else None

    def computations(self, attribute: str) -> list[str]:
        """The computations that an attribute (a pattern) names."""
        found = re.findall(rf"\b(?:{attribute})=(?:\{{([^}}]*)\}}|([^,\s)]+))", self.attributes)
        return [name.strip().lstrip("%") for names in found for name in "".join(names).split(",")]


@dataclasses.dataclass(frozen=True)
class Block:
    """A sequence of kernels and loops."""

    kernels: tuple[Instruction, ...] = ()
    loops: tuple[Loop, ...] = ()

    @property
    def launches(self) -> int | None:
        """The number of kernels launched, including those in loops; None if a trip count is unknown."""
        inside = [loop.launches for loop in self.loops]
        return None if None in inside else len(self.kernels) + sum(n or 0 for n in inside)

    def all_loops(self) -> Iterator[Loop]:
        """The loops, each followed by those inside it."""
        for loop in self.loops:
            yield loop
            yield from loop.body.all_loops()


@dataclasses.dataclass(frozen=True)
class Loop:
    """A while loop: iterations (None if unknown), timesteps in each (several if unrolled), and the body of one.

    ``moves`` is the number of its kernels that only move data.
    """

    name: str
    trip_count: int | None
    steps: int
    body: Block
    moves: int

    @property
    def launches(self) -> int | None:
        """The number of kernels that all iterations launch."""
        inside = self.body.launches
        return None if self.trip_count is None or inside is None else self.trip_count * inside

    def report(self) -> dict[str, Any]:
        """Timesteps, and for each: kernels, kernels that only move data, and XLA's estimate of cycles (TPUs only)."""
        kernels = self.body.kernels
        cycles = sum(int(kernel.find(r'"estimated_cycles":"(\d+)"') or 0) for kernel in kernels)
        return {
            "name": self.name,
            "timesteps": None if self.trip_count is None else self.trip_count * self.steps,
            "kernels_per_timestep": len(kernels) / self.steps,
            "copies_per_timestep": self.moves / self.steps,
            "cycles_per_timestep": round(cycles / self.steps) or None,
        }


class Module:
    """A compiled program.

    Args:
        text: optimized HLO, kept as the attribute ``text``; the attribute ``program`` is the block of its entry.
        scalars_are_free: whether computing a scalar launches nothing, as on a TPU, which has a unit for scalars.
        timesteps: the number of timesteps of the program. A loop with fewer iterations runs several timesteps in each.
            If None, an iteration counts as one timestep.
        unroll: the largest number of timesteps in an iteration; the remainder runs outside of the loop.
    """

    def __init__(
        self, text: str, scalars_are_free: bool = False, timesteps: int | None = None, unroll: int | None = None
    ):
        self.text = text
        self.scalars_are_free = scalars_are_free
        self.computations: dict[str, list[Instruction]] = {}
        entry, current = "", list[Instruction]()
        for line in text.splitlines():
            if header := COMPUTATION.match(line):
                current = self.computations.setdefault(header.group(2), [])
                if header.group(1):
                    entry = header.group(2)
            elif instruction := Instruction.parse(line):
                current.append(instruction)
        self.unroll = unroll
        self.program = self.block(entry, timesteps)

    def block(self, computation: str, timesteps: int | None = None) -> Block:
        """The kernels and loops of a computation that runs this number of timesteps."""
        kernels: list[Instruction] = []
        loops: list[Loop] = []
        for instruction in self.computations[computation]:
            if instruction.operation == "while":
                loops.append(self.loop(instruction, timesteps))
            elif instruction.operation in ("call", "async", "conditional"):
                names = instruction.computations(r"to_apply|calls|\w+_computations?")
                blocks = [self.block(name, timesteps) for name in names]
                block = max(blocks, key=lambda block: block.launches or 0)  # one of the branches runs
                kernels += block.kernels
                loops += block.loops
            elif self.launches(instruction):
                kernels.append(instruction)
        return Block(tuple(kernels), tuple(loops))

    def launches(self, instruction: Instruction) -> bool:
        """Whether the instruction is a kernel."""
        if instruction.operation in FREE or instruction.find('custom_call_target="(AllocateBuffer)"'):
            return False
        return not (self.scalars_are_free and re.match(r"\w+\[\]", instruction.shape))

    def moves_data(self, kernel: Instruction) -> bool:
        """Whether a kernel computes nothing but indices: it copies an array, a slice, or into a slice."""
        if kernel.operation == "copy":
            return True
        inside = [i for name in kernel.computations("calls") for i in self.computations.get(name, [])]
        computed = {i.operation for i in inside if not re.match(r"\w+\[\]", i.shape)} - FREE
        return kernel.operation in MOVES or (bool(computed) and computed <= MOVES)

    def loop(self, instruction: Instruction, timesteps: int | None = None) -> Loop:
        """The loop of a while instruction."""
        (body,), (condition,) = map(instruction.computations, ("body", "condition"))
        found = instruction.find(r'"known_trip_count":\{"n":"(\d+)"') or self.bound(condition)
        trip_count = int(found) if found else None
        steps = max(1, timesteps // trip_count) if timesteps and trip_count else 1
        block = self.block(body, steps)
        if self.unroll and not block.loops:
            steps = min(steps, self.unroll)
        return Loop(instruction.name, trip_count, steps, block, sum(map(self.moves_data, block.kernels)))

    def bound(self, condition: str) -> str | None:
        """The bound of the loop's counter; jax's loops count up from zero. (TPU programs do not state a trip count.)"""
        *others, last = self.computations[condition]
        bounds = [i.find(r"^(\d+)\)") for i in others if i.opcode == "constant"]
        return bounds[0] if last.opcode == "compare" and last.find("direction=(LT)") and len(bounds) == 1 else None

    def describe(self, kernel: Instruction) -> str:
        """One line: opcode and kind, shape, what is computed, jax's name for it, and the line of source."""
        kinds = (r'custom_call_target="([^"]*)"', r'"fusion_backend_config":\{"kind":"([^"]*)"', r"\bkind=k(\w+)")
        kind = next(filter(None, map(kernel.find, kinds)), "")
        inside = [i for name in kernel.computations("calls") for i in self.computations.get(name, [])]
        computed = " ".join(dict.fromkeys(i.opcode for i in inside if i.opcode not in FREE))
        shape = re.sub(r"\{[^}]*\}|/\*.*?\*/", "", kernel.shape)
        # Kernels that XLA adds itself, such as padding, have no name; an instruction inside may have one.
        named = next((i for i in (kernel, *inside[::-1]) if i.find("(op_name=)")), kernel)
        op_name = (named.find(r'op_name="([^"]*)"') or "").rpartition("while/body/")[2]
        return " | ".join(
            [f"{kernel.opcode} {kind}".strip(), shape, computed, op_name, self.source(named), kernel.name]
        )

    def source(self, instruction: Instruction) -> str:
        """``file:line``, or nothing if unknown."""

        def look_up(pattern: str) -> list[str]:
            match = re.search(pattern, self.text, re.MULTILINE)
            return list(match.groups()) if match else ["", ""]

        frame = instruction.find(r"stack_frame_id=(\d+)")
        location = look_up(rf"^{frame} {{file_location_id=(\d+)")[0]
        file, line = look_up(rf"^{location} {{file_name_id=(\d+) .*? line=(\d+)")
        path = look_up(rf'^FileNames\n(?:\d.*\n)*?{file} "(.*)"$')[0]
        return f"{Path(path).name}:{line}" if path else ""
