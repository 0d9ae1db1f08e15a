"""Files that nobody should read: refused with a sentence, at once, by every reader. One test a kind of fault."""

import gzip
import io
import os
import pickle
import struct
import time
import zlib
from email.message import Message
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request

import numpy as np
import pytest
from helpers import digits, idx_bytes
from PIL import Image

from spx import data
from spx.data import Reading, cache
from spx.data.arrays import read_arrays
from spx.data.cifar import read_python
from spx.data.folder import listing, read_folder
from spx.data.idx import read_idx
from spx.io import download, reading
from spx.io.pictures import read_image
from spx.io.reading import parse_json, read_bytes, read_json
from spxcore.errors import SpxError

READERS = {
    "picture": lambda path: read_image(path, 3),
    "JSON": read_json,
    "IDX": read_idx,
    "npy": lambda path: read_arrays(path, ("images",)),
    "bytes": lambda path: read_bytes(path, 1000),
}


def strange(folder: Path) -> dict[str, Path | str]:
    """Names of what is no file of a sane size."""
    os.mkfifo(folder / "pipe.npy")
    (folder / "nowhere.npy").symlink_to(folder / "none")
    (folder / "loop.npy").symlink_to(folder / "loop.npy")
    (folder / "zero.npy").symlink_to("/dev/zero")
    (folder / "empty.npy").write_bytes(b"")
    return {
        "pipe": folder / "pipe.npy", "device": "/dev/zero", "link to a device": folder / "zero.npy", "folder": folder,
        "link to nowhere": folder / "nowhere.npy", "link to itself": folder / "loop.npy", "nothing": folder / "none",
        "long": folder / ("a" * 300), "longer": "/".join(["a" * 200] * 50), "zero byte": "a\0b", "empty": folder / "empty.npy",
        "below a file": folder / "empty.npy" / "a",
    }  # fmt: skip


@pytest.mark.fault("hang", "a pipe or a device in place of a file is never waited for")
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file(tmp_path, reader):
    for kind, path in strange(tmp_path).items():
        if (reader, kind) == ("bytes", "empty"):
            continue
        with pytest.raises(SpxError) as caught:
            READERS[reader](Path(path) if isinstance(path, str) else path)
        assert "\n" not in str(caught.value) and "\0" not in str(caught.value), kind


BAD_JSON = {
    "nested lists": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "deep, but whole": b"[" * 40 + b"]" * 40,
    "a name twice": b'{"a": 1, "a": 2}',
    "NaN": b'{"a": NaN}',
    "infinity": b"[-Infinity]",
    "1e999": b"[1e999]",
    "10 ** 400": b"[1" + b"0" * 400 + b"]",
    "10 ** 10000": b"[1" + b"0" * 10_000 + b"]",
    "a mark of byte order": b"\xef\xbb\xbf{}",
    "UTF-16": "{}".encode("utf-16"),
    "Latin-1": b'["\xe4"]',
    "half a character": b'["\\ud800"]',
    "half a character as a name": b'{"\\udfff": 1}',
    "two values": b"{} {}",
    "nothing": b"",
    "a comma too many": b"[1,]",
}


@pytest.mark.fault("traceback", "JSON that another program would read in another way, or none could")
@pytest.mark.parametrize("case", BAD_JSON)
def test_json(case):
    with pytest.raises(SpxError, match=r"^a\.json: cannot be read \(.*\); remove it") as caught:
        parse_json(BAD_JSON[case], "a.json")
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_good_json():
    text = '{"a": [1, -2, 2.5e3, true, null, "\\u00e4 \\ud83d\\ude00", 18446744073709551615], "b": {}}'
    assert parse_json(text.encode(), "x") == {"a": [1, -2, 2500.0, True, None, "ä \U0001f600", 2**64 - 1], "b": {}}
    assert parse_json(b"[NaN]", "x", finite=False)[0] != 0


@pytest.mark.fault("hang", "a file larger than it can be is not read whole")
def test_sizes(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # a hole
    with pytest.raises(SpxError, match="expected at most 16777216 bytes, got more"):
        read_json(path)
    monkeypatch.setattr(reading, "JSON_BYTES", 4)
    path.write_text('{"a": 1}')
    with pytest.raises(SpxError, match="at most 4 bytes"):
        read_json(path)


# ---- pictures --------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + kind + raw + struct.pack(">I", zlib.crc32(kind + raw))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 0, pixels: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + body + chunk(b"IEND", b"")


@pytest.mark.fault("traceback", "pictures that unpack to far more than they are")
def test_bombs(tmp_path):
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * (1 << 26)))
    for raw, message in (
        (png(60_000, 60_000), "at most 268435456 pixels, got 60000x60000"),
        (png(2**31 - 1, 2**31 - 1), "at most 268435456 pixels"),
        (png(2, 2, *[text] * 2, pixels=b"\0ab" * 2), "cannot be read as an image"),
        (b"P5 100000 100000 255\n", "at most 268435456 pixels"),
    ):
        (tmp_path / "a.png").write_bytes(raw)
        began = time.monotonic()
        with pytest.raises(SpxError, match=message):
            read_image(tmp_path / "a.png", 1)
        assert time.monotonic() - began < 20


@pytest.mark.fault("wrong", "a 16-bit grey PNG with one transparent level")
def test_a_transparent_level(tmp_path):
    pixels = b"".join(b"\0" + struct.pack(">2H", *row) for row in ((0, 65535), (257 * 9, 257 * 200)))
    (tmp_path / "a.png").write_bytes(png(2, 2, chunk(b"tRNS", b"\0\0"), depth=16, pixels=pixels))
    with pytest.raises(SpxError, match="without transparent pixels"):
        read_image(tmp_path / "a.png", 1)
    assert read_image(tmp_path / "a.png", 1, "white")[..., 0].tolist() == [[255, 255], [9, 200]]
    assert read_image(tmp_path / "a.png", 1, "black")[..., 0].tolist() == [[0, 255], [9, 200]]


@pytest.mark.fault("wrong", "pictures whose numbers mean something else than eight bits of grey or colour")
def test_modes(tmp_path):
    """Each beside its pixels made apart, or refused."""
    g = np.random.default_rng(0)
    deep = g.integers(0, 1 << 16, (6, 7)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.tiff")
    raw = (tmp_path / "deep.tiff").read_bytes()
    (tmp_path / "big.pgm").write_bytes(b"P5 7 6 65535\n" + deep.astype(">u2").tobytes())
    for name in ("deep.tiff", "big.pgm"):
        np.testing.assert_array_equal(read_image(tmp_path / name, 1)[..., 0], np.round(deep / 257), err_msg=name)
    assert raw[:2] in (b"II", b"MM")
    ink = g.integers(0, 256, (6, 7, 4)).astype(np.uint8)
    Image.fromarray(ink, "CMYK").save(tmp_path / "ink.tiff")
    wide = ink.astype(float)
    light = np.round((255 - wide[..., :3]) * (255 - wide[..., 3:]) / 255)
    assert np.abs(read_image(tmp_path / "ink.tiff", 3) - light).max() <= 1
    frames = [Image.fromarray(g.integers(0, 256, (4, 4, 3)).astype(np.uint8)) for _ in range(2)]
    for name in ("a.gif", "a.png", "a.tiff", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(SpxError, match="one picture, got 2 in one file"):
            read_image(tmp_path / name, 3)


@pytest.mark.fault("crash", "PostScript, for which another program would be run")
def test_no_program_is_run(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", None)
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(SpxError, match=r"cannot be read as an image \(none of PNG, JPEG"):
        read_image(tmp_path / "a.png", 3)


# ---- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("crash", "a packed file that unpacks to gigabytes")
def test_gzip_bombs(tmp_path):
    """What the header says is read, and one byte more; never the rest."""
    path, zeros = tmp_path / "a.gz", gzip.compress(bytes(1 << 24))
    path.write_bytes(gzip.compress(idx_bytes(np.zeros(10))) + zeros * 200)  # 3.3 GB in 3 MB
    with pytest.raises(SpxError, match=r"expected 18 bytes for shape .10,., got 19"):
        read_idx(path)
    path.write_bytes(gzip.compress(idx_bytes(np.zeros(10))) + b"garbage")
    with pytest.raises(SpxError, match="cannot be read"):
        read_idx(path)


@pytest.mark.fault("crash", "arrays of an archive that nobody asked for")
def test_only_what_is_asked_for(tmp_path):
    arrays = {"images": np.zeros((2, 4, 4), np.uint8), "other": np.array([{}], object)}
    np.savez(tmp_path / "a.npz", **arrays)
    assert read_arrays(tmp_path / "a.npz", ("images", "labels")).keys() == {"images"}
    with pytest.raises(SpxError, match="objects would have to be unpickled"):
        read_arrays(tmp_path / "a.npz", ("other",))


@pytest.mark.fault("hang", "a pickle whose text is of any length")
def test_a_pickle_that_doubles(tmp_path):
    nested: list = []
    for _ in range(60):
        nested = [nested, nested]

    class Kind:
        def __reduce__(self):
            return np.dtype, (nested,)

    with pytest.raises(SpxError, match="expected whole numbers"):
        read_python(pickle.dumps({"data": Kind(), "labels": [1]}, protocol=2), "batch")


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Two classes of two pictures."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "mine"
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), len(name) + ord(name[0]), np.uint8)).save(root / name)
    return root


@pytest.mark.fault("wrong", "links that lead back, folders that cannot be read and files that are gone")
def test_folders(pictures, monkeypatch, capsys):
    (pictures / "a" / "gone.png").symlink_to("nowhere")
    os.mkfifo(pictures / "b" / "pipe.png")
    found = read_folder(listing(pictures), Reading(bad="skip"))
    assert len(found) == 4 and "2 bad files left out: a/gone.png, b/pipe.png" in capsys.readouterr().err
    (pictures / "c").symlink_to("..", target_is_directory=True)
    with pytest.raises(SpxError, match="expected sub-folders that are classes, got c, which leads back to it"):
        listing(pictures)
    (pictures / "c").unlink()
    (pictures / "b" / "deep").mkdir()
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SpxError, match=r"cannot be read .*Permission denied.*deep"):
        data.load("folder", pictures, "train")


@pytest.mark.fault("wrong", "a cache of other data, half a cache, a pipe in its place")
def test_the_cache(pictures):
    whole = read_folder(listing(pictures), Reading())
    (path,) = cache.cache_folder().iterdir()
    raw = path.read_bytes()
    with np.load(path) as file:
        arrays = dict(file)
    for change in ({"key": np.array("other")}, {"skipped": None}, {"images": None}):
        kept = {name: value for name, value in {**arrays, **change}.items() if value is not None}
        np.savez(path, **(kept if "key" in change else {**kept}))
        np.testing.assert_array_equal(read_folder(listing(pictures), Reading()).images, whole.images)
        assert path.read_bytes() == raw
    path.unlink()
    os.mkfifo(path)
    np.testing.assert_array_equal(read_folder(listing(pictures), Reading()).images, whole.images)
    other = path.with_name("elsewhere")
    path.unlink()
    path.symlink_to(other)
    read_folder(listing(pictures), Reading())
    assert path.read_bytes() == raw and not path.is_symlink() and not other.exists()


# ---- downloads -------------------------------------------------------------------------------------------------------


@pytest.fixture
def answers(monkeypatch):
    """What the network gives, in turn: bytes, or what it raises."""
    left: list = []

    def give(self, request, timeout):
        assert 0 < timeout <= 60
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return io.BytesIO(answer)

    monkeypatch.setattr("urllib.request.OpenerDirector.open", give)
    return left


SHA = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of b"abc", FIPS 180-2


@pytest.mark.fault("wrong", "downloads over HTTP, of another file, of any size, or half of one")
def test_downloads(tmp_path, answers):
    path = tmp_path / "new" / "a"
    for answer, url, message in (
        (b"abd", "https://a.b/c", f"expected SHA-256 {SHA}, got"),
        (b"ab", "https://a.b/c", "expected SHA-256"),
        (b"a" * 100, "https://a.b/c", "at most 10 bytes, got more"),
        (b"abc", "http://a.b/c", "expected an address of HTTPS"),
        (b"abc", "file:///etc/hostname", "expected an address of HTTPS"),
        (TimeoutError("timed out"), "https://a.b/c", "timed out"),
    ):
        answers[:] = [answer]
        with pytest.raises((SpxError, URLError, TimeoutError), match=message):
            download.fetch(url, path, SHA, 10)
        assert not path.parent.exists()
    answers[:] = [b"abc"]
    download.fetch("https://a.b/c", path, SHA, 10)
    assert path.read_bytes() == b"abc" and [p.name for p in path.parent.iterdir()] == ["a"]
    redirect, request = download._ByHttps(), Request("https://a.b/c")
    assert redirect.redirect_request(request, None, 302, "", Message(), "https://a.b/d").full_url == "https://a.b/d"
    with pytest.raises(URLError, match="HTTPS"):
        redirect.redirect_request(request, None, 302, "", Message(), "http://a.b/d")


@pytest.mark.fault("traceback", "what a network says becomes a sentence")
@pytest.mark.parametrize("answer", [TimeoutError("slow"), URLError("none"), ValueError("x\ny"), b"", b"<html>"])
def test_a_network_that_fails(tmp_path, answers, answer):
    answers[:] = [answer]
    with pytest.raises(SpxError, match=r"train-images-idx3-ubyte: not in .* and cannot be downloaded") as caught:
        data.load("mnist", tmp_path, "train")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.fault("wrong", "labels of the other split")
def test_labels_of_another_count(tmp_path):
    images, labels = digits(6)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(images))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels[:5]))
    with pytest.raises(SpxError, match=r"train labels: expected shape \(6,\), one an image, got \(5,\)"):
        data.load("idx", tmp_path, "train")
