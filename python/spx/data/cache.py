"""A cache of what took long to read: one .npz file for a folder and a way of reading it, made again when a file changes."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from spxcore import files
from spxcore.errors import SpxError
from spxcore.files import write_atomically

from .arrays import read_arrays

_VERSION = 1  # of what is in a file
Arrays = dict[str, np.ndarray]


def cache_folder() -> Path:
    """Where they are."""
    return files.cache_folder("data")


def cached(place: object, files: object, names: tuple[str, ...], make: Callable[[], Arrays]) -> Arrays:
    """The arrays of those names that make() returns, from the cache if they are there.

    A cache that cannot be read, is damaged, or is of other files is made again. One that cannot be written is left out.

    Args:
        place: what decides the file's name, of JSON's types: the folder and how it is read.
        files: what has to be the same, of JSON's types: every file's name, size and time.
        names: of the arrays.
        make: reads the files.
    """
    key = hashlib.sha256(json.dumps([_VERSION, place, files]).encode()).hexdigest()
    path = cache_folder() / f"{hashlib.sha256(json.dumps(place).encode()).hexdigest()[:32]}.npz"
    with contextlib.suppress(SpxError, OSError):
        found = read_arrays(path, ("key", *names))
        if str(found.pop("key", "")) == key and found.keys() == set(names):
            return found
    found = make()
    members: dict[str, Any] = {"key": np.array(key), **found}  # any: NumPy has names of its own among the keywords

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.savez(file, **members)

    with contextlib.suppress(OSError, SpxError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, write)
    return found
