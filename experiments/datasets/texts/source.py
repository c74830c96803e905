"""Files with enwik8 or a prefix of it: unpacking and checking them."""

from __future__ import annotations

import gzip
import hashlib
import io
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from experiments.datasets.base import DataError
from experiments.datasets.texts import enwik8_blocks
from experiments.datasets.texts.corpus import SMALLEST, Corpus, sha256

OFFICIAL_SIZE = 100_000_000
OFFICIAL_MD5 = "a1fa5ffddb56f4953e226637dabbb36a"
BEGINNING = b"<mediawiki"
OTHER = "other text"
"""The name of a text that begins as enwik8 does and differs from it, or is too short to be checked."""
EXPECTED = "expected enwik8 or a prefix of it, plain, as .gz or as .zip"

GZIP_MAGIC = b"\x1f\x8b"
ZIP_MAGIC = b"PK"


def read(path: Path) -> Corpus:
    """Reads and checks a file.

    Args:
        path: enwik8 or a prefix of it, plain, gzip or zip; the first bytes tell which.

    Raises:
        DataError: the file is missing, unreadable, damaged, or something else.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder: {EXPECTED}")
    try:
        with path.open("rb") as file:
            # a pipe can be read only once; no packed text is twice as long as enwik8
            contents = file if file.seekable() else io.BytesIO(file.read(2 * OFFICIAL_SIZE))
            return decode(contents, origin=str(path))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: {EXPECTED}") from error
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error}): {EXPECTED}") from error


def decode(packed: BinaryIO, *, origin: str) -> Corpus:
    """Unpacks and checks the contents of a file; ``origin`` is the path or address to name in errors.

    Raises:
        DataError: the contents are damaged, or neither enwik8 nor a prefix of it.
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
    """The corpus of ``text``; its checksums decide whether it is enwik8, a prefix of it, or another text."""
    if len(text) == OFFICIAL_SIZE and _md5(text) == OFFICIAL_MD5:
        return Corpus("enwik8", text, sha256(text))
    return Corpus("enwik8 prefix" if enwik8_blocks.checked(text) else OTHER, text, sha256(text))


def doubt(corpus: Corpus) -> str | None:
    """A reason to doubt that a text is enwik8 or a prefix of it; None if its checksums are known."""
    checked = enwik8_blocks.checked(corpus.text)
    if checked is None:
        return f"differs from enwik8 (line ends converted?): its results will be those of {OTHER!r}"
    if not checked:
        return f"is too short to tell whether it is enwik8: its results will be those of {OTHER!r}"
    if corpus.name != "enwik8" and len(corpus.text) - checked >= enwik8_blocks.BLOCK_SIZE:
        return f"begins as enwik8 does; only its first {checked:,} characters can be checked"
    return None


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
