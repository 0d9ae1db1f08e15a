"""The map network m of the location-dependent conditioning s = m(h) (van den Oord et al. 2016, section 2.3)."""

from __future__ import annotations

from torch import Tensor, nn

from spxcore.layers import GatedResnet, WeightNormConv2d, concat_elu, same

from .config import MAP_FILTERS, VAEConfig
from .vae import grow


class FeatureMaps(nn.Module):
    """Turns z and the VAE decoder's mean image into a few feature maps over [-1, 1]^2, at twice the VAE's resolution.

    Spatial PixelCNN samples them bilinearly at each place's coordinates, so they serve an image of any size.
    """

    def __init__(self, config: VAEConfig, maps: int):
        super().__init__()
        full, half, quarter = MAP_FILTERS
        side = config.size // 4
        self.code = WeightNormConv2d(config.latent, quarter, (side, side), stride=side, transposed=True)
        self.grow_2 = grow(2 * quarter, half)
        self.layer_1 = GatedResnet(half, same)
        self.grow_1 = grow(2 * half, full)
        self.image = same(config.channels, full, (5, 5))
        self.layer_0 = GatedResnet(full, same)
        self.grow_0 = WeightNormConv2d(2 * full, maps, (2, 2), stride=2, transposed=True)

    def forward(self, z: Tensor, image: Tensor) -> Tensor:
        """z [B, latent], image [B, C, size, size] -> [B, maps, 2 size, 2 size]."""
        h = self.code(z[:, :, None, None])
        h = self.layer_1(self.grow_2(concat_elu(h)))
        h = self.grow_1(concat_elu(h)) + self.image(image)
        return self.grow_0(concat_elu(self.layer_0(h)))
