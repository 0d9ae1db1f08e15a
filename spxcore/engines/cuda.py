"""The compiled network in one persistent kernel on an NVIDIA GPU: `spxcore.lower.passes` run by `csrc/cuda`. Needs no torch."""

from __future__ import annotations

import re
import weakref
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from .. import native
from ..canvas import Canvas
from ..drawing import Job
from ..errors import SpxError, require
from ..walk.network import Network
from .base import NATIVE_LEVELS, Report, known_inputs, why_no_window

EMULATED = False

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
    from ..lower.passes import PRECISIONS

    require(precision in PRECISIONS, "precision", f"{', '.join(PRECISIONS)} for the cuda engine", repr(precision))
    count = native.cuda().device_count()
    match = re.fullmatch(r"cuda(?::(\d+))?", device or "cuda")
    number = int(match[1] or 0) if match else count
    require(number < count, "device", f"cuda, or cuda:0 to cuda:{count - 1}, for the cuda engine", repr(device))
    reason = why_not(number)
    if reason:
        raise SpxError(f"device: the cuda engine cannot run on cuda:{number}: {reason}")
    return Cuda(native.cuda().Engine, precision, Options(device=number))


class Options(NamedTuple):
    """How a network is run; 0 lets the native engine choose. `csrc/cuda/engine.h` has the same names.

    Attributes:
        device: number of the GPU.
        blocks: of the grid.
        warps: of a block.
        windows: that a block runs ahead of its row's drawing.
        patience: turns that a row waits for the row above before the drawing is given up.
        poison: new arenas hold NaN instead of zeros.
    """

    device: int = 0
    blocks: int = 0
    warps: int = 0
    windows: int = 0
    patience: int = 0
    poison: bool = False


class Cuda:
    """See the module. Threads of Python may share one: their calls wait for each other.

    Args:
        runner: the native class that runs a network's products.
        precision: one of `spxcore.lower.passes.PRECISIONS`.
        options: see `Options`.
    """

    name = "cuda"

    def __init__(self, runner, precision: str = "fp32", options: Options | None = None):
        self.runner, self.precision, self.options = runner, precision, options or Options()
        self._compiled: weakref.WeakKeyDictionary[Network, dict] = weakref.WeakKeyDictionary()

    def compiled(self, network: Network, height: int, width: int, whole: bool = False):
        """A network's native engine at a size, and its tables; made when they are first asked for.

        Args:
            whole: of the network that is evaluated, else of its windows.

        Raises:
            SpxError: for a network that the engine's code cannot run.
            MemoryError: if this device cannot hold it.
        """
        from ..lower.passes import whole_products, window_products
        from ..plan import plan_at

        known, key = self._compiled.setdefault(network, {}), (height, width, whole)
        if key not in known:
            products = whole_products if whole else window_products
            tables = products(plan_at(network.graph, height, width), self.precision)
            known[key] = self.runner(tables, self.options), tables
        return known[key]

    def why_not(self, job: Job) -> str | None:
        """See `Engine.why_not`."""
        reason = why_no_window(job, NATIVE_LEVELS)
        if reason is not None:
            return reason
        try:
            engine, _ = self.compiled(job.evaluated, job.side, job.side)
        except (SpxError, MemoryError) as error:
            return str(error)
        image, free = job.height * job.width * job.head.channels, engine.free_bytes
        if len(job.images) * image > free:
            return f"its images take {len(job.images) * image >> 20} MB, more than the {free >> 20} MB that the GPU has free"
        return None

    def draw(self, job: Job, canvas: Canvas, report: Report | None = None) -> None:
        """See `Engine.draw`."""
        from ..lower.job import native_job
        from ..lower.packing import code_numbers

        engine, tables = self.compiled(job.evaluated, job.side, job.side)
        numbers = code_numbers(job.code, tables.code, len(job.images)) if tables.code_numbers else None
        engine.draw(native_job(job, canvas)._replace(code=numbers), report)

    def evaluate(
        self,
        network: Network,
        height: int,
        width: int,
        inputs: Mapping[str, np.ndarray],
        code: np.ndarray | None = None,
    ) -> np.ndarray:
        """See `Engine.evaluate`."""
        from ..lower.packing import code_numbers
        from ..lower.window import inputs_of

        known = known_inputs(network, height, width, inputs, code)
        engine, tables = self.compiled(network, height, width, whole=True)
        images = len(next(iter(known.values())))
        return engine.evaluate(
            [known[name] for name in inputs_of(network.graph)], code_numbers(code, tables.code, images)
        )
