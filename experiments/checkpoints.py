"""Checkpoints through orbax, behind the three calls that a run needs. Nothing else here knows orbax."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp


class CheckpointError(ValueError):
    """A checkpoint that cannot be read; one line that says which and what to do."""


class Checkpoints:
    """The latest checkpoints of a run; each is put in place whole or not at all.

    Args:
        folder: where they are kept; it need not exist.
        keep: how many.

    Raises:
        CheckpointError: there is a file in its place.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder.absolute()
        if folder.exists() and not folder.is_dir():
            raise CheckpointError(f"{folder} is a file, expected the folder of checkpoints: move it away")
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    @property
    def latest_step(self) -> int | None:
        """The step of the latest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Writes ``state`` (a pytree of arrays) and ``meta`` (JSON), with a checksum of both."""
        if step == self.latest_step:
            self._manager.delete(step)  # the same state with newer meta
        composite = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            meta=ocp.args.JsonSave({**meta, "sha256": checksum(state, meta)}),
        )
        self._manager.save(step, args=composite)

    def restore(self, like: Any) -> tuple[Any, dict[str, Any]]:
        """The latest state, with the shapes, dtypes and shardings of ``like``, and its meta.

        Raises:
            CheckpointError: a file is missing or damaged, or the state is of another model.
        """
        step = self.latest_step
        path = self.folder / str(step)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        composite = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=composite)
            meta = dict(restored.meta)
            expected = meta.pop("sha256")
        except Exception as error:  # damage shows wherever it lies: in json, in zarr, in a missing file
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"the checkpoint {path} cannot be read ({reason}): {self._mend(step)}") from error
        if checksum(restored.state, meta) != expected:
            raise CheckpointError(f"the checkpoint {path} is damaged (its checksum differs): {self._mend(step)}")
        return restored.state, meta

    def _mend(self, step: int | None) -> str:
        earlier = [s for s in self._manager.all_steps() if s != step]
        if not earlier:
            return "delete it to begin again, or take another --workdir"
        return f"delete it to go on from step {max(earlier)}"

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        """Waits for what is under way, and lets go of the folder."""
        self._manager.close()


def checksum(tree: Any, meta: dict[str, Any]) -> str:
    """sha256 over the bytes, dtypes and shapes of every leaf, and over ``meta``."""
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
