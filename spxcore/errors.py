"""The one exception that a user's mistake raises: a sentence, not a stack trace."""

from __future__ import annotations

from numbers import Integral


class SpxError(Exception):
    """A problem the caller can mend. The commands print it and exit with 2; the API raises it."""


def require(condition: bool, name: str, expected: str, got: object, way_out: str = "") -> None:
    """Raise an :class:`SpxError` of the one form ``name: expected ..., got ... (way out)`` unless `condition` holds."""
    if not condition:
        raise SpxError(f"{name}: expected {expected}, got {got}" + (f" ({way_out})" if way_out else ""))


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
        raise SpxError(f"{name}: expected {expected}, got {value!r}")
    require(low <= int(value) <= high, name, expected, value)
    return int(value)
