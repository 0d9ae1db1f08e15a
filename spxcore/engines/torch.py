"""The plain PyTorch network: all windows of a step of the wavefront, of all images, as one batch. Any device."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..canvas import Canvas
from ..drawing import Job
from ..errors import require
from ..rng import pixel_words
from ..schedules import Raster
from ..schedules.window import Wavefront
from ..walk.network import Network
from .base import Report, known_inputs, torch_device, why_no_raster, why_no_window

if TYPE_CHECKING:
    from .torch_raster import WholeNetwork

EMULATED = False

# Windows evaluated at once, and bytes of the activations of whole images: they bound the memory, whatever the number of images.
BATCH = 512
MEMORY = 1 << 30


def why_not() -> None:
    """Always runs."""


def make(precision: str = "fp32", threads: int | None = None, device: str | None = None) -> Torch:
    """The engine, in fp32 or with bf16 autocast."""
    require(precision in ("fp32", "bf16"), "precision", "fp32 or bf16 for the torch engine", repr(precision))
    return Torch(precision, threads, device)


class Torch:
    """See the module.

    Args:
        precision: "fp32" or "bf16".
        threads: of the processor, while it draws; None: torch's own number.
        device: "cpu", "cuda" ..., None for a GPU where torch has one.
        batch: windows evaluated, or whole images drawn, at once.
    """

    name = "torch"

    def __init__(
        self, precision: str = "fp32", threads: int | None = None, device: str | None = None, batch: int = BATCH
    ):
        require(threads is None or 1 <= threads <= 4096, "threads", "1 to 4096", threads)
        self.device, self.precision, self.threads, self.batch = torch_device(device), precision, threads, batch
        self._compiled: weakref.WeakKeyDictionary[Network, WholeNetwork] = weakref.WeakKeyDictionary()

    def why_not(self, job: Job) -> str | None:
        """See `Engine.why_not`."""
        if not isinstance(job.schedule, Raster):
            return why_no_window(job)
        return why_no_raster(job) if self.precision == "fp32" else "it draws whole images in fp32 only"

    def draw(self, job: Job, canvas: Canvas, report: Report | None = None) -> None:
        """See `Engine.draw`."""
        if isinstance(job.schedule, Raster):
            return self.draw_whole(job, canvas, report)
        with self.running():
            for r, c in Wavefront(job.height, job.width, job.schedule.side):
                # Images x pixels of this step, in pieces of at most `batch` windows.
                images_a_piece = max(1, self.batch // len(r))
                for first in range(0, len(job.images), images_a_piece):
                    images = np.arange(first, min(first + images_a_piece, len(job.images)))
                    self.draw_pixels(job, canvas, images, r, c)
                    # A row's last pixel is drawn after those of all rows above it.
                    canvas.finished[images] = r[c == job.width - 1].max(initial=canvas.finished[first] - 1) + 1
                    if report:
                        report(len(images) * len(r))

    def draw_whole(self, job: Job, canvas: Canvas, report: Report | None) -> None:
        """`draw` for the raster schedule: each place is computed once."""
        from .torch_raster import Activations, compiled

        with self.running():
            network = compiled(self._compiled, job, self.device)
            together = max(1, min(self.batch, MEMORY // network.bytes_an_image))
            for first in range(0, len(job.images), together):
                images = np.arange(first, min(first + together, len(job.images)))
                Activations(network, job, canvas, images).draw(self.put, report)

    def draw_pixels(self, job: Job, canvas: Canvas, images: np.ndarray, r: np.ndarray, c: np.ndarray) -> None:
        """Draw pixels (r, c) [R] of the images with indices `images`, which do not depend on each other."""
        given = np.stack([canvas.is_given(n, r, c) for n in images])  # [n, R]
        if given.all() and canvas.params is None:
            return
        self.put(job, canvas, images, r, c, self.pixel_params(job, canvas.pixels, images, r, c))

    @staticmethod
    def put(job: Job, canvas: Canvas, images: np.ndarray, r: np.ndarray, c: np.ndarray, params: np.ndarray) -> None:
        """Draw such pixels, except given ones, from their parameters [n * R, P], which are left on the canvas where it asks for them."""
        given = np.stack([canvas.is_given(n, r, c) for n in images])  # [n, R]
        if canvas.params is not None:
            canvas.params[images[:, None], r, c] = params.reshape(*given.shape, -1)
        rows, columns, numbers = (a.ravel() for a in np.broadcast_arrays(r, c, job.images[images][:, None]))
        words = pixel_words(job.seed, rows, columns, numbers, job.draw)
        levels = job.head.draw(params, words, job.sampling).reshape(*given.shape, -1)
        before = canvas.pixels[images[:, None], r, c]
        canvas.pixels[images[:, None], r, c] = np.where(given[..., None], before, levels)

    def pixel_params(
        self, job: Job, pixels: np.ndarray, images: np.ndarray, r: np.ndarray, c: np.ndarray
    ) -> np.ndarray:
        """The network's output for pixels (r, c) of some images given what was drawn before.

        Args:
            job: what is drawn.
            pixels: [N, H, W, C]; what follows a pixel in its window has no influence.
            images: [n] indices into the job's images.
            r, c: [R] rows and columns, the same in all these images.

        Returns:
            float32 [n * R, P].
        """
        import torch

        from .torch_feeds import origin, window_inputs

        module = job.evaluated.module.to(self.device)
        inputs, code = window_inputs(job, pixels, images, r, c, self.device)
        r0, c0 = origin(job, r, c)
        with torch.no_grad(), self.arithmetic():
            params = module(inputs, code)
        y, x = (torch.as_tensor(np.tile(a, len(images)), device=self.device) for a in (r - r0, c - c0))
        return params[torch.arange(len(params), device=self.device), :, y, x].float().cpu().numpy()

    def evaluate(
        self,
        network: Network,
        height: int,
        width: int,
        inputs: Mapping[str, np.ndarray],
        code: np.ndarray | None = None,
    ) -> np.ndarray:
        """See `Engine.evaluate`."""
        import torch

        known = known_inputs(network, height, width, inputs, code)
        z = None if code is None else torch.as_tensor(np.asarray(code, np.float32), device=self.device)
        maps = {
            name: torch.as_tensor(value, device=self.device)
            .transpose(1, 2)
            .unflatten(2, network.graph.values[name].size(height, width))
            for name, value in known.items()
            if name != "z"
        }
        with self.running(), torch.no_grad(), self.arithmetic():
            result = network.module.to(self.device)(maps, z)
        return result.flatten(2).transpose(1, 2).float().contiguous().cpu().numpy()

    @contextlib.contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Inside, the network runs in this engine's precision."""
        import torch

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            yield

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Inside, torch has this engine's number of threads, and fp32 is never TF32."""
        import torch

        from .torch_precision import full_precision

        before = torch.get_num_threads()
        if self.threads:
            torch.set_num_threads(self.threads)
        try:
            with full_precision():
                yield
        finally:
            if self.threads:
                torch.set_num_threads(before)
