"""The compiled network on processor cores: `spxcore.plan` run by `csrc/cpu`, 16 windows side by side. Needs no torch."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable

import numpy as np

from .. import native
from ..errors import require
from .base import Job, Weights, in_one_piece

# The instruction set to use, by a name of `spxcore._native.instruction_sets()`, instead of the fastest one.
ISA_VARIABLE = "SPX_ISA"


def why_not() -> str | None:
    """Why it cannot run here; None if it can."""
    return native.why_no_native() or None


def make(precision: str = "fp32", threads: int | None = None, device: str | None = None, isa: str | None = None) -> Cpp:
    """The engine.

    Args:
        precision: "fp32", or "bf16" on a processor with AMX, or AMD's with AVX512_BF16: what depends on the rows above is then
            computed in bf16.
        threads: how many; None for one a core.
        device: "cpu" or None.
        isa: "avx512", "avx2" or "portable"; None takes SPX_ISA's, or the fastest one.
    """
    require(precision in ("fp32", "bf16"), "precision", "fp32 or bf16 for the cpp engine", repr(precision))
    have_bf16 = precision == "fp32" or native.native().have_bf16()
    needs = "for bf16 the cpp engine needs a processor with AMX, or one of AMD's with AVX512_BF16"
    require(have_bf16, "precision", "fp32 on this machine", "bf16", needs)
    require(device in (None, "cpu"), "device", "cpu for the cpp engine", repr(device))
    require(threads is None or 1 <= threads <= 4096, "threads", "1 to 4096", threads)
    return Cpp(threads, instruction_set(isa), precision)


def instruction_set(isa: str | None = None) -> str:
    """The instruction set of that name, for None SPX_ISA's, or the fastest one.

    Raises:
        SpxError: for one that this machine does not have.
    """
    available = native.native().instruction_sets()
    if isa is None:
        isa = os.environ.get(ISA_VARIABLE) or available[0]
    require(isa in available, ISA_VARIABLE, " or ".join(available) + " on this machine", repr(isa))
    return isa


class Cpp:
    """See the module.

    Args:
        threads: how many; None for one a core.
        isa: instruction set, a name of `spxcore._native.instruction_sets()`; "" for the fastest.
        precision: "fp32" or "bf16".
    """

    name = "cpp"

    def __init__(self, threads: int | None = None, isa: str = "", precision: str = "fp32"):
        self.threads, self.isa, self.precision = threads, isa, precision
        self._compiled: weakref.WeakKeyDictionary[Weights, object] = weakref.WeakKeyDictionary()

    def compiled(self, weights: Weights):
        """The native engine of a network, compiled when it is first asked for; its last program is the whole window's."""
        if weights not in self._compiled:
            from ..plan import compile_network
            from ..plan.program import full_program, tables, window_programs

            config, plan = weights.config, compile_network(weights)
            shared = tables(plan)
            programs = [*window_programs(plan, shared), full_program(plan, shared)]
            self._compiled[weights] = native.native().Engine(
                config.patch, config.channels, config.outputs, config.place_inputs,
                shared.weights, shared.blocks, shared.bias, shared.latent, programs, self.isa, self.precision == "bf16",
            )  # fmt: skip
        return self._compiled[weights]

    def sample(
        self,
        weights: Weights,
        job: Job,
        progress: Callable[[int], None] | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """See `Engine.sample`."""
        config, job = weights.config, job.check(weights.config)
        out = job.empty(config) if out is None else out
        with in_one_piece(out) as levels:
            self.compiled(weights).sample(
                job.height, job.width, job.seed, job.images, job.z, job.maps, *job.coordinates(config),
                job.temperature, job.map, self.threads or len(os.sched_getaffinity(0)), levels, progress,
            )  # fmt: skip
        return out

    def whole_windows(
        self, weights: Weights, pixels: np.ndarray, conditioning: list[np.ndarray], z: np.ndarray | None
    ) -> np.ndarray:
        """Mixture parameters of every pixel of windows that are known: what a likelihood needs.

        In bf16 row by row, by the programs that draw, so that it is the likelihood of what is drawn: the current row is fp32.

        Args:
            weights: the network.
            pixels: float32 [N, m * m, C] in [-1, 1].
            conditioning: float32 [N, places, D] at each of the three resolutions; empty for a network without coordinates.
            z: float32 [N, latent], or None.

        Returns:
            float32 [N, m * m, P].
        """
        m, engine = weights.config.patch, self.compiled(weights)
        programs = [2 * m] if self.precision == "fp32" else range(1, 2 * m, 2)
        rows = [engine.evaluate(program, pixels, conditioning, z, False, self.threads or 0) for program in programs]
        return np.concatenate(rows, axis=1)
