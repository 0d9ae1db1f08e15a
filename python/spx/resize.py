"""Bicubic resampling that averages over areas where it shrinks: torch's `interpolate(mode="bicubic", antialias=True)` in NumPy."""

from __future__ import annotations

import numpy as np


def cubic(t: np.ndarray) -> np.ndarray:
    """The cubic convolution kernel with a = -1/2 (Keys 1981, equation 15), 0 beyond |t| = 2."""
    t = np.abs(t)
    near, far = (1.5 * t - 2.5) * t**2 + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
    return np.where(t < 1, near, np.where(t < 2, far, 0))


def weights(before: int, after: int) -> np.ndarray:
    """Shares of `before` samples of an axis in each of `after` of them, [after, before]; rows sum to 1.

    Samples are areas of equal length. Where they grow, the kernel is stretched to as many old samples as make a new one.
    """
    ratio = before / after
    centre = ratio * (np.arange(after) + 0.5)
    t = (np.arange(before) + 0.5 - centre[:, None]) / max(ratio, 1)
    shares = cubic(t)
    return shares / shares.sum(axis=1, keepdims=True)


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Images in [-1, 1] at another size; `spx.vae.VAE.resample` in NumPy.

    Args:
        images: float32 [N, H, W, C].
        size: side of the result.

    Returns:
        float32 [N, size, size, C] in [-1, 1]; the same array if it has that size.
    """
    height, width = images.shape[1:3]
    if (height, width) == (size, size):
        return images
    rows = np.tensordot(weights(height, size), images, axes=(1, 1))  # [size, N, W, C]
    result = np.tensordot(weights(width, size), rows, axes=(1, 2))  # [size, size, N, C], columns first
    return np.clip(result.transpose(2, 1, 0, 3), -1, 1).astype(np.float32)
