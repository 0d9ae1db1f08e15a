"""The mixture of discretised logistics of PixelCNN++ (Salimans et al. 2017, section 2.1-2.2) in NumPy: probabilities and draws.

`csrc/draw.h` is the same code for the C++ and CUDA engines, name for name.
"""

from __future__ import annotations

import numpy as np

from .errors import require
from .rng import uniform

MIN_LOG_SCALE = -7.0
LEVELS = 256


def split(params, channels: int):
    """Network output [B, P, ...] -> logits [B, K, ...], means [B, C, K, ...], log_scales [B, C, K, ...], coeffs [B, 3, K, ...].

    `coeffs` is None for one channel. Works on NumPy arrays and torch tensors alike; the results are views.
    """
    share = 3 if channels == 1 else 10
    require(params.shape[1] % share == 0, "params", f"a multiple of {share} numbers a pixel", params.shape[1])
    k, rest = params.shape[1] // share, tuple(params.shape[2:])
    logits = params[:, :k]
    groups = params[:, k:].reshape((params.shape[0], share - 1, k) + rest)
    coeffs = groups[:, 2 * channels :] if channels == 3 else None
    return logits, groups[:, :channels], groups[:, channels : 2 * channels], coeffs


def to_unit(levels: np.ndarray) -> np.ndarray:
    """uint8 levels 0..255 -> float32 in [-1, 1]."""
    return levels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def quantise(levels: np.ndarray) -> np.ndarray:
    """Real-valued levels, (x + 1) * 127.5 -> uint8: the nearest level, halves upwards, the ends absorbing the tails. NaN -> 0."""
    return np.nan_to_num(np.clip(np.floor(levels + np.float32(0.5)), 0, LEVELS - 1), nan=0).astype(np.uint8)


def component(logits: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Inverse CDF of the mixture's components.

    Tie rule, the only one: the first component whose cumulative weight is strictly greater than u times the whole; the
    last one if there is none.

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


def levels_real(params: np.ndarray, words: np.ndarray, channels: int, temperature: float = 1.0, map: bool = False):
    """The draw before its last rounding: real-valued levels, whose fraction tells how far a bin edge is.

    Args: as :func:`draw`.

    Returns:
        float32 [N, C], (x + 1) * 127.5 for the drawn x; floor(. + 0.5) clipped to 0..255 is the level.
    """
    params = np.asarray(params, np.float32)
    logits, means, log_scales, coeffs = split(params, channels)
    rows = np.arange(len(params))
    k = component(logits, uniform(words[:, 0]))
    out = np.empty((len(params), channels), np.float32)
    previous: list[np.ndarray] = []
    for c in range(channels):
        x = means[rows, c, k]
        for i, before in enumerate(previous):  # green sees red; blue sees red and green
            x = x + np.tanh(coeffs[rows, c - 1 + i, k]) * before
        if not map:
            u = uniform(words[:, 1 + c])
            scale = np.float32(temperature) * np.exp(np.maximum(log_scales[rows, c, k], np.float32(MIN_LOG_SCALE)))
            x = x + scale * (np.log(u) - np.log1p(-u))
        out[:, c] = (x + np.float32(1)) * np.float32(127.5)
        previous.append(to_unit(quantise(out[:, c])))
    return out


def draw(
    params: np.ndarray, words: np.ndarray, channels: int, temperature: float = 1.0, map: bool = False
) -> np.ndarray:
    """Draw pixels from their mixtures.

    Args:
        params: float32 [N, P] network outputs of N pixels.
        words: uint32 [N, 4] random words of the pixels (:func:`spxcore.rng.pixel_words`); word 0 selects the component,
            words 1 to 3 draw the channels.
        channels: C, 1 or 3.
        temperature: factor on the logistics' scales; > 0.
        map: take the mean of the drawn component instead of a draw from it (MAP sampling, Kolesnikov & Lampert 2017, section 4.2).

    Returns:
        uint8 [N, C].
    """
    return quantise(levels_real(params, words, channels, temperature, map))


def probabilities(params: np.ndarray) -> np.ndarray:
    """Probability of each of the 256 levels of one-channel pixels, float64 [N, 256]; rows sum to 1.

    Args:
        params: [N, 3K] network outputs.
    """
    logits, means, log_scales, _ = split(np.asarray(params, np.float64), 1)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    edges = (np.arange(1, LEVELS) - 0.5) / 127.5 - 1  # upper edges of the first 255 levels
    inv_s = np.exp(-np.maximum(log_scales[:, 0], MIN_LOG_SCALE))
    with np.errstate(over="ignore"):
        cdf = 1 / (1 + np.exp(-(edges[None, None] - means[:, 0, :, None]) * inv_s[:, :, None]))
    cdf = np.concatenate([np.zeros_like(cdf[..., :1]), cdf, np.ones_like(cdf[..., :1])], axis=-1)
    return (weights[..., None] * np.diff(cdf, axis=-1)).sum(axis=1)
