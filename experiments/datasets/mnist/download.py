"""Downloads the idx files of MNIST from the mirror that tensorflow-datasets uses."""

from __future__ import annotations

from pathlib import Path

from experiments.datasets import network
from experiments.datasets.base import DataError, DataUnavailable
from experiments.datasets.mnist import idx

MIRROR = "https://storage.googleapis.com/cvdf-datasets/mnist/"
WAYS = "give --data-dir FOLDER with its four idx files, or take --data digits, which needs no download"


def fetch(folder: Path) -> None:
    """Downloads the four files into ``folder``; each is checked before it is written.

    Raises:
        DataUnavailable: the mirror does not answer within seconds, a transfer fails or stalls, or
            what arrives is not the official file.
    """
    problem = probe()
    if problem is not None:
        raise DataUnavailable(f"MNIST is not on this machine and cannot be downloaded ({problem}): {WAYS}")
    for file in idx.FILES.values():
        name = f"{file.stem}.gz"
        try:
            packed = network.get(MIRROR + name)
            idx.decode(packed, file, origin=MIRROR + name)
        except (OSError, DataError) as error:
            raise DataUnavailable(f"the download of {name} failed ({error}): try again, or {WAYS}") from error
        (folder / name).write_bytes(packed)


def probe() -> str | None:
    """None if the mirror answers, or else the reason, within seconds."""
    return network.probe(f"{MIRROR}{idx.FILES['test_labels'].stem}.gz")
