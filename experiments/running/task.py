"""What is trained: the data, the objective and the stopping rule of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import optax

from experiments.running.devices import Batch

Sums = dict[str, tuple[jax.Array, jax.Array]]
"""For every metric a sum over examples and its divisor. The metric ``loss`` is the training objective."""
Record = dict[str, Any]
"""The metrics of one evaluation: a line of metrics.jsonl."""


def unchanged(data: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The batch as the host made it."""
    return batch


@dataclasses.dataclass(frozen=True)
class Task:
    """Data, objective and stopping rule of a run.

    Args:
        sums: the metrics of a batch: maps ``(params, batch, carry, key)`` to :data:`Sums`, the carry for the next
            batch, and the collections of variables that change in training, by name. The key for dropout is None in
            evaluation. Rows whose ``weights`` are 0 are padding and must not contribute.
        batch: returns the training batch of a step. It must depend on the step number alone, so that a run can be
            resumed at any step.
        steps_per_epoch: training steps between two evaluations.
        samples_per_epoch: training samples in these steps.
        epochs: the largest number of epochs.
        patience: stop after this many epochs without an improvement.
        evaluated: the batches of each evaluation split; the first batch of a split has the most rows. The first split
            is evaluated after every epoch, the split ``test`` at the end.
        rank: sort key of a record; higher is better.
        solved: whether a record ends the training because the task is solved; None if there is no such thing.
        carry: the carry of the first batch of an epoch or of an evaluation, for a given number of rows: a pytree with
            the rows along the first axis.
        data: arrays that are kept on the devices, for ``prepare``. The runs of a population share those of the first.
        prepare: maps ``(data, batch)`` to the batch that ``sums`` takes, row by row; compiled into the step.
        optimizer: maps the optimizer of the training options to the one to be used.
        unit: what training samples are called.
        quantity: the metric to report beside the loss.
        shorter: what to say beside the estimate of a long run: how to get a short one.
    """

    sums: Callable[[Any, dict[str, jax.Array], Any, jax.Array | None], tuple[Sums, Any, dict[str, Any]]]
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
    prepare: Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]] = unchanged
    optimizer: Callable[[optax.GradientTransformation], optax.GradientTransformation] = lambda usual: usual
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
