"""The style of every figure."""

from __future__ import annotations

from typing import Any

STYLE: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
"""Settings for ``matplotlib.rc_context``."""
