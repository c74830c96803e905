"""How to train, apart from what: the command-line options that every task shares."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from pathlib import Path
from typing import ClassVar, Literal

NO_MATTER = (
    *("workdir", "overwrite", "checkpoint_seconds", "steps_per_dispatch", "profile", "tensorboard"),
    *("distributed", "coordinator", "num_processes", "process_id"),
)
"""The options that change no number of a run (steps that are compiled together may round differently)."""


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Training; the defaults shown are those for the task chosen."""

    batch_size: int = 50
    """Sequences in a batch, over all devices together."""
    learning_rate: float = 1e-3
    """Adam's."""
    steps_per_dispatch: int = 1
    """Send the device so many training steps at once, or as many below as divide the steps between two evaluations."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Of the learning rate over the whole run; cosine ends at 0."""
    weight_decay: float = 0.0
    """AdamW's: shrink the kernels by this fraction of the learning rate at every step."""
    clip_norm: float = 1.0
    """Clip gradients to this global norm; 0 does not."""
    seed: int = 0
    """Of the initial parameters and of the data that the run sees, or its order."""
    devices: int = 0
    """Train on this many local devices, data-parallel; 0: on all."""
    start_from: Path | None = None
    """Begin with the best parameters of the run in this workdir, its layer grown to this run's tensor shape."""
    workdir: Path | None = None
    """Where the run's files go. Started again with the same one, a run goes on where it was. Default: below runs/."""
    overwrite: bool = False
    """Discard what an earlier run left in the workdir."""
    checkpoint_seconds: float = 60.0
    """Save at least this often, and at every evaluation (with several processes, at evaluations only)."""
    profile: bool = False
    """Before training, time some steps of the loop beside the bare compiled step, and leave a trace in the workdir."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard as well, into the workdir; needs tensorboardX."""
    distributed: bool = False
    """One of several processes that train together, each started with the same options but for --process-id."""
    coordinator: str | None = None
    """HOST:PORT of the first process; not needed on a cluster that JAX knows, nor are the two that follow."""
    num_processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Which one this is; 0 is the first, which alone writes files."""

    sizes: ClassVar[tuple[str, ...]] = ("batch_size", "steps_per_dispatch")

    def check(self) -> None:
        """Raises a ValueError for a number that makes no sense."""
        for name in self.sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate must be a positive number, got {self.learning_rate}.")
        for name in ("clip_norm", "weight_decay", "checkpoint_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or a positive number, got {getattr(self, name)}.")
        if self.distributed and self.devices:
            raise ValueError(f"devices must be 0, all of them, when distributed, got {self.devices}.")
        if not self.distributed and (self.coordinator or self.num_processes or self.process_id is not None):
            raise ValueError("coordinator, num_processes and process_id need --distributed.")
        if self.tensorboard and importlib.util.find_spec("tensorboardX") is None:
            raise ValueError("tensorboard needs tensorboardX: pip install tensorboardX, or leave --tensorboard out.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in 0..2^32 - 1, got {self.seed}.")


@dataclasses.dataclass(frozen=True)
class EpochOptions(TrainOptions):
    """Training on a dataset; the defaults shown are those for the dataset chosen."""

    epochs: int = 50
    """At most."""
    patience: int = 10
    """Stop after this many epochs without a better validation result."""

    sizes: ClassVar = (*TrainOptions.sizes, "epochs", "patience")
