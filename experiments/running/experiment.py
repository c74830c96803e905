"""An experiment: a task with a model, and the configuration that identifies a run of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn

from experiments.running import devices
from experiments.running.models import ModelOptions
from experiments.running.options import NO_MATTER, TrainOptions, to_record
from experiments.running.task import Task


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A task with a model.

    Args:
        name: the task with its size, for titles and the default workdir.
        task: data, objective and stopping rule.
        params: initial parameters.
        model: the model's options.
        network: the model, from inputs to predictions.
        config: everything else that determines the results, as JSON.
        headline: summarizes the result of :func:`experiments.running.training.fit` in one line.
        as_recorded: maps this experiment and the configuration of a run to the experiment as that run evaluates and
            names it, which earlier versions may have done differently.
    """

    name: str
    task: Task
    params: Any
    model: ModelOptions
    network: nn.Module
    config: dict[str, Any]
    headline: Callable[[dict[str, Any]], str]
    as_recorded: Callable[[Experiment, Mapping[str, Any]], Experiment] = lambda experiment, config: experiment

    @property
    def title(self) -> str:
        """Task and model, for figures."""
        return f"{self.name}, {self.model.title}"

    def recorded(self, options: TrainOptions) -> dict[str, Any]:
        """The contents of config.json: everything that determines the results of a run with these options."""
        train = to_record(options)
        for name in (*NO_MATTER, "start_from"):  # the checksum of the parameters there is recorded instead
            del train[name]
        train["devices"] = devices.data_mesh(options.devices).size  # it decides the order of summation
        return {**self.config, **to_record(self.model), **train}

    def workdir(self, options: TrainOptions) -> Path:
        """The workdir in the options, or else a folder below runs/ named for the task, the model and the seed."""
        if options.workdir is not None:
            return options.workdir
        name = f"{self.name} {self.model.title} seed={options.seed}"
        if "start_sha256" in self.config:
            name += f" from={self.config['start_sha256']}"
        return Path("runs") / name.replace(" ", "-").replace("=", "")
