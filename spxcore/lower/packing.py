"""Numbers in the order and the precision in which GPUs read them: shared by the cuda and the triton engine's tables."""

from __future__ import annotations

import numpy as np


def interleaved(numbers: np.ndarray, gated: bool) -> np.ndarray:
    """[..., 2 nf] as (a, b) -> (a_0, b_0, a_1, b_1 ...) before a gate, so that whoever sums a number has both halves; else as it is."""
    if not gated:
        return numbers
    halves = numbers.reshape(*numbers.shape[:-1], 2, numbers.shape[-1] // 2)
    return np.ascontiguousarray(np.swapaxes(halves, -1, -2)).reshape(numbers.shape)


def round_bf16(x: np.ndarray) -> np.ndarray:
    """float32 -> the upper 16 bits of the nearest bf16, halves to even; uint32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def round_tf32(x: np.ndarray) -> np.ndarray:
    """float32 -> the bits of the nearest number with 10 bits of mantissa, halves away from zero; uint32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return bits + 0x1000 & 0xFFFFE000


def code_numbers(code: np.ndarray | None, u: np.ndarray, images: int) -> np.ndarray:
    """U z of every layer side by side: code z float32 [N, Z] or None, u float32 [Z, L] -> float32 [N, L].

    Summed in one order whatever N is, as a matrix product is not: an image is the same alone and in company.
    """
    result = np.zeros((images, u.shape[1]), np.float32)
    if code is not None:
        for i in range(len(u)):
            result += code[:, i, None] * u[i]
    return result
