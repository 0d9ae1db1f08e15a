"""Reading files that may come from anywhere: only regular files, only up to a size, and JSON that says what it seems to say."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from spxcore.errors import SpxError, require

JSON_BYTES = 1 << 24  # of a JSON file; the largest that spx writes has some thousand
_DEEPEST = 32  # objects and lists inside each other
_LARGEST = 1 << 64  # whole numbers lie below it, seeds being the largest
_AGAIN = "remove it to have it made again"


@contextlib.contextmanager
def reading(path: str | Path, way_out: str = "") -> Iterator[io.BufferedReader]:
    """A regular file, open for reading. A pipe, a device or a folder is refused, and never waited for.

    Raises:
        SpxError: if it cannot be opened.
    """
    what = "a file", "a folder or a device", way_out
    try:
        file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 what fails inside has sentences of its own
    except FileNotFoundError as error:
        raise SpxError(f"{shown(path)}: no such file" + (f"; {way_out}" if way_out else "")) from error
    except IsADirectoryError:
        require(False, shown(path), *what)
    except (OSError, ValueError) as error:  # a ValueError: a name with a zero byte
        raise SpxError(_cannot(path, getattr(error, "strerror", None) or error, way_out)) from error
    with file:
        require(stat.S_ISREG(os.fstat(file.fileno()).st_mode), shown(path), *what)
        yield file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def read_bytes(path: str | Path, limit: int, way_out: str = "") -> bytes:
    """A whole file of at most `limit` bytes.

    Raises:
        SpxError: if it cannot be read, or is larger.
    """
    with reading(path, way_out) as file:
        try:
            raw = at_most(file, limit + 1)
        except OSError as error:
            raise SpxError(_cannot(path, error.strerror or error, way_out)) from error
    require(len(raw) <= limit, shown(path), f"at most {limit} bytes", "more", way_out)
    return raw


def at_most(file: IO[bytes] | io.BufferedIOBase, size: int) -> bytes:
    """The next `size` bytes, or as many as there are. No more memory is taken than what is there needs, whatever `size` is."""
    pieces = []
    while size > 0 and (piece := file.read(min(size, 1 << 24))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def read_json(path: str | Path, way_out: str = _AGAIN, finite: bool = True) -> Any:
    """The value of a JSON file of at most `JSON_BYTES`; see `parse_json`.

    Raises:
        SpxError: if it cannot be read, or is damaged.
    """
    return parse_json(read_bytes(path, JSON_BYTES, way_out), path, way_out, finite)


def read_object(path: str | Path, way_out: str = _AGAIN, finite: bool = True) -> dict:
    """The same of a file that holds an object."""
    value = read_json(path, way_out, finite)
    require(isinstance(value, dict), shown(path), "an object", kind(value), way_out)
    return value


def parse_json(raw: bytes, name: str | Path, way_out: str = _AGAIN, finite: bool = True) -> Any:
    """The value of JSON in UTF-8 (RFC 8259). What another program would read in another way is refused: a name said twice in an object,
    NaN, infinities and numbers that overflow, text that is no Unicode, and deep nesting.

    Args:
        raw: the file.
        name: of the file, for the messages.
        way_out: what the user may do where it cannot be read.
        finite: whether NaN and infinities are refused, which a figure of a report may be.

    Raises:
        SpxError: with a sentence.
    """
    numbers = (_float, _no_number) if finite else (float, float)
    try:
        value = json.loads(
            raw.decode(), parse_int=_int, parse_float=numbers[0], parse_constant=numbers[1], object_pairs_hook=_object
        )
        _check(value)
    except (ValueError, RecursionError) as error:
        raise SpxError(_cannot(name, error, way_out)) from error
    return value


def kind(value: object) -> str:
    """What a value of a JSON file is called there."""
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "null")


def shown(path: str | Path) -> str:
    """A file's name for a message: cut where it is longer than a name can be, and on one line."""
    text = os.fspath(path)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 4096 else f"{text[:100]}..."


def _cannot(path: str | Path, error: object, way_out: str) -> str:
    why = (str(error) or type(error).__name__).splitlines()[0][:200]
    return f"{shown(path)}: cannot be read ({why})" + (f"; {way_out}" if way_out else "")


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _int(text: str) -> int:
    value = int(text) if len(text) <= 20 else _LARGEST
    if not -_LARGEST < value < _LARGEST:
        raise ValueError(f"the number {text[:20]}... is too large")
    return value


def _object(pairs: list[tuple[str, object]]) -> dict:
    result: dict[str, object] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"an object with {name[:40]!r} twice")
        result[name] = value
    return result


def _check(value: object) -> None:
    """Raise a ValueError for nesting that is too deep, and for halves of characters."""
    level, depth = [value], 0
    while level:
        below: list[object] = []
        for item in level:
            if isinstance(item, str):
                item.encode()
            elif isinstance(item, dict):
                below += [*item, *item.values()]
            elif isinstance(item, list):
                below += item
        depth += 1
        if below and depth > _DEEPEST:
            raise ValueError(f"more than {_DEEPEST} objects and lists inside each other")
        level = below
