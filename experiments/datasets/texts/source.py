"""Files with enwik8 or a prefix of it: unpacking and checking them."""

from __future__ import annotations

import gzip
import hashlib
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from experiments.datasets.base import DataError
from experiments.datasets.texts.corpus import SMALLEST, Corpus, sha256

OFFICIAL_SIZE = 100_000_000
OFFICIAL_MD5 = "a1fa5ffddb56f4953e226637dabbb36a"
BEGINNING = b"<mediawiki"
EXPECTED = "expected enwik8 or a prefix of it, plain, as .gz or as .zip"

GZIP_MAGIC = b"\x1f\x8b"
ZIP_MAGIC = b"PK"


def read(path: Path) -> Corpus:
    """Reads and checks a file.

    Args:
        path: enwik8 or a prefix of it, plain, gzip or zip, which the first bytes decide.

    Raises:
        DataError: the file is missing, unreadable, damaged, or something else.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder: {EXPECTED}")
    try:
        with path.open("rb") as file:
            return decode(file, origin=str(path))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: {EXPECTED}") from error
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error}): {EXPECTED}") from error


def decode(packed: BinaryIO, *, origin: str) -> Corpus:
    """Unpacks and checks the contents of a file; ``origin`` is the path or address to name in errors.

    Raises:
        DataError: they are damaged, or neither enwik8 nor a prefix of it.
    """
    contents = _unpack(packed, origin)
    size = len(contents)
    if size < SMALLEST:
        raise DataError(f"{origin} holds {size} bytes, too few for three parts: {EXPECTED}, at least {SMALLEST} bytes")
    if not contents.startswith(BEGINNING):
        raise DataError(
            f"{origin} begins with {contents[: len(BEGINNING)]!r}: {EXPECTED}, which begins with {BEGINNING!r}"
        )
    if size > OFFICIAL_SIZE:
        raise DataError(f"{origin} holds more than {OFFICIAL_SIZE} bytes: {EXPECTED}; cut it there")
    corpus = identify(np.frombuffer(contents, np.uint8))
    if size == OFFICIAL_SIZE and corpus.name != "enwik8":
        raise DataError(
            f"{origin} is as long as enwik8 and differs from it: its unpacked bytes have md5 {_md5(corpus.text)}, "
            f"expected {OFFICIAL_MD5}; download it again"
        )
    return corpus


def identify(text: NDArray[np.uint8]) -> Corpus:
    """The corpus of ``text``; its checksum decides whether it is enwik8."""
    whole = len(text) == OFFICIAL_SIZE and _md5(text) == OFFICIAL_MD5
    return Corpus("enwik8" if whole else "enwik8 prefix", text, sha256(text))


def _unpack(packed: BinaryIO, origin: str) -> bytes:
    """The unpacked bytes, at most one more than enwik8 has."""
    magic = packed.read(2)
    packed.seek(0)
    if magic not in (GZIP_MAGIC, ZIP_MAGIC):
        return packed.read(OFFICIAL_SIZE + 1)
    kind = "gzip" if magic == GZIP_MAGIC else "zip"
    try:
        if kind == "gzip":
            with gzip.GzipFile(fileobj=packed) as file:
                return file.read(OFFICIAL_SIZE + 1)
        with zipfile.ZipFile(packed) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len(members) != 1:
                raise DataError(f"{origin} is a zip of {len(members)} files: {EXPECTED} with that file alone")
            with archive.open(members[0]) as member:
                return member.read(OFFICIAL_SIZE + 1)
    except DataError:
        raise
    except Exception as error:  # a damaged archive can fail in any of the libraries underneath
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{origin} is a damaged or truncated {kind} ({reason}): {EXPECTED}; get it again") from error


def _md5(text: NDArray[np.uint8]) -> str:
    return hashlib.md5(text.data, usedforsecurity=False).hexdigest()
