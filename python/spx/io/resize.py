"""Bicubic resampling that averages over areas where it shrinks, as torch's `interpolate(mode="bicubic", antialias=True)`."""

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


def resize(images, size: int):
    """Images at another size.

    Args:
        images: [..., H, W] in [-1, 1], a NumPy array or a torch tensor, float32.
        size: side of the result.

    Returns:
        [..., size, size] in [-1, 1], of the same kind; the same array if it has that size.
    """
    height, width = images.shape[-2:]
    if (height, width) == (size, size):
        return images

    def shares(before: int):
        found = weights(before, size).astype(np.float32)
        return found if isinstance(images, np.ndarray) else images.new_tensor(found)

    return (shares(height) @ images @ shares(width).swapaxes(0, 1)).clip(-1, 1)
