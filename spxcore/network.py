"""Spatial PixelCNN's network on one patch: PixelCNN++ with two streams, conditioned at every place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import NetworkConfig
from .layers import (
    GatedResnet,
    WeightNormConv2d,
    down_right_shifted,
    down_right_shifted_up,
    down_shift,
    down_shifted,
    down_shifted_up,
    right_shift,
)


def place_axis(first: Tensor, last: Tensor, places: int) -> Tensor:
    """Torch twin of `spxcore.coords.place_axis`: first, last [...] -> [..., places]."""
    step = torch.linspace(0, 1, places, device=first.device) if places > 1 else first.new_tensor([0.5])
    return first[..., None] * (1 - step) + last[..., None] * step


def sample_maps(maps: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bilinear samples of each image's feature maps at the places of its windows.

    Args:
        maps: [N, M, h, w] over [-1, 1]^2, the outer samples at the ends of the range.
        y, x: [N, R, k], [N, R, l] coordinates of the places' rows and columns, R windows an image.

    Returns:
        [N, R, M, k, l].
    """
    (n, windows, k), width = y.shape, x.shape[2]
    grid = torch.stack(torch.broadcast_tensors(x[:, :, None, :], y[:, :, :, None]), dim=-1)
    grid = grid.reshape(n, windows * k, width, 2)
    samples = F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return samples.view(n, -1, windows, k, width).transpose(1, 2)


def place_inputs(
    config: NetworkConfig,
    rows: tuple[Tensor, Tensor],
    columns: tuple[Tensor, Tensor],
    scale: Tensor,
    maps: Tensor | None,
) -> list[Tensor | None]:
    """What the network is told at each place of windows, at the three resolutions.

    Args:
        config: of the network.
        rows, columns: coordinates in [-1, 1] of each window's first and last row and column, [N, R] each.
        scale: [N, R] scale input.
        maps: [N, M, h, w] feature maps of the N images ("spatial"), or None.

    Returns:
        [N * R, D, m/2^k, m/2^k] for k = 0, 1, 2: (y, x) or (y, x, scale, s_1 ... s_M); None thrice without coordinates.
    """
    if not config.place_inputs:
        return [None, None, None]
    result = []
    for side in config.resolutions():
        y, x = place_axis(*rows, side), place_axis(*columns, side)
        planes = [
            y[:, :, None, :, None].expand(-1, -1, -1, -1, side),
            x[:, :, None, None, :].expand(-1, -1, -1, side, -1),
        ]
        if config.conditioning == "spatial":
            planes.append(scale[:, :, None, None, None].expand(-1, -1, -1, side, side))
            planes.append(sample_maps(maps, y, x))
        result.append(torch.cat(planes, dim=2).flatten(0, 1))
    return result


class PlaceConditioning(nn.Module):
    """V * c[y, x] + U z for all gated layers of one resolution at once (van den Oord et al. 2016, equations 4 and 5).

    One 1x1 convolution serves every layer of both streams; each takes its own 2 nf channels of the result.
    """

    def __init__(self, config: NetworkConfig, layers: int):
        super().__init__()
        self.filters, self.layers = config.filters, layers
        outputs = layers * 2 * config.filters
        self.places = nn.Parameter(torch.randn(outputs, config.place_inputs) * 0.05) if config.place_inputs else None
        self.latent = nn.Parameter(torch.randn(outputs, config.latent) * 0.05) if config.latent else None

    def forward(self, places: Tensor | None, z: Tensor | None) -> list[Tensor | None]:
        """places [B, D, h, w], z [B, latent] -> one [B, 2 nf, h or 1, w or 1] a layer (None without any conditioning)."""
        h = None
        if self.places is not None:
            h = F.conv2d(places, self.places[:, :, None, None])
        if self.latent is not None:
            constant = F.linear(z, self.latent)[:, :, None, None]
            h = constant if h is None else h + constant
        return [None] * self.layers if h is None else list(h.split(2 * self.filters, dim=1))


class PixelCNN(nn.Module):
    """Spatial PixelCNN (Akoury & Nguyen 2017, section 4.1): PixelCNN++ on an m x m patch.

    Six blocks of gated ResNet layers, three going down in resolution (m, m/2, m/4), three coming back with skip
    connections. Stream `u` sees all rows above, stream `ul` rows above and pixels to the left.
    """

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.config = config
        nf, inputs = config.filters, config.channels + 1

        self.u_in = down_shifted(inputs, nf, (2, 3), exact=True)
        self.ul_in_above = down_shifted(inputs, nf, (1, 3), exact=True)
        self.ul_in_left = down_right_shifted(inputs, nf, (2, 1), exact=True)

        def gated(conv, aux=0):
            return GatedResnet(nf, conv, aux, config.dropout)

        # Blocks by resolution 0, 1, 2; going up the last two have one layer more, to consume every skip.
        up_layers = [config.gated_layers(r) - config.layers for r in range(3)]
        self.u_down = nn.ModuleList(nn.ModuleList(gated(down_shifted) for _ in range(config.layers)) for _ in range(3))
        self.ul_down = nn.ModuleList(
            nn.ModuleList(gated(down_right_shifted, nf) for _ in range(config.layers)) for _ in range(3)
        )
        self.u_up = nn.ModuleList(nn.ModuleList(gated(down_shifted, nf) for _ in range(n)) for n in up_layers)
        self.ul_up = nn.ModuleList(
            nn.ModuleList(gated(down_right_shifted, 2 * nf) for _ in range(n)) for n in up_layers
        )

        self.u_shrink = nn.ModuleList(down_shifted(nf, nf, stride=2, exact=True) for _ in range(2))
        self.ul_shrink = nn.ModuleList(down_right_shifted(nf, nf, stride=2, exact=True) for _ in range(2))
        self.u_grow = nn.ModuleList(down_shifted_up(nf, nf) for _ in range(2))
        self.ul_grow = nn.ModuleList(down_right_shifted_up(nf, nf) for _ in range(2))
        self.conditioning = nn.ModuleList(PlaceConditioning(config, 2 * config.gated_layers(r)) for r in range(3))
        self.nin_out = WeightNormConv2d(nf, config.outputs, exact=True)

    def forward(self, x: Tensor, places: Sequence[Tensor | None], z: Tensor | None) -> Tensor:
        """Mixture parameters of every pixel given the pixels before it.

        Args:
            x: [B, C, m, m] pixels in [-1, 1] on the 256-level grid.
            places: conditioning at each place of the three resolutions, [B, D, m/2^k, m/2^k] for k = 0, 1, 2.
            z: [B, latent], or None for a network without latent.

        Returns:
            [B, P, m, m]: logits [K], means [C, K], log-scales [C, K] and, for RGB, coefficients [3, K] of each pixel.
        """
        # Per resolution the layers' conditioning in the order they run: going down u, ul, u, ul ..., then coming up.
        h = [iter(conditioning(places[k], z)) for k, conditioning in enumerate(self.conditioning)]

        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        us = [down_shift(self.u_in(x))]
        uls = [down_shift(self.ul_in_above(x)) + right_shift(self.ul_in_left(x))]
        for k in range(3):
            for u_layer, ul_layer in zip(self.u_down[k], self.ul_down[k], strict=True):
                us.append(u_layer(us[-1], h=next(h[k])))
                uls.append(ul_layer(uls[-1], us[-1], next(h[k])))
            if k < 2:
                us.append(self.u_shrink[k](us[-1]))
                uls.append(self.ul_shrink[k](uls[-1]))

        u, ul = us.pop(), uls.pop()
        for k in (2, 1, 0):
            for u_layer, ul_layer in zip(self.u_up[k], self.ul_up[k], strict=True):
                u = u_layer(u, us.pop(), next(h[k]))
                ul = ul_layer(ul, torch.cat([u, uls.pop()], dim=1), next(h[k]))
            if k > 0:
                u = self.u_grow[k - 1](u)
                ul = self.ul_grow[k - 1](ul)
        return self.nin_out(F.elu(ul))
