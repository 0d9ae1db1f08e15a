"""The layers PixelCNN++ is made of (Salimans et al. 2017): weight-normalised convolutions, concat_elu, the gated ResNet layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def concat_elu(x: Tensor) -> Tensor:
    """elu of x and of -x side by side: [B, C, H, W] -> [B, 2C, H, W] (Shang et al. 2016, as in PixelCNN++)."""
    return F.elu(torch.cat([x, -x], dim=1))


class WeightNormConv2d(nn.Module):
    """Convolution with weight g v / ||v|| (Salimans & Kingma 2016), explicit zero padding, and data-dependent initialisation.

    Args:
        inputs, outputs: channels.
        kernel: (height, width).
        padding: zeros added on each side, (left, right, top, bottom).
        stride: of both axes. A transposed convolution multiplies the resolution by it.
        transposed: transposed convolution; its output is cropped to `stride` times the input at (0, crop).
        crop: columns cut off on the left of a transposed convolution's output.
        init_scale: standard deviation of each output channel after initialisation.
        exact: computed in fp32 under autocast too (what residuals add up on, and the mixture's parameters).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        stride: int = 1,
        transposed: bool = False,
        crop: int = 0,
        init_scale: float = 1.0,
        exact: bool = False,
    ):
        super().__init__()
        self.exact = exact
        self.kernel, self.padding, self.stride = kernel, padding, stride
        self.transposed, self.crop, self.init_scale = transposed, crop, init_scale
        self.v = nn.Parameter(torch.randn(outputs, inputs, *kernel) * 0.05)
        self.g = nn.Parameter(torch.ones(outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.initialising = False

    def weight(self) -> Tensor:
        """The convolution's weight with the norm folded in, [outputs, inputs, kernel_h, kernel_w]."""
        return self.v * (self.g / self.v.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)

    def _convolve(self, x: Tensor) -> Tensor:
        if self.transposed:
            height, width = x.shape[2] * self.stride, x.shape[3] * self.stride
            y = F.conv_transpose2d(
                x, self.weight().transpose(0, 1), self.bias, self.stride, output_padding=self.stride - 1
            )
            return y[:, :, :height, self.crop : self.crop + width]
        if any(self.padding):
            x = F.pad(x, self.padding)
        return F.conv2d(x, self.weight(), self.bias, self.stride)

    @torch.no_grad()
    def _initialise(self, x: Tensor) -> None:
        """Set g and bias so that each output channel has mean 0 and standard deviation init_scale on this batch."""
        self.g.fill_(1.0)
        self.bias.zero_()
        y = self._convolve(x)
        std = y.std(dim=(0, 2, 3))
        # A channel that sees only zeros (stream u where the patch is one place wide) has nothing to scale.
        self.g.copy_(torch.where(std > 1e-5, self.init_scale / std, self.init_scale))
        self.bias.copy_(-y.mean(dim=(0, 2, 3)) * self.g)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H', W']."""
        if self.initialising:
            self._initialise(x)
        if self.exact:
            with torch.autocast(x.device.type, enabled=False):
                return self._convolve(x.float())
        return self._convolve(x)


@contextmanager
def data_dependent_initialisation(module: nn.Module) -> Iterator[None]:
    """Inside, one forward pass through `module` initialises every weight-normalised layer from what it sees."""
    layers = [layer for layer in module.modules() if isinstance(layer, WeightNormConv2d)]
    for layer in layers:
        layer.initialising = True
    try:
        yield
    finally:
        for layer in layers:
            layer.initialising = False


def down_shifted(inputs: int, outputs: int, kernel=(2, 3), **options) -> WeightNormConv2d:
    """Convolution that sees its own row and rows above, all columns: padded on top, left and right (stream u)."""
    side = (kernel[1] - 1) // 2
    return WeightNormConv2d(inputs, outputs, kernel, (side, side, kernel[0] - 1, 0), **options)


def down_right_shifted(inputs: int, outputs: int, kernel=(2, 2), **options) -> WeightNormConv2d:
    """Convolution that sees rows above and columns to the left, its own included: padded on top and left (stream ul)."""
    return WeightNormConv2d(inputs, outputs, kernel, (kernel[1] - 1, 0, kernel[0] - 1, 0), **options)


def down_shifted_up(inputs: int, outputs: int) -> WeightNormConv2d:
    """Transposed 2x3 convolution of stride 2 for stream u, shifted so that no row sees one below it."""
    return WeightNormConv2d(inputs, outputs, (2, 3), stride=2, transposed=True, crop=1, exact=True)


def down_right_shifted_up(inputs: int, outputs: int) -> WeightNormConv2d:
    """Transposed 2x2 convolution of stride 2 for stream ul."""
    return WeightNormConv2d(inputs, outputs, (2, 2), stride=2, transposed=True, exact=True)


def same(inputs: int, outputs: int, kernel=(3, 3), **options) -> WeightNormConv2d:
    """Ordinary convolution, zero padded on all sides (the image-level networks)."""
    h, w = kernel[0] // 2, kernel[1] // 2
    return WeightNormConv2d(inputs, outputs, kernel, (w, w, h, h), **options)


def down_shift(x: Tensor) -> Tensor:
    """Move everything one row down, zeros in the first row. [B, C, H, W] -> the same."""
    return F.pad(x, (0, 0, 1, 0))[:, :, :-1]


def right_shift(x: Tensor) -> Tensor:
    """Move everything one column to the right, zeros in the first column. [B, C, H, W] -> the same."""
    return F.pad(x, (1, 0, 0, 0))[:, :, :, :-1]


class GatedResnet(nn.Module):
    """Gated ResNet layer: x + a sigmoid(b), (a, b) = conv(concat_elu(conv(concat_elu(x)) + nin(concat_elu(aux)))) + h.

    Source: PixelCNN++ (Salimans et al. 2017) with the conditional gate of van den Oord et al. 2016, equations 4 and 5.

    Args:
        filters: channels of x and of the result.
        conv: maker of the layer's two convolutions, called as conv(inputs, outputs, init_scale=...).
        aux: channels of the auxiliary input; 0 for none.
        dropout: probability of dropping a unit between the two convolutions.
    """

    def __init__(self, filters: int, conv: Callable[..., WeightNormConv2d], aux: int = 0, dropout: float = 0.0):
        super().__init__()
        self.conv_in = conv(2 * filters, filters)
        self.nin_aux = WeightNormConv2d(2 * aux, filters) if aux else None
        self.conv_out = conv(2 * filters, 2 * filters, init_scale=0.1)
        self.dropout = nn.Dropout(dropout)
        self.fused = False  # whether the last line is one Triton kernel (GPU; spxcore.kernels.gated)

    def forward(self, x: Tensor, aux: Tensor | None = None, h: Tensor | None = None) -> Tensor:
        """x [B, filters, H, W], aux [B, aux, H, W], h broadcastable to [B, 2 filters, H, W] -> [B, filters, H, W]."""
        y = self.conv_in(concat_elu(x))
        if self.nin_aux is not None:
            y = y + self.nin_aux(concat_elu(aux))
        y = self.conv_out(self.dropout(concat_elu(y)))
        if self.fused:
            from .kernels.gated import gate

            return gate(x, y, h)
        if h is not None:
            y = y + h
        a, b = y.chunk(2, dim=1)
        return x + a * torch.sigmoid(b)
