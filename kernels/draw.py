"""One pixel's random numbers and its draw from the mixture, in Triton: the twin of `csrc/draw.h`, `spxcore.rng` and
`spxcore.mixture`, name for name."""

from __future__ import annotations

import triton
import triton.language as tl

from ..mixture import MIN_LOG_SCALE as _MIN_LOG_SCALE

MIN_LOG_SCALE = tl.constexpr(_MIN_LOG_SCALE)


@triton.jit
def uniform(word):
    """uint32 -> float32 in (0, 1): ((w >> 9) + 1/2) 2^-23."""
    return ((word >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07


@triton.jit
def quantise(level):
    """Real-valued levels -> the nearest of 0 ... 255, halves upwards, as float32; NaN -> 0."""
    nearest = tl.floor(level + 0.5)
    return tl.where(nearest > 0.0, tl.minimum(nearest, 255.0), 0.0)


@triton.jit
def to_unit(level):
    """Level as float32 -> pixel value in [-1, 1]."""
    return tl.div_rn(level, tl.full(level.shape, 127.5, tl.float32)) - 1.0


@triton.jit
def tanh(x):
    """Exact to the rounding of 1: what it multiplies is at most 1."""
    return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)


@triton.jit
def draw(
    params, row, column, image, seed, temperature, levels, active,
    MAP: tl.constexpr, C: tl.constexpr, K: tl.constexpr, KP: tl.constexpr,
):  # fmt: skip
    """Draw pixels (PixelCNN++, Salimans et al. 2017, sections 2.1 and 2.2) with Philox4x32-10 (Salmon et al. 2011).

    Args:
        params: pointers [N] to each pixel's parameters: logits [K], means [C][K], log_scales [C][K], for C = 3 coeffs [3][K].
        row, column, image: integers [N], the pixel's Philox counter (row, column, image, 0).
        seed: uint64.
        temperature: factor on the logistics' scales.
        levels: pointers [N] to uint8 [C], out.
        active: bool [N], pixels to draw.
        MAP: the mean of the drawn component instead of a draw from it.
        KP: power of two, at least K.
    """
    # Random words 0 to 3.
    w0, w1, w2, w3 = tl.philox(
        seed, row.to(tl.uint32), column.to(tl.uint32), image.to(tl.uint32), tl.zeros(row.shape, tl.uint32)
    )
    # The first component whose running sum is strictly greater than u times the whole; the last if there is none.
    k = tl.arange(0, KP)
    logits = tl.load(params[:, None] + k[None, :], mask=active[:, None] & (k < K)[None, :], other=float("-inf"))
    top = tl.where(active, tl.max(logits, axis=1), 0.0)
    weights = tl.exp(logits - top[:, None])
    passed = tl.cumsum(weights, axis=1) > (uniform(w0) * tl.sum(weights, axis=1))[:, None]
    chosen = tl.min(tl.where(passed & (k < K)[None, :], k[None, :], K - 1), axis=1)

    red = tl.zeros(row.shape, tl.float32)
    green = tl.zeros(row.shape, tl.float32)
    for c in tl.static_range(C):
        x = tl.load(params + (1 + c) * K + chosen, mask=active, other=0.0)
        if c == 1:  # green sees red
            x += tanh(tl.load(params + 7 * K + chosen, mask=active, other=0.0)) * red
        if c == 2:  # blue sees red and green
            x += tanh(tl.load(params + 8 * K + chosen, mask=active, other=0.0)) * red
            x += tanh(tl.load(params + 9 * K + chosen, mask=active, other=0.0)) * green
        if not MAP:
            log_scale = tl.load(params + (1 + C + c) * K + chosen, mask=active, other=0.0)
            log_scale = tl.where(log_scale < MIN_LOG_SCALE, MIN_LOG_SCALE, log_scale)  # a NaN stays one
            if c == 0:
                u = uniform(w1)
            elif c == 1:
                u = uniform(w2)
            else:
                u = uniform(w3)
            # 1 - u is exact: u has 24 significant bits.
            x += temperature * tl.exp(log_scale) * (tl.log(u) - tl.log(1.0 - u))
        level = quantise((x + 1.0) * 127.5)
        tl.store(levels + c, level.to(tl.uint8), mask=active)
        if c == 0:
            red = to_unit(level)
        if c == 1:
            green = to_unit(level)


@triton.jit
def draw_kernel(
    params, rows, columns, images, seed, count, temperature, levels,
    MAP: tl.constexpr, C: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`draw` by itself. params float32 [N, P]; rows, columns, images int32 [N]; seed int64 [1], its bits; levels uint8 [N, C]."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    active = i < count
    P: tl.constexpr = K * (3 if C == 1 else 10)
    row = tl.load(rows + i, mask=active, other=0)
    column = tl.load(columns + i, mask=active, other=0)
    image = tl.load(images + i, mask=active, other=0)
    key = tl.load(seed).to(tl.uint64, bitcast=True)
    draw(params + i * P, row, column, image, key, temperature, levels + i * C, active, MAP, C, K, KP)


@triton.jit
def words_kernel(counters, seed, words, count, BLOCK: tl.constexpr):
    """Philox by itself. counters int32 [N, 4] and seed int64 [1] as bits -> words int32 [N, 4] as bits."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    active = i < count
    key = tl.load(seed).to(tl.uint64, bitcast=True)
    c0 = tl.load(counters + 4 * i, mask=active, other=0).to(tl.uint32, bitcast=True)
    c1 = tl.load(counters + 4 * i + 1, mask=active, other=0).to(tl.uint32, bitcast=True)
    c2 = tl.load(counters + 4 * i + 2, mask=active, other=0).to(tl.uint32, bitcast=True)
    c3 = tl.load(counters + 4 * i + 3, mask=active, other=0).to(tl.uint32, bitcast=True)
    w0, w1, w2, w3 = tl.philox(key, c0, c1, c2, c3)
    tl.store(words + 4 * i, w0.to(tl.int32, bitcast=True), mask=active)
    tl.store(words + 4 * i + 1, w1.to(tl.int32, bitcast=True), mask=active)
    tl.store(words + 4 * i + 2, w2.to(tl.int32, bitcast=True), mask=active)
    tl.store(words + 4 * i + 3, w3.to(tl.int32, bitcast=True), mask=active)
