"""The naive loop of the paper: one full network evaluation a pixel, in raster order (section 3.2, figure 4).

The truth of every test and the baseline of every benchmark. It stays naive.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import require
from ..mixture import draw, to_unit
from ..rng import pixel_words
from ..schedule import window_origin
from .base import Job, Weights, torch_device


def why_not() -> None:
    """Always runs."""


def make(precision: str = "fp32", threads: int | None = None, device: str | None = None) -> Reference:
    """The engine; fp32 only."""
    require(precision == "fp32", "precision", "fp32 for the reference engine", repr(precision))
    return Reference(threads, device)


class Reference:
    """See the module."""

    name = "reference"

    def __init__(self, threads: int | None = None, device: str | None = None):
        import torch

        self.device = torch_device(device)
        if threads:
            torch.set_num_threads(threads)

    def sample(
        self,
        weights: Weights,
        job: Job,
        progress: Callable[[int], None] | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """See `Engine.sample`."""
        job = job.check(weights.config)
        out = job.empty(weights.config) if out is None else out
        channels = weights.config.channels
        for n, image in enumerate(job.images):
            for r in range(job.height):
                for c in range(job.width):
                    params = self.pixel_params(weights, job, out, n, r, c)
                    words = pixel_words(job.seed, np.array([r]), np.array([c]), image)
                    out[n, r, c] = draw(params[None], words, channels, job.temperature, job.map)[0]
                    if progress:
                        progress(1)
        return out

    def pixel_params(self, weights: Weights, job: Job, pixels: np.ndarray, n: int, r: int, c: int) -> np.ndarray:
        """The network's output for one pixel given those drawn before it.

        Args:
            weights, job: as of `sample`.
            pixels: uint8 [N, H, W, C]; what follows (r, c) in its window has no influence.
            n, r, c: image, row and column.

        Returns:
            float32 [P].
        """
        import torch

        from ..network import place_inputs

        config, m = weights.config, weights.config.patch
        network = weights.module.to(self.device)
        r0, c0 = (int(o) for o in window_origin(r, c, m))

        def tensor(values) -> torch.Tensor:
            return torch.as_tensor(np.asarray(values, np.float32), device=self.device)

        y, x, scale = job.coordinates(config)
        rows, columns = (tensor([[y[r0]]]), tensor([[y[r0 + m - 1]]])), (tensor([[x[c0]]]), tensor([[x[c0 + m - 1]]]))
        window = tensor(to_unit(pixels[n, r0 : r0 + m, c0 : c0 + m])).permute(2, 0, 1)[None]
        maps = None if job.maps is None else tensor(job.maps[n : n + 1])
        z = None if job.z is None else tensor(job.z[n : n + 1])
        with torch.no_grad():
            places = place_inputs(config, rows, columns, tensor([[scale]]), maps)
            params = network(window, places, z)
        return params[0, :, r - r0, c - c0].float().cpu().numpy()
