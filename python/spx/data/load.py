"""A data set by name: which reader reads it."""

from __future__ import annotations

from pathlib import Path

from spxcore.errors import SpxError, require

from .arrays import load_arrays
from .cifar import load_cifar
from .folder import load_folder
from .idx import load_idx
from .images import Images
from .named import SOURCES, load_named
from .settings import NAMES, Reading

SPLITS = ("train", "test")


def load(name: str, folder: str | Path, split: str, reading: Reading | None = None, progress: bool = False) -> Images:
    """A data set's images and labels.

    Args:
        name: one of `NAMES`.
        folder: where the files are, or, if one of a named data set is missing, where it is downloaded to.
        split: "train" or "test". A validation set is taken from the training set, by `spx.data.split`.
        reading: how pictures become images of one size; of a folder of pictures only.
        progress: whether a bar shows how far a long reading is.

    Raises:
        SpxError: for a missing, damaged or wrong file.
    """
    require(name in NAMES, "data", ", ".join(NAMES), repr(name))
    require(split in SPLITS, "split", "train or test", repr(split))
    try:
        return _load(name, Path(folder).expanduser(), split, reading or Reading(), progress)
    except RuntimeError as error:  # ~nobody
        raise SpxError(f"{folder}: expected a folder, got no such user; check --data-dir") from error
    except (OSError, ValueError) as error:  # names that are too long, or hold a zero byte; folders that may not be read
        raise SpxError(f"{folder}: cannot be read ({error}); check --data-dir") from error


def _load(name: str, folder: Path, split: str, reading: Reading, progress: bool) -> Images:
    if name in SOURCES:
        return load_named(name, folder, split)
    if name == "folder":
        return load_folder(folder, split, reading, progress)
    return {"idx": load_idx, "cifar10": load_cifar, "arrays": load_arrays}[name](folder, split)
