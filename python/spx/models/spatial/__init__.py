"""Spatial PixelCNN (Akoury & Nguyen 2017): images of any size from one small network that sees a window of m x m pixels."""

from __future__ import annotations

import zlib
from functools import partial

import numpy as np

from spxcore import engines
from spxcore.canvas import Given
from spxcore.drawing import Drawing
from spxcore.heads import Logistics
from spxcore.schedules import Window

from ...request import Request
from ..likelihood import Likelihood
from ..model import Checkpoint, Evaluate, Model, Row, Walk
from ..parts import paper
from . import drawing
from . import settings as recipes
from .config import ModelConfig
from .network import decoder, encoder, maps
from .prior import normals, prior_of


class Spatial(Model):
    """The family; see the package."""

    name = "spatial"
    Config = ModelConfig
    Settings = recipes.Settings
    Training = f"{__name__}.training.SpatialTraining"

    def config(self, fields: dict) -> ModelConfig:
        """See `Model.config`."""
        return ModelConfig.of(**fields)

    def fields(self, config: ModelConfig) -> dict:
        """See `Model.fields`."""
        return config.to_dict()

    def networks(self, config: ModelConfig) -> dict[str, Walk]:
        """The patch network and, where a model has them, the VAE's two networks and that of the feature maps."""
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

    def whole(self, config: ModelConfig) -> frozenset[str]:
        """The classes of the prior's components."""
        return frozenset({"prior_classes"})

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
        return config.vae.size if config.vae and prefix != "network" else config.network.patch

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
        """Draws from q(z | x), and KL(q(z | x) || p(z)); see `Model.paid_codes`. The noise is the seed's and the picture's: a
        score does not depend on what is scored beside it."""
        if not checkpoint.config.vae:
            return super().paid_codes(checkpoint, images, evaluate, seed)
        import torch

        from .codes import kl_nats

        mean, log_variance = drawing.encode(checkpoint, images, evaluate)
        numbers = [zlib.crc32(image.tobytes()) for image in images]
        noise = np.stack([normals(seed, number, mean.shape[1])[0] for number in numbers])
        z = (mean + np.exp(0.5 * log_variance) * noise).astype(np.float32)
        q = (torch.from_numpy(np.array(a)) for a in (mean, log_variance, z))
        return z, kl_nats(prior_of(checkpoint), *q)

    def preset(self, name: str | None, **replaced) -> recipes.Settings:
        """See `settings.preset`."""
        return recipes.preset(name, **replaced)

    def bits(
        self, checkpoint: Checkpoint, images: np.ndarray, seed=0, engine=None, refine=0, progress=None
    ) -> Likelihood:
        """See `Model.bits`: the mean over every window of every image."""
        from .bits import bits

        engine = engines.get(engine) if isinstance(engine, str) else engine
        return bits(checkpoint, images, seed, engine, refine if checkpoint.config.vae else 0, progress)

    def published(self, config: ModelConfig, data: str) -> dict | None:
        """The paper's tables 1 to 3, which are of MNIST."""
        row = paper.row_of(config.network) if data == "mnist" else None
        return paper.published(row) if row else None

    def rows(self) -> list[Row]:
        """The paper's tables 1 to 3, ours beside them, and what each choice of ours does."""
        from .rows import rows

        return rows()

    def with_prior(self, checkpoint: Checkpoint, prior: str) -> Checkpoint:
        """See `Model.with_prior`: "normal", or a number, a factor on the mixture's standard deviations."""
        from .rows import with_prior

        return with_prior(checkpoint, prior)

    def real(self, config: ModelConfig, images: np.ndarray, size: int) -> np.ndarray:
        """As training sees them at that size, their contrast raised."""
        if size == images.shape[1]:
            return images
        from .patches import full_images

        return full_images(images, size, config.contrast)

    def decoded(self, checkpoint: Checkpoint, images: np.ndarray) -> np.ndarray | None:
        """The VAE's mean images."""
        if not checkpoint.config.vae:
            return None
        import torch

        from .module import module_of
        from .patches import to_levels

        code = torch.from_numpy(drawing.codes(checkpoint, images, engines.evaluate))
        return to_levels(module_of(checkpoint).decoded(code.to(checkpoint.device)))

    def drawn_codes(
        self, checkpoint: Checkpoint, n: int, seed: int, *sets: np.ndarray
    ) -> tuple[np.ndarray, list[np.ndarray]] | None:
        """Codes from the prior that samples are drawn from, and from q(z | x)."""
        if not checkpoint.config.vae:
            return None
        from .codes import draws

        return draws(checkpoint, n, seed, sets)

    def module(self, checkpoint: Checkpoint):
        """See `Model.module`."""
        from .module import module_of

        return module_of(checkpoint)


MODEL = Spatial()
