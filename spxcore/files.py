"""Files that are whole or not there at all, and where the user's cache is."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path


def cache_folder(name: str) -> Path:
    """XDG_CACHE_HOME/spx/`name`, or .cache/spx/`name` in the user's folder."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "spx" / name


def unused(folder: Path, name: str = ".spx-{}.tmp") -> Path:
    """A short name that nobody can guess, so nobody's file has it."""
    return folder / name.format(secrets.token_hex(8))


def new_file(folder: Path, name: str = ".spx-{}.tmp") -> Path:
    """A new empty file of an unpredictable name, with the rights that the user's umask gives; a link of that name is not followed."""
    path = unused(folder, name)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return path


def flush(path: Path) -> None:
    """Bring a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call write(temporary path in the same folder), flush it to disk, then rename it to `path`. A link there is replaced, not followed.
    On failure nothing is left."""
    temporary = new_file(path.parent)
    try:
        mode = stat.S_IMODE(temporary.stat().st_mode)
        write(temporary)
        flush(temporary)
        os.chmod(temporary, mode)  # some writers make files that only their owner can read
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
