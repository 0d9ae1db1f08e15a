"""Every file format that is read, its bytes changed at random: what is read is right, or refused with one sentence.

SPX_FUZZ_SEED and SPX_FUZZ_CASES (a format) are for campaigns with other changes, and more of them.
"""

import gzip
import io
import json
import os
import pickle
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import idx_bytes, sign
from PIL import Image

from spx.checkpoints import read_checkpoint
from spx.data.arrays import read_arrays
from spx.data.cifar import read_binary, read_python
from spx.data.idx import read_idx
from spx.io import tensors
from spx.io.pictures import read_image
from spx.io.reading import read_json
from spxcore.errors import SpxError

SEED = int(os.environ.get("SPX_FUZZ_SEED", "0"))
CASES = int(os.environ.get("SPX_FUZZ_CASES", "250"))

Read = Callable[[Path], object]


def mutant(raw: bytes, g: np.random.Generator) -> bytes:
    """`raw` with one to four changes: bytes flipped, set, put in, doubled or cut out, or its end cut off."""
    data = bytearray(raw)
    for _ in range(g.integers(1, 5)):
        # Headers say how the rest is read, so half of the changes are made to the first bytes.
        place = int(g.integers(0, max(1, min(len(data), 200) if g.random() < 0.5 else len(data))))
        kind = g.integers(7)
        if kind == 0 and data:
            data[place] ^= 1 << int(g.integers(8))
        elif kind == 1 and data:
            data[place] = int(g.choice([0, 1, 127, 128, 255, int(g.integers(256))]))
        elif kind == 2:
            data[place:place] = g.bytes(int(g.integers(1, 9)))
        elif kind == 3:
            data[place : place + int(g.integers(1, 9))] = b""
        elif kind == 4:
            data[place : place + 4] = g.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"9999"])
        elif kind == 5:
            data[place:place] = data[place : place + int(g.integers(1, 40))]
        elif g.random() < 0.3:
            del data[place:]
    return bytes(data)


def campaign(path: Path, raw: bytes, read: Read, right: Callable[[object], bool], cases: int = CASES) -> int:
    """Read changed files; the number of those that were refused."""
    refused, g = 0, np.random.default_rng([SEED, zlib.crc32(path.name.encode())])
    path.write_bytes(raw)
    assert right(read(path))
    for case in range(cases):
        path.write_bytes(mutant(raw, g))
        try:
            assert right(read(path)), f"case {case} of seed {SEED}"
        except SpxError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 2000, f"case {case} of seed {SEED}"
    return refused


def numbers(*ranks: int) -> Callable[[object], bool]:
    return lambda array: isinstance(array, np.ndarray) and array.dtype.kind in "biufUS" and array.ndim in ranks


IMAGES = np.random.default_rng(1).integers(0, 256, (3, 5, 4)).astype(np.uint8)


@pytest.mark.fault("traceback", "damaged files of images")
@pytest.mark.parametrize("name", ["idx", "idx.gz"])
def test_idx(tmp_path, name):
    raw = idx_bytes(IMAGES)
    raw = gzip.compress(raw) if name == "idx.gz" else raw
    refused = campaign(tmp_path / name, raw, read_idx, lambda a: a.dtype == np.uint8 and a.ndim in (1, 2, 3, 4))
    assert refused > CASES / 3


@pytest.mark.fault("traceback", "damaged NumPy files")
@pytest.mark.parametrize("name", ["a.npy", "a.npz", "packed.npz"])
def test_numpy(tmp_path, name):
    file = io.BytesIO()
    if name == "a.npy":
        np.save(file, IMAGES)
    else:
        (np.savez if name == "a.npz" else np.savez_compressed)(file, images=IMAGES, labels=np.arange(3))

    def right(found):
        return all(numbers(*range(33))(array) for array in found.values())

    refused = campaign(tmp_path / name, file.getvalue(), lambda path: read_arrays(path, ("images", "labels")), right)
    assert refused > CASES / 3


@pytest.mark.fault("traceback", "damaged batches of CIFAR-10")
@pytest.mark.parametrize("protocol", [None, 0, 2, 5])
def test_cifar(tmp_path, protocol):
    pixels, labels = np.zeros((2, 3072), np.uint8), [3, 7]
    if protocol is None:
        raw, read = b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, pixels)), read_binary
    else:
        raw, read = pickle.dumps({"labels": labels, "data": pixels, "x": ["a.png"]}, protocol=protocol), read_python

    def right(batch):
        return batch[0].dtype == np.uint8 and batch[0].shape[1:] == (3072,) and batch[1].dtype.kind in "iu"

    assert campaign(tmp_path / "batch", raw, lambda path: read(path.read_bytes(), str(path)), right) > CASES / 10


@pytest.mark.fault("wrong", "memory by a size that a file of a few bytes claims")
def test_a_pickle_that_claims_gigabytes():
    raw = pickle.PROTO + b"\5" + pickle.BYTEARRAY8 + (1 << 34).to_bytes(8, "little") + b"abc" + pickle.STOP
    tracemalloc.start()
    try:
        with pytest.raises(SpxError, match="bytes: expected 17179869184, got 4"):
            read_python(raw, "batch")
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


@pytest.mark.fault("traceback", "damaged pictures")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "webp", "ppm", "tiff"])
def test_pictures(tmp_path, ending):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (9, 11, 3)).astype(np.uint8)).save(
        file, {"jpg": "JPEG"}.get(ending, ending.upper())
    )

    def right(image):
        return image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3

    campaign(tmp_path / f"a.{ending}", file.getvalue(), lambda path: read_image(path, 3, "white"), right)


@pytest.fixture
def at_once(monkeypatch):
    """A damaged checkpoint is not looked at again, as one that is being replaced."""
    monkeypatch.setattr(tensors, "_WAITS", ())


@pytest.mark.fault("wrong", "a changed byte of the weights is seen")
def test_weights_that_changed(checkpoint, at_once):
    path = checkpoint / "model.safetensors"
    raw = path.read_bytes()
    same = read_checkpoint(checkpoint).tensors
    try:
        refused = campaign(
            path, raw, lambda _: read_checkpoint(checkpoint),
            lambda found: all((found.tensors[name] == tensor).all() for name, tensor in same.items()),
        )  # fmt: skip
        assert refused > 0.9 * CASES  # the others changed nothing
    finally:
        path.write_bytes(raw)


@pytest.mark.fault("traceback", "weights that were changed on purpose, with a checksum of their own")
def test_weights_that_lie(checkpoint, at_once):
    path, config = checkpoint / "model.safetensors", checkpoint / "config.json"
    raw, text = path.read_bytes(), config.read_bytes()

    def read(_):
        sign(checkpoint)
        return read_checkpoint(checkpoint)

    try:
        campaign(
            path, raw, read,
            lambda found: all(t.dtype in (np.float32, np.int64) and np.isfinite(t).all() for t in found.tensors.values()),
        )  # fmt: skip
    finally:
        path.write_bytes(raw)
        config.write_bytes(text)


@pytest.mark.fault("traceback", "a config.json that was changed")
def test_config(checkpoint, at_once):
    path = checkpoint / "config.json"
    raw = path.read_bytes()
    try:
        assert campaign(path, raw, lambda _: read_checkpoint(checkpoint), lambda found: bool(found.tensors)) > CASES / 3
    finally:
        path.write_bytes(raw)


@pytest.mark.fault("traceback", "a config.json with other values than it should have")
def test_values_of_a_config(checkpoint, at_once):
    """Values of every field replaced by others of JSON's."""
    path = checkpoint / "config.json"
    raw, g = path.read_bytes(), np.random.default_rng(SEED)
    odd = [
        None, True, False, 0, -1, 3, 2.5, -0.0, 1e308, 10**19, 100_000, "", "8", "spatial", [], [1], [[8]], {}, {"a": 1}, [None] * 3,
        [28, 10**9], [True, 2], "\n", "x" * 1000, [28.0, 28.0], {"network": {}}, 1 << 20, 65,
    ]  # fmt: skip
    try:
        for _ in range(2 * CASES):
            config = json.loads(raw)
            at = g.choice(["", "network", "vae"])
            fields = config[at] if at else config
            fields[g.choice([*fields, "new"])] = odd[g.integers(len(odd))]
            path.write_text(json.dumps(config))
            try:
                found = read_checkpoint(checkpoint)
                assert found.tensors and json.dumps(found.fields())
            except SpxError as error:
                assert "\n" not in str(error) and len(str(error)) < 2000
    finally:
        path.write_bytes(raw)


@pytest.mark.fault("traceback", "JSON that was changed")
def test_json(tmp_path):
    raw = json.dumps({"a": [1, 2.5, None, True, "ä"], "b": {"c": [[], {}], "d": -1e-5}}, ensure_ascii=False).encode()
    assert campaign(tmp_path / "a.json", raw, read_json, lambda value: json.dumps(value) != "", 4 * CASES) > CASES
