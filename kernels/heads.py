"""One pixel's random numbers and its draw, in Triton: the twin of `csrc/random.h`, `csrc/heads`, `spxcore.rng` and `spxcore.heads`,
name for name."""

from __future__ import annotations

import triton
import triton.language as tl

from ..heads.logistics import MIN_LOG_SCALE as _MIN_LOG_SCALE

MIN_LOG_SCALE = tl.constexpr(_MIN_LOG_SCALE)


@triton.jit
def uniform(word):
    """uint32 -> float32 in (0, 1): ((w >> 9) + 1/2) 2^-23."""
    return ((word >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07


@triton.jit
def quantise(level, LEVELS: tl.constexpr):
    """Real-valued levels -> the nearest of 0 ... LEVELS - 1, halves upwards, as float32; NaN -> 0."""
    nearest = tl.floor(level + 0.5)
    return tl.where(nearest > 0.0, tl.minimum(nearest, LEVELS - 1.0), 0.0)


@triton.jit
def tanh(x):
    """Exact to the rounding of 1: what it multiplies is at most 1."""
    return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)


@triton.jit
def load_logits(params, active, COUNT: tl.constexpr, COUNT_P: tl.constexpr):
    """The first COUNT numbers of each pixel, [N, COUNT_P]: -inf beyond, and their numbers [1, COUNT_P]."""
    k = tl.arange(0, COUNT_P)[None, :]
    return tl.load(params[:, None] + k, mask=active[:, None] & (k < COUNT), other=float("-inf")), k


@triton.jit
def quantile(logits, k, u, active, COUNT: tl.constexpr):
    """Inverse CDF of categorical distributions: the first index whose running sum of weights is strictly greater than u times the
    whole; the last one if there is none.

    Args:
        logits: float32 [N, COUNT_P], -inf from COUNT on.
        k: int32 [1, COUNT_P], 0, 1, 2 ...
        u: float32 [N] in (0, 1).
        active: bool [N]; others give any index.
    """
    top = tl.where(active, tl.max(logits, axis=1), 0.0)
    weights = tl.exp(logits - top[:, None])
    passed = tl.cumsum(weights, axis=1) > (u * tl.sum(weights, axis=1))[:, None]
    return tl.min(tl.where(passed & (k < COUNT), k, COUNT - 1), axis=1)


@triton.jit
def draw_softmax(params, w0, temperature, levels, active, HEAD: tl.constexpr):
    """Draw a channel from a softmax over its levels (van den Oord et al. 2016). w0: uint32 [N] random words; the rest as of `draw`."""
    LEVELS: tl.constexpr = HEAD.value.levels
    MODE: tl.constexpr = HEAD.value.mode
    logits, k = load_logits(params, active, LEVELS, HEAD.value.components_p)
    if MODE:  # the first of the largest
        top = tl.max(logits, axis=1)
        level = tl.min(tl.where((logits == top[:, None]) & (k < LEVELS), k, LEVELS - 1), axis=1)
    else:
        cooled = tl.div_rn(logits, tl.zeros(logits.shape, tl.float32) + temperature)
        level = quantile(cooled, k, uniform(w0), active, LEVELS)
    tl.store(levels, level.to(tl.uint8), mask=active)


@triton.jit
def draw_logistics(params, w0, w1, w2, w3, temperature, levels, active, HEAD: tl.constexpr):
    """Draw from a mixture of discretised logistics (PixelCNN++, Salimans et al. 2017, sections 2.1 and 2.2).

    w0 to w3: uint32 [N] random words; the rest as of `draw`. A pixel's parameters are logits [K], means [C][K], log_scales [C][K],
    and for C = 3 coeffs [3][K].
    """
    K: tl.constexpr = HEAD.value.components
    C: tl.constexpr = HEAD.value.channels
    LEVELS: tl.constexpr = HEAD.value.levels
    MODE: tl.constexpr = HEAD.value.mode
    HALF: tl.constexpr = (LEVELS - 1) / 2
    MEANS: tl.constexpr = K
    LOG_SCALES: tl.constexpr = MEANS + C * K
    GREEN_RED: tl.constexpr = LOG_SCALES + C * K
    BLUE_RED: tl.constexpr = GREEN_RED + K
    BLUE_GREEN: tl.constexpr = BLUE_RED + K

    logits, k = load_logits(params, active, K, HEAD.value.components_p)
    chosen = params + quantile(logits, k, uniform(w0), active, K)
    red = tl.zeros(w0.shape, tl.float32)
    green = tl.zeros(w0.shape, tl.float32)
    for c in tl.static_range(C):
        x = tl.load(chosen + MEANS + c * K, mask=active, other=0.0)
        if c == 1:  # green sees red
            x += tanh(tl.load(chosen + GREEN_RED, mask=active, other=0.0)) * red
        if c == 2:  # blue sees red and green
            x += tanh(tl.load(chosen + BLUE_RED, mask=active, other=0.0)) * red
            x += tanh(tl.load(chosen + BLUE_GREEN, mask=active, other=0.0)) * green
        if not MODE:
            log_scale = tl.load(chosen + LOG_SCALES + c * K, mask=active, other=0.0)
            log_scale = tl.where(log_scale < MIN_LOG_SCALE, MIN_LOG_SCALE, log_scale)  # a NaN stays one
            if c == 0:
                u = uniform(w1)
            elif c == 1:
                u = uniform(w2)
            else:
                u = uniform(w3)
            # 1 - u is exact: u has 24 significant bits.
            x += temperature * tl.exp(log_scale) * (tl.log(u) - tl.log(1.0 - u))
        level = quantise((x + 1.0) * HALF, LEVELS)
        tl.store(levels + c, level.to(tl.uint8), mask=active)
        seen = tl.div_rn(level, tl.full(level.shape, HALF, tl.float32)) - 1.0  # in [-1, 1]
        if c == 0:
            red = seen
        if c == 1:
            green = seen


@triton.jit
def draw(params, row, column, image, number, seed, temperature, levels, active, HEAD: tl.constexpr):
    """Draw pixels, with the random words of Philox4x32-10 (Salmon et al. 2011).

    Args:
        params: pointers [N] to each pixel's parameters.
        row, column, image: integers [N]; with the draw's `number` the pixel's counter (row, column, image, number).
        seed: uint64.
        temperature: factor on the logistics' scales, divisor of a softmax's logits.
        levels: pointers [N] to uint8 [C], out.
        active: bool [N], pixels to draw.
        HEAD: `launch.HeadShape`.
    """
    KIND: tl.constexpr = HEAD.value.kind
    w0, w1, w2, w3 = tl.philox(
        seed, row.to(tl.uint32), column.to(tl.uint32), image.to(tl.uint32), tl.zeros(row.shape, tl.uint32) + number
    )
    if KIND == "softmax":
        draw_softmax(params, w0, temperature, levels, active, HEAD)
    else:
        draw_logistics(params, w0, w1, w2, w3, temperature, levels, active, HEAD)
