"""The variational auto-encoder whose code z tells Spatial PixelCNN what the whole image is (paper, section 3.1, equation 6)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spxcore.layers import GatedResnet, WeightNormConv2d, concat_elu, same

from .config import VAEConfig


def grow(inputs: int, outputs: int) -> WeightNormConv2d:
    """Transposed 2x2 convolution of stride 2: twice the resolution, no overlap."""
    return WeightNormConv2d(inputs, outputs, (2, 2), stride=2, transposed=True)


class LatentGatedResnet(GatedResnet):
    """Gated ResNet layer with a 3x3 convolution and the code z added before the gate (paper, section 4.1)."""

    def __init__(self, filters: int, latent: int):
        super().__init__(filters, same)
        self.latent = nn.Parameter(torch.randn(2 * filters, latent) * 0.05)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x [B, filters, H, W], z [B, latent] -> [B, filters, H, W]."""
        return super().forward(x, h=F.linear(z, self.latent)[:, :, None, None])


class Encoder(nn.Module):
    """q(z | x): mean and log-variance of a diagonal Gaussian."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        _, half, quarter = config.filters
        self.shrink_1 = same(config.channels, half, (5, 5), stride=2)
        self.layers_1 = nn.ModuleList(GatedResnet(half, same) for _ in range(config.layers))
        self.shrink_2 = same(2 * half, quarter, (3, 3), stride=2)
        self.layers_2 = nn.ModuleList(GatedResnet(quarter, same) for _ in range(config.layers))
        side = config.size // 4
        self.code = WeightNormConv2d(2 * quarter, 2 * config.latent, (side, side), init_scale=0.5, exact=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, C, size, size] in [-1, 1] -> mean, log-variance, each [B, latent]."""
        h = self.shrink_1(x)
        for layer in self.layers_1:
            h = layer(h)
        h = self.shrink_2(concat_elu(h))
        for layer in self.layers_2:
            h = layer(h)
        mean, log_variance = self.code(concat_elu(h)).flatten(1).chunk(2, dim=1)
        return mean, log_variance.clamp(-12.0, 4.0)


class Decoder(nn.Module):
    """p(x | z): a mixture of discretised logistics at every pixel."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        full, half, quarter = config.filters
        self.side = config.size // 4
        self.code = WeightNormConv2d(config.latent, quarter, (self.side, self.side), stride=self.side, transposed=True)
        self.layers_2 = nn.ModuleList(LatentGatedResnet(quarter, config.latent) for _ in range(config.layers))
        self.grow_2 = grow(2 * quarter, half)
        self.layers_1 = nn.ModuleList(LatentGatedResnet(half, config.latent) for _ in range(config.layers))
        self.grow_1 = grow(2 * half, full)
        self.layers_0 = nn.ModuleList([LatentGatedResnet(full, config.latent)])
        self.nin_out = WeightNormConv2d(2 * full, config.outputs, exact=True)

    def forward(self, z: Tensor) -> Tensor:
        """z [B, latent] -> mixture parameters [B, P, size, size]."""
        h = self.code(z[:, :, None, None])
        for layer in self.layers_2:
            h = layer(h, z)
        h = self.grow_2(concat_elu(h))
        for layer in self.layers_1:
            h = layer(h, z)
        h = self.grow_1(concat_elu(h))
        for layer in self.layers_0:
            h = layer(h, z)
        return self.nin_out(concat_elu(h))


class VAE(nn.Module):
    """Encoder and decoder together."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def resample(self, x: Tensor) -> Tensor:
        """Images of any size [B, C, H, W] -> [B, C, size, size], averaging over areas where they shrink."""
        size = self.config.size
        if x.shape[-2:] == (size, size):
            return x
        return F.interpolate(x, (size, size), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images of any size [B, C, H, W] in [-1, 1] -> mean and log-variance of q(z | x), each [B, latent]."""
        return self.encoder(self.resample(x))

    def decode(self, z: Tensor) -> Tensor:
        """z [B, latent] -> mixture parameters [B, P, size, size]."""
        return self.decoder(z)


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(q(z | x) || N(0, I)) in nats, [B, latent] twice -> [B] (Kingma & Welling 2013, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)


def reparameterise(mean: Tensor, log_variance: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A draw z = mean + sigma eps (Kingma & Welling 2013, section 2.4). [B, latent] twice -> [B, latent]."""
    eps = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
    return mean + (0.5 * log_variance).exp() * eps


def mean_image(params: Tensor, channels: int) -> Tensor:
    """Mean of the decoder's mixture, [B, P, H, W] -> [B, C, H, W] (for RGB the channels' own means, unconditioned)."""
    from spxcore.mixture import split

    logits, means, _, _ = split(params, channels)
    return (torch.softmax(logits, dim=1)[:, None] * means.clamp(-1, 1)).sum(dim=2)
