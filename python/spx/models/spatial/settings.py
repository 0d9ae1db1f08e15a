"""How a Spatial PixelCNN is trained: its settings, and the recipes behind the presets' names. No torch here."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import Any

from spxcore.errors import SpxError, require

from ...fields import ANY, BATCH, COUNT, POSITIVE, SHARE, UNDER_ONE, Range, setting
from .. import settings
from . import config
from .config import NetworkConfig

VAE_MODES = ("frozen", "joint", "none")
PRIORS = ("mixture", "normal")
TARGETS = ("decoded", "data")


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of a run; see `models.settings.Settings`."""

    preset: str = setting(MISSING, "network and recipe: [paper-|pixelcnnpp-](small|large)-MxM, such as small-8x8")
    init: str = setting(
        "",
        "checkpoint, name or folder, whose weights the run starts from (only its VAE's if the networks differ); empty: random weights",
    )
    seed: int = setting(0, "seed of weights, data order, patches and noise", range=ANY)
    vae: str = setting(
        "frozen",
        "frozen: trained first, then held; joint: both losses together (paper, equation 5); none: no latent code",
        choices=VAE_MODES,
    )
    coordinates: bool = setting(True, "whether the network sees pixel coordinates")
    vae_steps: int = setting(6000, "optimiser steps of the VAE alone, with --vae frozen", range=ANY)
    steps: int = setting(15000, "optimiser steps of the patch network", range=COUNT)
    batch: int = setting(128, "patches a step, over all processes", range=BATCH)
    patches_per_image: int = setting(
        4, "patches of each image in a step, which sees batch / patches_per_image images", range=BATCH
    )
    vae_batch: int = setting(128, "images a step while the VAE is trained alone", range=BATCH)
    kl_weight: float = setting(0.8, "factor on the VAE's KL term; below 1 the code holds more of the image", range=ANY)
    patch_weight: float = setting(
        1.0,
        "factor on the patch loss with --vae joint; 12.25 gives images of 28x28 and patches of 8x8 pixels equal weight",
        range=POSITIVE,
    )
    refine: int = setting(
        10,
        "gradient steps on each image's code before the patch network is trained, with --vae frozen; 0: the encoder's codes",
        range=ANY,
    )
    prior: str = setting(
        "mixture", "mixture: Gaussians fitted to the training codes, one set a class; normal: N(0, I)", choices=PRIORS
    )
    components: int = setting(40, "Gaussians a class of the mixture prior", range=COUNT)
    prior_spread: float = setting(
        0.75,
        "factor on the spread of the mixture's Gaussians; below 1, codes lie nearer to those of real images",
        range=Range(0, 100, above=True),
    )
    sizes: tuple[int, int] = setting(
        (28, 1400),
        "smallest (the data's own) and largest image size in training; equal: one size",
        metavar=("MIN", "MAX"),
    )
    contrast: float = setting(
        0.25, "growth of the targets' contrast with the image size n: factor 1 + contrast (n / 28 - 1)", range=ANY
    )
    targets: str = setting(
        "decoded",
        "what is learnt at larger sizes. decoded: the image fades into the VAE's mean image of its code; data: the image itself",
        choices=TARGETS,
    )
    spoilt: float = setting(
        0.15,
        "share of the patches at larger sizes with a wrong piece in their context; teaches recovery from bad draws",
        range=SHARE,
    )
    dropout: float = setting(0.0, "dropout inside the patch network", range=UNDER_ONE)

    def __post_init__(self):
        object.__setattr__(self, "sizes", tuple(self.sizes))
        super().__post_init__()
        whole = self.batch % self.patches_per_image == 0
        require(whole, "batch", f"a multiple of patches_per_image ({self.patches_per_image})", self.batch)
        wanted = "none for a network without a latent code, such as pixelcnnpp- presets'"
        require(self.network().latent > 0 or self.vae == "none", "vae", wanted, repr(self.vae))

    def network(self, channels: int = 1) -> NetworkConfig:
        """The network that is trained, for images of so many channels."""
        options = {"sizes": self.sizes, "dropout": self.dropout, "coordinates": self.coordinates}
        without = {"latent": 0} if self.vae == "none" else {}
        return config.preset(self.preset, channels=channels, **options, **without)

    @classmethod
    def upgrade(cls, saved: dict) -> dict:
        """Runs from before there were families have none, trained on all training images, and validate on test images."""
        if "model" in saved:
            return saved
        return {**saved, "model": "spatial", "validation": 0.0, "validates_on": "test"}


def preset(name: str | None, **replaced) -> Settings:
    """The settings of a preset's name, some of them replaced.

    `paper-` and `pixelcnnpp-` presets train as the paper says (section 4.2): VAE jointly, N(0, I), one patch an image,
    28x28 only, dropout 0.5, L2 1e-4, exponential decay, until 100 epochs bring no gain. The others train as we found best.

    Raises:
        SpxError: for an unknown preset or setting, or a value out of range.
    """
    if name is None:
        raise SpxError("preset: expected a name such as small-8x8, got None")
    network = config.preset(name, **{"sizes": replaced["sizes"]} if "sizes" in replaced else {})
    found: dict[str, Any] = {"model": "spatial", "preset": name}
    if network.conditioning == "paper":
        found.update(
            vae="joint" if network.latent else "none",
            coordinates=network.coordinates,
            steps=500_000,
            patches_per_image=1,
            schedule="exponential",
            warmup=0,
            weight_decay=1e-4,
            kl_weight=1.0,
            refine=0,
            prior="normal",
            sizes=(28, 28),
            contrast=0.0,
            targets="data",
            spoilt=0.0,
            dropout=0.5,
            patience=100,
        )
    return Settings.of(**{**found, **replaced})
