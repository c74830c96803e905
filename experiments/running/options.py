"""The training options, which all tasks share."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import re
from pathlib import Path
from typing import Any, ClassVar, Literal

NO_MATTER = (
    *("workdir", "overwrite", "any_environment", "checkpoint_seconds", "steps_per_dispatch", "profile", "tensorboard"),
    *("distributed", "coordinator", "num_processes", "process_id"),
)
"""Options that do not affect a run's results and are not recorded (steps that are compiled together may round
differently)."""

LATER: dict[str, Any] = {"kernel_scale": 1.0, "time_scale": 0.0, "data_on": "host", "rival_options": ()}
"""Options of the model and of training that earlier versions did not have, with the value that they implied. An option
is recorded only if its value differs, so that older runs can be resumed."""
KEY_TYPE = "threefry2x32"
"""The type of the keys of samples and of dropout: the one whose bits are the same on every kind of device."""
LARGEST = 10**6
"""The largest size of a model or a sequence along one axis; more cannot be represented, let alone be computed."""


def check_size(name: str, value: int, least: int = 1, most: float = LARGEST) -> None:
    """Raises a ValueError unless a size is in ``least..most``."""
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}.")
    if value > most:
        raise ValueError(f"{name} must be at most {most}, got {value}.")


def parse_count(text: str) -> int:
    """Parses a number like 10M, 2.5K or 4000.

    Raises:
        ValueError: the text is not such a number.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KM]?)", text.strip(), re.IGNORECASE)
    number = round(float(match[1]) * {"": 1, "K": 1e3, "M": 1e6}[match[2].upper()]) if match else 0
    if number < 1:
        raise ValueError(f"params must be a positive number like 10M, 250K or 4000, got {text!r}.")
    if number > LARGEST**2:
        raise ValueError(f"params must be at most {LARGEST}M, got {text}.")
    return number


def to_record(options: Any) -> dict[str, Any]:
    """The fields of a dataclass of options as a run's configuration records them; see :data:`LATER`."""
    return {name: x for name, x in dataclasses.asdict(options).items() if name not in LATER or x != LATER[name]}


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Training; the defaults shown are those of the task."""

    batch_size: int = 50
    """Sequences in a batch, over all devices together."""
    learning_rate: float = 1e-3
    """Learning rate of Adam."""
    steps_per_dispatch: int = 1
    """Training steps per call of the compiled function, at most; a divisor of the steps per evaluation is used."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning-rate schedule over the whole run; cosine ends at 0."""
    weight_decay: float = 0.0
    """Weight decay of AdamW, of the kernels only."""
    clip_norm: float = 1.0
    """Clip gradients to this global norm; 0 disables clipping."""
    seed: int = 0
    """Seed for initialization and data: its order, or the samples of the tasks that generate their own."""
    devices: int = 0
    """Number of local devices for data-parallel training; 0 takes all devices."""
    start_from: Path | None = None
    """Initialize from the best parameters of the run in this workdir, resized to this run's tensor shape."""
    workdir: Path | None = None
    """Folder for the run's files; the same command again resumes the run there. Default: a folder below runs/."""
    overwrite: bool = False
    """Delete the files of an earlier run in the workdir first."""
    any_environment: bool = False
    """Resume the run although its precision settings or the kind of device have changed since."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints, at most; every evaluation saves one too (with several processes, only those)."""
    profile: bool = False
    """Before training, compare the loop's time with the compiled step's, and write a trace into the workdir."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard too, into the workdir; needs tensorboardX."""
    distributed: bool = False
    """Train with several processes, each started with the same options except for --process-id."""
    coordinator: str | None = None
    """HOST:PORT of the first process. Detected on clusters that JAX knows, as are the next two options."""
    num_processes: int | None = None
    """Number of processes."""
    process_id: int | None = None
    """Index of this process. Only process 0 writes files."""

    sizes: ClassVar[tuple[str, ...]] = ("batch_size", "steps_per_dispatch")

    def check(self) -> None:
        """Raises a ValueError for options that are out of range or contradict each other."""
        for name in self.sizes:
            check_size(name, getattr(self, name), most=2**31 - 1 if name == "batch_size" else math.inf)
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate must be a positive number, got {self.learning_rate}.")
        for name in ("clip_norm", "weight_decay", "checkpoint_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or a positive number, got {getattr(self, name)}.")
        if self.distributed and self.devices:
            raise ValueError(f"devices must be 0, which takes all devices, when distributed, got {self.devices}.")
        if not self.distributed and (self.coordinator or self.num_processes or self.process_id is not None):
            raise ValueError("coordinator, num_processes and process_id need --distributed.")
        if self.tensorboard and importlib.util.find_spec("tensorboardX") is None:
            raise ValueError("tensorboard needs tensorboardX: pip install tensorboardX, or leave --tensorboard out.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in 0..2^32 - 1, got {self.seed}.")


@dataclasses.dataclass(frozen=True)
class EpochOptions(TrainOptions):
    """Training on a dataset; the defaults shown are those of the dataset."""

    epochs: int = 50
    """Number of epochs, at most."""
    patience: int = 10
    """Stop after this many epochs without an improvement on the validation data."""

    sizes: ClassVar = (*TrainOptions.sizes, "epochs", "patience")
