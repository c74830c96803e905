"""The datasets of the experiments: the splits, and the error messages."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import http.server
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import datasets
from experiments.datasets import mnist, network, prepared
from experiments.datasets.mnist import download, idx

REPOSITORY = Path(__file__).parents[2]
TINY_SIZES = {"train": 23, "test": 7}
TINY_VALIDATION = 5


@pytest.fixture(autouse=True)
def _everything_is_written_below_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # tensorflow-datasets leaves empty folders there


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with idx files of 23 and 7 random images, which stand for the official ones."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "idx"
    folder.mkdir()
    files = {}
    for key, file in idx.FILES.items():
        shape = (TINY_SIZES[key.split("_")[0]], *file.item_shape)
        contents = idx.encode(rng.integers(0, 256 if file.item_shape else 10, shape))
        (folder / f"{file.stem}.gz").write_bytes(gzip.compress(contents))
        files[key] = dataclasses.replace(file, md5=hashlib.md5(contents).hexdigest())
    monkeypatch.setattr(idx, "FILES", files)
    monkeypatch.setattr(mnist, "VALIDATION_SIZE", TINY_VALIDATION)
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "probe", lambda: "no network in this test")


def _assert_is_tiny(dataset: datasets.Dataset, folder: Path) -> None:
    expected = idx.read_folder(folder)
    assert len(dataset.validation) == TINY_VALIDATION
    np.testing.assert_array_equal(
        np.concatenate([dataset.train.images, dataset.validation.images]), expected["train_images"]
    )
    np.testing.assert_array_equal(
        np.concatenate([dataset.train.labels, dataset.validation.labels]), expected["train_labels"]
    )
    np.testing.assert_array_equal(dataset.test.images, expected["test_images"])
    np.testing.assert_array_equal(dataset.test.labels, expected["test_labels"])


def _message(error: pytest.ExceptionInfo[datasets.DataError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# --- digits and names


def test_digits_parts_are_disjoint_and_complete() -> None:
    from sklearn.datasets import load_digits

    digits = datasets.load("digits")
    parts = (digits.train, digits.validation, digits.test)
    assert [len(part) for part in parts] == [1397, 200, 200]
    assert all(part.images.dtype == np.uint8 and part.labels.dtype == np.int32 for part in parts)
    assert (digits.num_classes, digits.max_value) == (10, 16)
    assert max(part.images.max() for part in parts) == digits.max_value

    found = [
        (image.tobytes(), int(label)) for part in parts for image, label in zip(part.images, part.labels, strict=True)
    ]
    bunch = load_digits()
    images = bunch.images.astype(np.uint8)
    expected = [(image.tobytes(), int(label)) for image, label in zip(images, bunch.target, strict=True)]
    assert sorted(found) == sorted(expected)
    assert len(set(found)) == 1797  # all images differ, so the splits are disjoint
    assert all(set(part.labels) == set(range(10)) for part in parts)


def test_digits_split_is_always_the_same() -> None:
    first, second = datasets.load("digits"), datasets.load("digits")
    np.testing.assert_array_equal(first.train.images, second.train.images)
    assert first.train.labels[:10].tolist() == [2, 8, 2, 6, 6, 7, 1, 9, 8, 5]


def test_digits_do_not_import_tensorflow_datasets() -> None:
    program = (
        "import sys; from experiments import datasets; datasets.load('digits'); "
        "sys.exit('tensorflow_datasets' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True)


def test_unknown_name() -> None:
    with pytest.raises(datasets.DataError, match="unknown dataset 'cifar': expected 'mnist' or 'digits'"):
        datasets.load("cifar")


def test_digits_refuse_a_folder(tmp_path: Path) -> None:
    with pytest.raises(datasets.DataError, match="reads no folder"):
        datasets.load("digits", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [("digits", "sklearn.datasets", "scikit-learn"), ("MNIST", "tensorflow_datasets", "tensorflow-datasets")],
)
def test_a_package_that_is_not_installed(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "experiments.datasets.mnist.builder", raising=False)
    with pytest.raises(datasets.DataError, match=f"{name} needs {package} .*: pip install") as error:
        datasets.load(name.lower(), data_dir=tiny if name == "MNIST" else None)
    _message(error)


# --- idx files


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("spelling", ["-idx", ".idx"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_spelling_is_read(tiny: Path, suffix: str, spelling: str, packed: bool) -> None:
    expected = idx.read_folder(tiny)
    for file in idx.FILES.values():
        old = tiny / f"{file.stem}.gz"
        contents = old.read_bytes()
        old.unlink()
        name = file.stem.replace("-idx", spelling) + suffix
        (tiny / name).write_bytes(contents if packed else gzip.decompress(contents))
    found = idx.read_folder(tiny)
    for key in idx.FILES:
        assert found[key].dtype == np.uint8
        np.testing.assert_array_equal(found[key], expected[key])


def test_the_plain_file_comes_before_the_packed_one(tiny: Path) -> None:
    (tiny / "t10k-labels-idx1-ubyte").write_bytes(b"junk")
    with pytest.raises(datasets.DataError, match=r"t10k-labels-idx1-ubyte begins with bytes \[6a 75 6e 6b\]"):
        idx.read_folder(tiny)


def _cut_in_half(packed: bytes) -> bytes:
    return packed[: len(packed) // 2]


def _flip_a_packed_bit(packed: bytes) -> bytes:
    return packed[:-6] + bytes([packed[-6] ^ 1]) + packed[-5:]


def _change_a_value(packed: bytes) -> bytes:
    contents = gzip.decompress(packed)
    return gzip.compress(contents[:-1] + bytes([contents[-1] ^ 1]))


def _drop_a_value(packed: bytes) -> bytes:
    return gzip.compress(gzip.decompress(packed)[:-1])


def _as_labels(packed: bytes) -> bytes:
    return gzip.compress(idx.encode(np.zeros(len(packed))))


def _as_smaller_images(packed: bytes) -> bytes:
    return gzip.compress(idx.encode(np.zeros((len(packed), 8, 8))))


CORRUPTIONS = [
    (_cut_in_half, "damaged or truncated gzip"),
    (_flip_a_packed_bit, "damaged or truncated gzip"),
    (_change_a_value, "is not the official train-images-idx3-ubyte: its unpacked bytes have md5"),
    (_drop_a_value, "values where its header says"),
    (_as_labels, r"begins with bytes \[00 00 08 01\]: expected train-images-idx3-ubyte"),
    (_as_smaller_images, r"items of shape \(8, 8\): expected \(28, 28\)"),
    (lambda packed: b"", r"begins with bytes \[\]"),
    (lambda packed: b"<html>not found</html>", "begins with bytes"),
]


@pytest.mark.parametrize(("corrupt", "expected"), CORRUPTIONS)
def test_a_corrupt_file_is_named(tiny: Path, corrupt: object, expected: str) -> None:
    assert callable(corrupt)
    path = tiny / "train-images-idx3-ubyte.gz"
    path.write_bytes(corrupt(path.read_bytes()))
    with pytest.raises(datasets.DataError, match=expected) as error:
        datasets.load("mnist", data_dir=tiny)
    assert str(path) in _message(error)


@pytest.mark.parametrize("stem", [file.stem for file in idx.FILES.values()])
def test_a_missing_file_is_named(tiny: Path, stem: str) -> None:
    (tiny / f"{stem}.gz").unlink()
    with pytest.raises(datasets.DataError, match=f"has no {stem}") as error:
        datasets.load("mnist", data_dir=tiny)
    assert str(tiny) in _message(error)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(datasets.DataError, match="nowhere does not exist"):
        datasets.load("mnist", data_dir=tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(datasets.DataError, match="file is not a folder"):
        datasets.load("mnist", data_dir=tmp_path / "file")


# --- the prepared copy


def test_prepared_once_and_read_back(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = datasets.load("mnist", data_dir=tiny)
    _assert_is_tiny(dataset, tiny)
    assert (dataset.name, dataset.num_classes, dataset.max_value) == ("mnist", 10, 255)
    assert dataset.train.images.dtype == np.uint8
    assert dataset.train.labels.dtype == np.int32
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [line.split(" in ")[0] for line in printed.err.splitlines()] == ["preparing MNIST"]
    assert [path.name for path in (tmp_path / "prepared").rglob("*") if "incomplete" in path.name] == []
    assert not (tmp_path / "home").exists()

    monkeypatch.setattr(prepared, "write", None)
    monkeypatch.setattr(download, "fetch", None)
    _assert_is_tiny(datasets.load("mnist"), tiny)


def test_a_given_folder_is_checked_even_where_a_copy_exists(tiny: Path) -> None:
    datasets.load("mnist", data_dir=tiny)
    (tiny / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(datasets.DataError, match="has no t10k-labels-idx1-ubyte"):
        datasets.load("mnist", data_dir=tiny)


def test_prepared_dir_comes_before_the_environment(tiny: Path, tmp_path: Path) -> None:
    datasets.load("mnist", data_dir=tiny, prepared_dir=tmp_path / "elsewhere")
    assert prepared.exists(tmp_path / "elsewhere" / mnist.RELATIVE_PATH)
    assert not (tmp_path / "prepared").exists()


def test_a_prepared_dir_that_cannot_be_written(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(datasets.DataError, match=r"cannot write the prepared MNIST to .*file") as error:
        datasets.load("mnist", data_dir=tiny, prepared_dir=tmp_path / "file" / "folder")
    _message(error)


def test_something_else_in_the_way_of_the_copy(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "prepared" / mnist.RELATIVE_PATH / "mine").mkdir(parents=True)
    with pytest.raises(datasets.DataError, match=r"1\.0\.0 is in the way: .*delete that folder"):
        datasets.load("mnist", data_dir=tiny)


def test_an_interrupted_preparation_is_not_taken_for_a_copy(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = prepared._build

    def build_and_stop(*arguments: Any) -> None:
        build(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepared, "_build", build_and_stop)
        with pytest.raises(KeyboardInterrupt):
            datasets.load("mnist", data_dir=tiny)
    assert not prepared.exists(tmp_path / "prepared" / mnist.RELATIVE_PATH)
    killed = tmp_path / "prepared" / mnist.RELATIVE_PATH.parent / "incomplete.killed"
    killed.mkdir()  # as a killed process leaves it
    _assert_is_tiny(datasets.load("mnist", data_dir=tiny), tiny)


def test_of_two_preparations_at_once_one_wins(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = prepared._build

    def build_second(make_builder: Any, source: Path, data_dir: Path) -> Path:
        written = build(make_builder, source, data_dir)
        with monkeypatch.context() as patch:
            patch.setattr(prepared, "_build", build)
            prepared.write("MNIST", tmp_path / "prepared" / mnist.RELATIVE_PATH, make_builder, source)
        return written

    monkeypatch.setattr(prepared, "_build", build_second)
    _assert_is_tiny(datasets.load("mnist", data_dir=tiny), tiny)
    assert os.listdir(tmp_path / "prepared" / mnist.RELATIVE_PATH.parent) == [mnist.RELATIVE_PATH.name]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def _flip_a_bit(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 64] ^= 1
    path.write_bytes(contents)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("mnist_idx-train.array_record-00000-of-00001", Path.unlink),
        ("mnist_idx-train.array_record-00000-of-00001", _truncate),
        ("mnist_idx-test.array_record-00000-of-00001", _flip_a_bit),
        ("dataset_info.json", _truncate),
    ],
)
def test_a_damaged_copy_is_named(tiny: Path, tmp_path: Path, name: str, damage: object) -> None:
    assert callable(damage)
    datasets.load("mnist", data_dir=tiny)
    folder = tmp_path / "prepared" / mnist.RELATIVE_PATH
    damage(folder / name)
    with pytest.raises(datasets.DataError, match="delete that folder") as error:
        datasets.load("mnist", data_dir=tiny)
    assert str(folder) in _message(error)


def test_a_copy_of_other_images_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.load("mnist", data_dir=tiny)
    others = {key: dataclasses.replace(file, md5="0" * 32) for key, file in idx.FILES.items()}
    monkeypatch.setattr(idx, "FILES", others)
    with pytest.raises(datasets.DataError, match="differs from the official train-images-idx3-ubyte: delete"):
        datasets.load("mnist")


# --- the network


def test_no_network(no_network: None) -> None:
    with pytest.raises(datasets.DataUnavailable, match="no network in this test") as error:
        datasets.load("mnist")
    assert "--data-dir FOLDER" in _message(error)
    assert "--data digits" in str(error.value)


def test_no_network_is_no_matter_once_prepared(tiny: Path, no_network: None) -> None:
    datasets.load("mnist", data_dir=tiny)
    _assert_is_tiny(datasets.load("mnist"), tiny)


def test_a_name_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(*args: object, **kwargs: object) -> None:
        released.wait()
        raise OSError("released")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(network, "PROBE_SECONDS", 0.2)
    started = time.monotonic()
    try:
        with pytest.raises(datasets.DataUnavailable, match=r"no answer from .* within 0.2 s"):
            datasets.load("mnist")
        assert time.monotonic() - started < 2
    finally:
        released.set()


def test_the_deadline_is_seconds() -> None:
    assert network.PROBE_SECONDS <= 5


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # the name it overrides
        pass


@pytest.fixture
def mirror(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Serves the tiny files in place of the mirror."""
    handler = functools.partial(_QuietHandler, directory=str(tiny))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(download, "MIRROR", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield tiny
        server.shutdown()
        thread.join()


def test_download(mirror: Path) -> None:
    _assert_is_tiny(datasets.load("mnist"), mirror)


def test_a_mirror_without_the_files(mirror: Path) -> None:
    (mirror / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(datasets.DataUnavailable, match=r"t10k-labels-idx1-ubyte\.gz: HTTP Error 404") as error:
        datasets.load("mnist")
    _message(error)


def test_a_mirror_with_another_file(mirror: Path, tmp_path: Path) -> None:
    (mirror / "train-labels-idx1-ubyte.gz").write_bytes(b"<html>please log in</html>")
    with pytest.raises(datasets.DataUnavailable, match=r"train-labels-idx1-ubyte\.gz failed") as error:
        datasets.load("mnist")
    assert "--data digits" in _message(error)
    assert not prepared.exists(tmp_path / "prepared" / mnist.RELATIVE_PATH)


# --- the official files


@pytest.fixture
def official() -> Path:
    folder = Path(os.environ.get("TLSTM_DATA_DIR") or REPOSITORY.parent / "shared" / "data") / "mnist"
    if not folder.is_dir():
        pytest.skip("MNIST's idx files are not here: set TLSTM_DATA_DIR to the folder that has them in mnist/")
    return folder


def test_the_official_files_pass_their_checks(official: Path) -> None:
    arrays = idx.read_folder(official)
    assert {key: array.shape for key, array in arrays.items()} == {
        "train_images": (60000, 28, 28),
        "train_labels": (60000,),
        "test_images": (10000, 28, 28),
        "test_labels": (10000,),
    }
    assert arrays["train_labels"][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]


@pytest.mark.slow  # 15 s
def test_the_official_files_come_back_bit_by_bit(official: Path) -> None:
    expected = idx.read_folder(official)
    dataset = datasets.load("mnist", data_dir=official)
    for split, images, labels in (
        (dataset.train, expected["train_images"][:50000], expected["train_labels"][:50000]),
        (dataset.validation, expected["train_images"][50000:], expected["train_labels"][50000:]),
        (dataset.test, expected["test_images"], expected["test_labels"]),
    ):
        np.testing.assert_array_equal(split.images, images)
        np.testing.assert_array_equal(split.labels, labels)
