"""What images cost under a model, in bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# Told of each part of a long piece of work: the part's name, the share of it that is done (0 to 1).
Progress = Callable[[str, float], None]


class Score(NamedTuple):
    """What images cost under a model.

    Attributes:
        bits: float64 [N], bits per dimension of each image, its code's included.
        pixel_bits: float32 [N, H, W], bits per dimension at each pixel, without the code's.
        code_bits: float64 [N], the code's share of `bits`.
    """

    bits: np.ndarray
    pixel_bits: np.ndarray
    code_bits: np.ndarray


@dataclass(frozen=True)
class Likelihood:
    """Bits per dimension of a set of images under a model.

    Attributes:
        image_bits: float64 [N], of each image given its code.
        code_bits: float64 [N], what the image's code costs, spread over the image's dimensions; 0 without codes.
        pixel_bits: [H, W], bits per dimension at each pixel, the mean over the images.
        prior: the kind of prior that codes are paid by; "none" without codes. With codes the sum is an upper bound.
    """

    image_bits: np.ndarray
    code_bits: np.ndarray
    pixel_bits: np.ndarray
    prior: str = "none"

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.image_bits)

    @property
    def given_codes(self) -> float:
        """The mean without the codes'."""
        return float(self.image_bits.mean())

    @property
    def codes(self) -> float:
        """The mean of the codes'."""
        return float(self.code_bits.mean())

    @property
    def bound(self) -> float:
        """The mean with the codes paid for."""
        return self.given_codes + self.codes
