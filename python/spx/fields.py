"""Fields of settings and requests with their help, choices and range. Commands make options of them, refusals make sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, NamedTuple

import numpy as np

from spxcore.errors import LARGEST_SEED, real_number, require, shown, whole_number


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


def plain_value(name: str, value: Any, kind: str, limit: int = (1 << 63) - 1) -> Any:
    """A field's value as a plain one of its type; a file may hold anything.

    Args:
        name: of the field, for the message.
        kind: its type as the dataclass says it. A value of another type than int, bool, float, str or a tuple of int stays as it is.
        limit: the largest whole number, and minus the least.

    Raises:
        SpxError: for a value of another type, a number over the limit or one that is not finite.
    """
    if kind == "int":
        return whole_number(name, value, -limit, limit, f"at most {limit}")
    if kind.startswith("tuple[int"):
        require(isinstance(value, list | tuple), name, "whole numbers", shown(value))
        return tuple(whole_number(name, number, -limit, limit, f"at most {limit}") for number in value[:8])
    if kind == "bool":
        require(isinstance(value, bool | np.bool_), name, "true or false", shown(value))
        return bool(value)
    if kind == "float":
        number = real_number(name, value, "a number")
        require(math.isfinite(number), name, "a number", shown(value))
        return number
    require(kind != "str" or isinstance(value, str), name, "text", shown(value))
    return value


def make_plain(config: Any, limits: Mapping[str, int], prefix: str = "") -> None:
    """Make every field of a frozen dataclass a plain value of its type; see `plain_value`.

    Args:
        limits: the largest whole number of a field, by its name with the prefix; 2^20 for one that is not there.
        prefix: of the names in messages.
    """
    for f in fields(config):
        name = prefix + f.name
        value = plain_value(name, getattr(config, f.name), str(f.type), limits.get(name, 1 << 20))
        object.__setattr__(config, f.name, value)
