"""NumPy files: .npz with `images` and `labels`, or .npy beside labels of its own. No pickle is read."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from spxcore.errors import SpxError, require

from ..io.reading import at_most, reading
from .images import Images, check_bytes, checked, split

TEST_SHARE, TEST_SEED = 0.1, 0  # of a data set that comes without a test set
_AGAIN = "save it again"


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
    require(min(shape, default=0) >= 0, name, "a size of 0 or more", shape)
    size = math.prod(shape) * dtype.itemsize
    check_bytes(name, size, packed)
    raw = at_most(file, size)
    size += len(file.read(1))  # nothing may follow; and the end is where a .npz file's checksum is compared
    require(len(raw) == size, name, f"{size} bytes for shape {shape} of {dtype}", len(raw), "damaged; save it again")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if by_columns else "C")


def read_arrays(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Those of the named arrays that a .npz file has, or a .npy file as the first of them. No other array is looked at.

    Raises:
        SpxError: if it cannot be read, lacks the first, or holds something else than arrays of numbers.
    """
    try:
        with reading(path, _AGAIN) as file:
            if path.suffix.lower() == ".npy":
                return {names[0]: read_npy(file, str(path))}
            found = {}
            with zipfile.ZipFile(file) as archive:
                for member in archive.infolist():
                    name = member.filename.removesuffix(".npy")
                    if name in names:
                        require(name not in found, str(path), f"one array {name}", "two", _AGAIN)
                        with archive.open(member) as packed:
                            found[name] = read_npy(packed, f"{path}: {name}", member.compress_size)
                got = ", ".join(archive.namelist()[:5])[:200] or "nothing"
            require(names[0] in found, str(path), f"an array `{names[0]}`", got)
            return found
    except SpxError:
        raise
    except Exception as error:  # damaged headers and archives fail in many ways
        why = (str(error) or "it ends too early").splitlines()[0][:200]
        raise SpxError(f"{path}: cannot be read ({why}); {_AGAIN}") from error


def _images(path: Path) -> Images:
    """The images and labels of one file."""
    arrays = read_arrays(path, ("images", "labels", "classes"))
    labels, beside = arrays.get("labels"), path.with_name(f"{path.stem}-labels.npy")
    if labels is None and beside.is_file():
        labels = read_arrays(beside, ("labels",))["labels"]
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
