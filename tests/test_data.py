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


def made_up_arrays() -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [
        draw.integers(0, 256, (30, 28, 28), dtype=np.uint8),
        draw.integers(0, 10, 30, dtype=np.uint8),
        draw.integers(0, 256, (10, 28, 28), dtype=np.uint8),
        draw.integers(0, 10, 10, dtype=np.uint8),
    ]


CONTENTS: Mapping[str, bytes] = {file: idx(array) for file, array in zip(FILES, made_up_arrays(), strict=True)}


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


def test_digits_are_1437_and_360_images_of_28_pixels() -> None:
    digits = data.load("digits")
    assert digits.train.images.shape == (1_437, 28, 28)
    assert digits.held_out.images.shape == (360, 28, 28)
    assert digits.train.images.dtype == torch.uint8
    assert digits.train.labels.dtype == torch.int64
    assert not digits.is_benchmark


def test_every_class_has_its_share_of_the_digits_test_set() -> None:
    digits = data.load("digits")
    test, train = (torch.bincount(split.labels, minlength=10) for split in (digits.held_out, digits.train))
    share = (test + train) * 360 / 1_797
    assert float((test - share).abs().max()) < 1


def test_digits_are_the_same_bits_every_time_and_everywhere() -> None:
    digits = data.load_digits_split("test")
    contents = b"".join(split.images.numpy().tobytes() for split in (digits.train, digits.held_out))
    contents += b"".join(split.labels.numpy().astype("<i8").tobytes() for split in (digits.train, digits.held_out))
    assert hashlib.sha256(contents).hexdigest() == "0d494ffd4f3cc708d1adf32d6ee875435aa37dfc99dfae938156f66f87f6a31b"


def test_digits_train_and_test_share_no_position() -> None:
    from sklearn.datasets import load_digits

    resized = _resize_digits(load_digits().images.astype(np.uint8))
    digits = data.load("digits")
    both = torch.cat([digits.train.images, digits.held_out.images]).flatten(1).numpy()
    assert sorted(image.tobytes() for image in both) == sorted(image.tobytes() for image in resized)


@given(st.integers(0, 2**32 - 1))
def test_resized_digits_are_torchs_bilinear_ones_rounded(seed: int) -> None:
    small = np.random.default_rng(seed).integers(0, 17, (5, 8, 8), dtype=np.uint8)
    exact = F.interpolate(torch.from_numpy(small).double()[:, None], size=28, mode="bilinear") * 255 / 16
    apart = exact[:, 0] - torch.from_numpy(_resize_digits(small))
    assert float(apart.abs().max()) <= 0.5 + 1e-9  # rounded to the nearest of 255


def test_black_and_white_stay_black_and_white_when_resized() -> None:
    flat = np.stack([np.zeros((8, 8), np.uint8), np.full((8, 8), 16, np.uint8)])
    assert _resize_digits(flat).reshape(2, -1).min(1).tolist() == [0, 255]
    assert _resize_digits(flat).reshape(2, -1).max(1).tolist() == [0, 255]


def test_the_stated_mean_and_deviation_of_digits_are_those_of_its_training_images() -> None:
    digits = data.load("digits")
    pixels = digits.train.images.double() / 255
    assert (round(float(pixels.mean()), 4), round(float(pixels.std()), 4)) == (digits.mean, digits.std)
    normal = digits.normalise(data.to_float(digits.train.images))
    assert normal.shape == (1_437, 1, 28, 28)
    assert abs(float(normal.mean())) < 1e-3
    assert abs(float(normal.std()) - 1) < 1e-3


# --- stratified splits -----------------------------------------------------------------------------------


@given(labels=st.lists(st.integers(0, 9), min_size=1, max_size=300), share=st.floats(0.01, 1))
def test_a_stratified_choice_is_within_one_of_every_class_share(labels: list[int], share: float) -> None:
    size = max(1, int(share * len(labels)))
    every = np.array(labels)
    chosen = data.stratified(every, size)
    assert len(np.unique(chosen)) == size
    assert (chosen == np.sort(chosen)).all()
    wanted = np.bincount(every, minlength=10) * size / len(labels)
    assert (np.abs(np.bincount(every[chosen], minlength=10) - wanted) <= 1).all()


@given(labels=st.lists(st.integers(0, 9), min_size=20, max_size=100))
def test_other_random_draws_do_not_move_a_stratified_choice(labels: list[int]) -> None:
    before = data.stratified(np.array(labels), 10)
    np.random.rand(7)  # the process's own stream
    assert (data.stratified(np.array(labels), 10) == before).all()


def test_a_stratified_choice_is_not_simply_the_first_of_each_class() -> None:
    chosen = data.stratified(np.repeat(np.arange(10), 100), 100)
    assert len({int(position) % 100 for position in chosen}) > 30


# --- IDX files -------------------------------------------------------------------------------------------


def test_files_in_place_are_read_as_they_stand(raw: Path) -> None:
    found = data.load("mnist")
    arrays = [found.train.images, found.train.labels, found.held_out.images, found.held_out.labels]
    for tensor, array in zip(arrays, made_up_arrays(), strict=True):
        assert (tensor.numpy() == array).all()
    assert (found.train.images.dtype, found.train.labels.dtype) == (torch.uint8, torch.int64)
    assert found.is_benchmark


@pytest.mark.parametrize("name", ["mnist", "auto"])
@pytest.mark.parametrize("position", range(4))
def test_a_wrong_file_is_refused_with_its_name_and_both_hashes(raw: Path, position: int, name: str) -> None:
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


def test_one_flipped_label_is_noticed(raw: Path) -> None:
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


def test_zipped_files_do_as_well(raw: Path) -> None:
    for file in FILES[:3]:
        zip_up(raw / file)
    before = listing(raw)
    assert (data.load("mnist").held_out.labels.numpy() == made_up_arrays()[3]).all()
    assert listing(raw) == before


@pytest.mark.parametrize("keep", [0, 5, 30, -4])
def test_a_torn_zipped_file_is_damaged_and_named(raw: Path, keep: int) -> None:
    zipped = zip_up(raw / FILES[0])
    zipped.write_bytes(zipped.read_bytes()[:keep])
    with pytest.raises(data.DamagedError) as caught:
        data.load("mnist")
    assert str(zipped) in caught.value.message


def test_a_zipped_file_of_something_else_is_named_where_it_stands(raw: Path) -> None:
    zipped = zip_up(raw / FILES[0])
    zipped.write_bytes(gzip.compress(b"something else"))
    with pytest.raises(data.DamagedError) as caught:
        data.load("mnist")
    assert str(zipped) in caught.value.message
    assert hashlib.sha256(b"something else").hexdigest() in caught.value.message


def test_reading_a_read_only_folder_writes_nothing(raw: Path, root: Path) -> None:
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


def test_a_relative_data_folder_is_found_from_the_working_directory(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(raw.parent.parent.parent)
    monkeypatch.setenv("HARNESS_DATA", raw.parent.parent.name)
    assert len(data.load("mnist").train.labels) == 30


def test_the_data_folder_is_data_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    assert data.folder() == Path("data")
    monkeypatch.setenv("HARNESS_DATA", "/elsewhere")
    assert data.folder() == Path("/elsewhere")


# --- choosing and downloading ----------------------------------------------------------------------------


def test_a_name_stands_for_itself() -> None:
    assert data.choose("digits") == ("digits", "")
    assert data.choose("mnist") == ("mnist", "")


def test_a_misspelt_name_is_told_the_legal_ones() -> None:
    with pytest.raises(UsageError) as caught:
        data.choose("minst")
    assert caught.value.allowed == "Legal: auto, mnist, digits."
    assert caught.value.hint == "Did you mean 'mnist'?"


@pytest.mark.parametrize("broken", [Unreachable, Hangup])
def test_auto_is_digits_with_a_reason_where_mnist_cannot_be_had(
    root: Path, monkeypatch: pytest.MonkeyPatch, broken: type
) -> None:
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


def test_auto_downloads_where_it_can(root: Path, server: type[Server]) -> None:
    assert data.choose("auto") == ("mnist", "")
    assert len(data.load("mnist").train.labels) == 30
    assert len(server.places) == 1


def test_a_download_is_made_beside_its_place_and_moved_whole(
    root: Path, server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    data.load("mnist")
    assert server.places[0].parent == root  # one file system: a move is a rename
    assert listing(root) == {f"MNIST/raw/{file}": contents for file, contents in CONTENTS.items()}
    assert os.listdir(root) == ["MNIST"]
    assert capsys.readouterr().out == ""


def test_a_download_waits_ten_seconds_for_an_answer_and_leaves_the_default_as_it_was(
    root: Path, server: type[Server]
) -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(77)
    try:
        data.load("mnist")
        assert server.timeouts == [data.CONNECT_SECONDS] == [10]
        assert socket.getdefaulttimeout() == 77
    finally:
        socket.setdefaulttimeout(before)


def test_a_download_fetches_only_what_is_missing(raw: Path, server: type[Server]) -> None:
    kept = (raw / FILES[0]).stat()
    (raw / FILES[3]).unlink()
    data.load("mnist")
    assert (raw / FILES[0]).stat().st_ino == kept.st_ino
    assert (raw / FILES[3]).read_bytes() == CONTENTS[FILES[3]]


def test_a_download_that_breaks_off_leaves_no_half_file(
    root: Path, server: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "MNIST", BrokenServer)
    with pytest.raises(DataError):
        data.load("mnist")
    assert all(contents == CONTENTS[Path(file).name] for file, contents in listing(root).items())
    assert os.listdir(root) == ["MNIST"]
    monkeypatch.setattr(datasets, "MNIST", Server)
    assert len(data.load("mnist").train.labels) == 30


def test_a_data_folder_that_is_a_file_is_a_data_error(
    root: Path, server: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "file").write_text("")
    monkeypatch.setenv("HARNESS_DATA", str(root / "file"))
    with pytest.raises(DataError, match="could not be downloaded"):
        data.load("mnist")


@pytest.mark.parametrize(("name", "train", "validation"), [("digits", 1_197, 240), ("mnist", 50_000, 10_000)])
def test_a_study_holds_out_a_fixed_stratified_part_of_the_training_images(
    name: str, train: int, validation: int
) -> None:
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


def test_a_study_never_reads_the_test_files(root: Path, server: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    data.load("mnist")
    read: list[str] = []
    whole = _read
    monkeypatch.setattr("harness.data.idx._read", lambda file: read.append(file.name) or whole(file))
    _load.cache_clear()
    monkeypatch.setattr("harness.data.split.stratified", lambda labels, size: np.arange(2))
    data.load("mnist", "validation")
    assert read == ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]


def test_whereabouts_says_where_without_fetching(root: Path, server: type[Server]) -> None:
    assert data.whereabouts("mnist") == f"not in {root / 'MNIST' / 'raw'}; would be downloaded"
    assert server.places == []
    data.load("mnist")
    assert data.whereabouts("mnist") == f"in {root / 'MNIST' / 'raw'}"
    assert "always there" in data.whereabouts("digits")


# --- the real MNIST --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mnist() -> data.Dataset:
    if not os.environ.get("HARNESS_DATA") or "not in" in data.whereabouts("mnist"):
        pytest.skip("no MNIST in $HARNESS_DATA")
    return data.load("mnist")


def test_mnist_is_60000_and_10000_images_with_a_stable_digest(mnist: data.Dataset) -> None:
    assert mnist.train.images.shape == (60_000, 28, 28)
    assert mnist.held_out.images.shape == (10_000, 28, 28)
    assert torch.bincount(mnist.held_out.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.digest == "c65580678af93f1ea48c2c0d01d543ec89307c6b8a0eb7ca542d7c18c5f4c681"


def test_the_stated_mean_and_deviation_of_mnist_are_those_of_its_training_images(mnist: data.Dataset) -> None:
    counts = torch.bincount(mnist.train.images.flatten(), minlength=256).double()
    values = torch.arange(256).double() / 255
    mean = float((counts * values).sum() / counts.sum())
    std = float(((counts * (values - mean) ** 2).sum() / counts.sum()).sqrt())
    assert (round(mean, 4), round(std, 4)) == (mnist.mean, mnist.std)
