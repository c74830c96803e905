"""Checkpoints, written with orbax. No other module uses orbax."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments.common.errors import CommandError
from experiments.common.files import check_name

REPLACED = ".replaced"
"""The suffix of a checkpoint while another one replaces it."""


class CheckpointError(CommandError):
    """A checkpoint that cannot be read or written; the message names it and says what to do."""


class Checkpoints:
    """The latest checkpoints of a run; each is written atomically.

    Args:
        folder: created if it does not exist.
        keep: the number of checkpoints to keep.
        read_only: never change the folder, in which another process may be writing.

    Raises:
        CheckpointError: ``folder`` is a file.
        FileError: its path is not UTF-8.
    """

    def __init__(self, folder: Path, keep: int = 2, *, read_only: bool = False) -> None:
        check_name(folder)
        self.folder = folder.absolute()
        self._read_only = read_only
        if folder.exists() and not folder.is_dir():
            raise CheckpointError(f"{folder} is a file, expected the folder of checkpoints: move it away")
        alone = ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(),  # every process reads for itself, one writes
            active_processes={jax.process_index()},
            barrier_sync_key_prefix=f"process {jax.process_index()}",
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        _hide_tracebacks()
        with _silenced():
            options = ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                enable_async_checkpointing=False,
                read_only=read_only,
                create=False,
                multiprocessing_options=alone,
            )
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        if not read_only:
            self._settle_replaced()

    @property
    def latest_step(self) -> int | None:
        """The step of the latest checkpoint, or None."""
        return self._manager.latest_step()

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints that are kept, in ascending order."""
        return sorted(self._manager.all_steps())

    def discard_after(self, step: int) -> None:
        """Deletes the checkpoints of later steps."""
        if not self._read_only:
            for later in self.steps:
                if later > step:
                    shutil.rmtree(self.folder / str(later))
            self._manager.reload()

    def save(self, step: int, trees: dict[str, Any], meta: dict[str, Any]) -> None:
        """Writes pytrees of arrays by name and metadata (JSON), with their checksums.

        Raises:
            CheckpointError: the checkpoint cannot be written, for example on a full disk. Earlier ones are kept.
        """
        replaced = None
        if step == self.latest_step:  # the same state with new metadata: keep the old one until the new one is complete
            replaced = (self.folder / str(step)).rename(self.folder / f"{step}{REPLACED}")
            self._manager.reload()
        checksums = {name: checksum(tree, meta) for name, tree in trees.items()}
        composite = ocp.args.Composite(
            **{name: ocp.args.StandardSave(tree) for name, tree in trees.items()},
            meta=ocp.args.JsonSave({**meta, "sha256": checksums}),
        )
        try:
            self._manager.save(step, args=composite)
        except Exception as error:  # any of the libraries underneath may fail
            self._settle_replaced()
            raise CheckpointError(
                f"cannot write the checkpoint {self.folder / str(step)} ({_reason(error)}): make room on the disk, "
                f"then run the same command again to resume {self._from_where()}"
            ) from error
        if replaced:
            shutil.rmtree(replaced)

    def restore(
        self, like: dict[str, Any], report: Callable[[str], None], at: int | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reads the latest intact checkpoint: its trees and metadata. Damaged later ones are renamed ``STEP.damaged``.

        Args:
            like: by name, a tree with the shapes, dtypes and shardings of each tree to read.
            report: called with a message about each damaged checkpoint.
            at: read the checkpoint of this step and no other.

        Raises:
            CheckpointError: no checkpoint is intact, or the checkpoints are of another model.
        """
        failed: dict[int, CheckpointError] = {}
        for step in reversed(self.steps if at is None else [at]):
            try:
                restored = self._read(step, like)
            except CheckpointError as error:
                failed[step] = error
                continue
            for damaged, failure in failed.items():
                if self._read_only:
                    report(f"{failure}: reading step {step} instead")
                    continue
                path = self.folder / str(damaged)
                aside = path.rename(_unused(path.with_suffix(".damaged")))
                report(f"{failure}: renamed to {aside.name}, resuming from step {step}")
            self._manager.reload()
            return restored
        latest = next(iter(failed.values()))
        raise CheckpointError(f"{latest}: delete {self.folder} to begin again, or take another --workdir")

    def _read(self, step: int, like: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        path = self.folder / str(step)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        trees = {name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()}
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(**trees, meta=ocp.args.JsonRestore()))
            meta = dict(restored.meta)
            checksums = meta.pop("sha256")
            found = {name: restored[name] for name in like}
            intact = all(checksum(tree, meta) == checksums[name] for name, tree in found.items())
        except Exception as error:  # damage can show anywhere: in JSON, in Zarr, as a missing file
            raise CheckpointError(f"the checkpoint {path} cannot be read ({_reason(error)})") from error
        if not intact:
            raise CheckpointError(f"the checkpoint {path} is damaged (its checksum differs)")
        return found, meta

    def _from_where(self) -> str:
        return "from the beginning" if self.latest_step is None else f"from step {self.latest_step}"

    def _settle_replaced(self) -> None:
        """Restores a checkpoint whose replacement was not completed."""
        for old in self.folder.glob(f"*{REPLACED}"):
            place = old.with_suffix("")
            shutil.rmtree(old) if place.exists() else old.rename(place)
        self._manager.reload()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        """Waits for pending writes and closes the folder."""
        self._manager.close()


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Suppresses orbax's warnings about read-only folders."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _hide_tracebacks() -> None:
    """Hides the many tracebacks that orbax prints when it cannot read or write, from threads that end after the call.

    The call itself also raises an error, which becomes a CheckpointError.
    """
    logger = logging.getLogger("absl")
    if _not_of_orbax not in logger.filters:
        logger.addFilter(_not_of_orbax)
    if not isinstance(sys.unraisablehook, _ExceptClosedLoops):
        sys.unraisablehook = _ExceptClosedLoops(sys.unraisablehook)


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR or "orbax" not in record.pathname


class _ExceptClosedLoops:
    """A ``sys.unraisablehook`` that hides errors of tensorstore, whose reads and writes end after their event loop."""

    def __init__(self, hook: Callable[[Any], Any]) -> None:
        self._hook = hook

    def __call__(self, error: Any) -> None:
        if not (isinstance(error.exc_value, RuntimeError) and str(error.exc_value) == "Event loop is closed"):
            self._hook(error)


def _reason(error: Exception) -> str:
    """The error in one line: the operating system's error if there is one, which tensorstore puts at the end."""
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    return " ".join(str(error).split())[:200]


def _unused(path: Path) -> Path:
    """The path, with a number appended if it exists."""
    names = (path.with_name(f"{path.name}{n or ''}") for n in itertools.count())
    return next(name for name in names if not name.exists())


def checksum(tree: Any, meta: dict[str, Any]) -> str:
    """sha256 over the bytes, dtypes and shapes of every leaf, and over ``meta``."""
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
