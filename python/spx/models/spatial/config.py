"""What a Spatial PixelCNN is: the hyperparameters of its networks, and the named presets. No torch here."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from spxcore.errors import SpxError, require, shown
from spxcore.heads import Logistics

from ...fields import make_plain
from ..parts.streams import StreamsConfig
from . import network as walks

CONDITIONINGS = ("spatial", "paper")

# The largest numbers that fields may hold: config.json may come from anywhere, and nothing may be built that takes minutes or the memory.
# The paper's largest network has 5 layers of 140 filters.
LARGEST = {
    "patch": 256, "filters": 4096, "layers": 64, "mixtures": 64, "latent": 1 << 14, "maps": 4096, "sizes": 1 << 20, "vae.size": 4096,
    "vae.filters": 4096, "vae.layers": 64, "vae.mixtures": 64, "vae.latent": 1 << 14, "components": 1 << 18,
}  # fmt: skip


@dataclass(frozen=True)
class NetworkConfig(StreamsConfig):
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
        make_plain(self, LARGEST)
        require(self.patch >= 4 and self.patch % 4 == 0, "patch", "a multiple of 4, at least 4", self.patch)
        self.check_streams()
        require(self.latent >= 0, "latent", "0 (none) or more", self.latent)
        require(
            self.conditioning in CONDITIONINGS, "conditioning", " or ".join(CONDITIONINGS), shown(self.conditioning)
        )
        low_high = len(self.sizes) == 2 and self.patch <= self.sizes[0] <= self.sizes[1]
        require(low_high, "sizes", f"(smallest, largest), both at least the patch's {self.patch}", self.sizes)
        if self.conditioning == "spatial":
            require(self.coordinates, "coordinates", "True with spatial conditioning", self.coordinates)
            require(self.latent > 0, "latent", "at least 1 with spatial conditioning", self.latent)
            require(self.maps >= 1, "maps", "at least 1 with spatial conditioning", self.maps)

    @property
    def walk(self) -> Callable:
        """The network."""
        return functools.partial(walks.pixelcnnpp, c=self)

    @property
    def place_inputs(self) -> int:
        """D, conditioning numbers at each place: (y, x), and with feature maps (y, x, scale, s_1 ... s_maps)."""
        if self.conditioning == "spatial":
            return 3 + self.maps
        return 2 if self.coordinates else 0

    def resolutions(self) -> tuple[int, int, int]:
        """Sides of the patch at the three resolutions, in places: (m, m/2, m/4)."""
        return self.patch, self.patch // 2, self.patch // 4


_PRESET = re.compile(r"(?:(paper|pixelcnnpp)-)?(small|large)-(\d{1,6})x(\d{1,6})")
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
    fields: dict[str, Any] = {**_SIZES[size], "patch": int(patch)}
    if kind:
        fields.update(conditioning="paper", dropout=0.5, sizes=(28, 28))
    if kind == "pixelcnnpp":
        fields.update(coordinates=False, latent=0)
    return NetworkConfig(**{**fields, **overrides})


@dataclass(frozen=True)
class VAEConfig:
    """Hyperparameters of the VAE.

    Attributes:
        size: side of the images it sees, in pixels, a multiple of 4; other images are resampled to it.
        channels: C, 1 or 3.
        filters: filters at sides size, size/2 and size/4.
        layers: gated ResNet layers at each of the sides size/2 and size/4.
        mixtures: logistics in the decoder's mixture.
        latent: length of the code z.
    """

    size: int = 28
    channels: int = 1
    filters: tuple[int, int, int] = (16, 32, 64)
    layers: int = 1
    mixtures: int = 5
    latent: int = 60

    def __post_init__(self):
        make_plain(self, LARGEST, "vae.")
        require(self.size >= 8 and self.size % 4 == 0, "vae.size", "a multiple of 4, at least 8", self.size)
        require(self.channels in (1, 3), "vae.channels", "1 or 3", self.channels)
        require(len(self.filters) == 3 and min(self.filters) > 0, "vae.filters", "three positive numbers", self.filters)
        require(self.layers >= 1, "vae.layers", "at least 1", self.layers)
        require(1 <= self.mixtures <= 64, "vae.mixtures", "1 to 64", self.mixtures)
        require(self.latent >= 1, "vae.latent", "at least 1", self.latent)

    @property
    def head(self) -> Logistics:
        """The distribution of a pixel that the decoder gives."""
        return Logistics(self.channels, self.mixtures)

    @property
    def outputs(self) -> int:
        """P, numbers that the decoder's mixture takes at a pixel."""
        return self.head.parameters


@dataclass(frozen=True)
class ModelConfig:
    """What config.json of a checkpoint holds.

    Attributes:
        network: the patch network.
        vae: the VAE, or None for a network without latent.
        components: Gaussians of the mixture prior; 0 for N(0, I).
        contrast: strength of the contrast of large training targets, see `patches.contrast`.
    """

    network: NetworkConfig
    vae: VAEConfig | None = None
    components: int = 0
    contrast: float = 0.0

    def __post_init__(self):
        make_plain(self, LARGEST)
        latent = self.network.latent
        require(
            bool(latent) == bool(self.vae), "vae", "one exactly when latent > 0", f"{self.vae} with latent={latent}"
        )
        if self.vae:
            ours, theirs = (latent, self.network.channels), (self.vae.latent, self.vae.channels)
            require(ours == theirs, "vae", f"the network's latent and channels {ours}", theirs)
        require(self.components >= 0, "components", "0 (none) or more", self.components)
        require(self.contrast >= 0, "contrast", "0 or more", self.contrast)

    @classmethod
    def of(cls, network: dict, vae: dict | None = None, **fields) -> ModelConfig:
        """From config.json's object. That of an older version also has "classes", which nothing reads.

        Raises:
            SpxError, TypeError, ValueError: if it describes no model.
        """
        fields.pop("classes", None)
        return cls(NetworkConfig(**network), VAEConfig(**vae) if vae else None, **fields)

    def to_dict(self) -> dict:
        """config.json's object."""
        result = asdict(self)
        result["network"]["sizes"] = list(self.network.sizes)
        if self.vae:
            result["vae"]["filters"] = list(self.vae.filters)
        return result
