"""The compiled network on a GPU: `spxcore.plan` run by the Triton kernels of `spxcore.kernels`. Needs no CUDA toolkit.

Rows of an image are drawn in blocks of m columns. All blocks that can be drawn at once are a wave (`kernels/program.py`); a wave is a
few dozen launches, captured once in a CUDA graph and replayed for every wave. In Triton's interpreter (TRITON_INTERPRET=1) the same
launches are plain calls.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import weakref
from collections.abc import Callable

import numpy as np

from ..errors import require
from .base import Job, Weights

# How the products' inputs are rounded; sums are always fp32. tf32x3 is three tf32 products, nearly fp32.
PRECISIONS = ("fp32", "tf32x3", "tf32", "bf16")

# Share of the GPU's free memory for a batch of images, and that memory in the interpreter.
MEMORY_SHARE = 0.5
INTERPRETER_MEMORY = 1 << 30

# At most so many calls of `progress`, and looks for Ctrl-C, a batch of images: each waits for the GPU.
REPORTS = 256


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on the CPU: slowly, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _devices() -> int:
    """How many GPUs the NVIDIA driver has; asked without torch, which takes seconds to import."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if found else 0


def why_not() -> str | None:
    """Why it cannot run here; None if it can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed: pip install triton"
    if interpreted():
        return None
    if not _devices():
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


def emulated() -> bool:
    """Whether it can run here, but only for tests: `auto` then passes it over."""
    return interpreted()


def make(precision: str = "fp32", threads: int | None = None, device: str | None = None) -> Triton:
    """The engine.

    Args:
        precision: one of `PRECISIONS`.
        threads: not used.
        device: "cuda", "cuda:N" or None.
    """
    require(precision in PRECISIONS, "precision", f"{', '.join(PRECISIONS)} for the triton engine", repr(precision))
    allowed = device is None or interpreted() or device.split(":")[0] == "cuda"
    require(allowed, "device", "cuda or cuda:N for the triton engine", repr(device))
    return Triton(precision, device)


class Triton:
    """See the module.

    Args:
        precision: one of `PRECISIONS`.
        device: "cuda", "cuda:N", or None for the current GPU (the CPU in the interpreter).
        blocks: `spxcore.kernels.tuning.Blocks`; None for the GPU's generation.
        memory: bytes for a batch of images; None for a share of what is free.
    """

    name = "triton"

    def __init__(self, precision: str = "fp32", device: str | None = None, blocks=None, memory: int | None = None):
        import torch

        from ..kernels.tuning import INTERPRETER, blocks_for
        from .base import torch_device

        self.precision, self.memory = precision, memory
        self.device = torch.device("cpu") if interpreted() else torch_device(device or "cuda")
        if self.device.type == "cuda":
            blocks = blocks or blocks_for(torch.cuda.get_device_capability(self.device)[0])
        self.blocks = blocks or INTERPRETER
        self._compiled: weakref.WeakKeyDictionary[Weights, object] = weakref.WeakKeyDictionary()

    def compiled(self, weights: Weights):
        """A network's tables on the device, made when they are first asked for."""
        if weights not in self._compiled:
            from ..kernels.run import DeviceNetwork
            from ..kernels.tables import network_tables
            from ..plan import compile_network

            tables = network_tables(compile_network(weights), self.blocks)
            self._compiled[weights] = DeviceNetwork(weights.config, tables, self.blocks, self.precision, self.device)
        return self._compiled[weights]

    def sample(
        self,
        weights: Weights,
        job: Job,
        progress: Callable[[int], None] | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """See `Engine.sample`."""
        from ..kernels.run import Images

        config, job = weights.config, job.check(weights.config)
        out = job.empty(config) if out is None else out
        network = self.compiled(weights)
        together = network.images_together(job, self.memory_for_images())
        for first in range(0, len(job.images), together):
            piece = slice(first, first + together)
            images = Images(
                network, job, job.images[piece],
                None if job.z is None else job.z[piece], None if job.maps is None else job.maps[piece],
                *job.coordinates(config),
            )  # fmt: skip
            try:
                images.draw(progress, REPORTS)
            finally:
                out[piece] = images.pixels()
        return out

    def memory_for_images(self) -> int:
        """Bytes that the arenas of a batch of images may take."""
        if self.memory is not None:
            return self.memory
        if self.device.type == "cpu":
            return INTERPRETER_MEMORY
        import torch

        return int(torch.cuda.mem_get_info(self.device)[0] * MEMORY_SHARE)
