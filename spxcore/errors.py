"""The one exception that a user's mistake raises: a sentence, not a stack trace."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real


class SpxError(Exception):
    """A problem the caller can mend. The commands print it and exit with 2; the API raises it."""


def require(condition: bool, name: str, expected: str, got: object, way_out: str = "") -> None:
    """Raise an :class:`SpxError` of the one form ``name: expected ..., got ... (way out)`` unless `condition` holds."""
    if not condition:
        raise SpxError(f"{name}: expected {expected}, got {shown(got, str)}" + (f" ({way_out})" if way_out else ""))


def shown(value: object, text: Callable[[object], str] = repr) -> str:
    """A value for a message, by `text`: its type where it has no text (an int of 5,000 digits), the beginning of a long one."""
    try:
        result = text(value)
    except Exception:
        result = type(value).__name__
    return result if len(result) <= 500 else result[:500] + " ..."


def kind_of(value: object) -> str:
    """What a value is, for a message about arrays: "uint8 [2, 9, 9, 1]", or its type."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype} {list(value.shape)}"
    return type(value).__name__


def whole_number(name: str, value: object, low: int, high: int, text: str = "") -> int:
    """`value` as a Python int from `low` to `high`; NumPy's integers are accepted, booleans and floats are not.

    Args:
        name: of the argument, for the message.
        text: what the range is called in the message; empty: "`low` to `high`".

    Raises:
        SpxError: for anything else.
    """
    expected = f"a whole number, {text or f'{low} to {high}'}"
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise SpxError(f"{name}: expected {expected}, got {shown(value)}")
    require(low <= int(value) <= high, name, expected, value)
    return int(value)


# Seeds are Philox's keys, of 64 bits.
LARGEST_SEED = (1 << 64) - 1


def seed_number(value: object) -> int:
    """A seed as a Python int, 0 <= seed < 2^64; see `whole_number`."""
    return whole_number("seed", value, 0, LARGEST_SEED, "0 to 2^64 - 1")


def real_number(name: str, value: object, expected: str) -> float:
    """`value` as a Python float; NumPy's numbers are accepted, booleans and text are not. `expected` is for the message.

    Raises:
        SpxError: for anything else, or a number that no float holds.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise SpxError(f"{name}: expected {expected}, got {shown(value)}")
    try:
        return float(value)
    except OverflowError:
        raise SpxError(f"{name}: expected {expected}, got {shown(value)}") from None
