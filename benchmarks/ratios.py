"""Ratios of the rows of ``benchmarks.depth``: the cost of depth, and tLSTMs against stacks of the same depth."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.race import outcome
from benchmarks.record import number
from benchmarks.tasks import PASSES
from experiments.common.tables import aligned

DEPTH = "depth"
AIMS = {DEPTH: "at most 1.25", "wavefront-shared": "at least 2", "cudnn": "at least 8"}
"""The targets of the model "2d-mosaic" on an H100 or H200 in training, between the depths :data:`AIM_DEPTHS`."""
AIM_DEPTHS = (1, 10)
FACTS = ("model", "pass", "precision")


def find(rows: Iterable[Mapping[str, Any]], tlstms: Collection[str]) -> list[dict[str, Any]]:
    """The ratios of each tLSTM, pass and precision for which there are times.

    The first is the time of a timestep at the greatest depth / at the smallest, where a timestep is one of the
    T + L - 1 that run. The others are a stack's time / the tLSTM's, both at the greatest depth.

    Args:
        rows: the rows of ``benchmarks.depth``.
        tlstms: the models that are not stacks.
    """
    timed = {
        (row["model"], row["pass"], row["precision"], row["depth"]): row
        for row in rows
        if row["pass"] in PASSES and not outcome(row)
    }
    stacks = dict.fromkeys(model for model, *_ in timed if model not in tlstms)
    found = []
    for model, each, precision in dict.fromkeys(key[:3] for key in timed if key[0] in tlstms):
        depths = sorted(depth for *key, depth in timed if key == [model, each, precision])
        shallow, deep = depths[0], depths[-1]
        shallow_row, deep_row = (timed[model, each, precision, depth] for depth in (shallow, deep))
        aims = AIMS if (model, each, deep) == ("2d-mosaic", "training", AIM_DEPTHS[1]) else {}
        facts = dict(zip(FACTS, (model, each, precision), strict=True))
        if deep > shallow:
            aim = aims.get(DEPTH) if shallow == AIM_DEPTHS[0] else None
            ratio = us_per_timestep(deep_row) / us_per_timestep(shallow_row)
            found.append({**facts, "ratio": f"a timestep at L={deep} / L={shallow}", "value": ratio, "aim": aim})
        for stack in stacks:
            if row := timed.get((stack, each, precision, deep)):
                ratio = row["median_ms"] / deep_row["median_ms"]
                text = f"{stack} / {model} at L={deep}"
                found.append({**facts, "ratio": text, "value": ratio, "aim": aims.get(stack)})
    return found


def us_per_timestep(row: Mapping[str, Any]) -> float:
    """Microseconds of one of the T + L - 1 timesteps of a tLSTM."""
    return 1e3 * row["median_ms"] / (row["num_steps"] + row["depth"] - 1)


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """The ratios, each beside its aim."""
    rows = [
        (each["ratio"], number(each["value"]), each["aim"] or "", *(each[name] for name in FACTS)) for each in found
    ]
    return aligned([("ratio", "", "aim", *FACTS), *rows])
