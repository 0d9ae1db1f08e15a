"""The mixture of discretised logistics of PixelCNN++ (Salimans et al. 2017, sections 2.1 and 2.2) in NumPy.

`csrc/heads/logistics.h` is the same code for the C++ and CUDA engines, `kernels/heads.py` for Triton, name for name.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import require, whole_number
from ..rng import uniform
from .sampling import Sampling, quantile, quantile_distance

MIN_LOG_SCALE = -7.0


@dataclass(frozen=True)
class Logistics:
    """A mixture of discretised logistics; the parameters of a pixel are logits [K], means [C][K], log-scales [C][K] and, for
    RGB, coefficients [3][K] before tanh, by which a channel's mean depends on the quantised channels before it.

    Attributes:
        channels: C, 1 or 3.
        components: K.
        levels: of a channel, 2 to 256, evenly spaced over [-1, 1]; the end bins take the tails.
    """

    channels: int
    components: int
    levels: int = 256
    kind = "logistics"

    def __post_init__(self):
        # As Python's: a product of NumPy's small integers overflows.
        object.__setattr__(self, "channels", whole_number("channels", self.channels, 1, 3, "1 or 3"))
        require(self.channels in (1, 3), "channels", "1 or 3", self.channels)
        object.__setattr__(self, "components", whole_number("components", self.components, 1, 1024))
        object.__setattr__(self, "levels", whole_number("levels", self.levels, 2, 256))

    @property
    def parameters(self) -> int:
        """P, numbers of a pixel."""
        return parameters_per_component(self.channels) * self.components

    def draw(self, params: np.ndarray, words: np.ndarray, sampling: Sampling) -> np.ndarray:
        """Draw pixels.

        Args:
            params: float32 [N, P].
            words: uint32 [N, 4] random words of the pixels (`spxcore.rng.pixel_words`); word 0 selects the component, words
                1 to 3 draw the channels.
            sampling: see `Sampling`.

        Returns:
            uint8 [N, C].
        """
        return quantise(self.levels_real(params, words, sampling), self.levels).astype(np.uint8)

    def levels_real(self, params: np.ndarray, words: np.ndarray, sampling: Sampling) -> np.ndarray:
        """The draw before its last rounding, float32 [N, C]: (x + 1) (levels - 1) / 2 of the drawn x. Its fraction tells how far a
        bin edge is. Arguments as of `draw`."""
        logits, means, log_scales, coeffs = split(np.asarray(params, np.float32), self.channels)
        half, rows = np.float32((self.levels - 1) / 2), np.arange(len(params))
        k = quantile(logits, uniform(words[:, 0]))
        out = np.empty((len(params), self.channels), np.float32)
        previous: list[np.ndarray] = []
        for c in range(self.channels):
            x = means[rows, c, k]
            for i, before in enumerate(previous):  # green sees red; blue sees red and green
                x = x + np.tanh(coeffs[rows, c - 1 + i, k]) * before
            if not sampling.mode:
                u = uniform(words[:, 1 + c])
                log_scale = np.maximum(log_scales[rows, c, k], np.float32(MIN_LOG_SCALE))
                x = x + np.float32(sampling.temperature) * np.exp(log_scale) * (np.log(u) - np.log1p(-u))
            out[:, c] = (x + np.float32(1)) * half
            previous.append(quantise(out[:, c], self.levels) / half - np.float32(1))
        return out

    def edge_distance(self, params: np.ndarray, words: np.ndarray, sampling: Sampling) -> float:
        """Distance of one pixel's draw from the nearest bin edge. params [1, P], words [1, 4].

        In shares of the components' weight for the choice of the component; in levels, or in scales of the logistic if those are
        wider, for the draw from it; the smaller of the two. Rounding of the parameters is of the order of 1e-5 of these.
        """
        logits, _, log_scales, _ = split(params, self.channels)
        u = uniform(words[:, 0])
        last = self.levels - 1
        real = self.levels_real(params, words, sampling)[0].astype(np.float64)
        # A draw beyond the ends stays at the end level: its edge is the end bin's inner one.
        to_nearest = np.abs(real - np.floor(real) - 0.5)
        to_edge = np.where(real < 0, 0.5 - real, np.where(real > last, real - (last - 0.5), to_nearest))
        width = last / 2 * np.exp(np.maximum(log_scales[0, :, quantile(logits, u)[0]], MIN_LOG_SCALE))
        return float(min(quantile_distance(logits, u), (to_edge / np.maximum(1.0, width)).min()))


def parameters_per_component(channels: int) -> int:
    """Numbers of one component of the mixture: logit, C means, C log-scales and, for RGB, 3 coefficients."""
    return 3 if channels == 1 else 10


def split(params, channels: int):
    """Network output [B, P, ...] -> logits [B, K, ...], means [B, C, K, ...], log_scales [B, C, K, ...], coeffs [B, 3, K, ...].

    `coeffs` is None for one channel. Works on NumPy arrays and torch tensors alike; the results are views.
    """
    share = parameters_per_component(channels)
    require(params.shape[1] % share == 0, "params", f"a multiple of {share} numbers a pixel", params.shape[1])
    k, rest = params.shape[1] // share, tuple(params.shape[2:])
    logits = params[:, :k]
    groups = params[:, k:].reshape((params.shape[0], share - 1, k) + rest)
    coeffs = groups[:, 2 * channels :] if channels == 3 else None
    return logits, groups[:, :channels], groups[:, channels : 2 * channels], coeffs


def quantise(levels: np.ndarray, count: int = 256) -> np.ndarray:
    """Real-valued levels -> the nearest of 0 ... count - 1, float32: halves upwards, the ends absorb the tails. NaN -> 0."""
    return np.nan_to_num(np.clip(np.floor(levels + np.float32(0.5)), 0, np.float32(count - 1)), nan=0)
