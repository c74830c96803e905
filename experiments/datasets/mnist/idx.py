"""The four idx files of MNIST: finding, unpacking and checking them.

An idx file is two zero bytes, a type code (8: uint8), the number of axes, each axis length as a
big-endian uint32, and then the values, last axis fastest.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.datasets.base import DataError

GZIP_MAGIC = b"\x1f\x8b"


@dataclasses.dataclass(frozen=True)
class IdxFile:
    """One of the official files.

    Args:
        stem: its published name, without ``.gz``.
        item_shape: the shape of one image or label.
        md5: checksum of the unpacked bytes. (Compressed files differ from packer to packer.)
    """

    stem: str
    item_shape: tuple[int, ...]
    md5: str

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the file that are accepted, the published one first."""
        spellings = (self.stem, self.stem.replace("-idx", ".idx"))
        return tuple(spelling + suffix for suffix in ("", ".gz") for spelling in spellings)


FILES = {
    "train_images": IdxFile("train-images-idx3-ubyte", (28, 28), "6bbc9ace898e44ae57da46a324031adb"),
    "train_labels": IdxFile("train-labels-idx1-ubyte", (), "a25bea736e30d166cdddb491f175f624"),
    "test_images": IdxFile("t10k-images-idx3-ubyte", (28, 28), "2646ac647ad5339dbf082846283269ea"),
    "test_labels": IdxFile("t10k-labels-idx1-ubyte", (), "27ae3e4e09519cfbb04c329615203637"),
}


def read_folder(folder: Path) -> dict[str, NDArray[np.uint8]]:
    """Reads and checks the four files in ``folder``, each plain or gzipped.

    Returns:
        an array for each key of ``FILES``: images ``(N, 28, 28)`` and labels ``(N,)``, both uint8.

    Raises:
        DataError: the folder or a file is missing or unreadable, or a file is not the official one.
    """
    if not folder.is_dir():
        found = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {found}: expected the folder with the four idx files of MNIST")
    return {key: _read(folder, file) for key, file in FILES.items()}


def _read(folder: Path, file: IdxFile) -> NDArray[np.uint8]:
    path = next((folder / name for name in file.names if (folder / name).is_file()), None)
    if path is None:
        raise DataError(f"{folder} has no {file.stem}: expected it there, plain or as {file.stem}.gz")
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    return decode(packed, file, origin=str(path))


def decode(packed: bytes, file: IdxFile, *, origin: str) -> NDArray[np.uint8]:
    """Unpacks, checks and parses the contents of ``file``.

    Args:
        packed: the bytes, gzipped or plain; the first bytes tell which.
        file: the official file that is expected.
        origin: the path or address to name in errors.

    Returns:
        uint8, ``(N, *file.item_shape)``.

    Raises:
        DataError: the gzip is damaged, the header does not match an idx file of such items, or the
            checksum is not the official one.
    """
    contents = _unpack(packed, origin)
    shape = _parse_header(contents, file, origin)
    found = hashlib.md5(contents, usedforsecurity=False).hexdigest()
    if found != file.md5:
        raise DataError(
            f"{origin} is not the official {file.stem}: its unpacked bytes have md5 {found}, "
            f"expected {file.md5}; download it again"
        )
    return np.frombuffer(contents, np.uint8, offset=_header_size(file)).reshape(shape)


def _unpack(packed: bytes, origin: str) -> bytes:
    if not packed.startswith(GZIP_MAGIC):
        return packed
    try:
        return gzip.decompress(packed)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{origin} is a damaged or truncated gzip ({error}): download it again") from error


def _header_size(file: IdxFile) -> int:
    return 4 + 4 * (1 + len(file.item_shape))


def _parse_header(contents: bytes, file: IdxFile, origin: str) -> tuple[int, ...]:
    """The shape in the header of ``contents``, after checking the header and the length."""
    axes = 1 + len(file.item_shape)
    size = _header_size(file)
    expected = f"expected {file.stem}, an idx file of {axes} axes of uint8"
    if len(contents) < size or contents[:4] != bytes((0, 0, 8, axes)):
        raise DataError(f"{origin} begins with bytes [{contents[:4].hex(' ')}]: {expected}")
    shape = struct.unpack(f">{axes}I", contents[4:size])
    if shape[1:] != file.item_shape:
        raise DataError(f"{origin} holds items of shape {shape[1:]}: expected {file.item_shape}")
    if len(contents) - size != np.prod(shape, dtype=np.int64):
        raise DataError(f"{origin} holds {len(contents) - size} values where its header says {shape}: {expected}")
    return shape


def encode(array: NDArray[Any]) -> bytes:
    """The contents of an idx file with ``array``, whose values must fit uint8."""
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def is_official(array: NDArray[Any], file: IdxFile) -> bool:
    """Whether ``array`` equals the contents of the official ``file``."""
    return hashlib.md5(encode(array), usedforsecurity=False).hexdigest() == file.md5
