"""NumPy files: .npz with `images` and `labels`, or .npy beside labels of its own. No pickle is read."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from spxcore.errors import SpxError, require

from .images import Images, check_bytes, checked, split

TEST_SHARE, TEST_SEED = 0.1, 0  # of a data set that comes without a test set
_LONGEST_NAMES = 1 << 16


def read_npy(file: IO[bytes], name: str, packed: int | None = None) -> np.ndarray:
    """One array of numbers, its size compared with the limits before it is read.

    Args:
        file: open at the start of the .npy data.
        name: for the messages.
        packed: bytes it takes in a compressed file; None: it is not compressed.

    Raises:
        SpxError: for objects, or too much data.
        ValueError, EOFError: for damaged data.
    """
    version = np.lib.format.read_magic(file)
    require(version in ((1, 0), (2, 0)), name, "a .npy file of version 1 or 2", version)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = header(file)
    way_out = "objects would have to be unpickled, which runs code; save plain numbers"
    require(not dtype.hasobject and dtype.kind in "biufUS", name, "numbers or text", dtype, way_out)
    size = math.prod(shape) * dtype.itemsize
    require(min(shape, default=0) >= 0, name, "a size of 0 or more", shape)
    check_bytes(name, size, packed)
    raw = _at_most(file, size)
    size += len(file.read(1))  # nothing may follow; and the end is where a .npz file's checksum is compared
    require(len(raw) == size, name, f"{size} bytes for shape {shape} of {dtype}", len(raw), "damaged; save it again")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if by_columns else "C")


def _at_most(file: IO[bytes], size: int) -> bytes:
    pieces = []
    while size > 0 and (piece := file.read(min(size, 1 << 24))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz file, or of a .npy file as "images".

    Raises:
        SpxError: if it cannot be read, or holds something else than arrays of numbers.
    """
    try:
        if path.suffix.lower() == ".npy":
            with open(path, "rb") as file:
                return {"images": read_npy(file, str(path))}
        found = {}
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                with archive.open(member) as file:
                    found[member.filename.removesuffix(".npy")] = read_npy(
                        file, f"{path}: {member.filename}", member.compress_size
                    )
        return found
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise SpxError(f"{path}: cannot be read ({error or 'it ends too early'}); save it again") from error


def _images(path: Path) -> Images:
    """The images and labels of one file."""
    arrays = read_arrays(path)
    got = ", ".join(arrays) or "nothing"
    require("images" in arrays, str(path), "an array `images`, uint8 [N, H, W] or [N, H, W, 3]", got)
    labels, beside = arrays.get("labels"), path.with_name(f"{path.stem}-labels.npy")
    if labels is None and beside.is_file():
        labels = read_arrays(beside)["images"]
    if labels is None:
        labels = np.zeros(len(arrays["images"]), np.int64)
    classes = arrays.get("classes")
    if classes is not None:
        require(
            classes.ndim == 1 and classes.dtype.kind == "U", f"{path}: classes", "names, one a class", classes.dtype
        )
    return checked(str(path), arrays["images"], labels, None if classes is None else tuple(map(str, classes)))


def _find(folder: Path, stem: str) -> Path | None:
    return next((path for end in (".npz", ".npy") if (path := folder / f"{stem}{end}").is_file()), None)


def load_arrays(folder: Path, part: str) -> Images:
    """Images of NumPy files: train.npz and test.npz in a folder, or images.npz (or a file's own name) for both.

    A .npz has `images` uint8 [N, H, W] or [N, H, W, C], and may have `labels` [N] and `classes` (names). A .npy has the images;
    NAME-labels.npy beside it may have the labels. Without a test file, a fixed tenth of each class is the test set.

    Raises:
        SpxError: for a missing or wrong file.
    """
    if folder.is_dir():
        train, test = (_find(folder, stem) for stem in ("train", "test"))
        if train and test:
            return _images(test if part == "test" else train)
        one = train or _find(folder, "images")
        if one is None:
            wanted = "train.npz and test.npz, or images.npz (or .npy)"
            raise SpxError(f"{folder}: expected {wanted}, got none (check --data-dir)")
    else:
        one = folder
        good = one.is_file() and one.suffix.lower() in (".npz", ".npy")
        require(good, str(one), "a folder, or a .npz or .npy file", "none", "check --data-dir")
    return split(_images(one), TEST_SHARE, TEST_SEED)[part == "test"]
