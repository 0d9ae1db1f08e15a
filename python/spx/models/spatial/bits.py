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

# Windows of one call of the engine, about: on a GPU a call of few waits for its launches.
WINDOWS = 2048


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
    together = max(1, WINDOWS // len(windows_of.rows))
    for begin in range(0, n, codes.VAE_BATCH):
        decoded = slice(begin, min(begin + codes.VAE_BATCH, n))
        if module is not None and z is not None:
            maps = module.image_maps(z[decoded].to(checkpoint.device))
            maps = None if maps is None else maps.cpu()
        for first in range(begin, decoded.stop, together):
            chunk = slice(first, min(first + together, decoded.stop))
            levels = torch.from_numpy(np.array(images[chunk].transpose(0, 3, 1, 2)))
            windows = to_unit(levels).unfold(2, m, 1).unfold(3, m, 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
            of_chunk = None if maps is None else maps[chunk.start - begin : chunk.stop - begin]
            inputs = {"x": _flat(windows), **windows_of.told(len(levels), of_chunk)}
            code = None if z is None else z[chunk].repeat_interleave(len(windows) // len(levels), 0).numpy()
            params = torch.from_numpy(engine.evaluate(checkpoint.networks["network"], m, m, inputs, code))
            nats = -logistics_log_prob(params.transpose(1, 2).unflatten(2, (m, m)), windows)
            pixel_bits = nats.numpy() / math.log(2) / channels  # [images * windows, m, m]
            for index, of_image in enumerate(np.split(pixel_bits, len(levels)), first):
                image_bits[index] = of_image.mean(dtype=np.float64)
                for window, r, c in zip(of_image, windows_of.rows, windows_of.columns, strict=True):
                    sums[r : r + m, c : c + m] += window
                    counts[r : r + m, c : c + m] += 1
            if progress:
                progress("likelihood", chunk.stop / n)
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

    def told(self, n: int, maps: torch.Tensor | None) -> dict[str, np.ndarray]:
        """What the network is told of the places of every window of n images, given their feature maps [n, M, h, w]."""
        if not self.config.place_inputs:
            return {}
        y, x = ((first.expand(n, -1), last.expand(n, -1)) for first, last in (self._y, self._x))
        told = told_places(self.config.resolutions(), y, x, self._extra.expand(n, -1, -1), maps)
        return {f"places.{k}": _flat(places) for k, places in enumerate(told)}


def _flat(maps: torch.Tensor) -> np.ndarray:
    """[B, C, H, W] -> [B, places, C], as engines take it."""
    return maps.flatten(2).transpose(1, 2).contiguous().numpy()
