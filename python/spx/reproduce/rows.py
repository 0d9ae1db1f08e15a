"""Which rows there are, which of them are asked for, and what each may take."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatch

from spxcore.errors import SpxError, require

from ..models import registry
from ..models.model import Row

# Steps, or minutes, of a budget.
_LARGEST = 1e9


@dataclass(frozen=True)
class Budget:
    """What each row may take: optimiser steps of the network that draws, or minutes of training."""

    amount: float
    unit: str  # "steps" or "minutes"

    @classmethod
    def of(cls, text: str) -> Budget:
        """ "2000" is steps, "10m" is minutes."""
        match = re.fullmatch(r"([0-9]+)|([0-9]+(?:\.[0-9]+)?)m", text)
        if match is None or not 0 < float(match[1] or match[2]) <= _LARGEST:
            raise SpxError(f"budget: expected steps such as 2000, or minutes such as 10m, a row, got {text!r}")
        return cls(float(match[1]), "steps") if match[1] else cls(float(match[2]), "minutes")

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit}"


def rows() -> list[Row]:
    """Every row of every family of models, in the order of the tables."""
    return [row for name in registry.names() for row in registry.family(name).rows()]


def select(patterns: list[str] | None) -> list[Row]:
    """The rows whose names match one of the shell patterns, and those they are `of`; all for None.

    Raises:
        SpxError: for a pattern that matches nothing.
    """
    everything = rows()
    if not patterns:
        return everything
    for pattern in patterns:
        found = any(fnmatch(row.name, pattern) for row in everything)
        require(found, "rows", "names or patterns of rows (--list shows them)", repr(pattern))
    chosen = {row.name for row in everything if any(fnmatch(row.name, pattern) for pattern in patterns)}
    chosen |= {row.of for row in everything if row.name in chosen and row.of}
    return [row for row in everything if row.name in chosen]
