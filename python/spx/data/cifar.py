"""CIFAR-10 (Krizhevsky 2009): the official binary batches, and the Python batches without running what a pickle asks for."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from spxcore.errors import SpxError, require

from ..io.reading import read_bytes
from .images import Images, checked

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_SIDE = 32
_RECORD = 3 * _SIDE * _SIDE
_LARGEST = 1 << 26  # bytes of a batch; the official ones have 31 million
_BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}


def load_cifar(folder: Path, split: str) -> Images:
    """The images of the official batches in a folder, or in the folder that their archive unpacks to below it.

    Raises:
        SpxError: for a missing or wrong file.
    """
    names = _BATCHES[split]
    for end, unpacked, read in (
        (".bin", "cifar-10-batches-bin", read_binary),
        ("", "cifar-10-batches-py", read_python),
    ):
        for place in (folder, folder / unpacked):
            paths = [place / f"{name}{end}" for name in names]
            if not any(path.is_file() for path in paths):
                continue
            for path in paths:
                require(path.is_file(), str(path), "a batch of CIFAR-10", "no such file", "unpack the whole archive")
            images, labels = zip(*(_read(path, read) for path in paths))
            return checked(split, np.concatenate(images), np.concatenate(labels), CLASSES)
    way_out = "unpack cifar-10-binary.tar.gz or cifar-10-python.tar.gz of www.cs.toronto.edu/~kriz/cifar.html there, or check --data-dir"
    raise SpxError(f"{folder}: expected {names[0]}.bin or {names[0]}, got neither ({way_out})")


def _read(path: Path, read: Callable[[bytes, str], tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 32, 32, 3] and labels [N] of one batch."""
    images, labels = read(read_bytes(path, _LARGEST, "not a batch of CIFAR-10"), str(path))
    return images.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1), labels


def read_binary(raw: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A binary batch, records of a label and 3072 pixels: uint8 [N, 3072], labels uint8 [N].

    Raises:
        SpxError: if it is none.
    """
    good = len(raw) > 0 and len(raw) % (1 + _RECORD) == 0
    require(good, name, f"records of {1 + _RECORD} bytes", f"{len(raw)} bytes", "damaged; fetch it again")
    records = np.frombuffer(raw, np.uint8).reshape(-1, 1 + _RECORD)
    return records[:, 1:], records[:, 0]


def read_python(raw: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A Python batch, a pickled dictionary with `data` and `labels`: uint8 [N, 3072], labels int64 [N].

    Raises:
        SpxError: if it is none, or holds anything but arrays and plain values.
    """
    try:
        batch = _Plain(raw).load()
    except SpxError as error:
        raise SpxError(f"{name}: {error}") from error
    except Exception as error:  # a damaged pickle fails in any way
        why = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])[:200]
        raise SpxError(f"{name}: cannot be read ({why}); fetch it again") from error
    require(isinstance(batch, dict), name, "a dictionary", type(batch).__name__, "not a batch of CIFAR-10")
    batch = {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in batch.items()}
    data: Any = getattr(batch.get("data"), "array", None)
    labels: Any = batch.get("labels")
    labels = getattr(labels, "array", labels)
    good = data is not None and data.dtype == np.uint8 and data.ndim == 2 and data.shape[1] == _RECORD and len(data) > 0
    got = "none" if data is None else f"{data.dtype} {data.shape}"
    require(good, f"{name}: data", f"an array uint8 [N, {_RECORD}]", got, "not a batch of CIFAR-10")
    whole = isinstance(labels, np.ndarray) and labels.dtype.kind in "iu" and labels.ndim == 1
    whole = whole or (isinstance(labels, list) and all(type(label) is int and 0 <= label < 256 for label in labels))
    require(whole, f"{name}: labels", "a list of whole numbers", type(labels).__name__, "not a batch of CIFAR-10")
    return data, np.asarray(labels, np.int64)


class _Plain(pickle._Unpickler):
    """An unpickler of plain values and NumPy arrays, which calls nothing that a file names.

    The functions that a pickled array asks for are replaced by small ones of ours. Python's own unpickler, not the one in C, because
    that one reserves memory by numbers that the file holds.
    """

    def __init__(self, raw: bytes):
        super().__init__(io.BytesIO(raw), encoding="latin1")

    def find_class(self, module: str, name: str) -> object:
        """What stands for a name in the file; new each time, so that no file changes what another one finds."""
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return lambda *_: _Array()
        if (module, name) == ("numpy", "ndarray"):
            return object()
        if (module, name) == ("numpy", "dtype"):
            return lambda kind, *_: _Kind(kind)
        if (module, name) == ("numpy.core.numeric", "_frombuffer"):
            return lambda *parts: _from_buffer(*parts)
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return lambda text, *_: text.encode("latin1")
        way_out = "such a file could run code; use the official one, or the binary batches"
        raise SpxError(
            f"expected plain values and arrays of numbers, got a use of {f'{module}.{name}'[:80]!r} ({way_out})"
        )


def _load_bytearray8(self: Any) -> None:
    """A bytearray of a size that the file names. Python's own makes one of that size before it reads."""
    size = int.from_bytes(self.read(8), "little")
    found = bytearray(self.read(size))
    require(len(found) == size, "bytes", str(size), str(len(found)))
    self.append(found)


_Plain.dispatch = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _load_bytearray8}


class _Kind:
    """A pickled dtype: of numbers only."""

    def __init__(self, kind: object):
        dtype = (
            kind if isinstance(kind, str) else ""
        )  # never the text of an object: lists in lists can be of any length
        numbers = dtype.lstrip("<>|=") in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")
        require(numbers, "array", "whole numbers", repr(dtype[:20]))
        self.dtype, self.order = dtype.lstrip("<>|="), "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = ">" if state[1] == ">" else "<"


class _Array:
    """A pickled array, made from its bytes with all sizes compared."""

    array: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, by_columns, raw = state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        flat = np.frombuffer(raw, np.dtype(kind.order + kind.dtype))
        self.array = flat.reshape(tuple(map(int, shape)), order="F" if by_columns else "C")


def _from_buffer(raw: bytes, kind: _Kind, shape: tuple, order: str) -> _Array:
    """How NumPy 2 writes an array with protocol 5."""
    result = _Array()
    result.__setstate__((1, shape, kind, order == "F", bytes(raw)))
    return result
