"""The end of a gated ResNet layer in training as one kernel: conditioning, gate and residual, forward and backward.

    out = x + a sigmoid(b),   (a, b) = y + h                    (van den Oord et al. 2016, equation 4; PixelCNN++)

PyTorch reads and writes y + h, the sigmoid and the product; this kernel reads x, y and h and writes out. Its backward pass keeps
y and h instead of those, and computes the sigmoid again:

    dx = g,   da = g s,   db = g a s (1 - s),   s = sigmoid(b),   dh = (da, db), summed where h was broadcast.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..errors import require

BLOCK = 1024  # numbers of a program; not measured yet


@triton.jit
def halves(i, y, h, plane, channels, valid, H: tl.constexpr, TYPE: tl.constexpr):
    """Where a lies in y, a and b, at numbers i of the result [B, channels, plane]. H: h has "none", "one" or "all" numbers of a plane."""
    channel, image = i // plane % channels, i // plane // channels
    at = i + image * channels * plane  # images of y are twice as long
    a = tl.load(y + at, mask=valid, other=0.0).to(TYPE)
    b = tl.load(y + at + channels * plane, mask=valid, other=0.0).to(TYPE)
    if H == "one":
        of_h = channel + image * 2 * channels
        a += tl.load(h + of_h, mask=valid, other=0.0).to(TYPE)
        b += tl.load(h + of_h + channels, mask=valid, other=0.0).to(TYPE)
    elif H == "all":
        a += tl.load(h + at, mask=valid, other=0.0).to(TYPE)
        b += tl.load(h + at + channels * plane, mask=valid, other=0.0).to(TYPE)
    return at, a, b


@triton.jit
def forward_kernel(
    x, y, h, out, count, plane, channels, H: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """x, out [B, channels, plane], y [B, 2 channels, plane], h the same, [B, 2 channels], or not read; computed in TYPE."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = i < count
    _, a, b = halves(i, y, h, plane, channels, valid, H, TYPE)
    result = tl.load(x + i, mask=valid, other=0.0).to(TYPE) + a / (1.0 + tl.exp(-b))
    tl.store(out + i, result.to(out.dtype.element_ty), mask=valid)


@triton.jit
def backward_kernel(
    g, y, h, dy, count, plane, channels, H: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """g [B, channels, plane], the gradient of the result -> dy [B, 2 channels, plane]."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = i < count
    at, a, b = halves(i, y, h, plane, channels, valid, H, TYPE)
    s = 1.0 / (1.0 + tl.exp(-b))
    da = tl.load(g + i, mask=valid, other=0.0).to(TYPE) * s
    tl.store(dy + at, da.to(dy.dtype.element_ty), mask=valid)
    db = da * a * (1.0 - s)
    tl.store(dy + at + channels * plane, db.to(dy.dtype.element_ty), mask=valid)


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor, h: Tensor | None) -> Tensor:
        x, y = x.contiguous(), y.contiguous()
        h = None if h is None else h.contiguous()
        ctx.save_for_backward(y, h)
        out = torch.empty_like(x)
        _launch(forward_kernel, x, y, h, out)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g: Tensor):
        y, h = ctx.saved_tensors
        g, dy = g.contiguous(), torch.empty_like(y)
        _launch(backward_kernel, g, y, h, dy)
        dh = None
        if h is not None and ctx.needs_input_grad[2]:
            dh = (dy if h.shape == dy.shape else dy.sum(dim=(2, 3), keepdim=True)).to(h.dtype)
        return g, dy, dh


def _launch(kernel, first: Tensor, y: Tensor, h: Tensor | None, out: Tensor) -> None:
    _, channels, height, width = first.shape
    how = "none" if h is None else "one" if h.shape[2:] == (1, 1) != y.shape[2:] else "all"
    count = first.numel()
    exact = tl.float64 if first.dtype == torch.float64 else tl.float32
    if count:
        with (
            torch.cuda.device(first.device) if first.is_cuda else nullcontext()
        ):  # Triton launches on the current device
            kernel[(triton.cdiv(count, BLOCK),)](
                first, y, y if h is None else h, out, count, height * width, channels, H=how, TYPE=exact, BLOCK=BLOCK
            )


def gate(x: Tensor, y: Tensor, h: Tensor | None = None) -> Tensor:
    """x + a sigmoid(b) with (a, b) = y + h, differentiable in all three.

    Args:
        x: [B, F, H, W].
        y: [B, 2 F, H, W].
        h: [B, 2 F, H, W] or [B, 2 F, 1, 1], or None.

    Returns:
        [B, F, H, W] of x's type; computed in fp64 for fp64, else in fp32.
    """
    batch, channels, height, width = x.shape
    require(
        tuple(y.shape) == (batch, 2 * channels, height, width),
        "y",
        f"shape {[batch, 2 * channels, height, width]}",
        y.shape,
    )
    if h is not None:
        fits = h.shape[:2] == y.shape[:2] and h.shape[2:] in (y.shape[2:], (1, 1))
        require(fits, "h", f"shape {list(y.shape)} or {[batch, 2 * channels, 1, 1]}", h.shape)
    return _Gate.apply(x, y, h)
