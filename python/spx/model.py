"""Spatial PixelCNN whole: the patch network, the VAE, the feature maps and the prior, saved and loaded by Hugging Face's convention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from torch import Tensor, nn

from spxcore.network import PixelCNN, place_inputs

from .checkpoints import CONFIG, WEIGHTS, load_model, save_checkpoint
from .config import ModelConfig
from .feature_maps import FeatureMaps
from .patches import Patches
from .prior import Prior
from .vae import VAE, mean_image


class SpatialPixelCNN(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="spx",
    license="mit",
    tags=["spatial-pixelcnn", "image-generation"],
):
    """The whole model (Akoury & Nguyen 2017).

    Args:
        network: fields of `spxcore.config.NetworkConfig`.
        vae: fields of `spx.vae.VAEConfig`, or None for a network without latent.
        components: Gaussians of the mixture prior; 0 for N(0, I).
        classes: number of classes of the data (labels 0 ... classes - 1).
        contrast: strength of the contrast of large training targets, see `spx.patches.contrast`.
        about: free text fields on data, training and licence.
    """

    def __init__(
        self,
        network: dict,
        vae: dict | None = None,
        components: int = 0,
        classes: int = 10,
        contrast: float = 0.0,
        about: dict | None = None,
    ):
        super().__init__()
        config = ModelConfig.of(
            network, vae, components=components, classes=classes, contrast=contrast, about=about or {}
        )
        self.network_config, self.vae_config = config.network, config.vae
        self.contrast, self.classes, self.about = contrast, classes, config.about
        self.network = PixelCNN(self.network_config)
        self.vae = VAE(self.vae_config) if self.vae_config else None
        spatial = self.network_config.conditioning == "spatial"
        self.maps = FeatureMaps(self.vae_config, self.network_config.maps) if spatial else None
        self.allocate_prior(components)

    def allocate_prior(self, components: int) -> None:
        """Make room for a mixture prior of so many Gaussians (0: N(0, I), nothing to store)."""
        self.components, latent = components, self.network_config.latent
        if components:
            device = self.network.nin_out.bias.device
            self.register_buffer("prior_weights", torch.zeros(components, device=device))
            self.register_buffer("prior_classes", torch.zeros(components, dtype=torch.int64, device=device))
            self.register_buffer("prior_means", torch.zeros(components, latent, device=device))
            self.register_buffer("prior_cholesky", torch.zeros(components, latent, latent, device=device))

    @property
    def prior(self) -> Prior:
        """The prior over codes."""
        latent = self.network_config.latent
        if not self.components:
            return Prior(latent)
        names = ("weights", "classes", "means", "cholesky")
        return Prior(latent, *(getattr(self, f"prior_{name}").cpu().numpy() for name in names))

    def set_prior(self, prior: Prior) -> None:
        """Replace the prior by a fitted mixture."""
        self.allocate_prior(len(prior.weights))
        for name in ("weights", "classes", "means", "cholesky"):
            getattr(self, f"prior_{name}").copy_(torch.from_numpy(np.ascontiguousarray(getattr(prior, name))))

    def _save_pretrained(self, save_directory: Path) -> None:
        """The hub mixin's hook: our own writer, since the mixin would keep the constructor's arguments, not a later prior."""
        save_checkpoint(self, save_directory)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None = None,
        cache_dir: str | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **_,
    ) -> SpatialPixelCNN:
        """The hub mixin's hook: our own reader, strict, and never a pickle."""
        if not Path(model_id).is_dir():
            model_id = snapshot_download(
                model_id, revision=revision, cache_dir=cache_dir, force_download=force_download,
                local_files_only=local_files_only, token=token, allow_patterns=[CONFIG, WEIGHTS],
            )  # fmt: skip
        return load_model(model_id)

    @property
    def model_config(self) -> ModelConfig:
        """What it is now, with the prior set last."""
        return ModelConfig(
            self.network_config, self.vae_config, self.components, self.classes, self.contrast, self.about
        )

    def config_dict(self) -> dict:
        """The constructor's arguments that make a model of the same shape; what config.json holds."""
        return self.model_config.to_dict()

    @torch.no_grad()
    def decoded(self, z: Tensor) -> Tensor:
        """The VAE's mean images of codes z [B, latent] -> [B, C, size, size] in [-1, 1], without gradient."""
        with torch.autocast(z.device.type, enabled=False):
            return mean_image(self.vae.decode(z), self.network_config.channels)

    def image_maps(self, z: Tensor, decoded: Tensor | None = None) -> Tensor | None:
        """Feature maps of codes z [B, latent] -> [B, M, h, w]; None with the paper's conditioning.

        Args:
            decoded: `decoded(z)`, if it is there already.
        """
        if self.maps is None:
            return None
        return self.maps(z, self.decoded(z) if decoded is None else decoded)

    def forward(self, patches: Patches, z: Tensor | None, decoded: Tensor | None = None) -> Tensor:
        """Mixture parameters of patches [B p, C, m, m] given codes z [B, latent], p patches of each image in a row.

        Args:
            decoded: `decoded(z)`, if it is there already.

        Returns:
            [B p, P, m, m].
        """
        images = len(patches.x) if z is None else len(z)

        def of_images(t: Tensor) -> Tensor:  # [B p] -> [B, p]
            return t.view(images, -1)

        rows, columns = (of_images(patches.y0), of_images(patches.y1)), (of_images(patches.x0), of_images(patches.x1))
        maps = None if z is None else self.image_maps(z, decoded)
        places = place_inputs(self.network_config, rows, columns, of_images(patches.scale), maps)
        if z is not None:
            z = z.repeat_interleave(len(patches.x) // images, dim=0)
        return self.network(patches.context, places, z)
