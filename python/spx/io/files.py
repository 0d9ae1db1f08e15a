"""Writing files so that nothing is ever half written: to a temporary name first, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from spxcore.errors import SpxError


@contextlib.contextmanager
def writing(path: Path, way_out: str = "choose another --out", name: str = "") -> Iterator[None]:
    """Inside, what the system refuses becomes one sentence.

    Args:
        path: what is written.
        way_out: what the user may do.
        name: of the option that told the path.

    Raises:
        SpxError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        what = f"{name}: {path}" if name else f"{path}:"
        raise SpxError(f"{what} cannot be written ({error.strerror or error}); {way_out}") from error


def _umask() -> int:
    """The process' umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call write(temporary path beside `path`), flush it to disk, then rename it to `path`. On failure nothing is left."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # some writers make files that only their owner can read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, way_out: str = "choose another --out") -> None:
    """Write a text file atomically. Its folder is made.

    Args:
        path, text: the file, and what it holds.
        way_out: what the user may do where it cannot be written.

    Raises:
        SpxError: if it cannot be written.
    """
    with writing(path, way_out):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value, way_out: str = "choose another --out") -> None:
    """Write plain values as a JSON file, as `write_text` does."""
    write_text(path, json.dumps(value, indent=2) + "\n", way_out)


def write_folder_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call write(temporary folder beside `path`), then rename it to `path`, which must not exist yet."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        for file in temporary.iterdir():
            with open(file, "rb+") as handle:
                os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Inside, no other process may be alone in `folder`, which is made. A claim ends with its process, however that ends.

    Raises:
        SpxError: if another one is, or nothing can be written there.
    """
    from filelock import FileLock, Timeout  # only long runs want it, and it is slow to import

    lock = FileLock(folder / "lock")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:  # which is an OSError
            expected, way_out = "a run that no other process is at work on", "wait for its end, or choose another --out"
            raise SpxError(f"{folder}: expected {expected}, got one under way; {way_out}") from error
    try:
        yield
    finally:
        lock.release()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that a killed process left in `folder`; no other may be writing there."""
    for path in folder.glob(".*.tmp"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
