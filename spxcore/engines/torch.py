"""The wavefront with the plain PyTorch network: all windows of a step, of all images, as one batch. Any device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np

from ..errors import require
from ..mixture import draw, to_unit
from ..rng import pixel_words
from ..schedule import Wavefront, window_origin
from .base import Job, Weights, torch_device

# Windows evaluated at once: bounds the memory, whatever the number of images.
BATCH = 512


def why_not() -> None:
    """Always runs."""


def make(precision: str = "fp32", threads: int | None = None, device: str | None = None) -> TorchWavefront:
    """The engine, in fp32 or with bf16 autocast."""
    require(precision in ("fp32", "bf16"), "precision", "fp32 or bf16 for the torch engine", repr(precision))
    return TorchWavefront(precision, threads, device)


class TorchWavefront:
    """See the module."""

    name = "torch"

    def __init__(
        self, precision: str = "fp32", threads: int | None = None, device: str | None = None, batch: int = BATCH
    ):
        import torch

        self.device, self.precision, self.batch = torch_device(device), precision, batch
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
        for r, c in Wavefront(job.height, job.width, weights.config.patch):
            # Images x pixels of this step, in pieces of at most `batch` windows.
            images_a_piece = max(1, self.batch // len(r))
            for first in range(0, len(job.images), images_a_piece):
                images = np.arange(first, min(first + images_a_piece, len(job.images)))
                params = self.step_params(weights, job, out, images, r, c)
                rows, columns, numbers = (a.ravel() for a in np.broadcast_arrays(r, c, job.images[images][:, None]))
                words = pixel_words(job.seed, rows, columns, numbers)
                levels = draw(params, words, weights.config.channels, job.temperature, job.map)
                out[images[:, None], r, c] = levels.reshape(len(images), len(r), -1)
                if progress:
                    progress(levels.shape[0])
        return out

    def step_params(
        self, weights: Weights, job: Job, pixels: np.ndarray, images: np.ndarray, r: np.ndarray, c: np.ndarray
    ) -> np.ndarray:
        """The network's output for pixels (r, c) of some images given what was drawn before.

        Args:
            weights, job: as of `sample`.
            pixels: uint8 [N, H, W, C].
            images: [n] indices into the job's images.
            r, c: [R] rows and columns, the same in all these images.

        Returns:
            float32 [n * R, P].
        """
        import torch

        from ..network import place_inputs

        config, m = weights.config, weights.config.patch
        network = weights.module.to(self.device)
        r0, c0 = window_origin(r, c, m)
        y, x, scale = job.coordinates(config)

        def tensor(values: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(np.ascontiguousarray(values, np.float32), device=self.device)

        def of_windows(values: np.ndarray) -> torch.Tensor:  # [R] -> [n, R]
            return tensor(values).expand(len(images), -1)

        place = np.arange(m)
        windows = pixels[
            images[:, None, None, None],
            (r0[:, None] + place)[None, :, :, None],
            (c0[:, None] + place)[None, :, None, :],
        ]  # [n, R, m, m, C]
        windows = tensor(to_unit(windows)).flatten(0, 1).permute(0, 3, 1, 2)
        scales = of_windows(np.full(len(r), scale, np.float32))
        maps = None if job.maps is None else tensor(job.maps[images])
        z = None if job.z is None else tensor(job.z[images]).repeat_interleave(len(r), dim=0)
        rows = of_windows(y[r0]), of_windows(y[r0 + m - 1])
        columns = of_windows(x[c0]), of_windows(x[c0 + m - 1])
        bf16 = (
            torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else contextlib.nullcontext()
        )
        with torch.no_grad(), bf16:
            params = network(windows, place_inputs(config, rows, columns, scales, maps), z)
        places = torch.arange(len(params), device=self.device)
        at = [torch.as_tensor(np.tile(a, len(images)), device=self.device) for a in (r - r0, c - c0)]
        return params[places, :, at[0], at[1]].float().cpu().numpy()
