"""The one exception that a user's mistake raises: a sentence, not a stack trace."""


class SpxError(Exception):
    """A problem the caller can mend. The commands print it and exit with 2; the API raises it."""


def require(condition: bool, name: str, expected: str, got: object, way_out: str = "") -> None:
    """Raise an :class:`SpxError` of the one form ``name: expected ..., got ... (way out)`` unless `condition` holds."""
    if not condition:
        raise SpxError(f"{name}: expected {expected}, got {got}" + (f" ({way_out})" if way_out else ""))
