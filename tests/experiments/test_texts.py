"""The texts of the experiments: the bytes, and the error messages."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import http.server
import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.datasets import prepared, texts
from experiments.datasets.texts import builder, corpus, enwik8, enwik8_blocks, source

REPOSITORY = Path(__file__).parents[2]
OFFICIAL_SIZE, OFFICIAL_MD5 = source.OFFICIAL_SIZE, source.OFFICIAL_MD5
KNOWN = enwik8_blocks.BLOCK_SIZE, enwik8_blocks.CHECKSUMS
CHUNK = 1024
BLOCK = 500
WHOLE = b"<mediawiki>" + np.random.default_rng(0).integers(0, 200, 3000, np.uint8).tobytes()
"""Stands for enwik8 in these tests: two chunks and a shorter one."""


@pytest.fixture(autouse=True)
def _everything_is_small_and_below_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # tensorflow-datasets leaves empty folders there
    monkeypatch.setattr(builder, "CHUNK", CHUNK)
    monkeypatch.setattr(enwik8_blocks, "BLOCK_SIZE", BLOCK)
    sums = (hashlib.sha256(WHOLE[i : i + BLOCK]).hexdigest()[: enwik8_blocks.DIGITS] for i in range(0, 2500, BLOCK))
    monkeypatch.setattr(enwik8_blocks, "CHECKSUMS", "".join(sums))
    monkeypatch.setattr(source, "OFFICIAL_SIZE", len(WHOLE))
    monkeypatch.setattr(source, "OFFICIAL_MD5", hashlib.md5(WHOLE).hexdigest())


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enwik8, "probe", lambda: "no network in this test")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(WHOLE)
    return path


def _gzip(contents: bytes) -> bytes:
    return gzip.compress(contents, mtime=0)  # reproducible


def _zip(contents: bytes, *names: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names or ("enwik8",):
            archive.writestr(zipfile.ZipInfo(name), contents, zipfile.ZIP_DEFLATED)  # reproducible
    return packed.getvalue()


def _assert_is(found: texts.Corpus, contents: bytes, name: str) -> None:
    assert found.name == name
    assert found.text.dtype == np.uint8
    assert found.text.tobytes() == contents
    assert found.sha256 == hashlib.sha256(contents).hexdigest()
    assert found.vocabulary.tolist() == sorted(set(contents))
    assert found.train.tobytes() + found.validation.tobytes() + found.test.tobytes() == contents
    assert not found.text.flags.writeable


@contextlib.contextmanager
def _refused(expected: str, kind: type[texts.DataError] = texts.DataError) -> Iterator[None]:
    """The block raises an error of one line that contains ``expected``."""
    with pytest.raises(kind, match=expected) as error:
        yield
    assert "\n" not in str(error.value)


def _copy(tmp_path: Path, config: str = "official") -> Path:
    return tmp_path / "prepared" / "enwik8_bytes" / config / "1.0.0"


# --- the parts of a text


def _corpus_of(text: np.ndarray) -> texts.Corpus:
    return texts.Corpus("enwik8 prefix", text, corpus.sha256(text))


def test_enwik8_is_cut_where_the_literature_cuts_it() -> None:
    assert (OFFICIAL_SIZE, OFFICIAL_MD5) == (100_000_000, "a1fa5ffddb56f4953e226637dabbb36a")
    text = texts.Corpus("enwik8", np.zeros(OFFICIAL_SIZE, np.uint8), "")
    assert [len(part) for part in (text.train, text.validation, text.test)] == [90_000_000, 5_000_000, 5_000_000]
    assert all(np.shares_memory(part[-1:], text.text) for part in (text.train, text.validation, text.test))


def test_no_part_is_ever_empty() -> None:
    for size in range(corpus.SMALLEST, 300):
        text = _corpus_of(np.arange(size).astype(np.uint8))
        assert min(len(text.train), len(text.validation), len(text.test)) >= 1
    assert len(_corpus_of(np.zeros(corpus.SMALLEST - 1, np.uint8)).validation) == 0


def test_vocabulary_is_that_of_the_whole_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "BLOCK", 7)
    text = _corpus_of(np.array([9] * 20 + [255, 3] + [0], np.uint8))
    assert text.vocabulary.dtype == np.uint8
    assert text.vocabulary.tolist() == [0, 3, 9, 255]
    assert _corpus_of(np.arange(256).astype(np.uint8)).vocabulary.tolist() == list(range(256))


# --- the standard library


def test_stdlib_is_the_sources_of_this_python() -> None:
    stdlib = texts.load("stdlib")
    _assert_is(stdlib, stdlib.text.tobytes(), "stdlib")
    assert 1_000_000 < len(stdlib.text) < 20_000_000
    assert Path(tempfile.__file__).read_bytes() in stdlib.text.tobytes()
    assert texts.load("stdlib").sha256 == stdlib.sha256


def test_stdlib_is_nothing_but_the_standard_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("os.py", "abc.py", "mine.py", "sitecustomize.py", "site-packages/six.py", "json/decoder.py"):
        (tmp_path / "lib" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "lib" / name).write_text(f"# {name}\n")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "lib"))
    assert texts.load("stdlib").text.tobytes() == b"# abc.py\n# os.py\n"


def test_a_python_without_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "python.zip"))
    with _refused(r"no sources .* in .*python\.zip: take .*--data enwik8"):
        texts.load("stdlib")


def test_sources_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "os.py").mkdir()
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with _refused(r"cannot read the sources .*os\.py"):
        texts.load("stdlib")


def test_stdlib_refuses_a_file(file: Path) -> None:
    with _refused(f"reads no file, got data_file {file}: leave it out"):
        texts.load("stdlib", data_file=file)


def test_stdlib_does_not_import_tensorflow_datasets() -> None:
    program = (
        "import sys; from experiments.datasets import texts; texts.load('stdlib'); "
        "sys.exit('tensorflow_datasets' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True)


def test_unknown_name() -> None:
    name: Any = "enwik9"
    with _refused("unknown text 'enwik9': expected 'stdlib' or 'enwik8'"):
        texts.load(name)


# --- files of enwik8


@pytest.mark.parametrize("pack", [bytes, _gzip, _zip])
@pytest.mark.parametrize("name", ["enwik8", "enwik8.gz", "enwik8.zip"])
def test_the_first_bytes_tell_how_a_file_is_packed(tmp_path: Path, pack: Callable[[bytes], bytes], name: str) -> None:
    (tmp_path / name).write_bytes(pack(WHOLE))
    _assert_is(source.read(tmp_path / name), WHOLE, "enwik8")
    (tmp_path / name).write_bytes(pack(WHOLE[:-1]))
    _assert_is(source.read(tmp_path / name), WHOLE[:-1], "enwik8 prefix")


def _flip(contents: bytes, place: int) -> bytes:
    return contents[:place] + bytes([contents[place] ^ 1]) + contents[place + 1 :]


REFUSED = [
    (b"", "holds 0 bytes, too few for three parts"),
    (WHOLE[:10], "holds 10 bytes, too few for three parts: expected enwik8 .* at least 11 bytes"),
    (b"\n" * 100, r"begins with b'\\n\\n.*: expected .* begins with b'<mediawiki'"),
    (WHOLE[1:], "begins with b'mediawiki>'"),
    (_zip(_gzip(WHOLE)), r"begins with b'\\x1f\\x8b"),
    (_flip(WHOLE, -5), "as long as enwik8 and differs from it: .* md5 [0-9a-f]{32}, expected [0-9a-f]{32}; download"),
    (_gzip(_flip(WHOLE, 500)), "as long as enwik8 and differs from it"),
    (WHOLE + b"x", "holds more than 3011 bytes: .*; cut it there"),
    (_gzip(WHOLE * 2), "holds more than 3011 bytes"),
    (_gzip(WHOLE)[:2], "damaged or truncated gzip"),
    (_gzip(WHOLE)[:1000], "damaged or truncated gzip"),
    (_gzip(WHOLE)[:-1], "damaged or truncated gzip"),
    (_flip(_gzip(WHOLE), -6), "damaged or truncated gzip"),
    (_flip(_gzip(WHOLE), 1000), "damaged or truncated gzip"),
    (_zip(WHOLE)[:2], "damaged or truncated zip"),
    (_zip(WHOLE)[:1000], "damaged or truncated zip"),
    (_zip(WHOLE)[:-1], "damaged or truncated zip"),
    (_flip(_zip(WHOLE), 1000), "damaged or truncated zip"),
    (_zip(WHOLE, "enwik8", "README"), "is a zip of 2 files: .* with that file alone"),
]


@pytest.mark.parametrize(("contents", "expected"), REFUSED, ids=[expected[:30] for _, expected in REFUSED])
def test_a_file_that_is_not_enwik8(file: Path, tmp_path: Path, contents: bytes, expected: str) -> None:
    file.write_bytes(contents)
    with _refused(f"^{file} .*{expected}"):
        texts.load("enwik8", data_file=file)
    assert not (tmp_path / "prepared").exists()


@pytest.mark.parametrize(
    ("contents", "name", "said"),
    [
        (WHOLE[:1700], "enwik8 prefix", None),
        (WHOLE[:2900], "enwik8 prefix", None),
        (WHOLE[:3005], "enwik8 prefix", "only its first 2,500 characters can be checked"),
        (WHOLE.replace(b"\n", b"\r\n")[:2400], "other text", "differs from enwik8"),
        (_flip(WHOLE, 2499)[:2600], "other text", "differs from enwik8"),
        (WHOLE[:499], "other text", "is too short to tell whether it is enwik8"),
    ],
)
def test_a_text_is_called_enwik8_only_if_its_checksums_are(
    file: Path, capsys: pytest.CaptureFixture[str], contents: bytes, name: str, said: str | None
) -> None:
    file.write_bytes(contents)
    found = texts.load("enwik8", data_file=file)
    _assert_is(found, contents, name)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING")]
    assert [said in line for line in warnings] == ([True] if said else [])


@pytest.mark.parametrize("pack", [bytes, _gzip, _zip])
def test_a_text_can_come_through_a_pipe(pack: Callable[[bytes], bytes]) -> None:
    """As `--data-file <(zcat enwik8.gz)` gives it."""
    reading, writing = os.pipe()
    with open(reading, "rb"), open(writing, "wb") as pipe:
        pipe.write(pack(WHOLE))  # less than a pipe holds
        pipe.close()
        _assert_is(source.read(Path(f"/dev/fd/{reading}")), WHOLE, "enwik8")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with _refused("nowhere does not exist: expected enwik8 or a prefix of it"):
        texts.load("enwik8", data_file=tmp_path / "nowhere")
    with _refused("is a folder: expected enwik8 or a prefix of it"):
        texts.load("enwik8", data_file=tmp_path)
    (tmp_path / "file").touch()
    with _refused(r"cannot read .*file/enwik8 \(Not a directory\): expected"):
        texts.load("enwik8", data_file=tmp_path / "file" / "enwik8")


# --- prepared copies


def test_prepared_once_and_read_back(
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    _assert_is(texts.load("enwik8", data_file=file), WHOLE, "enwik8")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [line.split(" in ")[0] for line in printed.err.splitlines()] == ["preparing enwik8"]
    assert caplog.records == []
    assert os.listdir(_copy(tmp_path).parent) == ["1.0.0"]
    assert not (tmp_path / "home").exists()

    monkeypatch.setattr(prepared, "write", None)
    monkeypatch.setattr(enwik8, "fetch", None)
    _assert_is(texts.load("enwik8"), WHOLE, "enwik8")
    file.write_bytes(_zip(WHOLE))
    _assert_is(texts.load("enwik8", data_file=file), WHOLE, "enwik8")


def test_every_prefix_has_a_copy_of_its_own(file: Path, tmp_path: Path, no_network: None) -> None:
    prefixes = {
        WHOLE[:2000]: "enwik8 prefix",
        WHOLE[:1999] + b"x": "other text",
        WHOLE[:2048]: "enwik8 prefix",
        WHOLE[:11]: "other text",
    }
    for prefix, name in [*prefixes.items()] * 2:
        file.write_bytes(prefix)
        _assert_is(texts.load("enwik8", data_file=file), prefix, name)
    names = [f"prefix_{len(prefix)}_{hashlib.sha256(prefix).hexdigest()[:12]}" for prefix in prefixes]
    assert sorted(os.listdir(_copy(tmp_path).parents[1])) == sorted(names)
    with pytest.raises(texts.DataUnavailable):  # the copy of a prefix is not that of the whole
        texts.load("enwik8")


def test_prepared_dir_comes_before_the_environment(file: Path, tmp_path: Path) -> None:
    texts.load("enwik8", data_file=file, prepared_dir=tmp_path / "elsewhere")
    assert prepared.exists(tmp_path / "elsewhere" / enwik8.relative_path("official"))
    assert not (tmp_path / "prepared").exists()


def test_a_prepared_dir_that_cannot_be_written(file: Path) -> None:
    with _refused(r"cannot write the prepared enwik8 to .*--prepared-dir"):
        texts.load("enwik8", data_file=file, prepared_dir=file / "folder")


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


def _flip_a_bit(path: Path) -> None:
    path.write_bytes(_flip(path.read_bytes(), path.stat().st_size // 64))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("enwik8_bytes-text.array_record-00000-of-00001", Path.unlink),
        ("enwik8_bytes-text.array_record-00000-of-00001", _truncate),
        ("enwik8_bytes-text.array_record-00000-of-00001", _flip_a_bit),
        ("dataset_info.json", _truncate),
        ("features.json", Path.unlink),
    ],
)
def test_a_damaged_copy_is_named(file: Path, tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    texts.load("enwik8", data_file=file)
    damage(_copy(tmp_path) / name)
    with _refused(f"{_copy(tmp_path)} .*delete that folder"):
        texts.load("enwik8")


def test_a_copy_of_another_text_is_refused(file: Path, tmp_path: Path) -> None:
    texts.load("enwik8", data_file=file)
    file.write_bytes(WHOLE[:2000])
    prefix = enwik8.config_name(texts.load("enwik8", data_file=file))
    shutil.rmtree(_copy(tmp_path, prefix))
    shutil.copytree(_copy(tmp_path), _copy(tmp_path, prefix))
    with _refused(f"{prefix}/1.0.0 differs from what it was made from: delete"):
        texts.load("enwik8", data_file=file)


def test_tensorflow_datasets_is_not_installed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.delitem(sys.modules, "experiments.datasets.texts.builder")
    with _refused("enwik8 needs tensorflow-datasets .*: pip install"):
        texts.load("enwik8", data_file=file)


# --- the network


def test_no_network(no_network: None) -> None:
    with _refused(r"\(no network in this test\): give --data-file FILE .*--data stdlib", texts.DataUnavailable):
        texts.load("enwik8")


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # the name it overrides
        pass


class _BreakingOff(_Handler):
    def copyfile(self, source: Any, outputfile: Any) -> None:
        outputfile.write(source.read()[:-1])


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder from which a server serves ``enwik8.zip``."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "enwik8.zip").write_bytes(_zip(WHOLE))
    handler = functools.partial(getattr(request, "param", _Handler), directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(enwik8, "URL", f"http://127.0.0.1:{running.server_port}/enwik8.zip")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield folder
        running.shutdown()
        thread.join()


def test_download(server: Path) -> None:
    _assert_is(texts.load("enwik8"), WHOLE, "enwik8")
    (server / "enwik8.zip").unlink()
    _assert_is(texts.load("enwik8"), WHOLE, "enwik8")


def test_a_server_without_the_file(server: Path) -> None:
    (server / "enwik8.zip").unlink()
    with _refused(r"enwik8\.zip: HTTP Error 404", texts.DataUnavailable):
        texts.load("enwik8")


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        (b"<html>please log in</html>", "begins with b'<html>plea'"),
        (_zip(WHOLE)[:1000], "damaged or truncated zip"),
        (_zip(WHOLE[:2000]), "holds 2000 bytes: expected 3011"),
    ],
)
def test_a_server_with_another_file(server: Path, tmp_path: Path, offered: bytes, expected: str) -> None:
    (server / "enwik8.zip").write_bytes(offered)
    failure = f"the download of enwik8 failed .*{expected}.*: try again, or give --data-file FILE"
    with _refused(failure, texts.DataUnavailable):
        texts.load("enwik8")
    assert not (tmp_path / "prepared").exists()


@pytest.mark.parametrize("server", [_BreakingOff], indirect=True)
def test_a_transfer_that_breaks_off(server: Path) -> None:
    with _refused(r"the download of enwik8 failed \(IncompleteRead", texts.DataUnavailable):
        texts.load("enwik8")


# --- the text itself


def test_the_text_itself_comes_back_byte_by_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(os.environ.get("TLSTM_DATA_DIR") or REPOSITORY.parent / "shared" / "data") / "enwik8"
    found = next(iter(sorted(folder.glob("enwik8*"))), None)
    if found is None:
        pytest.skip("enwik8 is not here: set TLSTM_DATA_DIR to the folder that has it, or a prefix, in enwik8/")
    monkeypatch.setattr(source, "OFFICIAL_SIZE", OFFICIAL_SIZE)
    monkeypatch.setattr(source, "OFFICIAL_MD5", OFFICIAL_MD5)
    monkeypatch.setattr(builder, "CHUNK", 1 << 20)
    monkeypatch.setattr(enwik8_blocks, "BLOCK_SIZE", KNOWN[0])
    monkeypatch.setattr(enwik8_blocks, "CHECKSUMS", KNOWN[1])
    expected = source.read(found)
    assert expected.name in ("enwik8", "enwik8 prefix")
    loaded = texts.load("enwik8", data_file=found)
    assert (loaded.name, loaded.sha256) == (expected.name, expected.sha256)
    np.testing.assert_array_equal(loaded.text, expected.text)
    assert 0 < len(loaded.vocabulary) <= 205
