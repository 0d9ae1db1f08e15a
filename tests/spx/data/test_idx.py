"""IDX data: read, found, checked, refused with a sentence."""

import gzip
import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import digits, idx_bytes, write_dataset, write_idx

from spx import data
from spx.data import named
from spx.data.idx import FILES, read_idx
from spxcore.errors import SpxError

MNIST = Path(os.environ.get("SPX_MNIST", Path(__file__).parents[4] / "shared" / "mnist"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Nothing here may touch the network."""

    def refuse(self, request, *_, **__):
        raise ConnectionError(f"no network for {request.full_url}")

    monkeypatch.setattr("urllib.request.OpenerDirector.open", refuse)


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_dataset(tmp_path / "idx")


@pytest.mark.parametrize("name", ["a", "a.gz"])
@pytest.mark.parametrize("shape", [(3,), (2, 5, 4), (2, 5, 4, 3)])
def test_read_idx(tmp_path, name, shape):
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    got = read_idx(write_idx(tmp_path / name, array))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, array)


def test_the_content_tells_what_is_packed(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(idx_bytes(np.arange(4)))
    assert read_idx(path).tolist() == [0, 1, 2, 3]


PACKED = gzip.compress(idx_bytes(np.arange(200)))
DAMAGE = {
    "empty": (b"", "an IDX file .first bytes 00 00., got nothing"),
    "text": (b"<html>404", "an IDX file .first bytes 00 00., got 3c68"),
    "another type": (b"\0\0\x0d\1" + b"\0\0\0\1" + b"\0" * 4, "IDX of unsigned bytes .type 08., got type 0d"),
    "half a header": (b"\0\0\x08\3\0\0\0\1", "a header of 16 bytes, got 8 bytes"),
    "truncated": (idx_bytes(np.arange(10))[:-1], r"18 bytes for shape \(10,\), got 17 .fetch the file again."),
    "too long": (idx_bytes(np.arange(10)) + b"\0", r"18 bytes for shape \(10,\), got 19"),
    "truncated gzip": (PACKED[:-20], "cannot be read"),
    "gzip, a byte flipped": (PACKED[:60] + bytes([PACKED[60] ^ 255]) + PACKED[61:], "cannot be read"),
    "gzip, wrong checksum": (PACKED[:-8] + b"abcd" + PACKED[-4:], "cannot be read"),
    "gzip of nothing": (b"\x1f\x8b", "cannot be read"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_files(tmp_path, case):
    raw, message = DAMAGE[case]
    path = tmp_path / "images"
    path.write_bytes(raw)
    with pytest.raises(SpxError, match=message) as caught:
        read_idx(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_no_such_file(tmp_path):
    with pytest.raises(SpxError, match=r"none: no such file; fetch the file again"):
        read_idx(tmp_path / "none")


def test_load(folder):
    for split, count, seed in (("train", 64, 0), ("test", 16, 1)):
        got = data.load("idx", folder, split)
        images, labels = digits(count, seed=seed)
        assert got.images.shape == (count, 1, 28, 28) and len(got) == count
        np.testing.assert_array_equal(got.images[:, 0], images)
        np.testing.assert_array_equal(got.labels, labels)


def test_load_rgb(tmp_path):
    folder = write_dataset(tmp_path, channels=3)
    got = data.load("idx", folder, "train").images
    assert got.shape == (64, 3, 28, 28) and got.flags.c_contiguous
    np.testing.assert_array_equal(got.transpose(0, 2, 3, 1), digits(64, channels=3)[0])


def test_names_with_a_dot(folder):
    """As Debian's package and the old MNIST page had them."""
    for path in list(folder.iterdir()):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert len(data.load("idx", folder, "train")) == 64


def test_a_folder_below_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert len(data.load("idx", "~/idx", "test")) == 16


@pytest.mark.parametrize(
    ("labels", "message"),
    [(np.zeros(63), r"got \(63,\)"), (np.zeros((64, 2)), r"got \(64, 2\)")],
)
def test_labels_that_do_not_belong(folder, labels, message):
    write_idx(folder / "train-labels-idx1-ubyte", labels)
    with pytest.raises(SpxError, match=r"^train labels: expected shape \(64,\), one an image, " + message):
        data.load("idx", folder, "train")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((64,), r"shape \[N, H, W\] or \[N, H, W, 3\], got \(64,\)"),
        ((64, 28, 28, 2), "1 or 3 channels, got 2"),
        ((0, 28, 28), "at least one image, got 0"),
    ],
)
def test_images_that_are_none(folder, shape, message):
    write_idx(folder / "train-images-idx3-ubyte.gz", np.zeros(shape))
    with pytest.raises(SpxError, match=f"^train images: expected {message}"):
        data.load("idx", folder, "train")


def test_a_missing_file_of_ones_own(folder):
    (folder / "t10k-labels-idx1-ubyte").unlink()
    assert len(data.load("idx", folder, "train")) == 64  # the other split is not asked for
    with pytest.raises(
        SpxError, match=r"expected a file t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz, got none"
    ):
        data.load("idx", folder, "test")


@pytest.mark.parametrize(("name", "split"), [("mnst", "train"), ("mnist", "validation")])
def test_unknown_names(tmp_path, name, split):
    with pytest.raises(SpxError, match=r"^(data|split): expected .*, got '(mnst|validation)'"):
        data.load(name, tmp_path, split)


def test_files_that_are_not_the_named_data(folder):
    with pytest.raises(SpxError, match=r"expected MD5 6bbc9ace898e44ae57da46a324031adb, got .*use --data idx"):
        data.load("mnist", folder, "train")


def test_without_a_network(tmp_path):
    with pytest.raises(SpxError, match=r"not in .* and cannot be downloaded .ConnectionError: .*--data-dir"):
        data.load("mnist", tmp_path, "train")
    assert list(tmp_path.iterdir()) == []


def served(monkeypatch, files: dict[str, bytes]) -> list[str]:
    """Pretend that a server has these files; returns the list of what is asked of it."""
    asked = []

    def give(self, request, timeout):
        asked.append(request.full_url)
        return io.BytesIO(files[request.full_url.rsplit("/", 1)[1]])

    monkeypatch.setattr("urllib.request.OpenerDirector.open", give)
    return asked


@pytest.fixture
def source(monkeypatch) -> dict[str, bytes]:
    """A named data set of ours, as a server has it."""
    images, labels = digits(20)
    files = {"train-images-idx3-ubyte": idx_bytes(images), "train-labels-idx1-ubyte": idx_bytes(labels)}
    md5 = {name: hashlib.md5(raw).hexdigest() for name, raw in files.items()}
    packed = {name: gzip.compress(raw) for name, raw in files.items()}
    sha256 = {name: hashlib.sha256(raw).hexdigest() for name, raw in packed.items()}
    monkeypatch.setitem(named.SOURCES, "mnist", named.Source("ours", "none", "https://example.invalid/", md5, sha256))
    return {f"{name}.gz": raw for name, raw in packed.items()}


def test_download(tmp_path, monkeypatch, source):
    asked = served(monkeypatch, source)
    assert len(data.load("mnist", tmp_path / "new", "train")) == 20
    assert asked == [f"https://example.invalid/{name}" for name in source]
    assert len(data.load("mnist", tmp_path / "new", "train")) == 20 and len(asked) == 2  # once only
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(source)


@pytest.mark.parametrize("bad", [b"<html>", gzip.compress(idx_bytes(np.zeros((20, 28, 28))))], ids=["html", "other"])
def test_a_download_that_is_not_it(tmp_path, monkeypatch, source, bad):
    served(monkeypatch, {**source, "train-images-idx3-ubyte.gz": bad})
    with pytest.raises(SpxError, match=r"cannot be downloaded"):
        data.load("mnist", tmp_path, "train")
    assert list(tmp_path.iterdir()) == []  # nothing that a second try would take for the data


def test_checksums_are_there_for_every_file():
    for source in named.SOURCES.values():
        assert set(source.md5) == set(source.sha256) == set(FILES.values())
        assert {len(md5) for md5 in source.md5.values()} == {32} and {len(sha) for sha in source.sha256.values()} == {
            64
        }


@pytest.mark.skipif(not MNIST.is_dir(), reason=f"no MNIST in {MNIST.name} beside the checkout (or in SPX_MNIST)")
def test_the_real_mnist():
    test = data.load("mnist", MNIST, "test")
    assert test.images.shape == (10_000, 1, 28, 28)
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
