import gzip
import hashlib
import http.client
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision import datasets

from harness import data
from harness.data.datasets import _load
from harness.data.digits import _resize_digits
from harness.data.idx import _read
from harness.errors import DataError, UsageError

FILES = tuple(data.IDX_DATASETS["mnist"].sha256)
"""Train images, train labels, test images, test labels."""


def idx(array: np.ndarray) -> bytes:
    """Write an array of bytes as an IDX file."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def fake_arrays() -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [
        draw.integers(0, 256, (30, 28, 28), dtype=np.uint8),
        draw.integers(0, 10, 30, dtype=np.uint8),
        draw.integers(0, 256, (10, 28, 28), dtype=np.uint8),
        draw.integers(0, 10, 10, dtype=np.uint8),
    ]


CONTENTS: Mapping[str, bytes] = {file: idx(array) for file, array in zip(FILES, fake_arrays(), strict=True)}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder, in a harness whose MNIST is 40 made-up images."""
    hashes = {file: hashlib.sha256(contents).hexdigest() for file, contents in CONTENTS.items()}
    monkeypatch.setitem(data.IDX_DATASETS, "mnist", replace(data.IDX_DATASETS["mnist"], sha256=hashes))
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    monkeypatch.setattr(datasets, "MNIST", Unreachable)
    return tmp_path


@pytest.fixture
def raw(root: Path) -> Path:
    """The same folder with all four files in place."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for file, contents in CONTENTS.items():
        (folder / file).write_bytes(contents)
    return folder


class Unreachable:
    """A torchvision dataset class on a machine without a network."""

    def __init__(self, root: str, download: bool) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried https://example.org, got: timed out")


class Hangup:
    """A torchvision dataset class whose server hangs up in mid-answer."""

    def __init__(self, root: str, download: bool) -> None:
        raise http.client.IncompleteRead(b"half")


class Server:
    """A torchvision dataset class that downloads, and notes where to and with what patience."""

    places: list[Path]
    timeouts: list[float | None]

    def __init__(self, root: str, download: bool) -> None:
        assert download
        folder = Path(root) / "MNIST" / "raw"
        folder.mkdir(parents=True)
        for file, contents in CONTENTS.items():
            (folder / file).write_bytes(contents)
            (folder / f"{file}.gz").write_bytes(gzip.compress(contents))
        print("100%")  # torchvision's chatter
        self.places.append(Path(root))
        self.timeouts.append(socket.getdefaulttimeout())


class BrokenServer(Server):
    """A server that breaks off after the first two files."""

    def __init__(self, root: str, download: bool) -> None:
        super().__init__(root, download)
        for file in FILES[2:]:
            (Path(root) / "MNIST" / "raw" / file).unlink()


@pytest.fixture
def server(root: Path, monkeypatch: pytest.MonkeyPatch) -> type[Server]:
    monkeypatch.setattr(Server, "places", [], raising=False)
    monkeypatch.setattr(Server, "timeouts", [], raising=False)
    monkeypatch.setattr(datasets, "MNIST", Server)
    return Server


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- digits ----------------------------------------------------------------------------------------------


def test_digits_have_expected_shapes() -> None:
    digits = data.load("digits")
    assert digits.train.images.shape == (1_437, 28, 28)
    assert digits.held_out.images.shape == (360, 28, 28)
    assert digits.train.images.dtype == torch.uint8
    assert digits.train.labels.dtype == torch.int64
    assert not digits.is_benchmark


def test_digits_test_set_is_stratified() -> None:
    digits = data.load("digits")
    test, train = (torch.bincount(split.labels, minlength=10) for split in (digits.held_out, digits.train))
    share = (test + train) * 360 / 1_797
    assert float((test - share).abs().max()) < 1


def test_digits_have_a_stable_digest() -> None:
    digits = data.load_digits_split("test")
    contents = b"".join(split.images.numpy().tobytes() for split in (digits.train, digits.held_out))
    contents += b"".join(split.labels.numpy().astype("<i8").tobytes() for split in (digits.train, digits.held_out))
    assert hashlib.sha256(contents).hexdigest() == "0d494ffd4f3cc708d1adf32d6ee875435aa37dfc99dfae938156f66f87f6a31b"


def test_digits_train_and_test_are_disjoint() -> None:
    from sklearn.datasets import load_digits

    resized = _resize_digits(load_digits().images.astype(np.uint8))
    digits = data.load("digits")
    both = torch.cat([digits.train.images, digits.held_out.images]).flatten(1).numpy()
    assert sorted(image.tobytes() for image in both) == sorted(image.tobytes() for image in resized)


@given(st.integers(0, 2**32 - 1))
def test_resized_digits_match_torch_bilinear(seed: int) -> None:
    small = np.random.default_rng(seed).integers(0, 17, (5, 8, 8), dtype=np.uint8)
    exact = F.interpolate(torch.from_numpy(small).double()[:, None], size=28, mode="bilinear") * 255 / 16
    apart = exact[:, 0] - torch.from_numpy(_resize_digits(small))
    assert float(apart.abs().max()) <= 0.5 + 1e-9  # rounded to the nearest of 255


def test_resizing_keeps_black_and_white() -> None:
    flat = np.stack([np.zeros((8, 8), np.uint8), np.full((8, 8), 16, np.uint8)])
    assert _resize_digits(flat).reshape(2, -1).min(1).tolist() == [0, 255]
    assert _resize_digits(flat).reshape(2, -1).max(1).tolist() == [0, 255]


def test_digits_mean_and_std_are_as_stated() -> None:
    digits = data.load("digits")
    pixels = digits.train.images.double() / 255
    assert (round(float(pixels.mean()), 4), round(float(pixels.std()), 4)) == (digits.mean, digits.std)
    normal = digits.normalise(data.to_float(digits.train.images))
    assert normal.shape == (1_437, 1, 28, 28)
    assert abs(float(normal.mean())) < 1e-3
    assert abs(float(normal.std()) - 1) < 1e-3


# --- stratified splits -----------------------------------------------------------------------------------


@given(labels=st.lists(st.integers(0, 9), min_size=1, max_size=300), share=st.floats(0.01, 1))
def test_stratified_choice_matches_class_shares(labels: list[int], share: float) -> None:
    size = max(1, int(share * len(labels)))
    every = np.array(labels)
    chosen = data.stratified(every, size)
    assert len(np.unique(chosen)) == size
    assert (chosen == np.sort(chosen)).all()
    wanted = np.bincount(every, minlength=10) * size / len(labels)
    assert (np.abs(np.bincount(every[chosen], minlength=10) - wanted) <= 1).all()


@given(labels=st.lists(st.integers(0, 9), min_size=20, max_size=100))
def test_stratified_choice_ignores_global_random_state(labels: list[int]) -> None:
    before = data.stratified(np.array(labels), 10)
    np.random.rand(7)  # the process's own stream
    assert (data.stratified(np.array(labels), 10) == before).all()


def test_stratified_choice_is_spread_over_each_class() -> None:
    chosen = data.stratified(np.repeat(np.arange(10), 100), 100)
    assert len({int(position) % 100 for position in chosen}) > 30


# --- IDX files -------------------------------------------------------------------------------------------


def test_existing_files_are_read_unchanged(raw: Path) -> None:
    found = data.load("mnist")
    arrays = [found.train.images, found.train.labels, found.held_out.images, found.held_out.labels]
    for tensor, array in zip(arrays, fake_arrays(), strict=True):
        assert (tensor.numpy() == array).all()
    assert (found.train.images.dtype, found.train.labels.dtype) == (torch.uint8, torch.int64)
    assert found.is_benchmark


@pytest.mark.parametrize("name", ["mnist", "auto"])
@pytest.mark.parametrize("position", range(4))
def test_wrong_file_is_refused_with_both_hashes(raw: Path, position: int, name: str) -> None:
    file = raw / FILES[position]
    original = hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_bytes(file.read_bytes()[:-1] + b"\x07\x08")
    with pytest.raises(data.DamagedError) as caught:
        data.load(data.choose(name)[0])
    assert caught.value.exit_code == 5
    assert str(file) in caught.value.message
    assert hashlib.sha256(file.read_bytes()).hexdigest() in caught.value.message
    assert original in caught.value.allowed
    assert caught.value.hint


def test_flipped_label_is_detected(raw: Path) -> None:
    labels = bytearray((raw / FILES[1]).read_bytes())
    labels[-1] ^= 1
    (raw / FILES[1]).write_bytes(labels)
    with pytest.raises(data.DamagedError, match=FILES[1]):
        data.load("mnist")


def zip_up(file: Path) -> Path:
    zipped = file.with_name(file.name + ".gz")
    zipped.write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()
    return zipped


def test_gzipped_files_are_read(raw: Path) -> None:
    for file in FILES[:3]:
        zip_up(raw / file)
    before = listing(raw)
    assert (data.load("mnist").held_out.labels.numpy() == fake_arrays()[3]).all()
    assert listing(raw) == before


@pytest.mark.parametrize("keep", [0, 5, 30, -4])
def test_truncated_gzip_file_is_named(raw: Path, keep: int) -> None:
    zipped = zip_up(raw / FILES[0])
    zipped.write_bytes(zipped.read_bytes()[:keep])
    with pytest.raises(data.DamagedError) as caught:
        data.load("mnist")
    assert str(zipped) in caught.value.message


def test_gzip_of_wrong_content_is_named(raw: Path) -> None:
    zipped = zip_up(raw / FILES[0])
    zipped.write_bytes(gzip.compress(b"something else"))
    with pytest.raises(data.DamagedError) as caught:
        data.load("mnist")
    assert str(zipped) in caught.value.message
    assert hashlib.sha256(b"something else").hexdigest() in caught.value.message


def test_read_only_folder_is_left_unchanged(raw: Path, root: Path) -> None:
    before = listing(root)
    for folder in (raw, raw.parent, root):
        folder.chmod(0o555)
    try:
        assert data.choose("auto") == ("mnist", "")
        assert len(data.load("mnist").train.labels) == 30
        assert listing(root) == before
        assert os.listdir(root) == ["MNIST"]
    finally:
        for folder in (root, raw.parent, raw):
            folder.chmod(0o755)


def test_relative_data_folder_uses_working_directory(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(raw.parent.parent.parent)
    monkeypatch.setenv("HARNESS_DATA", raw.parent.parent.name)
    assert len(data.load("mnist").train.labels) == 30


def test_data_folder_defaults_to_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    assert data.folder() == Path("data")
    monkeypatch.setenv("HARNESS_DATA", "/elsewhere")
    assert data.folder() == Path("/elsewhere")


# --- choosing and downloading ----------------------------------------------------------------------------


def test_dataset_name_is_used_as_given() -> None:
    assert data.choose("digits") == ("digits", "")
    assert data.choose("mnist") == ("mnist", "")


def test_misspelt_name_lists_allowed_ones() -> None:
    with pytest.raises(UsageError) as caught:
        data.choose("minst")
    assert caught.value.allowed == "Allowed: auto, mnist, digits."
    assert caught.value.hint == "Did you mean 'mnist'?"


@pytest.mark.parametrize("broken", [Unreachable, Hangup])
def test_auto_falls_back_to_digits_with_reason(root: Path, monkeypatch: pytest.MonkeyPatch, broken: type) -> None:
    monkeypatch.setattr(datasets, "MNIST", broken)
    name, reason = data.choose("auto")
    assert name == "digits"
    assert f"MNIST is not in {root} and could not be downloaded" in reason
    assert "\n" not in reason
    assert listing(root) == {}
    assert os.listdir(root) == []


@pytest.mark.parametrize("broken", [Unreachable, Hangup])
def test_mnist_by_name_never_falls_back(root: Path, monkeypatch: pytest.MonkeyPatch, broken: type) -> None:
    monkeypatch.setattr(datasets, "MNIST", broken)
    assert data.choose("mnist") == ("mnist", "")
    with pytest.raises(DataError) as caught:
        data.load("mnist")
    assert not isinstance(caught.value, data.DamagedError)
    assert all(file in caught.value.allowed for file in FILES)


def test_auto_downloads_if_possible(root: Path, server: type[Server]) -> None:
    assert data.choose("auto") == ("mnist", "")
    assert len(data.load("mnist").train.labels) == 30
    assert len(server.places) == 1


def test_download_is_moved_into_place_when_complete(
    root: Path, server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    data.load("mnist")
    assert server.places[0].parent == root  # one file system: a move is a rename
    assert listing(root) == {f"MNIST/raw/{file}": contents for file, contents in CONTENTS.items()}
    assert os.listdir(root) == ["MNIST"]
    assert capsys.readouterr().out == ""


def test_download_timeout_leaves_socket_default_unchanged(root: Path, server: type[Server]) -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(77)
    try:
        data.load("mnist")
        assert server.timeouts == [data.CONNECT_SECONDS] == [10]
        assert socket.getdefaulttimeout() == 77
    finally:
        socket.setdefaulttimeout(before)


def test_download_fetches_only_missing_files(raw: Path, server: type[Server]) -> None:
    kept = (raw / FILES[0]).stat()
    (raw / FILES[3]).unlink()
    data.load("mnist")
    assert (raw / FILES[0]).stat().st_ino == kept.st_ino
    assert (raw / FILES[3]).read_bytes() == CONTENTS[FILES[3]]


def test_broken_download_leaves_no_partial_file(
    root: Path, server: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "MNIST", BrokenServer)
    with pytest.raises(DataError):
        data.load("mnist")
    assert all(contents == CONTENTS[Path(file).name] for file, contents in listing(root).items())
    assert os.listdir(root) == ["MNIST"]
    monkeypatch.setattr(datasets, "MNIST", Server)
    assert len(data.load("mnist").train.labels) == 30


def test_file_as_data_folder_is_refused(root: Path, server: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "file").write_text("")
    monkeypatch.setenv("HARNESS_DATA", str(root / "file"))
    with pytest.raises(DataError, match="could not be downloaded"):
        data.load("mnist")


@pytest.mark.parametrize(("name", "train", "validation"), [("digits", 1_197, 240), ("mnist", 50_000, 10_000)])
def test_study_holds_out_fixed_stratified_validation_images(name: str, train: int, validation: int) -> None:
    if name == "mnist" and (not os.environ.get("HARNESS_DATA") or "not in" in data.whereabouts("mnist")):
        pytest.skip("no MNIST in $HARNESS_DATA")
    whole, study = data.load(name), data.load(name, "validation")
    assert (len(study.train.labels), len(study.held_out.labels)) == (train, validation)
    assert study.digest == whole.digest
    assert not study.is_benchmark
    images = torch.cat([study.train.images, study.held_out.images]).flatten(1)
    assert torch.equal(images.sum(0), whole.train.images.flatten(1).sum(0))
    counts = torch.bincount(study.held_out.labels, minlength=10)
    shares = torch.bincount(whole.train.labels, minlength=10) * validation / len(whole.train.labels)
    assert (counts - shares).abs().max() < 1.001
    _load.cache_clear()
    assert torch.equal(data.load(name, "validation").held_out.images, study.held_out.images)


def test_study_never_reads_test_files(root: Path, server: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    data.load("mnist")
    read: list[str] = []
    whole = _read
    monkeypatch.setattr("harness.data.idx._read", lambda file: read.append(file.name) or whole(file))
    _load.cache_clear()
    monkeypatch.setattr("harness.data.split.stratified", lambda labels, size: np.arange(2))
    data.load("mnist", "validation")
    assert read == ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]


def test_whereabouts_names_folder_without_download(root: Path, server: type[Server]) -> None:
    assert data.whereabouts("mnist") == f"not in {root / 'MNIST' / 'raw'}; would be downloaded"
    assert server.places == []
    data.load("mnist")
    assert data.whereabouts("mnist") == f"in {root / 'MNIST' / 'raw'}"
    assert "always available" in data.whereabouts("digits")


# --- the real MNIST --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mnist() -> data.Dataset:
    if not os.environ.get("HARNESS_DATA") or "not in" in data.whereabouts("mnist"):
        pytest.skip("no MNIST in $HARNESS_DATA")
    return data.load("mnist")


def test_mnist_has_expected_shapes_and_digest(mnist: data.Dataset) -> None:
    assert mnist.train.images.shape == (60_000, 28, 28)
    assert mnist.held_out.images.shape == (10_000, 28, 28)
    assert torch.bincount(mnist.held_out.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.digest == "c65580678af93f1ea48c2c0d01d543ec89307c6b8a0eb7ca542d7c18c5f4c681"


def test_mnist_mean_and_std_are_as_stated(mnist: data.Dataset) -> None:
    counts = torch.bincount(mnist.train.images.flatten(), minlength=256).double()
    values = torch.arange(256).double() / 255
    mean = float((counts * values).sum() / counts.sum())
    std = float(((counts * (values - mean) ** 2).sum() / counts.sum()).sqrt())
    assert (round(mean, 4), round(std, 4)) == (mnist.mean, mnist.std)
