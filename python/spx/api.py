"""The Python interface: load a checkpoint, draw samples, reconstruct images."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spxcore import native
from spxcore.engines import Engine, Job
from spxcore.errors import require
from spxcore.sampler import draw_job

from .checkpoints import Checkpoint, read_checkpoint
from .image_networks import ImageNetworks

if TYPE_CHECKING:
    import torch

    from .model import SpatialPixelCNN


class Model:
    """A trained Spatial PixelCNN, ready to draw.

    What an image is conditioned on (codes, feature maps) is the same to the bit for every engine: it is computed by the image-level
    plans where the native module is there, and by torch where it is not. Only torch engines and evaluation import torch.

    Args:
        model: a checkpoint, or the torch model, which `Model` does not change.
    """

    def __init__(self, model: Checkpoint | SpatialPixelCNN):
        if isinstance(model, Checkpoint):
            self._checkpoint = model
        else:
            self.module = model.eval()
            self._checkpoint = Checkpoint.of(model)
        self.config, self.prior = self._checkpoint.config.network, self._checkpoint.prior
        self.weights = self._checkpoint.weights
        self._images = ImageNetworks(self._checkpoint) if native.have_native() else None

    @cached_property
    def module(self) -> SpatialPixelCNN:
        """The torch model."""
        return self._checkpoint.module()

    @property
    def patch(self) -> int:
        """Side m of the patch, and the smallest size that can be drawn."""
        return self.config.patch

    def sample(
        self,
        height: int = 28,
        width: int | None = None,
        n: int = 1,
        seed: int = 0,
        *,
        digit: int | None = None,
        temperature: float = 1.0,
        map: bool = False,
        engine: str | Engine = "auto",
        progress: Callable[[int], None] | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Draw new images.

        Image i of a seed is the same whatever n, the engine or the batch; its code z is drawn from the prior with the same seed,
        so that one seed gives one digit at every size.

        Args:
            height, width: H, W in pixels, at least the patch size; width defaults to height.
            n: number of images.
            seed: 0 <= seed < 2^64.
            digit: class to draw codes from; None for any. Needs a checkpoint with a mixture prior.
            temperature: factor on the scales of the logistics; > 0.
            map: MAP sampling: the mean of the drawn mixture component.
            engine: "auto", "reference", "torch", "cpp", "triton", "cuda", or an engine object.
            progress: called with the number of pixels drawn since the last call.
            out: uint8 [n, H, W, C] to draw into.

        Returns:
            uint8 [n, H, W, C].

        Raises:
            SpxError: for an argument out of range.
        """
        require(n >= 1, "n", "at least 1", n)
        require(0 <= seed < 1 << 64, "seed", "0 to 2^64 - 1", seed)
        z = None
        if self.config.latent:
            z = self.prior.sample(seed, np.arange(n), digit)
        else:
            require(digit is None, "digit", "none for a checkpoint without latent code", digit)
        options = dict(temperature=temperature, map=map, engine=engine, progress=progress, out=out)
        return self.draw(height, width, z, seed, n=n, **options)

    def reconstruct(
        self,
        images: np.ndarray,
        height: int = 28,
        width: int | None = None,
        seed: int = 0,
        *,
        refine: int = 0,
        temperature: float = 1.0,
        map: bool = False,
        engine: str | Engine = "auto",
        progress: Callable[[int], None] | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Draw given images anew, at any size, from the mean of their codes (paper, section 5.3).

        Args:
            images: uint8 [N, H', W', C] of any size; light strokes on dark, as the training data.
            refine: gradient steps on each code, which bring it nearer to its image (`spx.inference.refine`); they need torch.
            height, width, seed, temperature, map, engine, progress, out: as of `sample`.

        Returns:
            uint8 [N, H, W, C].
        """
        options = dict(temperature=temperature, map=map, engine=engine, progress=progress, out=out)
        return self.draw(height, width, self.encode(images, refine), seed, **options)

    def draw(
        self,
        height: int,
        width: int | None,
        z: np.ndarray | None,
        seed: int = 0,
        *,
        n: int | None = None,
        engine: str | Engine = "auto",
        progress: Callable[[int], None] | None = None,
        out: np.ndarray | None = None,
        **options,
    ) -> np.ndarray:
        """Draw images of given codes z [N, latent] (None and `n` without latent); the other arguments as of `sample`.

        Returns:
            uint8 [N, H, W, C].
        """
        job = self.job(height, width, z, seed, n=n, **options)
        return draw_job(self.weights, job, engine, progress, out)

    def encode(self, images: np.ndarray, refine: int = 0) -> np.ndarray:
        """Mean of the code of each image: uint8 [N, H, W, C] -> float32 [N, latent]. `refine`: as of `reconstruct`."""
        require(self.config.latent > 0, "reconstruct", "a checkpoint with a latent code", "one without")
        good = (
            images.ndim == 4
            and images.dtype == np.uint8
            and images.shape[3] == self.config.channels
            and images.size > 0
        )
        expected = f"uint8 [N, H, W, {self.config.channels}]"
        require(good, "images", expected, f"{images.dtype} {list(images.shape)}")
        require(refine >= 0, "refine", "0 steps or more", refine)
        if self._images and not refine:
            return self._images.encode(images)
        return self.posterior(images, refine)[0].numpy()

    def posterior(self, images: np.ndarray, refine: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance of q(z | x) of uint8 [N, H, W, C], each [N, latent]. `refine`: as of `reconstruct`."""
        import torch

        from . import inference

        vae, images = (
            self.module.vae,
            torch.from_numpy(np.array(images.transpose(0, 3, 1, 2))),
        )  # a copy: files are read-only
        mean, log_variance = inference.encode(vae, images)
        prior = self.prior.distribution()
        return inference.refine(vae, prior, self.patch, images, mean, log_variance, refine), log_variance

    def feature_maps(self, z: np.ndarray | None) -> np.ndarray | None:
        """Feature maps of codes, float32 [N, latent] -> [N, M, h, w]; None with the paper's conditioning."""
        if z is None or self.config.conditioning != "spatial":
            return None
        if self._images:
            return self._images.maps(np.ascontiguousarray(z, np.float32))
        import torch

        with torch.no_grad():
            return self.module.image_maps(torch.from_numpy(z)).numpy()

    def job(
        self, height: int, width: int | None, z: np.ndarray | None, seed: int = 0, *, n: int | None = None, **options
    ) -> Job:
        """The `spxcore` job of drawing images 0, 1, 2 ... with codes z [N, latent]; options: temperature, map."""
        numbers = np.arange(n if z is None else len(z))
        return Job(height, height if width is None else width, seed, numbers, z, self.feature_maps(z), **options)


def load(name_or_path: str | Path = "mnist-8x8") -> Model:
    """Load a checkpoint: one that is shipped, a folder, or a Hugging Face hub name.

    Raises:
        SpxError: if it cannot be found or is damaged.
    """
    return Model(read_checkpoint(name_or_path))
