"""PixelCNN++ (Salimans et al. 2017): images of any size, from a network that sees the whole image."""

from __future__ import annotations

from functools import partial

from spxcore.heads import Logistics

from ..model import Row, Walk
from ..parts import paper
from ..parts.class_model import ClassModel
from . import settings
from .config import NetworkConfig
from .network import pixelcnnpp


class PixelCNNpp(ClassModel):
    """The family; see the package."""

    name = "pixelcnnpp"
    Config = NetworkConfig
    Settings = settings.Settings
    presets = settings.PRESETS

    def networks(self, config: NetworkConfig) -> dict[str, Walk]:
        """See `Model.networks`."""
        return {"network": partial(pixelcnnpp, c=config)}

    def head(self, config: NetworkConfig) -> Logistics:
        """See `Model.head`."""
        return config.head

    def tiny(self) -> NetworkConfig:
        """See `Model.tiny`."""
        return NetworkConfig(side=3, filters=2, layers=1, mixtures=2, classes=2)

    def published(self, config: NetworkConfig, data: str) -> dict | None:
        """The first row of table 1 of the Spatial PixelCNN's paper (Akoury & Nguyen 2017), which is of MNIST and without classes."""
        small = (config.side, config.channels, config.filters, config.layers) == (28, 1, 25, 2)
        return paper.published(paper.BASELINE) if small and data == "mnist" else None

    def rows(self) -> list[Row]:
        """That row."""
        beside, settings = paper.published(paper.BASELINE), {"model": self.name, "preset": "paper-small"}
        return [Row("paper-28", "table 1", "small 28x28, PixelCNN++", settings, beside)]


MODEL = PixelCNNpp()
