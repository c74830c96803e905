"""Prepared copies of data, stored by tensorflow-datasets: writing one atomically, and opening it.

A copy is a folder ``<root>/<builder>[/<config>]/<version>``, as tensorflow-datasets lays it out.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from experiments.common.files import check_name
from experiments.datasets.base import DataError

COMPLETE = "dataset_info.json"  # in every complete copy


def root(given: Path | None) -> Path:
    """The folder of all copies: ``given``, or the default of tensorflow-datasets.

    Raises:
        FileError: the folder's path is not UTF-8.
    """
    folder = (given or Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")).expanduser().absolute()
    check_name(folder)
    return folder


def exists(folder: Path) -> bool:
    """Whether ``folder`` is a complete copy."""
    return (folder / COMPLETE).is_file()


@contextlib.contextmanager
def needed_by(what: str) -> Iterator[None]:
    """Reports what to install if an import of tensorflow-datasets fails.

    Raises:
        DataError: tensorflow-datasets, or a package that it needs, is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise DataError(f"{what} needs tensorflow-datasets ({error}): pip install 'tlstm_jax[experiments]'") from error


def write(what: str, folder: Path, make_builder: Callable[..., Any], manual_dir: Path | None = None) -> None:
    """Writes a copy.

    The copy is written into a temporary folder and then renamed, so that an interrupted process leaves no partial copy.
    If several processes write the same copy, one succeeds and the others use its copy.

    Args:
        what: the name of the data, for messages.
        folder: the folder of the copy.
        make_builder: returns the builder, given ``data_dir`` and ``file_format``.
        manual_dir: the folder with the files that the builder reads, if it reads any.

    Raises:
        DataError: ``folder`` cannot be written, or the builder rejects its input.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="incomplete.", dir=folder.parent) as staging:
            print(f"preparing {what} in {folder} (once, some ten seconds)", file=sys.stderr)
            _move_into_place(_build(make_builder, manual_dir, Path(staging)), folder, what)
    except OSError as error:
        raise DataError(
            f"cannot write the prepared {what} to {folder} ({error.strerror or error}): "
            "expected a folder that can be written; --prepared-dir or TFDS_DATA_DIR names it"
        ) from error


@contextlib.contextmanager
def reading(what: str, folder: Path) -> Iterator[Any]:
    """Yields the builder of the copy in ``folder``; an error inside the block means that the copy is damaged.

    Raises:
        DataError: the copy is damaged, or tensorflow-datasets is not installed.
    """
    with needed_by(what):
        import tensorflow_datasets as tfds
    try:
        yield tfds.builder_from_directory(folder)
    except Exception as error:  # a damaged file can fail in any of the libraries underneath
        reason = " ".join(str(error).split())
        raise DataError(f"cannot read the prepared {what} in {folder} ({reason}): delete that folder") from error


def _build(make_builder: Callable[..., Any], manual_dir: Path | None, data_dir: Path) -> Path:
    """Writes a copy and returns its folder below ``data_dir``."""
    import tensorflow_datasets as tfds

    with _quiet(tfds):
        builder = make_builder(data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))
    return Path(builder.data_dir)


@contextlib.contextmanager
def _quiet(tfds: Any) -> Iterator[None]:
    """Suppresses progress bars, the warning that the config is not predefined, and output with the temporary folder."""
    logger = logging.getLogger("absl")
    level = logger.level
    tfds.disable_progress_bar()
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        tfds.enable_progress_bar()


def _move_into_place(written: Path, folder: Path, what: str) -> None:
    try:
        written.rename(folder)
    except OSError as error:
        if exists(folder):
            return  # another process has written it
        if folder.exists():
            raise DataError(f"{folder} is in the way: it is no complete copy of {what}; delete that folder") from error
        raise
