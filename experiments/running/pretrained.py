"""Parameters of an earlier run: reading the best ones, and starting another run from them (``--start-from``)."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax

import tlstm_jax as tl
from experiments.common.errors import CommandError, UsageError
from experiments.running import workdir as wd
from experiments.running.checkpoints import CheckpointError, Checkpoints, checksum
from experiments.running.experiment import Experiment
from experiments.running.models import PAPER_MODELS, SET_BY_TIME_SCALE, ModelOptions
from experiments.running.options import TrainOptions
from experiments.running.task import Record, best_of

SAME = ("task", "num_symbols", "vocabulary", "model", "features", "memory_conv", "norm", "param_dtype")
"""The configuration that a run must share with the run that it starts from."""
SAME_STACKED = (*SAME, "num_layers", "shared")
"""The same for the sLSTM, to which no layers can be added."""


def best_so_far(workdir: Path, like: Any) -> tuple[Any, dict[str, Any]]:
    """Reads the best parameters of a run and its checkpoint's metadata. The run may be in progress.

    Args:
        workdir: the run's folder, in which nothing is changed.
        like: a tree of the parameters' shapes and dtypes.

    Raises:
        UsageError: there is no checkpoint yet.
        CheckpointError: no checkpoint can be read, or they are of another model.
    """
    if (workdir / wd.CHECKPOINTS).is_dir():
        with Checkpoints(workdir / wd.CHECKPOINTS, read_only=True) as checkpoints:
            if checkpoints.latest_step is not None:
                restored, meta = checkpoints.restore({"best": like}, lambda line: print(line, file=sys.stderr))
                return restored["best"], meta
    raise UsageError(f"{workdir} holds no checkpoints yet: train first")


def unevaluated_step(workdir: Path, meta: dict[str, Any]) -> int:
    """The step of the parameters that :func:`best_so_far` reads before the first evaluation.

    Raises:
        UsageError: they are the initial parameters, which earlier versions saved before the first evaluation.
    """
    if "best_step" not in meta:
        raise UsageError(
            f"the checkpoint in {workdir} was written by an earlier version, without trained parameters before the "
            "first evaluation: resume the run first"
        )
    step: int = meta["best_step"]
    return step


def started(experiment: Experiment, options: TrainOptions) -> Experiment:
    """The experiment with the best parameters of the run ``options.start_from`` as initial parameters, if it is given.

    The configuration gets the checksum of those parameters and the number of training samples they have seen. The path
    of that run does not affect the results and is not recorded.

    Raises:
        UsageError: there are no parameters, or they are of another task or of a model that cannot be resized.
    """
    folder, new = options.start_from, experiment.model
    if folder is None:
        return experiment
    if options.workdir is not None and folder.resolve() == options.workdir.resolve():
        raise UsageError(f"start_from must not be the workdir, got {folder} for both: give --workdir another folder")
    try:
        there = wd.read_config(folder)
    except CommandError as error:
        raise UsageError(f"start_from must be the workdir of a run: {error}") from error
    if new.rival is not None:
        raise UsageError(f"start_from is for {', '.join(PAPER_MODELS)}, got --model {new.model}: leave it out")
    old = ModelOptions.recorded(there)
    check_related(folder, {**there, **dataclasses.asdict(old)}, {**experiment.config, **dataclasses.asdict(new)})
    like = jax.eval_shape(lambda: experiment.params)
    if new.model != "slstm":
        inputs = like["layer"]["input"]["kernel"].shape[0]
        like["layer"] = jax.eval_shape(lambda: tl.init_params(jax.random.key(0), inputs, old.config))
    params, history = evaluated(folder, like)
    found = {
        "start_sha256": checksum(params, {})[:12],
        "start_samples": best_of(history, experiment.task)["samples"] + there.get("start_samples", 0),
    }
    if new.model != "slstm":
        try:
            params = {**params, "layer": tl.resize(params["layer"], old.config, new.config)}
        except ValueError as error:
            raise UsageError(
                f"the model in {folder} (cfg) cannot become this one (new_cfg): {error} Give another --tensor-shape, "
                "or start from another run"
            ) from error
    model = dataclasses.replace(new, kernel_scale=old.kernel_scale, **initial_biases(old, new))
    return dataclasses.replace(experiment, params=params, model=model, config={**experiment.config, **found})


def initial_biases(old: ModelOptions, new: ModelOptions) -> dict[str, Any]:
    """The initial biases of ``old``, as the run ``new`` that starts from its parameters records them."""
    if old.time_scale:
        return {"time_scale": old.time_scale, **dict.fromkeys(SET_BY_TIME_SCALE)}
    forget_bias = old.forget_bias if new.time_scale else new.forget_bias  # the latter as earlier versions recorded it
    return {"time_scale": 0.0, "forget_bias": forget_bias, "conveyor_bias": old.config.conveyor_bias}


def check_related(folder: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Raises a UsageError if one of :data:`SAME` differs between the run in ``folder`` and this one."""
    there, here = wd.renamed(there), wd.renamed(here)
    for name in SAME_STACKED if here["model"] == "slstm" else SAME:
        if there.get(name) != here.get(name):
            raise UsageError(
                f"start_from must be a run with {name} {here.get(name)!s:.40}, got {there.get(name)!s:.40} in "
                f"{folder}: take another run, or give this one the same options except for the tensor shape"
            )


def evaluated(folder: Path, like: Any) -> tuple[Any, list[Record]]:
    """Reads the best parameters of a run, whose shapes must be those of ``like``, and its history.

    Raises:
        UsageError: no parameters can be read, they have not been evaluated, or their shapes differ.
    """
    try:
        params, meta = best_so_far(folder, like)
    except CheckpointError as error:
        raise UsageError(
            f"start_from must hold a checkpoint that can be read, got {folder}, where all are damaged or not of "
            f"the model in its {wd.CONFIG}: take another run"
        ) from error
    if not meta["history"]:
        raise UsageError(
            f"start_from must be a run with at least one evaluation, got {folder}: let it train until then"
        )
    for (path, leaf), wanted in zip(jax.tree.leaves_with_path(params), jax.tree.leaves(like), strict=True):
        if leaf.shape != wanted.shape:  # the input's kernel, or the head
            raise UsageError(
                f"start_from must be a run with {jax.tree_util.keystr(path, simple=True, separator='/')} of shape "
                f"{wanted.shape}, got {leaf.shape} in {folder}: take one with as many inputs and outputs as this"
            )
    return params, meta["history"]
