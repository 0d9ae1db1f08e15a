"""The compiled network on a GPU: `spxcore.plan` run by the Triton kernels of `spxcore.kernels`. Needs no CUDA toolkit.

By windows, rows of an image are drawn in blocks of m columns. All blocks that can be drawn at once are a wave (`kernels/windows.py`); a
wave is a few dozen launches. Whole images are drawn by the raster schedule, row by row (`kernels/raster.py`). A wave, and a row of each
kind, is captured once in a CUDA graph, and replayed for all others. In Triton's interpreter (TRITON_INTERPRET=1) the same launches are
plain calls.
"""

from __future__ import annotations

import importlib.util
import os
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..canvas import Canvas
from ..drawing import LARGEST_WINDOW, Job
from ..errors import SpxError, require
from ..gpus import driver
from ..schedules import Raster
from ..walk.network import Network
from .base import NATIVE_LEVELS, Report, Unable, why_no_raster, why_no_window

if TYPE_CHECKING:
    from ..kernels.launch import OnDevice
    from ..kernels.raster_launch import RasterOnDevice
    from ..kernels.tuning import Blocks

# Whether Triton runs kernels in its interpreter, on the CPU: slowly, for tests.
EMULATED = os.environ.get("TRITON_INTERPRET") == "1"

# How the products' inputs are rounded; sums are always fp32. tf32x3 is three tf32 products, nearly fp32.
PRECISIONS = ("fp32", "tf32x3", "tf32", "bf16")

# Share of the GPU's free memory for a batch of images, and that memory in the interpreter.
MEMORY_SHARE = 0.5
INTERPRETER_MEMORY = 1 << 30

# Reports a batch of images, at most. Each waits for the GPU, and is when Ctrl-C is seen.
REPORTS = 256


def why_not() -> str | None:
    """Why it cannot run here; None if it can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed: pip install triton"
    if EMULATED:
        return None
    if not driver().gpus:
        return (
            "there is no NVIDIA GPU, or no driver for it, on this machine "
            "(for tests TRITON_INTERPRET=1 runs its kernels in Triton's interpreter, very slowly)"
        )
    import torch

    if not torch.cuda.is_available():
        return "PyTorch cannot use the GPU: install a build of PyTorch with CUDA"
    major, minor = torch.cuda.get_device_capability()
    return (
        None
        if major >= 8
        else f"its kernels need a GPU of compute capability 8.0 or more, this one has {major}.{minor}"
    )


def make(precision: str = "fp32", threads: int | None = None, device: str | None = None) -> Triton:
    """The engine.

    Args:
        precision: one of `PRECISIONS`.
        threads: not used.
        device: "cuda", "cuda:N" or None.
    """
    require(precision in PRECISIONS, "precision", f"{', '.join(PRECISIONS)} for the triton engine", repr(precision))
    allowed = device is None or device.split(":")[0] == "cuda" or (EMULATED and device == "cpu")
    require(allowed, "device", "cuda or cuda:N for the triton engine", repr(device))
    return Triton(precision, device)


class Triton:
    """See the module.

    Args:
        precision: one of `PRECISIONS`.
        device: "cuda", "cuda:N", or None for the current GPU (the CPU in the interpreter).
        blocks: sizes of the kernels' tiles; None for the GPU's generation.
        memory: bytes for a batch of images; None for a share of what is free.
        poison: fill new memory with NaN, which must change nothing: for tests.
    """

    name = "triton"

    def __init__(
        self, precision: str = "fp32", device: str | None = None, blocks: Blocks | None = None, memory: int | None = None,
        poison: bool = False,
    ):  # fmt: skip
        import torch

        from ..kernels.tuning import INTERPRETER, blocks_for
        from .base import torch_device

        self.precision, self.memory, self.poison = precision, memory, poison
        self.device = torch.device("cpu") if EMULATED else torch_device(device or "cuda")
        if self.device.type == "cuda":
            blocks = blocks or blocks_for(torch.cuda.get_device_capability(self.device)[0], precision)
        self.blocks = blocks or INTERPRETER
        self._compiled: weakref.WeakKeyDictionary[Network, dict[int, OnDevice]] = weakref.WeakKeyDictionary()
        self._whole: weakref.WeakKeyDictionary[Network, tuple[tuple[int, int], RasterOnDevice]] = (
            weakref.WeakKeyDictionary()
        )

    def compiled(self, network: Network, side: int) -> OnDevice:
        """A network's tables on the device, for windows of `side` pixels a side. Made when they are first asked for.

        Raises:
            SpxError: for a network that the kernels cannot run.
        """
        of_network = self._compiled.setdefault(network, {})
        if side not in of_network:
            from ..kernels.launch import OnDevice
            from ..kernels.tables import network_layout
            from ..plan import plan_at

            layout = network_layout(plan_at(network.graph, side, side), self.blocks)
            of_network[side] = OnDevice(layout, self.blocks, self.precision, self.device, EMULATED)
        return of_network[side]

    def whole(self, network: Network, height: int, width: int) -> RasterOnDevice:
        """A network's raster schedule on the device; that of the latest size is kept, since images have any.

        Raises:
            SpxError: for a network that the kernels cannot run.
        """
        if network not in self._whole or self._whole[network][0] != (height, width):
            from ..kernels.raster_launch import RasterOnDevice
            from ..kernels.raster_tables import raster_layout
            from ..lower.raster import raster_tables

            layout = raster_layout(raster_tables(network.graph, height, width))
            on_device = RasterOnDevice(layout, self.blocks, self.precision, self.device)
            self._whole[network] = (height, width), on_device
        return self._whole[network][1]

    def _is_raster(self, job: Job) -> bool:
        """Whether it draws a job by the raster schedule. bf16, and places told where they lie in a window, are the windows'."""
        return isinstance(job.schedule, Raster) and self.precision != "bf16" and not why_no_raster(job, NATIVE_LEVELS)

    def why_not(self, job: Job) -> str | None:
        """See `Engine.why_not`."""
        reason = None if self._is_raster(job) else why_no_window(job, NATIVE_LEVELS)
        if reason and isinstance(job.schedule, Raster) and not why_no_raster(job, NATIVE_LEVELS):
            others = ", ".join(PRECISIONS[:-1])
            reason = f"in bf16 it draws whole images that are square and of up to {LARGEST_WINDOW} pixels a side only; others in {others}"
        if reason is None:
            try:
                self._on_device(job)
            except SpxError as error:
                reason = f"it cannot run this network: {error}"
        return reason

    def _on_device(self, job: Job) -> OnDevice | RasterOnDevice:
        """What draws a job."""
        if self._is_raster(job):
            return self.whole(job.evaluated, job.height, job.width)
        return self.compiled(job.evaluated, job.side)

    def draw(self, job: Job, canvas: Canvas, report: Report | None = None) -> None:
        """See `Engine.draw`."""
        from triton.runtime.errors import OutOfResources

        from ..lower.job import native_job

        network, task = self._on_device(job), native_job(job, canvas)
        together = network.images_together(task, self.memory_for_images())
        try:
            for first in range(0, len(job.images), together):
                # No name is bound to a batch: its memory is free before the next one's is taken.
                network.images(task, slice(first, first + together), self.poison).draw(report, REPORTS)
        except OutOfResources as error:
            raise Unable(
                f"precision: a kernel in {self.precision} takes {error.required} of {error.name}, and this GPU has {error.limit} "
                "for it: a newer Triton may take less; else use another precision, or another engine"
            ) from error

    def evaluate(
        self,
        network: Network,
        height: int,
        width: int,
        inputs: Mapping[str, np.ndarray],
        code: np.ndarray | None = None,
    ) -> np.ndarray:
        """See `Engine.evaluate`; torch's, on the same device and in fp32: there is nothing that waits for a pixel."""
        from .torch import Torch

        return Torch(device=str(self.device)).evaluate(network, height, width, inputs, code)

    def memory_for_images(self) -> int:
        """Bytes that the arenas of a batch of images may take."""
        if self.memory is not None:
            return self.memory
        if self.device.type == "cpu":
            return INTERPRETER_MEMORY
        import torch

        # What torch keeps for itself, and does not use, it will give to the arenas.
        cached = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return int((torch.cuda.mem_get_info(self.device)[0] + cached) * MEMORY_SHARE)
