"""Stores the state of unfinished populations in a few files, for machines that return little data.

The workdirs of runs hold tens of small files each. The archive is one tar file cut into parts, with a manifest that
names them: a new archive is complete before the manifest names it, and only then are the old parts deleted.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.common.errors import CommandError
from experiments.common.files import read_json, write_json, writing
from experiments.running import workdir as wd

MANIFEST = "state.json"
PART_BYTES = 15 * 2**20
"""The largest size of a part."""
MOST_BYTES = 55 * 2**20
"""The largest size of an archive: with the results, the folder stays below 60 MB."""
KEPT = (wd.CONFIG, wd.METRICS, wd.SUMMARY, wd.DIVERGED)


class ArchiveError(CommandError):
    """A state that cannot be read or is too large; the message names it and says what to do."""


def read(out: Path) -> dict[str, Any]:
    """The manifest of a folder: ``finished``, the names of the populations that are complete, and the parts.

    Raises:
        FileError: the manifest cannot be read.
    """
    return {"finished": [], "parts": [], **(read_json(out / MANIFEST) or {})}


def save(out: Path, finished: Sequence[str], folder: Path, populations: Iterable[Path]) -> None:
    """Writes the manifest, and the state of the populations whose folders are given.

    Args:
        out: the folder of the archive.
        finished: the names of the populations that are complete.
        folder: the folder that contains the folders of the populations.
        populations: folders with the workdirs of populations that are not complete.

    Raises:
        ArchiveError: the state is too large.
        FileError: a file cannot be written.
    """
    paths = [path for population in populations for path in kept(population)]
    buffer = io.BytesIO()
    if paths:
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for path in paths:
                tar.add(path, arcname=str(path.relative_to(folder)))
    content = buffer.getvalue()
    if len(content) > MOST_BYTES:
        raise ArchiveError(
            f"the state of the unfinished runs has {len(content) / 2**20:.0f} MB, more than the {MOST_BYTES >> 20} MB "
            "that can be kept: they begin again with the next call, so give it a larger --budget"
        )
    parts = []
    for begin in range(0, len(content), PART_BYTES):
        part = content[begin : begin + PART_BYTES]
        digest = hashlib.sha256(part).hexdigest()
        name = f"state-{digest[:12]}.part"
        with writing(out / name) as path:
            path.write_bytes(part)
        parts.append({"name": name, "sha256": digest})
    write_json(out / MANIFEST, {"finished": [*finished], "parts": parts})
    for path in out.glob("state-*.part*"):  # also those of a call that was killed before it could delete them
        if path.name not in {each["name"] for each in parts}:
            path.unlink(missing_ok=True)


def restore(out: Path, folder: Path) -> None:
    """Writes the workdirs of an archive below a folder.

    Raises:
        ArchiveError: a part is missing or damaged.
    """
    parts = []
    for each in read(out)["parts"]:
        path = out / each["name"]
        part = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(part).hexdigest() != each["sha256"]:
            raise ArchiveError(
                f"{path} is missing or damaged: restore it, or delete {out / MANIFEST} to begin the unfinished runs "
                "again"
            )
        parts.append(part)
    if parts:
        with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as tar:
            tar.extractall(folder, filter="data")


def kept(population: Path) -> Iterator[Path]:
    """The files and folders that a population resumes from, with the latest common checkpoint of its runs.

    Runs that have diverged have no later checkpoints and are not resumed.
    """
    workdirs = sorted(path for path in population.iterdir() if (path / wd.CONFIG).exists())
    steps = {path: checkpoint_steps(path) for path in workdirs if not (path / wd.DIVERGED).exists()}
    running = [steps[path] for path in steps if not (path / wd.SUMMARY).exists()]
    common = set.intersection(*running) if running else set()
    for path in workdirs:
        yield from (path / name for name in KEPT if (path / name).exists())
        own = steps.get(path, set()) if (path / wd.SUMMARY).exists() else common
        if own and path in steps:
            yield path / wd.CHECKPOINTS / str(max(own))


def checkpoint_steps(workdir: Path) -> set[int]:
    """The steps of a run's complete checkpoints."""
    return {int(path.name) for path in (workdir / wd.CHECKPOINTS).glob("*") if path.name.isdigit()}
