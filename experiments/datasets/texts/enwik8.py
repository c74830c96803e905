"""enwik8: the first 100,000,000 bytes of a dump of the English Wikipedia, stored by tensorflow-datasets."""

from __future__ import annotations

import functools
import io
import sys
from pathlib import Path

import numpy as np

from experiments.datasets import network, prepared
from experiments.datasets.base import DataError, DataUnavailable
from experiments.datasets.texts import source
from experiments.datasets.texts.corpus import Corpus

URL = "http://mattmahoney.net/dc/enwik8.zip"
WAYS = "give --data-file FILE with it or a prefix of it, or take --data stdlib, which needs no download"
OFFICIAL = "official"


def load(*, data_file: Path | None = None, prepared_dir: Path | None = None) -> Corpus:
    """Loads enwik8 or a prefix of it, preparing it first if there is no prepared copy.

    Args:
        data_file: enwik8 or a prefix of it, plain, .gz or .zip, which is checked even if there is a prepared copy.
            None reads the prepared copy of enwik8, or downloads it if there is none.
        prepared_dir: the folder of prepared copies; None is the default of tensorflow-datasets.

    Raises:
        DataUnavailable: no ``data_file``, no prepared copy, and no network.
        DataError: the file is missing or not enwik8, or the copy is damaged or not writable.
    """
    given = None if data_file is None else source.read(data_file.expanduser().absolute())
    if given is not None and (doubt := source.doubt(given)):
        print(f"WARNING: {data_file} {doubt}", file=sys.stderr)
    config = OFFICIAL if given is None else config_name(given)
    folder = prepared.root(prepared_dir) / relative_path(config)
    if not prepared.exists(folder):
        _write(fetch() if given is None else given, folder)
    return _read(config, folder)


def config_name(corpus: Corpus) -> str:
    """The config of the prepared copy, which differs between texts."""
    return OFFICIAL if corpus.name == "enwik8" else f"prefix_{len(corpus.text)}_{corpus.sha256[:12]}"


def relative_path(config: str) -> Path:
    """The path of the prepared copy below the data folder of tensorflow-datasets."""
    return Path("enwik8_bytes", config, "1.0.0")


def fetch() -> Corpus:
    """Downloads enwik8 and checks it.

    Raises:
        DataUnavailable: the server does not answer within seconds, the transfer fails or stalls, or
            what arrives is not the official file.
    """
    problem = probe()
    if problem is not None:
        raise DataUnavailable(f"enwik8 is not on this machine and cannot be downloaded ({problem}): {WAYS}")
    try:
        corpus = source.decode(io.BytesIO(network.get(URL)), origin=URL)
        if corpus.name != "enwik8":
            raise DataError(f"{URL} holds {len(corpus.text)} bytes: expected {source.OFFICIAL_SIZE}")
    except (OSError, DataError) as error:
        raise DataUnavailable(f"the download of enwik8 failed ({error}): try again, or {WAYS}") from error
    return corpus


def probe() -> str | None:
    """None if the server answers, or else the reason, within seconds."""
    return network.probe(URL)


def _write(corpus: Corpus, folder: Path) -> None:
    with prepared.needed_by("enwik8"):
        from experiments.datasets.texts.builder import Enwik8Bytes
    prepared.write(corpus.name, folder, functools.partial(Enwik8Bytes, text=corpus.text, config=config_name(corpus)))


def _read(config: str, folder: Path) -> Corpus:
    """Reads the prepared copy and checks that it is the text of its config."""
    with prepared.reading("enwik8", folder) as builder:
        chunks = builder.as_data_source("text")
        text = np.concatenate([chunks[index]["bytes"] for index in range(len(chunks))])
    text.flags.writeable = False
    corpus = source.identify(text)
    if config_name(corpus) != config:
        raise DataError(f"the prepared enwik8 in {folder} differs from what it was made from: delete that folder")
    return corpus
