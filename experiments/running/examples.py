"""A test example of a run, for looking inside its model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from experiments.common.errors import UsageError
from experiments.running.networks import LastStepClassifier, SymbolLabeler


@dataclasses.dataclass(frozen=True)
class Request:
    """The requested example, and the location of the task's data.

    Args:
        number: the index of the test example, from 0.
        workdir: the run's folder, for error messages.
        data_dir: folder with the task's data files, if the task has the option.
        data_file: file with the task's data, if the task has the option.
        prepared_dir: folder with the prepared data, if the task has the option.
    """

    number: int
    workdir: Path
    data_dir: Path | None = None
    data_file: Path | None = None
    prepared_dir: Path | None = None

    def checked(self, count: int) -> int:
        """Returns ``number``.

        Raises:
            UsageError: there are only ``count`` examples.
        """
        if not 0 <= self.number < count:
            raise UsageError(f"example must be in 0..{count - 1}, got {self.number}")
        return self.number


class Example(NamedTuple):
    """An example of T timesteps, and the model that reads it.

    Args:
        network: the model.
        xs: the inputs of its recurrent layer, ``(T, R)``.
        end: the timestep from which on all inputs are blank; T if none are.
        symbols: inputs and targets, ``(2, T)``, if the task labels symbols.
        alphabet: a printable character for each symbol, if the task labels symbols.
    """

    network: SymbolLabeler | LastStepClassifier
    xs: jax.Array
    end: int
    symbols: NDArray[np.int32] | None = None
    alphabet: tuple[str, ...] = ()


def labeled(model: SymbolLabeler, symbols: NDArray[np.int32], alphabet: tuple[str, ...], end: int) -> Example:
    """An example of symbols with a target symbol at each timestep; see :class:`Example`."""
    return Example(model, jax.nn.one_hot(symbols[0], model.num_symbols), end, symbols, alphabet)
