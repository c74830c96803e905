"""Tasks: the data, the objective and the stopping rule of a run."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax

from experiments.running.devices import Batch
from experiments.running.networks import Network

Sums = dict[str, tuple[jax.Array, jax.Array]]
"""For every metric a sum over examples and its divisor. The metric ``loss`` is the training objective."""
Record = dict[str, Any]
"""The metrics of one evaluation: a line of metrics.jsonl."""


@dataclasses.dataclass(frozen=True)
class Objective(abc.ABC):
    """The loss and the metrics of a batch, which the training and evaluation steps compute.

    A process compiles the evaluation steps of equal objectives once, and the training steps if the optimizers are equal
    too. So a subclass is a frozen dataclass with hashable fields, and what it computes depends only on these fields
    and the arguments.

    Args:
        network: the network.
    """

    network: Network

    def prepare(self, data: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Converts a batch made by the host to one that :meth:`sums` takes, row by row.

        Args:
            data: the arrays that are kept on the devices, :attr:`Task.data`.
            batch: the batch of the host.
        """
        return batch

    @abc.abstractmethod
    def sums(
        self, params: Any, batch: dict[str, jax.Array], carry: Any, key: jax.Array | None
    ) -> tuple[Sums, Any, dict[str, Any]]:
        """The metrics of a batch.

        Args:
            params: the parameters.
            batch: the batch; rows whose ``weights`` are 0 are padding and must not contribute.
            carry: the carry from the batch before.
            key: the key for dropout; None in evaluation.

        Returns:
            The sums, the carry for the next batch, and the collections of variables that change in training, by name.
        """


@dataclasses.dataclass(frozen=True)
class Task:
    """Data, objective and stopping rule of a run.

    Args:
        objective: the computation of the loss and the metrics.
        batch: returns the training batch of a step. It must depend on the step number alone, so that a run can be
            resumed at any step.
        steps_per_epoch: training steps between two evaluations.
        samples_per_epoch: training samples in these steps.
        epochs: the largest number of epochs.
        patience: stop after this many epochs without an improvement.
        evaluated: the batches of each evaluation split; the first batch of a split has the most rows. The first split
            is evaluated after every epoch, the split ``test`` at the end.
        rank: sort key of a record; higher is better.
        solved: whether a record ends the training because the task is solved; None if no record does.
        carry: the carry of the first batch of an epoch or of an evaluation, for a given number of rows: a pytree with
            the rows along the first axis.
        data: arrays that are kept on the devices, for :meth:`Objective.prepare`. The runs of a population share the
            arrays of the first run.
        unit: the plural noun for training samples in messages and figures.
        quantity: the metric to report beside the loss.
        shorter: a hint about how to get a shorter run, printed with the estimate of a long one.
    """

    objective: Objective
    batch: Callable[[int], Batch]
    steps_per_epoch: int
    samples_per_epoch: int
    epochs: int
    patience: int
    evaluated: dict[str, Sequence[Batch]]
    rank: Callable[[Record], Any]
    solved: Callable[[Record], bool] | None = None
    carry: Callable[[int], Any] = lambda rows: ()
    data: Any = ()
    unit: str = "samples"
    quantity: Literal["accuracy", "bits"] = "accuracy"
    shorter: str = ""

    @property
    def watched(self) -> str:
        """The split that is evaluated after every epoch."""
        return next(iter(self.evaluated))

    @property
    def num_steps(self) -> int:
        """The largest number of training steps."""
        return self.epochs * self.steps_per_epoch


def by_accuracy(split: str) -> Callable[[Record], tuple[float, float]]:
    """A sort key for records: accuracy, then the lower loss."""
    return lambda record: (record[f"{split}_accuracy"], -record[f"{split}_loss"])


def best_of(history: list[Record], task: Task) -> Record:
    """The first record of the highest rank."""
    return max(history, key=task.rank)


def is_over(history: list[Record], task: Task) -> bool:
    """Whether the task is solved, or the epochs or the patience are used up."""
    if not history:
        return False
    since_best = len(history) - best_of(history, task)["epoch"]
    solved = task.solved is not None and task.solved(history[-1])
    return len(history) >= task.epochs or since_best >= task.patience or solved
