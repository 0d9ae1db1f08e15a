"""The triton engine: named in the design, not written yet."""

from __future__ import annotations

from ..errors import SpxError


def why_not() -> str:
    """Why it cannot run here."""
    return "it is not part of this version yet; use --engine torch"


def make(**options):
    """Not there yet."""
    raise SpxError(f"engine: triton cannot run here: {why_not()}")
