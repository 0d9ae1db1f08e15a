"""Randomness as data: Philox4x32-10 (Salmon et al. 2011), keyed by the seed and counted by the pixel.

A pixel's random words depend on (seed, row, column, image, draw) alone: not on the order of evaluation, the batch or the engine.
"""

from __future__ import annotations

import numpy as np

# A pixel's counter is (row, column, image, draw). Round k of a drawing has draw = 256 k; the codes of a prior have draw 1, which no
# round has; 2 to 255 are kept for more words a pixel.
DRAWS_A_ROUND = 256
CODE_DRAW = 1

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox4x32(seed: int, counters: np.ndarray) -> np.ndarray:
    """Ten rounds of Philox4x32.

    Args:
        seed: 64-bit key, 0 <= seed < 2^64; its low and high half are the two key words.
        counters: uint32 [N, 4].

    Returns:
        uint32 [N, 4].
    """
    c0, c1, c2, c3 = (counters[:, i].astype(np.uint64) for i in range(4))
    k0, k1 = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ np.uint64(k0), p1 & _MASK, (p0 >> _HALF) ^ c3 ^ np.uint64(k1), p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def pixel_words(seed: int, rows: np.ndarray, columns: np.ndarray, images: np.ndarray, draw: int = 0) -> np.ndarray:
    """Random words of pixels: counter = (row, column, image, draw). Integer arrays [N] -> uint32 [N, 4]."""
    counters = np.stack(np.broadcast_arrays(rows, columns, images, np.uint32(draw)), axis=1).astype(np.uint32)
    return philox4x32(seed, counters)


def uniform(words: np.ndarray) -> np.ndarray:
    """uint32 words -> float32 in (0, 1): ((w >> 9) + 1/2) 2^-23, 24 significant bits, so exact in float32 and never 0 or 1."""
    return ((words >> np.uint32(9)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)
