"""The copy of MNIST that tensorflow-datasets keeps: writing it once, and reading it back."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.datasets.base import DataError
from experiments.datasets.mnist import idx

RELATIVE_PATH = Path("mnist_idx", "1.0.0")  # as tensorflow-datasets derives it from the builder
COMPLETE = "dataset_info.json"  # in every complete copy


def default_dir() -> Path:
    """The data folder of tensorflow-datasets: ``TFDS_DATA_DIR``, or ``~/tensorflow_datasets``."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def exists(prepared_dir: Path) -> bool:
    """Whether ``prepared_dir`` has a complete copy. It is put in place whole, or not at all."""
    return (prepared_dir / RELATIVE_PATH / COMPLETE).is_file()


def prepare(source: Path, prepared_dir: Path) -> None:
    """Write the copy from the four idx files in ``source``.

    It is written into a folder of this process alone and then renamed, so that an interrupted
    process leaves no half a copy, and of several at once one wins and the others take its copy.

    Raises:
        DataError: ``source`` fails its checks, ``prepared_dir`` cannot be written, or
            tensorflow-datasets is not installed.
    """
    builder_class = _import_builder()
    final = prepared_dir / RELATIVE_PATH
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="incomplete.", dir=final.parent) as staging:
            print(f"preparing MNIST in {final} (once, some ten seconds)", file=sys.stderr)
            _build(builder_class, source, Path(staging))
            _move_into_place(Path(staging) / RELATIVE_PATH, final)
    except OSError as error:
        raise DataError(
            f"cannot write the prepared MNIST to {final} ({error.strerror or error}): "
            "expected a folder that can be written; --prepared-dir or TFDS_DATA_DIR names it"
        ) from error


def read(prepared_dir: Path) -> dict[str, NDArray[Any]]:
    """Read the copy, and check it against the official checksums.

    Returns:
        for each key of ``idx.FILES`` its array: images ``(N, 28, 28)`` uint8, labels ``(N,)`` int32.

    Raises:
        DataError: the copy is damaged, or tensorflow-datasets is not installed.
    """
    builder_class = _import_builder()
    final = prepared_dir / RELATIVE_PATH
    try:
        builder = builder_class(data_dir=prepared_dir)
        arrays = {**_read_split(builder, "train"), **_read_split(builder, "test")}
    except Exception as error:  # a damaged file can fail in any of the libraries that read it
        reason = " ".join(str(error).split())
        raise DataError(f"cannot read the prepared MNIST in {final} ({reason}): delete that folder") from error
    for key, file in idx.FILES.items():
        if not idx.is_official(arrays[key], file):
            raise DataError(f"the prepared MNIST in {final} differs from the official {file.stem}: delete that folder")
    return arrays


def _import_builder() -> Any:
    try:
        from experiments.datasets.mnist.builder import MnistIdx
    except ModuleNotFoundError as error:
        raise DataError(f"mnist needs tensorflow-datasets ({error}): pip install 'tlstm_jax[experiments]'") from error
    return MnistIdx


def _build(builder_class: Any, source: Path, data_dir: Path) -> None:
    import tensorflow_datasets as tfds

    builder = builder_class(data_dir=data_dir, file_format="array_record")
    with _quiet(tfds):
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=source))


@contextlib.contextmanager
def _quiet(tfds: Any) -> Iterator[None]:
    """Without the bars, and without the two lines on stdout, which name a folder about to be renamed."""
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()


def _move_into_place(written: Path, final: Path) -> None:
    try:
        written.rename(final)
    except OSError as error:
        if (final / COMPLETE).is_file():
            return  # another process was first
        if final.exists():
            raise DataError(f"{final} is in the way: it is no complete copy of MNIST; delete that folder") from error
        raise


def _read_split(builder: Any, split: str) -> dict[str, NDArray[Any]]:
    source = builder.as_data_source(split)
    examples = source.__getitems__(range(len(source)))
    return {
        f"{split}_images": np.stack([example["image"] for example in examples]),
        f"{split}_labels": np.array([example["label"] for example in examples], np.int32),
    }
