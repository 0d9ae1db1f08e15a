"""Gated PixelCNN (van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders"): grey images of any size."""

from __future__ import annotations

from functools import partial

from spxcore.heads import Softmax

from ..model import Walk
from ..parts.class_model import ClassModel
from . import settings
from .config import NetworkConfig
from .network import gated_pixelcnn


class Gated(ClassModel):
    """The family; see the package."""

    name = "gated"
    Config = NetworkConfig
    Settings = settings.Settings
    presets = settings.PRESETS

    def networks(self, config: NetworkConfig) -> dict[str, Walk]:
        """See `Model.networks`."""
        return {"network": partial(gated_pixelcnn, c=config)}

    def head(self, config: NetworkConfig) -> Softmax:
        """See `Model.head`."""
        return Softmax(config.levels)

    def tiny(self) -> NetworkConfig:
        """See `Model.tiny`."""
        return NetworkConfig(side=3, levels=2, filters=2, layers=2, first=3, kernel=3, head=3, classes=2)


MODEL = Gated()
