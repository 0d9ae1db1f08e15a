"""The softmax over K levels of PixelRNN and Gated PixelCNN (van den Oord et al. 2016), in NumPy.

`csrc/heads/softmax.h` is the same code for the C++ and CUDA engines, `kernels/heads.py` for Triton.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import whole_number
from ..rng import uniform
from .sampling import Sampling, quantile, quantile_distance


@dataclass(frozen=True)
class Softmax:
    """One logit a level; the parameters of a pixel are the K logits. A moment draws one channel: of colours each is its own moment.

    Attributes:
        levels: K, 2 to 65,536.
    """

    levels: int
    channels = 1
    kind = "softmax"

    def __post_init__(self):
        object.__setattr__(self, "levels", whole_number("levels", self.levels, 2, 1 << 16))

    @property
    def parameters(self) -> int:
        """P, numbers of a pixel."""
        return self.levels

    def draw(self, params: np.ndarray, words: np.ndarray, sampling: Sampling) -> np.ndarray:
        """Draw pixels: word 0 selects the level by `quantile` of logits / temperature.

        Args:
            params: float32 [N, K].
            words: uint32 [N, 4] random words of the pixels.
            sampling: see `Sampling`; the most probable level is the first of several that are equal.

        Returns:
            uint8, uint16 from 257 levels on, [N, 1].
        """
        logits = np.asarray(params, np.float32)
        level = (
            logits.argmax(axis=1) if sampling.mode else quantile(self._cooled(logits, sampling), uniform(words[:, 0]))
        )
        return level[:, None].astype(np.uint8 if self.levels <= 256 else np.uint16)

    def edge_distance(self, params: np.ndarray, words: np.ndarray, sampling: Sampling) -> float:
        """Distance of one pixel's draw from the nearest bin edge, as a share of the whole weight; for the mode the difference of the
        two largest logits. params [1, K], words [1, 4]."""
        if sampling.mode:
            second, first = np.sort(params[0])[-2:]
            return float(first - second)
        return quantile_distance(self._cooled(params, sampling), uniform(words[:, 0]))

    @staticmethod
    def _cooled(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
        return np.asarray(logits, np.float32) / np.float32(sampling.temperature)
