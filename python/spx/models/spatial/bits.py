"""Bits per dimension over every window of every image (Akoury & Nguyen 2017, section 4.2)."""

from __future__ import annotations

import math

import numpy as np
import torch

from spxcore import engines
from spxcore.engines import Engine
from spxcore.engines.torch_feeds import told_places
from spxcore.engines.torch_precision import full_precision
from spxcore.errors import require
from spxcore.feeds import axis, scale
from spxcore.heads.log_prob import logistics_log_prob

from ..likelihood import Likelihood, Progress
from ..model import Checkpoint
from ..parts.gaussian import reparameterise
from . import codes
from .module import module_of
from .prior import prior_of
from .vae import to_unit


@torch.no_grad()
@full_precision()
def bits(
    checkpoint: Checkpoint,
    images: np.ndarray,
    seed: int = 0,
    engine: Engine | None = None,
    refine: int = 0,
    progress: Progress | None = None,
) -> Likelihood:
    """See `Model.bits`: the mean over all window positions, given a code drawn from q(z | x), and KL(q(z | x) || p(z)).

    Args:
        checkpoint: the model.
        images: uint8 [N, H, W, C], of the size the model was trained at.
        seed: of the codes' noise.
        engine: runs the network; None: torch, in fp32, on a GPU if there is one.
        refine: gradient steps on the mean of each image's q(z | x), see `codes.refine`; 0 for the encoder's.
        progress: told of the part "likelihood".
    """
    config, m, engine = checkpoint.config.network, checkpoint.config.network.patch, engine or engines.get("torch")
    n, height, width, channels = images.shape
    fits = channels == config.channels and min(height, width) >= m
    require(fits, "images", f"[N, H, W, {config.channels}], H and W at least {m}", list(images.shape))
    z, maps, code_bits, prior = None, None, np.zeros(n), prior_of(checkpoint)
    if config.latent:
        posterior = codes.posterior(checkpoint, images, refine)
        z = reparameterise(*posterior, torch.Generator().manual_seed(seed))
        code_bits = codes.kl_nats(prior, *posterior, z) / math.log(2) / (channels * height * width)
    module = module_of(checkpoint) if config.conditioning == "spatial" else None
    windows_of = _Windows(config, height, width)
    image_bits, sums, counts = np.zeros(n), np.zeros((height, width)), np.zeros((height, width))
    for index in range(n):
        place = index % codes.VAE_BATCH
        if module is not None and z is not None and place == 0:
            maps = module.image_maps(z[index : index + codes.VAE_BATCH].to(checkpoint.device))
            maps = None if maps is None else maps.cpu()
        levels = torch.from_numpy(np.array(images[index].transpose(2, 0, 1)))
        windows = to_unit(levels).unfold(1, m, 1).unfold(2, m, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        inputs = {"x": _flat(windows), **windows_of.told(None if maps is None else maps[place][None])}
        code = None if z is None else z[index].expand(len(windows), -1).numpy()
        params = torch.from_numpy(engine.evaluate(checkpoint.networks["network"], m, m, inputs, code)).transpose(1, 2)
        nats = -logistics_log_prob(params.unflatten(2, (m, m)), windows)
        pixel_bits = nats.numpy() / math.log(2) / channels  # [windows, m, m]
        image_bits[index] = pixel_bits.mean(dtype=np.float64)
        for window, r, c in zip(pixel_bits, windows_of.rows, windows_of.columns, strict=True):
            sums[r : r + m, c : c + m] += window
            counts[r : r + m, c : c + m] += 1
        if progress:
            progress("likelihood", (index + 1) / n)
    return Likelihood(image_bits, code_bits, sums / counts, prior.kind if config.latent else "none")


class _Windows:
    """All windows of an image, in the order of their top left pixels.

    Attributes:
        rows, columns: int [windows], where each begins.
    """

    def __init__(self, config, height: int, width: int):
        self.config, m = config, config.patch
        begin = np.meshgrid(np.arange(height - m + 1), np.arange(width - m + 1), indexing="ij")
        self.rows, self.columns = (origins.ravel() for origins in begin)
        y, x = (torch.from_numpy(axis(size)) for size in (height, width))
        self._y = y[self.rows][None], y[self.rows + m - 1][None]
        self._x = x[self.columns][None], x[self.columns + m - 1][None]
        extra = int(config.conditioning == "spatial")
        self._extra = torch.full((1, len(self.rows), extra), scale(height, width, config.sizes))

    def told(self, maps: torch.Tensor | None) -> dict[str, np.ndarray]:
        """What the network is told of the places of every window, given the image's feature maps [1, M, h, w]."""
        if not self.config.place_inputs:
            return {}
        told = told_places(self.config.resolutions(), self._y, self._x, self._extra, maps)
        return {f"places.{k}": _flat(places) for k, places in enumerate(told)}


def _flat(maps: torch.Tensor) -> np.ndarray:
    """[B, C, H, W] -> [B, places, C], as engines take it."""
    return maps.flatten(2).transpose(1, 2).contiguous().numpy()
