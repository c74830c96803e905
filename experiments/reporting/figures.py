"""The style of every figure; moved to :mod:`experiments.common.figures`, from where to import it."""

from experiments.common.figures import STYLE as STYLE
