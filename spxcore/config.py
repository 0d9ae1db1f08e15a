"""What a network is: its hyperparameters and the named presets. No torch here."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from numbers import Integral

from .errors import SpxError, require

CONDITIONINGS = ("spatial", "paper")


def check_whole_numbers(config, prefix: str = "") -> None:
    """Raise an `SpxError` unless every field of a dataclass that is an int holds one; config.json may hold anything."""
    for f in fields(config):
        value = getattr(config, f.name)
        require(f.type != "int" or isinstance(value, Integral), prefix + f.name, "a whole number", repr(value))


@dataclass(frozen=True)
class NetworkConfig:
    """Hyperparameters of a Spatial PixelCNN (Akoury & Nguyen 2017, section 4.1), everything that fixes its tensors' shapes.

    Attributes:
        patch: side m of the patch, in pixels; a multiple of 4.
        channels: C, 1 (grey) or 3 (RGB).
        filters: nf, filters of every convolution (paper: 25 small, 140 large).
        layers: gated ResNet layers a block (paper: 2 small, 5 large).
        mixtures: K, logistics in the output mixture.
        latent: length of the latent code z; 0 leaves it out.
        conditioning: "paper" (coordinates added linearly) or "spatial" (feature maps of z sampled at each place).
        coordinates: whether the network sees pixel coordinates (the paper's first ablation; "spatial" needs them).
        maps: number of feature maps of the "spatial" conditioning.
        dropout: probability of dropping a unit inside a gated layer while training.
        sizes: smallest and largest image size n the network is trained for, in pixels; fixes the scale input.
    """

    patch: int = 8
    channels: int = 1
    filters: int = 25
    layers: int = 2
    mixtures: int = 10
    latent: int = 60
    conditioning: str = "spatial"
    coordinates: bool = True
    maps: int = 12
    dropout: float = 0.0
    sizes: tuple[int, int] = field(default=(28, 1400))

    def __post_init__(self):
        object.__setattr__(self, "sizes", tuple(self.sizes))
        check_whole_numbers(self)
        require(self.patch >= 4 and self.patch % 4 == 0, "patch", "a multiple of 4, at least 4", self.patch)
        require(self.channels in (1, 3), "channels", "1 or 3", self.channels)
        require(self.filters >= 1, "filters", "at least 1", self.filters)
        require(self.layers >= 1, "layers", "at least 1", self.layers)
        require(1 <= self.mixtures <= 64, "mixtures", "1 to 64", self.mixtures)
        require(self.latent >= 0, "latent", "0 (none) or more", self.latent)
        require(self.conditioning in CONDITIONINGS, "conditioning", " or ".join(CONDITIONINGS), self.conditioning)
        require(0 <= self.dropout < 1, "dropout", "0 <= p < 1", self.dropout)
        low_high = len(self.sizes) == 2 and self.patch <= self.sizes[0] <= self.sizes[1]
        require(low_high, "sizes", f"(smallest, largest), both at least the patch's {self.patch}", self.sizes)
        if self.conditioning == "spatial":
            require(self.coordinates, "coordinates", "True with spatial conditioning", self.coordinates)
            require(self.latent > 0, "latent", "at least 1 with spatial conditioning", self.latent)
            require(self.maps >= 1, "maps", "at least 1 with spatial conditioning", self.maps)

    @property
    def outputs(self) -> int:
        """P, numbers a pixel's mixture takes: K logits, C K means, C K log-scales and, for RGB, 3 K coefficients."""
        return self.mixtures * (3 if self.channels == 1 else 10)

    @property
    def place_inputs(self) -> int:
        """D, conditioning numbers at each place: (y, x), and with feature maps (y, x, scale, s_1 ... s_maps)."""
        if self.conditioning == "spatial":
            return 3 + self.maps
        return 2 if self.coordinates else 0

    def resolutions(self) -> tuple[int, int, int]:
        """Sides of the patch at the three resolutions, in places: (m, m/2, m/4)."""
        return self.patch, self.patch // 2, self.patch // 4

    def gated_layers(self, resolution: int) -> int:
        """Gated layers of *each* stream at resolution index 0, 1, 2. The last two blocks have one more, as in PixelCNN++."""
        return 2 * self.layers + (1 if resolution < 2 else 0)


_PRESET = re.compile(r"(?:(paper|pixelcnnpp)-)?(small|large)-(\d+)x(\d+)")
_SIZES = {"small": {"filters": 25, "layers": 2}, "large": {"filters": 140, "layers": 5}}


def preset(name: str, **overrides) -> NetworkConfig:
    """The network of a preset's name.

    ``[paper-|pixelcnnpp-](small|large)-MxM``: without a prefix our spatial conditioning on mixed sizes; ``paper-`` the
    paper's coordinates and latent at 28x28 with dropout 0.5; ``pixelcnnpp-`` neither (at 28x28 the PixelCNN++ baseline).

    Raises:
        SpxError: for a name that is not of this form, or an `overrides` value out of range.
    """
    match = _PRESET.fullmatch(name)
    if not match or match[3] != match[4]:
        raise SpxError(
            f"preset: expected [paper-|pixelcnnpp-](small|large)-MxM such as small-8x8 or paper-large-16x16, got {name!r}"
        )
    kind, size, patch, _ = match.groups()
    fields = dict(_SIZES[size], patch=int(patch))
    if kind:
        fields.update(conditioning="paper", dropout=0.5, sizes=(28, 28))
    if kind == "pixelcnnpp":
        fields.update(coordinates=False, latent=0)
    return NetworkConfig(**{**fields, **overrides})
