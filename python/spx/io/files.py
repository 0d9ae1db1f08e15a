"""Writing files, in one place: whether it can be done is found out before the work; nothing is ever half written, nothing of the
user's is touched, and what the system refuses is a sentence."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from spxcore.errors import SpxError, require
from spxcore.files import flush, new_file, unused, write_atomically

# Bytes of a path that are left for what is written in a folder of that name.
_ROOM = 100
# Bytes of a path, its zero byte among them, that Linux takes.
_PATH_MAX = 4096


class Unwritten(SpxError):
    """A file, or standard output, that the system would not write."""


@contextlib.contextmanager
def writing(path: Path, way_out: str = "choose another --out", name: str = "") -> Iterator[None]:
    """Inside, what the system refuses becomes one sentence.

    Args:
        path: what is written.
        way_out: what the user may do.
        name: of the option that told the path.

    Raises:
        Unwritten: in place of an OSError, and of what safetensors makes of one.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        what = f"{name}: {path}" if name else f"{path}:"
        reason = getattr(error, "strerror", None) or str(error).removeprefix("Error while serializing: ")
        raise Unwritten(f"{what} cannot be written ({reason}); {way_out}") from error


# ---- before any work ------------------------------------------------------------------------------------------------------


def check_file(path: Path, name: str = "out") -> None:
    """Raise an `SpxError` unless a file can be written to `path`: found out before hours of work, not after. Nothing is left there.

    Args:
        path: the very name that will be written.
        name: of the option that told it.
    """
    with writing(path, name=name):
        _check_name(path, name)
        target = followed(path)
        if target.exists():
            require(not target.is_dir(), name, "a file's name", f"the folder {path}")
            require(target.is_file(), name, "a file's name", f"{path}, which is a device or a pipe")
            require(os.access(target, os.W_OK), name, "a file that may be written", f"{path}, which is read-only")
        os.unlink(new_file(target.parent))


def check_folder(path: Path, files: Iterable[str] = (), name: str = "out") -> None:
    """Raise an `SpxError` unless a folder can be made at `path`, or is there, and files can be written in it. Nothing is left there.

    Args:
        path: of the folder.
        files: names that will be written in it.
        name: of the option that told it.
    """
    with writing(path, name=name):
        _check_name(path, name)
        if path.is_dir():
            for file in files:
                check_file(path / file, name)
        above = path
        while not os.path.lexists(above):
            above = above.parent
        require(above.is_dir(), name, "a folder", f"{above}, which is a file")
        limit = os.pathconf(above, "PC_NAME_MAX")
        for part in path.parts:
            if len(os.fsencode(part)) > limit:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        os.unlink(new_file(above))


def _check_name(path: Path, name: str) -> None:
    """Raise an `SpxError` for a path that no file can have, an `OSError` for one that is too long."""
    require(path.name not in ("", "..") or path.is_dir(), name, "a name", repr(str(path)))
    require("\0" not in str(path), name, "a name without zero bytes", repr(str(path)))
    if len(os.fsencode(path)) + _ROOM > _PATH_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    with contextlib.suppress(FileNotFoundError):
        os.stat(path)  # a name that is too long, a loop of links, a file in place of a folder


# ---- whole or not at all ----------------------------------------------------------------------------------------------------


def followed(path: Path) -> Path:
    """What a user's symbolic link points to, so that it is written and the link stays; other paths as they are."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def rescue(write: Callable[[Path], object], suffix: str) -> Path | None:
    """Write what cannot be written where it was wanted to a new file in the user's folder for temporary files, else at home.

    Returns:
        The file; None if it cannot be written there either.
    """
    for folder in (tempfile.gettempdir(), os.path.expanduser("~")):
        with contextlib.suppress(Exception):
            path = new_file(Path(folder), "spx-{}" + suffix)
            try:
                write(path)
                flush(path)
                return path.absolute()
            except BaseException:
                path.unlink()
                raise
    return None


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
        write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8", "backslashreplace"))


def write_json(path: Path, value, way_out: str = "choose another --out") -> None:
    """Write plain values as a JSON file, as `write_text` does."""
    write_text(path, json.dumps(value, indent=2) + "\n", way_out)


def write_folder_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call write(temporary folder beside `path`), then rename it to `path`, which must not exist yet. On failure nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unused(path.parent)
    temporary.mkdir()
    try:
        write(temporary)
        for file in (*temporary.iterdir(), temporary):
            flush(file)
        os.replace(temporary, path)
        flush(path.parent)
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
    for path in (*folder.glob(".*.tmp"), *folder.glob(".tmp*")):  # ours, and those of safetensors
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
