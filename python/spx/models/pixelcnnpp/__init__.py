"""PixelCNN++ (Salimans et al. 2017): images of any size, from a network that sees the whole image."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from spxcore.drawing import Drawing
from spxcore.heads import Logistics

from ...request import Request
from ..model import Checkpoint, Evaluate, Model, Row, Walk
from ..parts import paper
from . import classes, settings
from .config import NetworkConfig
from .network import pixelcnnpp


class PixelCNNpp(Model):
    """The family; see the package."""

    name = "pixelcnnpp"
    Config = NetworkConfig
    Settings = settings.Settings
    Training = f"{__name__}.training.PixelCNNppTraining"
    exact = True
    presets = settings.PRESETS

    def networks(self, config: NetworkConfig) -> dict[str, Walk]:
        """See `Model.networks`."""
        return {"network": partial(pixelcnnpp, c=config)}

    def extras(self, config: NetworkConfig) -> dict[str, tuple[int, ...]]:
        """The classes' shares."""
        return {classes.SHARES: (config.classes,)} if config.classes else {}

    def head(self, config: NetworkConfig) -> Logistics:
        """See `Model.head`."""
        return config.head

    def tiny(self) -> NetworkConfig:
        """See `Model.tiny`."""
        return NetworkConfig(side=3, filters=2, layers=1, mixtures=2, classes=2)

    def offers(self, config: NetworkConfig) -> frozenset[str]:
        """See `Model.offers`."""
        return frozenset({"given", *(("label",) if config.classes else ())})

    def drawing(self, checkpoint: Checkpoint, request: Request, evaluate: Evaluate) -> Drawing:
        """See `Model.drawing`. Without a class, images are of any: their classes are drawn from the shares, or from what the given
        pixels look like."""
        if checkpoint.config.classes:
            request = replace(request, code=classes.codes(checkpoint, request, evaluate))
        return super().drawing(checkpoint, request, evaluate)

    def paid_codes(
        self, checkpoint: Checkpoint, images: np.ndarray, evaluate: Evaluate, seed: int = 0
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """The most probable class y of each image x. Its price is -log p(x) + log p(x | y), where p(x) is the sum over all classes. So
        a score is that of the image alone, and exact."""
        if not checkpoint.config.classes:
            return super().paid_codes(checkpoint, images, evaluate, seed)
        joint = classes.joint(checkpoint, images, evaluate)
        best = joint.argmax(axis=1)
        given = joint[np.arange(len(images)), best] - classes.log_prior(checkpoint)[best]
        return classes.one_hot(best, checkpoint.config.classes), given - np.logaddexp.reduce(joint, axis=1)

    def published(self, config: NetworkConfig, data: str) -> dict | None:
        """The first row of table 1 of the Spatial PixelCNN's paper (Akoury & Nguyen 2017), which is of MNIST and without classes."""
        small = (config.side, config.channels, config.filters, config.layers) == (28, 1, 25, 2)
        return paper.published(paper.BASELINE) if small and data == "mnist" else None

    def rows(self) -> list[Row]:
        """That row."""
        beside, settings = paper.published(paper.BASELINE), {"model": self.name, "preset": "paper-small"}
        return [Row("paper-28", "table 1", "small 28x28, PixelCNN++", settings, beside)]


MODEL = PixelCNNpp()
