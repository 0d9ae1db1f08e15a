"""Fields of settings and requests with their help, choices and range. Commands make options of them, refusals make sentences."""

from __future__ import annotations

import math
from dataclasses import field
from typing import NamedTuple

from spxcore.errors import LARGEST_SEED


class Range(NamedTuple):
    """Numbers that a setting may have.

    Attributes:
        low, high: the ends.
        above, under: whether the low, the high end itself is left out.
    """

    low: float = 0
    high: float = math.inf
    above: bool = False
    under: bool = False

    def holds(self, value: float) -> bool:
        """Whether `value` is one of them; a NaN is none, and neither is an infinity."""
        low = value > self.low if self.above else value >= self.low
        return low and value < math.inf and (value < self.high if self.under else value <= self.high)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"more than {self.low}" if self.above else "0 or more" if self.low == 0 else f"at least {self.low}"
        start = f"more than {self.low}" if self.above else f"{self.low}"
        high = "2^64 - 1" if self.high == LARGEST_SEED else self.high
        return f"{start} to under {high}" if self.under else f"{start} to {high}"


ANY, COUNT = Range(0), Range(1)
BATCH = Range(1, 1 << 20)  # more fits no machine, which would be found out after the first phase of a training
POSITIVE = Range(0, above=True)
SEED = Range(0, LARGEST_SEED)
SHARE, UNDER_ONE = Range(0, 1), Range(0, 1, under=True)


def setting(default, help: str, **metadata):
    """A field of settings.

    Args:
        default: MISSING for none.
        help: what the option's help says.
        metadata: `choices`, a tuple; `range`, a `Range`; `metavar`; `options`, other names of the option than the field's own;
            `hidden`: true for no option of a command.
    """
    return field(default=default, metadata={"help": help, **metadata})
