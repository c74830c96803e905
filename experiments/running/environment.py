"""The environment of a run, which affects its results: the version of jax, the device, and the precision settings."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import jax

RECORDED = "environments"
"""The key in config.json: a list of the environments in which the run was trained, one after the other."""
ROUNDING = ("jax", "device")
"""Entries whose change is only reported. A change of any other entry alters the precision or the kind of arithmetic,
and is refused unless the user agrees."""
PRECISION_FLAGS = re.compile(r"--\S*(?:precision|fast_math|tf32|determinis)\S*")
"""The flags of XLA that are recorded."""


def current() -> dict[str, Any]:
    """The environment of this process."""
    return {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "matmul_precision": jax.config.jax_default_matmul_precision,  # type: ignore[attr-defined]
        "x64": bool(jax.config.jax_enable_x64),  # type: ignore[attr-defined]
        "tf32_override": os.environ.get("NVIDIA_TF32_OVERRIDE"),
        "xla_flags": sorted(PRECISION_FLAGS.findall(os.environ.get("XLA_FLAGS", ""))),
    }


def changes(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, str]:
    """Describes the differences between the environment of a run so far, ``there``, and the current one, by name."""
    return {
        name: f"{name} {there[name]} there and {here[name]} here"
        for name in here
        if name in there and there[name] != here[name]
    }
