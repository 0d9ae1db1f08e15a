"""What the text of an option becomes, and in which range its numbers are."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from spxcore.errors import require

from ..fields import Range

_WORD = 1 << 63


class Number:
    """A type of an option: whole numbers or decimal ones, written in ASCII. `check` compares it with its range.

    Args:
        kind: int or float.
        bounds: the range; None: any number, an integer of 64 bits.
    """

    def __init__(self, kind: type, bounds: Range | None = None):
        self.kind, self.bounds, self.__name__ = kind, bounds, kind.__name__  # argparse names the type by it

    def __call__(self, text: str) -> float:
        if not text.isascii() or "_" in text:
            raise ValueError(text)
        return self.kind(text)

    def check(self, name: str, value: float) -> None:
        """Raise an `SpxError` unless `value` is finite, of 64 bits and in the range."""
        require(isinstance(value, int) or math.isfinite(value), name, "a finite number", value)
        if self.bounds is not None:
            whole = "a whole number, " if self.kind is int and self.bounds.high < math.inf else ""
            require(self.bounds.holds(value), name, f"{whole}{self.bounds}", value)
        if self.kind is int and (self.bounds is None or self.bounds.high == math.inf):
            require(-_WORD <= value < _WORD, name, "a whole number of 64 bits", value)


def text(given: str) -> str:
    """A name: not empty, which an unset variable of a shell is; of a folder, it may begin with ~ and ~user."""
    path(given)
    return given


def text_or_nothing(given: str) -> str:
    """A name, or nothing."""
    return text(given) if given else given


def path(given: str) -> Path:
    """A file or folder; ~ and ~user are home folders."""
    if not given or "\0" in given:
        raise argparse.ArgumentTypeError(f"expected a name, got {given!r}")
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"expected a path, got {given!r}: there is no such user") from None


def check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Raise an `SpxError` unless every number is in the range of its option."""
    for action in parser._actions:
        value = getattr(arguments, action.dest, None)
        if isinstance(action.type, Number) and value is not None:
            name = (action.option_strings or [action.dest])[-1].lstrip("-")
            for number in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(number, (int, float)):  # two options may have one destination, see --res and --size
                    action.type.check(name, number)
