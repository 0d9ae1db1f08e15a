"""The compiled network on processor cores, by windows or by whole images (`csrc/cpu`), 16 side by side. Needs no torch."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .. import native
from ..canvas import Canvas
from ..drawing import Job
from ..errors import SpxError, require
from ..lower.job import native_job
from ..lower.raster import RasterNumbers, raster_tables
from ..lower.tables import INPUT, rows_of
from ..lower.window import Packed, WindowProgram, full_program, inputs_of, pack, repacked, window_programs
from ..plan import Plan, plan_at
from ..schedules import Raster
from ..walk.network import Network, Structure
from .base import NATIVE_LEVELS, Report, known_inputs, why_no_raster, why_no_window

EMULATED = False

# The instruction set to use, by a name of `spxcore._native.instruction_sets()`, instead of the fastest one.
ISA_VARIABLE = "SPX_ISA"

# From this many windows or images on, one wide run with a lane each is faster than one after the other. The bits are the same.
_SIDE_BY_SIDE = 4


def why_not() -> str | None:
    """Why it cannot run here; None if it can."""
    return native.why_no_native() or None


def make(
    precision: str = "fp32",
    threads: int | None = None,
    device: str | None = None,
    isa: str | None = None,
    poison: bool = False,
) -> Cpp:
    """The engine.

    Args:
        precision: "fp32", or "bf16" on a processor with AMX, or AMD's with AVX512_BF16: what depends on the rows above is then
            computed in bf16.
        threads: how many; None for one a core.
        device: "cpu" or None.
        isa: "avx512", "avx2" or "portable"; None takes SPX_ISA's, or the fastest one.
        poison: new memory holds NaN instead of zeros, for tests.
    """
    require(precision in ("fp32", "bf16"), "precision", "fp32 or bf16 for the cpp engine", repr(precision))
    have_bf16 = precision == "fp32" or native.native().have_bf16()
    needs = "for bf16 the cpp engine needs a processor with AMX, or one of AMD's with AVX512_BF16"
    require(have_bf16, "precision", "fp32 on this machine", "bf16", needs)
    require(device in (None, "cpu"), "device", "cpu for the cpp engine", repr(device))
    require(threads is None or 1 <= threads <= 4096, "threads", "1 to 4096", threads)
    return Cpp(threads or native.cores(), instruction_set(isa), precision, poison)


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


class Tables(NamedTuple):
    """A network at a size as native code reads it.

    Attributes:
        inputs: `INPUT` [K], in the order of `inputs_of`.
        places, parameters: of the output; numbers at each.
        weights, blocks, bias, code: as of `Packed`.
        programs: see `WindowProgram`.
    """

    inputs: np.ndarray
    places: int
    parameters: int
    weights: np.ndarray
    blocks: np.ndarray
    bias: np.ndarray
    code: np.ndarray
    programs: Sequence[WindowProgram]


class Options(NamedTuple):
    """How native code runs it: instruction set, whether what runs ahead is bf16, whether new memory holds NaN, threads."""

    isa: str
    bf16: bool
    poison: bool
    threads: int


def tables_of(plan: Plan, packed: Packed, programs: Sequence[WindowProgram]) -> Tables:
    """A plan's tables."""
    values, output = [plan.values[name] for name in inputs_of(plan)], plan.values[plan.output]
    inputs = rows_of(INPUT, np.array([(value.height, value.width, value.channels) for value in values]))
    return Tables(
        inputs, output.places, output.channels, packed.weights, packed.blocks, packed.bias, packed.code, programs
    )


class Cpp:
    """See the module.

    Args:
        threads: how many.
        isa: instruction set, a name of `spxcore._native.instruction_sets()`.
        precision: "fp32" or "bf16".
        poison: new memory holds NaN instead of zeros.
    """

    name = "cpp"

    def __init__(self, threads: int, isa: str, precision: str = "fp32", poison: bool = False):
        self.threads, self.isa, self.precision, self.poison = threads, isa, precision, poison
        self._compiled: weakref.WeakKeyDictionary[Structure, dict] = weakref.WeakKeyDictionary()

    def why_not(self, job: Job) -> str | None:
        """See `Engine.why_not`."""
        reason = None if self._is_raster(job) else why_no_window(job, NATIVE_LEVELS)
        if reason:
            return reason
        try:
            self._engine_of(job)
        except (SpxError, ValueError) as error:
            return f"it cannot run this network in {self.precision}: {error}"
        return None

    def draw(self, job: Job, canvas: Canvas, report: Report | None = None) -> None:
        """See `Engine.draw`."""
        self._engine_of(job).draw(native_job(job, canvas), report)

    def evaluate(
        self,
        network: Network,
        height: int,
        width: int,
        inputs: Mapping[str, np.ndarray],
        code: np.ndarray | None = None,
    ) -> np.ndarray:
        """See `Engine.evaluate`.

        In bf16, a network that draws runs row by row, by the programs that draw. So a likelihood is that of what is drawn. All other
        networks run in fp32.
        """
        known = known_inputs(network, height, width, inputs, code)
        given = [known[name] for name in inputs_of(network.graph)]
        code = None if code is None else np.ascontiguousarray(code, np.float32)
        if network.graph.drawn and self.precision == "bf16":
            engine = self.windows(network, height, width)
            return np.concatenate([engine.evaluate(i, given, code) for i in range(1, 2 * height, 2)], axis=1)
        engine = self._engine(network, height, width, False, lambda plan, packed: [full_program(plan, packed)])
        return engine.evaluate(0, given, code, len(given[0]) < _SIDE_BY_SIDE)

    def _is_raster(self, job: Job) -> bool:
        """Whether it draws a job by the raster schedule. bf16, and places told where they lie in a window, are the windows'."""
        return isinstance(job.schedule, Raster) and self.precision == "fp32" and not why_no_raster(job, NATIVE_LEVELS)

    def _engine_of(self, job: Job):
        """The native engine that draws a job."""
        if self._is_raster(job):
            return self.raster(job.evaluated, job.height, job.width)
        return self.windows(job.evaluated, job.side, job.side)

    def raster(self, network: Network, height: int, width: int):
        """The native engine of a network's `raster_tables`; that of the latest size is kept, since images have any."""
        known, size = self._compiled.setdefault(network.structure, {}), (height, width)
        found = known.get("raster")
        if found is None or found.size != size or not found.serves(network):
            tables = raster_tables(network.graph, height, width, tanh_gate=True)
            options = Options(self.isa, False, self.poison, self.threads)
            found = known["raster"] = _Whole(native.native().Raster(tables, options), network, size)
        return found.engine

    def windows(self, network: Network, height: int, width: int):
        """The native engine of a network's `window_programs`, compiled when it is first asked for."""
        return self._engine(network, height, width, self.precision == "bf16", window_programs)

    def _engine(self, network: Network, height: int, width: int, bf16: bool, programs: Callable):
        known = self._compiled.setdefault(network.structure, {})
        key = height, width, programs is window_programs
        if key not in known or not known[key].serves(network):
            plan = _plan(network, height, width)
            packed = pack(plan, tanh_gate=True)
            tables = tables_of(plan, packed, programs(plan, packed))
            engine = native.native().Engine(tables, Options(self.isa, bf16, self.poison, self.threads))
            known[key] = _Windows(engine, network, (height, width), [stage.bias_row for stage in plan.stages])
        return known[key].engine


def _plan(network: Network, height: int, width: int) -> Plan:
    """The plan that is run. Folding costs more than it saves where a network runs once an image."""
    return plan_at(network.graph, height, width, fold=bool(network.graph.drawn))


# `Packed.weights`, `bias` and `code`.
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


class _Compiled:
    """A native engine, and the network whose numbers it holds.

    Args:
        engine: the engine.
        network: of these numbers; it is not kept.
        size: in pixels.
    """

    def __init__(self, engine, network: Network, size: tuple[int, int]):
        self.engine, self.size, self._of = engine, size, weakref.ref(network)

    def serves(self, network: Network) -> bool:
        """Whether it holds a network's numbers now, one of the same structure: they are put into it. False: it has to be made anew."""
        if self._of() is not network:
            numbers = self.numbers(network)
            if numbers is None or not self.engine.renew(*numbers):
                return False
            self._of = weakref.ref(network)
        return True

    def numbers(self, network: Network) -> Arrays | None:
        """A network's numbers in the order of its tables; None if they do not fit."""
        raise NotImplementedError


class _Whole(_Compiled):
    """Of the raster schedule."""

    _numbers: RasterNumbers | None = None

    def numbers(self, network: Network) -> Arrays | None:
        if self._numbers is None:
            self._numbers = RasterNumbers(network.structure.numbers, *self.size)
        return self._numbers(network.tensors)


class _Windows(_Compiled):
    """Of programs.

    Args:
        bias_rows: `Stage.bias_row` of its stages.
    """

    def __init__(self, engine, network: Network, size: tuple[int, int], bias_rows: list[np.ndarray]):
        super().__init__(engine, network, size)
        self._bias_rows = bias_rows

    def numbers(self, network: Network) -> Arrays | None:
        packed = repacked(_plan(network, *self.size), self._bias_rows)
        return None if packed is None else (packed.weights, packed.bias, packed.code)
