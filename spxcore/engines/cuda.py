"""The compiled network in one persistent kernel on an NVIDIA GPU: `spxcore.plan.passes` run by `csrc/cuda`. Needs no torch."""

from __future__ import annotations

import re
import warnings
import weakref
from collections.abc import Callable

import numpy as np

from .. import native
from ..errors import SpxError, require
from .base import Job, Weights, in_one_piece

# Ampere's: the first with bf16 and tf32 tensor cores.
LEAST_CAPABILITY = 80


def why_not(device: int = 0) -> str | None:
    """Why it cannot run here, on GPU number `device`; None if it can."""
    if not native.have_cuda():
        return native.why_no_cuda()
    capability = native.cuda().compute_capability(device)
    if capability < LEAST_CAPABILITY:
        return f"its kernels need a GPU of compute capability 8.0 or more, this one has {capability / 10}"
    return None


def make(precision: str = "fp32", threads: int | None = None, device: str | None = None) -> Cuda:
    """The engine.

    Args:
        precision: "fp32": multiply-adds, the reference's numbers up to rounding; "tf32" or "bf16": tensor cores, sums in fp32.
        threads: of the processor; it uses one.
        device: "cuda", "cuda:1" ..., None for the first.
    """
    from ..plan.passes import PRECISIONS

    require(precision in PRECISIONS, "precision", f"{', '.join(PRECISIONS)} for the cuda engine", repr(precision))
    count = native.cuda().device_count()
    match = re.fullmatch(r"cuda(?::(\d+))?", device or "cuda")
    number = int(match[1] or 0) if match else count
    require(number < count, "device", f"cuda, or cuda:0 to cuda:{count - 1}, for the cuda engine", repr(device))
    reason = why_not(number)
    if reason:
        raise SpxError(f"device: the cuda engine cannot run on cuda:{number}: {reason}")
    return Cuda(native.cuda().Engine, precision, device=number)


def host_build(precision: str = "fp32", blocks: int = 1, warps: int = 1, windows: int = 2) -> Cuda:
    """The same kernels compiled for the processor, a thread for each of a grid's warps: for tests without a GPU.

    Args:
        precision: as of `make`.
        blocks: of the grid.
        warps: of a block.
        windows: that a block runs ahead of its row's drawing.
    """
    return Cuda(native.native().CudaEmulation, precision, blocks=blocks, warps=warps, windows=windows)


class DoesNotFit(SpxError):
    """A network that is too large for the engine on this device."""


class Cuda:
    """See the module.

    Args:
        runner: the native class that runs a network's passes.
        precision: one of `plan.passes.PRECISIONS`.
        options: device, blocks, warps, windows of the runner; without, as many as fit.
    """

    name = "cuda"

    def __init__(self, runner, precision: str = "fp32", **options: int):
        self.runner, self.precision, self.options = runner, precision, options
        self._compiled: weakref.WeakKeyDictionary[Weights, tuple] = weakref.WeakKeyDictionary()

    def compiled(self, weights: Weights):
        """A network's native engine, and U [Z, L] of its latents; compiled when it is first asked for.

        Raises:
            DoesNotFit: if this device cannot hold it.
        """
        if weights not in self._compiled:
            from ..plan import compile_network
            from ..plan.passes import window_passes

            config = weights.config
            passes = window_passes(compile_network(weights), self.precision)
            try:
                engine = self.runner(
                    config.patch, config.channels, config.outputs, config.place_inputs, passes, **self.options
                )
            except MemoryError as error:
                raise DoesNotFit(f"cuda: {error}") from error
            self._compiled[weights] = engine, passes.latent
        return self._compiled[weights]

    def sample(
        self,
        weights: Weights,
        job: Job,
        progress: Callable[[int], None] | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """See `Engine.sample`. A network that does not fit is drawn by the triton engine, with a warning that says so."""
        config, job = weights.config, job.check(weights.config)
        try:
            engine, u = self.compiled(weights)
        except DoesNotFit as reason:
            from . import get

            warnings.warn(f"{reason}; the triton engine draws instead", stacklevel=2)
            self.name = "triton"  # commands report who drew
            device = f"cuda:{self.options.get('device', 0)}"
            return get("triton", precision=self.precision, device=device).sample(weights, job, progress, out)
        out = job.empty(config) if out is None else out
        with in_one_piece(out) as levels:
            engine.sample(
                job.height, job.width, job.seed, job.images, self.latents(job.z, u, len(job.images)), job.maps,
                *job.coordinates(config), job.temperature, job.map, levels, progress,
            )  # fmt: skip
        return out

    @staticmethod
    def latents(z: np.ndarray | None, u: np.ndarray, count: int) -> np.ndarray:
        """U z of every layer side by side: z [N, Z] or None, u [Z, L] -> float32 [N, L].

        Summed in one order whatever N is, as a matrix product is not: an image is the same alone and in company.
        """
        result = np.zeros((count, u.shape[1]), np.float32)
        for i in range(0 if z is None else len(u)):
            result += z[:, i, None] * u[i]
        return result

    def window_params(
        self, weights: Weights, program: int, pixels: np.ndarray, conditioning: list[np.ndarray], z: np.ndarray | None
    ) -> np.ndarray:
        """Mixture parameters of a window program's targets in windows that are known.

        Args:
            weights: the network.
            program: index into `plan.program.window_programs`.
            pixels: float32 [N, m * m, C] in [-1, 1].
            conditioning: float32 [N, places, D] at each of the three resolutions; empty for a network without coordinates.
            z: float32 [N, latent], or None.

        Returns:
            float32 [N, T, P].
        """
        engine, u = self.compiled(weights)
        return engine.evaluate(program, pixels, conditioning, self.latents(z, u, len(pixels)))
