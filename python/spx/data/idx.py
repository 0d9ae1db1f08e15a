"""IDX, the format of MNIST's files, plain or gzip."""

from __future__ import annotations

import gzip
import io
import math
import os
import zlib
from pathlib import Path

import numpy as np

from spxcore.errors import SpxError, require

from ..io.reading import at_most, reading
from .images import Images, check_bytes, checked

FILES = {
    ("train", "images"): "train-images-idx3-ubyte",
    ("train", "labels"): "train-labels-idx1-ubyte",
    ("test", "images"): "t10k-images-idx3-ubyte",
    ("test", "labels"): "t10k-labels-idx1-ubyte",
}
_RANK = 4
_AGAIN = "fetch the file again"


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file of unsigned bytes, plain or gzip (the content decides, not the name).

    Returns:
        uint8 array of the file's shape.

    Raises:
        SpxError: if the file cannot be read, is damaged or is not IDX of unsigned bytes.
    """
    try:
        with reading(path, _AGAIN) as plain:
            packed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            if not packed:
                return _read(plain, path, None)
            with gzip.GzipFile(fileobj=plain) as unpacked:
                return _read(unpacked, path, os.fstat(plain.fileno()).st_size)
    except (OSError, EOFError, zlib.error) as error:
        raise SpxError(f"{path}: cannot be read ({error}); {_AGAIN}") from error


def _read(file: io.BufferedIOBase, path: Path, packed: int | None) -> np.ndarray:
    raw = at_most(file, 4)
    name = str(path)
    good = len(raw) >= 4 and raw[:2] == b"\0\0"
    require(good, name, "an IDX file (first bytes 00 00)", raw[:2].hex() or "nothing")
    require(raw[2] == 8, name, "IDX of unsigned bytes (type 08)", f"type {raw[2]:02x}")
    rank = raw[3]
    require(1 <= rank <= _RANK, name, f"1 to {_RANK} dimensions", rank, _AGAIN)
    raw += at_most(file, 4 * rank)
    header = 4 + 4 * rank
    require(len(raw) == header, name, f"a header of {header} bytes", f"{len(raw)} bytes", _AGAIN)
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", rank, 4))
    size = math.prod(shape)
    check_bytes(name, size, packed)
    body = at_most(file, size + 1)  # one more, to see a file that is too long; gzip checks its sum at the end
    require(len(body) == size, name, f"{header + size} bytes for shape {shape}", header + len(body), _AGAIN)
    return np.frombuffer(body, np.uint8).reshape(shape)


def find(folder: Path, name: str) -> Path | None:
    """The file of that name in `folder`, plain or .gz, also with the dot some distributions write before idx."""
    for stem in (name, name.replace("-idx", ".idx")):
        for candidate in (folder / stem, folder / f"{stem}.gz"):
            if candidate.is_file():
                return candidate
    return None


def load_idx(folder: Path, split: str) -> Images:
    """The images of a folder with files named as MNIST's.

    Raises:
        SpxError: for a missing, damaged or wrong file.
    """

    def array(what: str) -> np.ndarray:
        file = FILES[split, what]
        path = find(folder, file)
        if path is None:
            raise SpxError(f"{folder}: expected a file {file} or {file}.gz, got none (check --data-dir)")
        return read_idx(path)

    return checked(split, array("images"), array("labels"))
