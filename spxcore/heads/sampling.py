"""How a head draws, and the one tie rule of all inverse CDFs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ..errors import real_number, require, shown

# Engines compute in float32: its smallest normal number, and its largest one.
LEAST_TEMPERATURE, MOST_TEMPERATURE = (
    float(number) for number in (np.finfo(np.float32).tiny, np.finfo(np.float32).max)
)


@dataclass(frozen=True)
class Sampling:
    """How a head draws.

    Attributes:
        temperature: factor on the logistics' scales, divisor of a softmax's logits; > 0.
        mode: no noise (MAP sampling, Kolesnikov & Lampert 2017, section 4.2): the mean of the drawn mixture component, the most
            probable level of a softmax.
    """

    temperature: float = field(default=1.0, metadata={"help": "factor on the pixels' spread", "metavar": "T"})
    mode: bool = field(
        default=False,
        metadata={
            "help": "no noise (MAP sampling): the mean of the drawn component",
            "options": ("--mode", "--map"),
        },
    )

    def __post_init__(self):
        expected = "a finite number, more than 0"
        temperature = real_number("temperature", self.temperature, expected)
        require(0 < temperature < math.inf, "temperature", expected, temperature)
        held = LEAST_TEMPERATURE <= temperature <= MOST_TEMPERATURE
        require(held, "temperature", expected, f"{temperature}, which is none in float32")
        require(isinstance(self.mode, (bool, np.bool_)), "mode", "True or False", shown(self.mode))
        object.__setattr__(self, "temperature", temperature)
        object.__setattr__(self, "mode", bool(self.mode))


def quantile(logits: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Inverse CDF of a categorical distribution: mixture components and softmax levels alike.

    Tie rule, the only one: the first index whose cumulative weight is strictly greater than u times the whole; the last one if
    there is none.

    Args:
        logits: float32 [N, K].
        u: float32 [N] in (0, 1).

    Returns:
        int [N].
    """
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    cumulative = np.cumsum(weights, axis=1, dtype=np.float32)  # NumPy adds along an axis in order
    passed = cumulative > (u * cumulative[:, -1])[:, None]
    return np.where(passed.any(axis=1), passed.argmax(axis=1), logits.shape[1] - 1)


def quantile_distance(logits: np.ndarray, u: np.ndarray) -> float:
    """Distance of u from the nearest edge between two indices of `quantile`, as a share of the whole weight. logits [1, K], u [1]."""
    weights = np.exp(logits[0] - logits[0].max())
    cumulative = np.cumsum(weights, dtype=np.float32)
    edges = cumulative[:-1] / cumulative[-1]
    return float(np.abs(edges - u[0]).min()) if len(edges) else float("inf")
