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
def halves(i, y, h, plane, channels, y_image, h_image, valid, H: tl.constexpr, TYPE: tl.constexpr):
    """The image of numbers i of the result [B, channels, plane], where in it they lie, a and b. H: h has "none", "one" or "all"
    numbers of a plane. y_image, h_image: from one image of y, and of h, to the next."""
    image = i // plane // channels
    at = i - image * channels * plane
    of_y = y + image * y_image + at
    a = tl.load(of_y, mask=valid, other=0.0).to(TYPE)
    b = tl.load(of_y + channels * plane, mask=valid, other=0.0).to(TYPE)
    if H == "one":
        of_h = h + image * h_image + at // plane
        a += tl.load(of_h, mask=valid, other=0.0).to(TYPE)
        b += tl.load(of_h + channels, mask=valid, other=0.0).to(TYPE)
    elif H == "all":
        of_h = h + image * h_image + at
        a += tl.load(of_h, mask=valid, other=0.0).to(TYPE)
        b += tl.load(of_h + channels * plane, mask=valid, other=0.0).to(TYPE)
    return image, at, a, b


@triton.jit
def forward_kernel(
    x, y, h, out, count, plane, channels, x_image, y_image, h_image, H: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """x, out [B, channels, plane], y [B, 2 channels, plane], h the same, [B, 2 channels], or not read; computed in TYPE."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = i < count
    image, at, a, b = halves(i, y, h, plane, channels, y_image, h_image, valid, H, TYPE)
    result = tl.load(x + image * x_image + at, mask=valid, other=0.0).to(TYPE) + a / (1.0 + tl.exp(-b))
    tl.store(out + i, result.to(out.dtype.element_ty), mask=valid)


@triton.jit
def backward_kernel(
    g, y, h, dy, count, plane, channels, g_image, y_image, h_image, H: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """g [B, channels, plane], the gradient of the result -> dy [B, 2 channels, plane]."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = i < count
    image, at, a, b = halves(i, y, h, plane, channels, y_image, h_image, valid, H, TYPE)
    s = 1.0 / (1.0 + tl.exp(-b))
    da = tl.load(g + image * g_image + at, mask=valid, other=0.0).to(TYPE) * s
    of_dy = dy + image * 2 * channels * plane + at
    tl.store(of_dy, da.to(dy.dtype.element_ty), mask=valid)
    db = da * a * (1.0 - s)
    tl.store(of_dy + channels * plane, db.to(dy.dtype.element_ty), mask=valid)


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor, h: Tensor | None) -> Tensor:
        x, y, h = _planes(x), _planes(y), None if h is None else _planes(h)
        ctx.save_for_backward(y, h)
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        _launch(forward_kernel, x, y, h, out)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g: Tensor):
        y, h = ctx.saved_tensors
        g, dy = _planes(g), torch.empty(y.shape, dtype=y.dtype, device=y.device)
        _launch(backward_kernel, g, y, h, dy)
        dh = None
        if h is not None and ctx.needs_input_grad[2]:
            dh = (dy if h.shape == dy.shape else dy.sum(dim=(2, 3), keepdim=True)).to(h.dtype)
        return g, dy, dh


def _planes(t: Tensor) -> Tensor:
    """The tensor, each image of which is one piece of memory. Some channels of a wider one are so already, and are not copied."""
    return t if t[:1].is_contiguous() else t.contiguous()


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
                first, y, y if h is None else h, out, count, height * width, channels,
                first.stride(0), y.stride(0), 0 if h is None else h.stride(0), H=how, TYPE=exact, BLOCK=BLOCK,
                enable_fp_fusion=False,
            )  # fmt: skip


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
