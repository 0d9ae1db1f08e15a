"""Spatial PixelCNN (Akoury & Nguyen 2017): images of any size from one small network that sees a window of m x m pixels."""

from __future__ import annotations

from functools import partial

import numpy as np

from spxcore.canvas import Given
from spxcore.drawing import Drawing
from spxcore.heads import Logistics
from spxcore.schedules import Window

from ...request import Request
from ..model import Checkpoint, Evaluate, Model, Walk
from . import drawing
from .config import ModelConfig
from .network import decoder, encoder, maps
from .prior import normals


class Spatial(Model):
    """The family; see the package."""

    name = "spatial"
    Config = ModelConfig

    def config(self, fields: dict) -> ModelConfig:
        """See `Model.config`."""
        return ModelConfig.of(**fields)

    def fields(self, config: ModelConfig) -> dict:
        """See `Model.fields`."""
        return config.to_dict()

    def networks(self, config: ModelConfig) -> dict[str, Walk]:
        """The patch network and, as far as a model has them, the VAE's two and the feature maps'."""
        found = {"network": config.network.walk}
        if config.vae:
            found |= {"vae.encoder": partial(encoder, c=config.vae), "vae.decoder": partial(decoder, c=config.vae)}
        if config.network.conditioning == "spatial":
            found["maps"] = partial(maps, c=config.vae, count=config.network.maps)
        return found

    def extras(self, config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """The mixture prior."""
        g, latent = config.components, config.network.latent
        if not g:
            return {}
        shapes = {"weights": (g,), "classes": (g,), "means": (g, latent), "cholesky": (g, latent, latent)}
        return {f"prior_{name}": shape for name, shape in shapes.items()}

    def head(self, config: ModelConfig) -> Logistics:
        """See `Model.head`."""
        return config.network.head

    def schedule(self, config: ModelConfig) -> Window:
        """See `Model.schedule`."""
        return Window(config.network.patch)

    def size(self, config: ModelConfig) -> int:
        """See `Model.size`."""
        return config.network.sizes[0]

    def side(self, config: ModelConfig, prefix: str) -> int:
        """See `Model.side`."""
        return config.network.patch if prefix == "network" else config.vae.size

    def tiny(self) -> ModelConfig:
        """See `Model.tiny`."""
        network = {"patch": 4, "filters": 2, "layers": 1, "mixtures": 2, "latent": 2, "maps": 2}
        return ModelConfig.of(network, {"size": 8, "filters": (2, 2, 4), "mixtures": 1, "latent": 2})

    def offers(self, config: ModelConfig) -> frozenset[str]:
        """See `Model.offers`."""
        return frozenset({"given", *(("label", "code", "source", "refine") if config.vae else ())})

    def drawing(self, checkpoint: Checkpoint, request: Request, evaluate: Evaluate) -> Drawing:
        """See `Model.drawing`."""
        return drawing.drawing(checkpoint, request, evaluate)

    def split(self, config: ModelConfig, images: np.ndarray, mask: np.ndarray) -> dict[str, Given]:
        """See `Model.split`."""
        return {drawing.ROUND: Given(images, mask)}

    def codes(
        self, checkpoint: Checkpoint, images: np.ndarray, evaluate: Evaluate, refine: int = 0
    ) -> np.ndarray | None:
        """See `Model.codes`."""
        return drawing.codes(checkpoint, images, evaluate, refine) if checkpoint.config.vae else None

    def paid_codes(
        self, checkpoint: Checkpoint, images: np.ndarray, evaluate: Evaluate, seed: int = 0
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """Draws from q(z | x), and KL(q(z | x) || p(z)); see `Model.paid_codes`."""
        if not checkpoint.config.vae:
            return super().paid_codes(checkpoint, images, evaluate, seed)
        import torch

        from .codes import kl_nats

        mean, log_variance = drawing.encode(checkpoint, images, evaluate)
        noise = np.stack([normals(seed, image, mean.shape[1])[0] for image in range(len(mean))])
        z = (mean + np.exp(0.5 * log_variance) * noise).astype(np.float32)
        q = (torch.from_numpy(np.array(a)) for a in (mean, log_variance, z))
        return z, kl_nats(drawing.prior_of(checkpoint), *q)

    def module(self, checkpoint: Checkpoint):
        """See `Model.module`."""
        from .module import module_of

        return module_of(checkpoint)


MODEL = Spatial()
