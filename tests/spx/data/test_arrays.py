"""CIFAR-10's batches, NumPy arrays, the split: read, or refused with a sentence."""

import io
import os
import pickle
import zipfile
from collections import Counter

import numpy as np
import pytest
from helpers import write_dataset, write_idx

from spx import data
from spx.data import DataSettings, Images, Reading, split
from spx.data import images as limits
from spx.data.cifar import CLASSES
from spxcore.errors import SpxError

# ---- the split -------------------------------------------------------------------------------------------------------


def some(count: int = 90, classes: int = 3, seed: int = 0) -> Images:
    g = np.random.default_rng(seed)
    return Images(g.integers(0, 256, (count, 1, 4, 4)).astype(np.uint8), np.arange(count) % classes, ("a", "b", "c"))


def members(images: Images) -> list[bytes]:
    return [bytes([label]) + image.tobytes() for image, label in zip(images.images, images.labels)]


def test_split_takes_each_class_share_and_loses_nothing():
    whole = some()
    train, validation = split(whole, 0.2, 0)
    assert Counter(validation.labels.tolist()) == {0: 6, 1: 6, 2: 6} and len(train) == 72
    assert sorted(members(train) + members(validation)) == sorted(members(whole))
    order = members(whole)
    assert [order.index(m) for m in members(train)] == sorted(order.index(m) for m in members(train))
    assert train.classes == validation.classes == whole.classes


def test_split_is_of_the_pixels_and_the_seed_not_of_the_order():
    whole = some()
    taken = set(members(split(whole, 0.2, 7)[1]))
    assert taken == set(members(split(whole.take(np.random.default_rng(1).permutation(90)), 0.2, 7)[1]))
    assert taken != set(members(split(whole, 0.2, 8)[1]))


def test_split_of_little():
    assert [len(part) for part in split(some(), 0, 0)] == [90, 0]
    train, validation = split(some(4, 3), 0.01, 0)  # class 0 has two images, the others have one
    assert sorted(train.labels) == [0, 1, 2] and validation.labels.tolist() == [0]
    for share in (1, -0.1, float("nan")):
        with pytest.raises(SpxError, match=r"^share: expected 0 <= share < 1, got"):
            split(some(), share, 0)


def test_labels_of_the_other_split_are_refused(tmp_path):
    folder = write_dataset(tmp_path)
    (folder / "train-labels-idx1-ubyte").write_bytes((folder / "t10k-labels-idx1-ubyte").read_bytes())
    with pytest.raises(SpxError, match=r"^train labels: expected shape \(64,\), one an image, got \(16,\)"):
        data.load("idx", folder, "train")


# ---- limits ----------------------------------------------------------------------------------------------------------


def test_idx_headers_that_overflow(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    for rank, dimensions, message in (
        (4, [2**32 - 1] * 4, "at most"),
        (3, [65536, 65536, 65536], "at most"),
        (3, [1 << 16, 1 << 10, 1 << 6], "bytes for shape"),  # 4 GiB, which the file does not hold
        (200, [1] * 200, "1 to 4 dimensions, got 200"),
        (0, [], "1 to 4 dimensions, got 0"),
    ):
        path.write_bytes(bytes([0, 0, 8, rank]) + np.array(dimensions, ">u4").tobytes() + b"\0" * 64)
        with pytest.raises(SpxError, match=message):
            data.load("idx", tmp_path, "train")


def test_a_file_that_unpacks_to_far_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "_FREE", 10_000)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", np.zeros((400, 28, 28)))
    with pytest.raises(SpxError, match=r"at most 100 times its .* packed bytes"):
        data.load("idx", tmp_path, "train")
    np.savez_compressed(tmp_path / "train.npz", images=np.zeros((400, 28, 28), np.uint8))
    with pytest.raises(SpxError, match=r"at most 100 times its .* packed bytes"):
        data.load("arrays", tmp_path, "train")


@pytest.mark.parametrize("name", ["idx", "cifar10", "folder", "arrays"])
@pytest.mark.parametrize("folder", ["none", "~nosuchuser", "a" * 300, "a\0b", "/proc/1/root"])
def test_folders_that_are_none(tmp_path, monkeypatch, name, folder):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpxError, match=r"check --data-dir"):
        data.load(name, folder, "train")


# ---- NumPy -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def images():
    g = np.random.default_rng(3)
    return g.integers(0, 256, (30, 5, 6, 3)).astype(np.uint8), np.arange(30) % 2


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_of_both_splits(tmp_path, images, save):
    save(tmp_path / "train.npz", images=images[0], labels=images[1], classes=np.array(["cat", "dog"]))
    save(tmp_path / "test.npz", images=images[0][:7], labels=images[1][:7].astype(np.uint8))
    train, test = (data.load("arrays", tmp_path, part) for part in ("train", "test"))
    np.testing.assert_array_equal(train.images.transpose(0, 2, 3, 1), images[0])
    np.testing.assert_array_equal(test.labels, images[1][:7])
    assert train.classes == ("cat", "dog") and test.classes is None and train.labels.dtype == np.int64


def test_npy_and_a_split_of_its_own(tmp_path, images):
    np.save(tmp_path / "mine.npy", images[0][..., 0])
    np.save(tmp_path / "mine-labels.npy", images[1])
    train, test = (data.load("arrays", tmp_path / "mine.npy", part) for part in ("train", "test"))
    assert train.images.shape == (26, 1, 5, 6) and Counter(test.labels.tolist()) == {0: 2, 1: 2}
    both = np.concatenate([train.images, test.images])[:, 0]
    assert sorted(map(bytes, both)) == sorted(map(bytes, np.ascontiguousarray(images[0][..., 0])))
    np.savez(tmp_path / "images.npz", images=np.asfortranarray(images[0]))
    np.testing.assert_array_equal(
        np.sort(data.load("arrays", tmp_path, "train").images.sum((1, 2, 3)))[-1], images[0].sum((1, 2, 3)).max()
    )


BAD_ARRAYS = {
    "objects": ({"images": np.array([{}], object)}, "objects would have to be unpickled"),
    "floats": ({"images": np.zeros((2, 4, 4))}, "expected uint8, got float64 .scale them"),
    "no images": ({"x": np.zeros((2, 4, 4), np.uint8)}, "an array `images`.*, got x"),
    "labels": ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.zeros(3, int)}, r"shape \(2,\), one an image"),
    "negative": ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.array([0, -1])}, "labels: expected 0 to .*, got -1 to 0"),
    "float labels": ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.zeros(2)}, "whole numbers, got float64"),
    "too few classes": (
        {"images": np.zeros((2, 4, 4), np.uint8), "labels": np.array([0, 2]), "classes": np.array(["a", "b"])}, "0 to 1, got 0 to 2",
    ),
    "empty": ({"images": np.zeros((0, 4, 4), np.uint8)}, "at least one image"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_arrays_that_are_refused(tmp_path, case):
    arrays, message = BAD_ARRAYS[case]
    np.savez(tmp_path / "images.npz", **arrays)
    with pytest.raises(SpxError, match=message):
        data.load("arrays", tmp_path, "train")


def test_npz_files_that_lie_or_are_damaged(tmp_path, images):
    path = tmp_path / "images.npz"

    def refused(message: str = "") -> None:
        with pytest.raises(SpxError, match=message):
            data.load("arrays", tmp_path, "train")

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6, 10**6)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header.getvalue())
    refused("at most")
    np.savez(path, images=images[0])
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    refused("cannot be read")
    flipped = bytearray(whole)
    flipped[1000] ^= 1
    path.write_bytes(flipped)
    refused("cannot be read .Bad CRC")
    for place in range(0, 200, 3):
        flipped = bytearray(whole)
        flipped[place] ^= 0x55
        path.write_bytes(flipped)
        try:
            data.load("arrays", tmp_path, "train")
        except SpxError as error:
            assert "\n" not in str(error)


# ---- CIFAR-10 --------------------------------------------------------------------------------------------------------


def batches() -> dict[str, tuple[np.ndarray, list[int]]]:
    g = np.random.default_rng(5)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    return {name: (g.integers(0, 256, (4, 3072)).astype(np.uint8), g.integers(0, 10, 4).tolist()) for name in names}


def write_batches(folder, protocol: int | None):
    folder.mkdir(exist_ok=True)
    for name, (pixels, labels) in batches().items():
        if protocol is None:
            (folder / f"{name}.bin").write_bytes(
                b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, pixels))
            )
        else:
            batch = {"batch_label": "x", "labels": labels, "data": pixels, "filenames": ["a.png"] * 4}
            (folder / name).write_bytes(pickle.dumps(batch, protocol=protocol))


@pytest.mark.parametrize("protocol", [None, 0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("below", [False, True])
def test_cifar(tmp_path, protocol, below):
    inner = "cifar-10-batches-bin" if protocol is None else "cifar-10-batches-py"
    write_batches(tmp_path / inner if below else tmp_path, protocol)
    train, test = (data.load("cifar10", tmp_path, part) for part in ("train", "test"))
    made = batches()
    planes = np.concatenate([made[f"data_batch_{i}"][0] for i in range(1, 6)]).reshape(20, 3, 32, 32)
    np.testing.assert_array_equal(train.images, planes)
    np.testing.assert_array_equal(test.images, made["test_batch"][0].reshape(4, 3, 32, 32))
    assert test.labels.tolist() == made["test_batch"][1] and train.classes == CLASSES


class Runs:
    """What a hostile file would hold."""

    def __init__(self, function, *arguments):
        self.how = function, arguments

    def __reduce__(self):
        return self.how


HOSTILE = {
    "os.system": lambda path: Runs(os.system, f"touch {path}"),
    "eval": lambda path: Runs(eval, f"open({str(path)!r}, 'w')"),
    "numpy.load": lambda path: Runs(np.load, "a.npy"),
    "a class of ours": lambda path: SpxError("x"),
    "objects": lambda path: {"data": np.array([Runs(open, str(path), "w")], object), "labels": [0]},
}


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("case", HOSTILE)
def test_no_pickle_is_executed(tmp_path, case, protocol):
    write_batches(tmp_path, 2)
    (tmp_path / "test_batch").write_bytes(pickle.dumps(HOSTILE[case](tmp_path / "ran"), protocol=protocol))
    with pytest.raises(SpxError, match=r"test_batch: (expected plain values and arrays|array: expected whole numbers)"):
        data.load("cifar10", tmp_path, "test")
    assert not (tmp_path / "ran").exists()


def test_damaged_batches_are_sentences(tmp_path):
    write_batches(tmp_path, 2)
    path = tmp_path / "test_batch"
    whole = path.read_bytes()
    g = np.random.default_rng(0)
    tried = [b"", b"hello", whole[: len(whole) // 2], pickle.dumps([1]), pickle.dumps({"data": 3, "labels": []})]
    tried += [b"\x80\x02r\xff\xff\xff\xff.", b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f", b"\x80\x02" + b"(" * 10000]
    for place in g.integers(0, 300, 200):
        tried.append(whole[:place] + bytes([g.integers(256)]) + whole[place + 1 :])
    for raw in tried:
        path.write_bytes(raw)
        try:
            assert data.load("cifar10", tmp_path, "test").images.shape[1:] == (3, 32, 32)
        except SpxError as error:
            assert str(error).startswith((str(path), "test")), error
    write_batches(tmp_path / "b", None)
    (tmp_path / "b" / "test_batch.bin").write_bytes(b"\0" * 3074)
    with pytest.raises(SpxError, match=r"records of 3073 bytes, got 3074 bytes"):
        data.load("cifar10", tmp_path / "b", "test")
    (tmp_path / "b" / "test_batch.bin").write_bytes(b"\x0a" + b"\0" * 3072)
    with pytest.raises(SpxError, match=r"labels: expected 0 to 9, got 10 to 10"):
        data.load("cifar10", tmp_path / "b", "test")
    (tmp_path / "b" / "data_batch_3.bin").unlink()
    with pytest.raises(SpxError, match=r"data_batch_3.bin: expected a batch of CIFAR-10, got no such file"):
        data.load("cifar10", tmp_path / "b", "train")


# ---- settings --------------------------------------------------------------------------------------------------------


def test_settings_are_refused_early():
    with pytest.raises(SpxError, match=r"^data: expected mnist, .*, got 'mnst'"):
        DataSettings(data="mnst")
    for name, value in (("fit", "pad"), ("colour", "red"), ("bad", "keep"), ("alpha", "pink")):
        with pytest.raises(SpxError, match=f"^{name}: expected .*, got '{value}'"):
            Reading(**{name: value})
    for size in (-1, 5000, 2.5, True):
        with pytest.raises(SpxError, match=r"^size: expected a whole number"):
            Reading(size=size)


def test_reading_of_other_settings():
    class Other:
        size, colour, steps = 12, "grey", 3

    assert Reading.part_of(Other()) == Reading(size=12, colour="grey")
