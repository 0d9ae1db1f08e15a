"""What a whole model is: its configuration, and the names and shapes of its tensors. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from spxcore.config import NetworkConfig, check_whole_numbers
from spxcore.errors import require
from spxcore.shapes import Shapes, network_shapes

# Filters of the feature maps' network at sides size, size/2 and size/4 of the VAE's image.
MAP_FILTERS = (24, 24, 24)


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
        object.__setattr__(self, "filters", tuple(self.filters))
        check_whole_numbers(self, "vae.")
        require(self.size >= 8 and self.size % 4 == 0, "vae.size", "a multiple of 4, at least 8", self.size)
        require(self.channels in (1, 3), "vae.channels", "1 or 3", self.channels)
        require(len(self.filters) == 3 and min(self.filters) > 0, "vae.filters", "three positive numbers", self.filters)
        require(self.layers >= 1, "vae.layers", "at least 1", self.layers)
        require(1 <= self.mixtures <= 64, "vae.mixtures", "1 to 64", self.mixtures)
        require(self.latent >= 1, "vae.latent", "at least 1", self.latent)

    @property
    def outputs(self) -> int:
        """P, numbers that the decoder's mixture takes at a pixel."""
        return self.mixtures * (3 if self.channels == 1 else 10)


@dataclass(frozen=True)
class ModelConfig:
    """What config.json of a checkpoint holds.

    Attributes:
        network: the patch network.
        vae: the VAE, or None for a network without latent.
        components: Gaussians of the mixture prior; 0 for N(0, I).
        classes: number of classes of the data (labels 0 ... classes - 1).
        contrast: strength of the contrast of large training targets, see `spx.patches.contrast`.
        about: free text fields on data, training and licence.
    """

    network: NetworkConfig
    vae: VAEConfig | None = None
    components: int = 0
    classes: int = 10
    contrast: float = 0.0
    about: dict = field(default_factory=dict)

    def __post_init__(self):
        check_whole_numbers(self)
        latent = self.network.latent
        require(
            bool(latent) == bool(self.vae), "vae", "one exactly when latent > 0", f"{self.vae} with latent={latent}"
        )
        if self.vae:
            ours, theirs = (latent, self.network.channels), (self.vae.latent, self.vae.channels)
            require(ours == theirs, "vae", f"the network's latent and channels {ours}", theirs)
        require(self.components >= 0, "components", "0 (none) or more", self.components)

    @classmethod
    def of(cls, network: dict, vae: dict | None = None, **fields) -> ModelConfig:
        """From config.json's object.

        Raises:
            SpxError, TypeError, ValueError: if it describes no model.
        """
        return cls(NetworkConfig(**network), VAEConfig(**vae) if vae else None, **fields)

    def to_dict(self) -> dict:
        """config.json's object."""
        result = asdict(self)
        result["network"]["sizes"] = list(self.network.sizes)
        if self.vae:
            result["vae"]["filters"] = list(self.vae.filters)
        return result

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of the model, as `SpatialPixelCNN.state_dict()` has them."""
        parts = {"network.": network_shapes(self.network)}
        if self.vae:
            parts |= {"vae.encoder.": encoder_shapes(self.vae), "vae.decoder.": decoder_shapes(self.vae)}
        if self.network.conditioning == "spatial":
            parts["maps."] = map_shapes(self.vae, self.network.maps)
        if self.components:
            g, latent = self.components, self.network.latent
            parts["prior_"] = {"weights": (g,), "classes": (g,), "means": (g, latent), "cholesky": (g, latent, latent)}
        return {prefix + name: shape for prefix, part in parts.items() for name, shape in part.items()}


def encoder_shapes(config: VAEConfig) -> Shapes:
    """The tensors of a `spx.vae.Encoder`."""
    shapes, (_, half, quarter), side = Shapes(), config.filters, config.size // 4
    shapes.convolution("shrink_1", config.channels, half, (5, 5))
    shapes.convolution("shrink_2", 2 * half, quarter, (3, 3))
    for i in range(config.layers):
        shapes.gated(f"layers_1.{i}", half, (3, 3))
        shapes.gated(f"layers_2.{i}", quarter, (3, 3))
    shapes.convolution("code", 2 * quarter, 2 * config.latent, (side, side))
    return shapes


def decoder_shapes(config: VAEConfig) -> Shapes:
    """The tensors of a `spx.vae.Decoder`."""
    shapes, (full, half, quarter), side = Shapes(), config.filters, config.size // 4
    shapes.convolution("code", config.latent, quarter, (side, side))
    shapes.convolution("grow_2", 2 * quarter, half, (2, 2))
    shapes.convolution("grow_1", 2 * half, full, (2, 2))
    for name, filters, layers in (
        ("layers_2", quarter, config.layers),
        ("layers_1", half, config.layers),
        ("layers_0", full, 1),
    ):
        for i in range(layers):
            shapes.gated(f"{name}.{i}", filters, (3, 3))
            shapes[f"{name}.{i}.latent"] = (2 * filters, config.latent)
    shapes.convolution("nin_out", 2 * full, config.outputs)
    return shapes


def map_shapes(config: VAEConfig, maps: int) -> Shapes:
    """The tensors of `spx.feature_maps.FeatureMaps`."""
    shapes, (full, half, quarter), side = Shapes(), MAP_FILTERS, config.size // 4
    shapes.convolution("code", config.latent, quarter, (side, side))
    shapes.convolution("grow_2", 2 * quarter, half, (2, 2))
    shapes.gated("layer_1", half, (3, 3))
    shapes.convolution("grow_1", 2 * half, full, (2, 2))
    shapes.convolution("image", config.channels, full, (5, 5))
    shapes.gated("layer_0", full, (3, 3))
    shapes.convolution("grow_0", 2 * full, maps, (2, 2))
    return shapes
