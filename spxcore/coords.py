"""Coordinates of pixels, windows and the places inside them (paper, section 4.1). Array library agnostic: NumPy in, NumPy out."""

from __future__ import annotations

import math

import numpy as np


def axis(n: int) -> np.ndarray:
    """Coordinates of `n` pixels along one axis, evenly spaced over [-1, 1], both ends included. float32 [n]."""
    return np.linspace(-1.0, 1.0, n).astype(np.float32)


def place_axis(first: np.ndarray, last: np.ndarray, places: int) -> np.ndarray:
    """Coordinates of a window's places along one axis at one resolution.

    The window's range is resampled linearly to `places` equal steps, ends included (paper, section 4.1); a single place
    takes the middle.

    Args:
        first: [N] coordinate of each window's first pixel.
        last: [N] coordinate of each window's last pixel.
        places: places along this axis at this resolution.

    Returns:
        float32 [N, places].
    """
    step = np.linspace(0.0, 1.0, places, dtype=np.float32) if places > 1 else np.array([0.5], np.float32)
    return (first[:, None] * (1 - step) + last[:, None] * step).astype(np.float32)


def scale(height: int, width: int, sizes: tuple[int, int]) -> float:
    """The scale input: log n, n the geometric mean of height and width, mapped from `sizes` to [-1, 1] and clamped.

    A network trained at a single size gets 0.
    """
    low, high = sizes
    if low == high:
        return 0.0
    n = math.sqrt(height * width)
    return float(np.clip(2.0 * math.log(n / low) / math.log(high / low) - 1.0, -1.0, 1.0))
