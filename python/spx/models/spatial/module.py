"""Spatial PixelCNN whole as a torch module: the patch network, the VAE, the feature maps and the prior."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from torch import Tensor, nn

from spxcore.engines.torch_feeds import told_places
from spxcore.walk.module import Module

from ...io.resize import resize
from ...io.tensors import CONFIG, WEIGHTS
from .. import registry
from ..model import Checkpoint
from .config import ModelConfig, VAEConfig
from .network import decoder, encoder, maps
from .patches import Patches
from .prior import PARTS, Prior
from .vae import mean_image, posterior


class VAE(nn.Module):
    """The variational auto-encoder whose code z tells the patch network what the whole image is (paper, section 3.1, equation 6)."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config = config
        self.encoder = Module(partial(encoder, c=config))
        self.decoder = Module(partial(decoder, c=config))

    def resample(self, x: Tensor) -> Tensor:
        """Images of any size [B, C, H, W] in [-1, 1] -> [B, C, size, size], averaging over areas where they shrink."""
        with torch.autocast(x.device.type, enabled=False):  # what is to be predicted is no bf16
            return resize(x, self.config.size)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images of any size [B, C, H, W] in [-1, 1] -> mean and log-variance of q(z | x), each [B, latent]."""
        return posterior(self.encoder({"x": self.resample(x)}).flatten(1))

    def decode(self, z: Tensor) -> Tensor:
        """z [B, latent] -> mixture parameters [B, P, size, size]."""
        return self.decoder({}, z)

    def mean_image(self, z: Tensor) -> Tensor:
        """z [B, latent] -> means of the decoder's mixtures [B, C, size, size] in [-1, 1]."""
        return mean_image(self.decode(z), self.config.channels, torch)


class SpatialPixelCNN(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="spx",
    license="mit",
    tags=["spatial-pixelcnn", "image-generation"],
):
    """The whole model (Akoury & Nguyen 2017).

    Args:
        network: fields of `NetworkConfig`.
        vae: fields of `VAEConfig`, or None for a network without latent.
        components: Gaussians of the mixture prior; 0 for N(0, I).
        contrast: strength of the contrast of large training targets, see `patches.contrast`.
        about: free text fields on data, training and licence.
        family: "spatial"; config.json has it.
    """

    def __init__(
        self, network: dict, vae: dict | None = None, components: int = 0, contrast: float = 0.0,
        about: dict | None = None, family: str = "spatial",
    ):  # fmt: skip
        super().__init__()
        config = ModelConfig.of(network, vae, components=components, contrast=contrast)
        self.network_config, self.vae_config = config.network, config.vae
        self.contrast, self.about, self.family = contrast, about or {}, family
        self.network = Module(config.network.walk)
        self.vae = VAE(config.vae) if config.vae else None
        spatial = config.network.conditioning == "spatial"
        self.maps = Module(partial(maps, c=config.vae, count=config.network.maps)) if spatial else None
        self.allocate_prior(components)

    def allocate_prior(self, components: int) -> None:
        """Make room for a mixture prior of this many Gaussians (0: N(0, I), nothing to store)."""
        self.components, latent = components, self.network_config.latent
        if components:
            device = next(self.network.parameters()).device
            self.register_buffer("prior_weights", torch.zeros(components, device=device))
            self.register_buffer("prior_classes", torch.zeros(components, dtype=torch.int64, device=device))
            self.register_buffer("prior_means", torch.zeros(components, latent, device=device))
            self.register_buffer("prior_cholesky", torch.zeros(components, latent, latent, device=device))

    @property
    def coder(self) -> VAE:
        """The VAE, of a model that has one."""
        assert self.vae is not None, "a model without a latent code"
        return self.vae

    @property
    def prior(self) -> Prior:
        """The prior over codes."""
        latent = self.network_config.latent
        if not self.components:
            return Prior(latent)
        return Prior(latent, *(getattr(self, f"prior_{name}").cpu().numpy() for name in PARTS))

    def set_prior(self, prior: Prior) -> None:
        """Replace the prior by a fitted mixture."""
        self.allocate_prior(len(prior.weights))
        for name in PARTS:
            getattr(self, f"prior_{name}").copy_(torch.from_numpy(np.ascontiguousarray(getattr(prior, name))))

    def _save_pretrained(self, save_directory: Path) -> None:
        """The hub mixin's hook: our own writer, since the mixin would keep the constructor's arguments, not a later prior."""
        self.checkpoint().write(Path(save_directory))

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
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
        return module_of(Checkpoint.read(Path(model_id)))

    @property
    def config(self) -> ModelConfig:
        """What it is now, with the prior set last."""
        return ModelConfig(self.network_config, self.vae_config, self.components, self.contrast)

    def checkpoint(self) -> Checkpoint:
        """The same as arrays; float32 tensors on the CPU share its memory."""
        state = {name: t.float() if t.is_floating_point() else t for name, t in self.state_dict().items()}
        names = registry.family(self.family).shapes(self.config)  # the state may hold a prior that is no longer its own
        tensors = {name: state[name].detach().cpu().numpy() for name in names}
        return Checkpoint(self.family, self.config, tensors, self.about)

    @torch.no_grad()
    def decoded(self, z: Tensor) -> Tensor:
        """The VAE's mean images of codes z [B, latent] -> [B, C, size, size] in [-1, 1], without gradient."""
        with torch.autocast(z.device.type, enabled=False):
            return self.coder.mean_image(z)

    def image_maps(self, z: Tensor, decoded: Tensor | None = None) -> Tensor | None:
        """Feature maps of codes z [B, latent] -> [B, M, h, w]; None with the paper's conditioning.

        Args:
            decoded: `decoded(z)`, if it is there already.
        """
        if self.maps is None:
            return None
        return self.maps({"image": self.decoded(z) if decoded is None else decoded}, z)

    def forward(self, patches: Patches, z: Tensor | None, decoded: Tensor | None = None) -> Tensor:
        """Mixture parameters of patches [B p, C, m, m] given codes z [B, latent], p patches of each image in a row.

        Args:
            decoded: `decoded(z)`, if it is there already.

        Returns:
            [B p, P, m, m].
        """
        images, inputs, c = len(patches.x) if z is None else len(z), {"x": patches.context}, self.network_config
        if c.place_inputs:

            def of_images(t: Tensor) -> Tensor:  # [B p] -> [B, p]
                return t.view(images, -1)

            rows = of_images(patches.y0), of_images(patches.y1)
            columns = of_images(patches.x0), of_images(patches.x1)
            extra = of_images(patches.scale)[:, :, None][:, :, : int(c.conditioning == "spatial")]
            feature_maps = None if z is None else self.image_maps(z, decoded)
            with torch.autocast(patches.x.device.type, enabled=False):
                told = told_places(c.resolutions(), rows, columns, extra, feature_maps)
            inputs |= {f"places.{k}": places for k, places in enumerate(told)}
        if z is not None:
            z = z.repeat_interleave(len(patches.x) // images, dim=0)
        return self.network(inputs, z)


def module_of(checkpoint: Checkpoint) -> SpatialPixelCNN:
    """The torch model of a checkpoint, in evaluation mode, on its device."""
    model = SpatialPixelCNN(**checkpoint.config.to_dict(), about=checkpoint.about, family=checkpoint.family)
    model.load_state_dict({name: torch.from_numpy(np.array(tensor)) for name, tensor in checkpoint.tensors.items()})
    return model.to(checkpoint.device).eval()


def smallest_with(vae: VAE) -> SpatialPixelCNN:
    """A model with that VAE and the smallest of patch networks, which no other model can be mistaken for."""
    c = vae.config
    network = {"patch": 4, "filters": 1, "layers": 1, "mixtures": 1, "conditioning": "paper", "sizes": [28, 28]}
    model = SpatialPixelCNN(network={**network, "channels": c.channels, "latent": c.latent}, vae=asdict(c))
    model.coder.load_state_dict(vae.state_dict())
    return model
