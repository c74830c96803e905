"""Files that are replaced as a whole: a reader sees the old contents or the new, never a part."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.common.errors import CommandError

NEW = ".new"
"""The suffix of a file while it is being written."""


class FileError(CommandError):
    """A file that cannot be read or written; the message names it and the reason."""


def check_name(path: Path) -> None:
    """Raises a FileError if a path is not UTF-8; tensorstore and array_record, which store our data, require it."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:
        raise FileError(f"{path} has a name that is not UTF-8: give another path, or rename the folder") from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder and renames that file to ``path`` on exit.

    The folder is created if it does not exist.

    Raises:
        FileError: the file cannot be written. An earlier file at ``path`` is unchanged.
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}{NEW}")  # one name for each writer
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise FileError(
            f"cannot write {path} ({error.strerror or error}): fix that, then run the same command again"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def write_json(path: Path, value: Any, indent: int = 2) -> None:
    """Writes a JSON file.

    Raises:
        FileError: the file cannot be written.
    """
    with writing(path) as beside:
        beside.write_text(json.dumps(value, indent=indent) + "\n")


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes a JSON Lines file, one record per line.

    Raises:
        FileError: the file cannot be written.
    """
    with writing(path) as beside:
        beside.write_text("".join(json.dumps(record) + "\n" for record in records))


def read_json(path: Path) -> Any:
    """Reads a JSON file; returns None if it does not exist.

    Raises:
        FileError: the file cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FileError(f"cannot read {path} ({error}): restore it or move it away") from error
