"""The engine "auto": for each job the one that is expected to be done first. Where an engine fails, another one goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np

from .. import native
from ..canvas import Canvas
from ..drawing import Job
from ..errors import SpxError
from ..memory import refuses_memory
from ..schedules import Raster
from ..walk.network import Network
from .base import Engine, Report, Unable
from .trust import REPORT, warn
from .trust import why_not as why_not_trusted

# The engines that need a GPU, and seconds before they draw their first pixel: a context and tables on the GPU; Triton's compiler.
STARTUP = {"cuda": 1.0, "triton": 15.0}

# Multiply-adds, as `multiply_adds` counts them, that a core draws in a second with cpp. Measured: 260e9 on an EPYC (Zen 5) with AVX-512
# (docs/how-it-works.md: 35 us a pixel of the small 8x8 network on two cores); assumed to be less on most machines.
CORE = 100e9

Result = TypeVar("Result")

# GPU engines that failed in this process. CUDA's state is the process': after an illegal address nothing runs on the GPU any more.
_failed_on_gpu: set[str] = set()


def order(job: Job | None, threads: int | None = None) -> list[str]:
    """Names of engines, the one that is expected to be done first at the front.

    A GPU engine waits behind cpp if cpp would have drawn the job by the time that the GPU engine begins. Assumed are `STARTUP`, and
    `CORE` for each multiply-add of each pixel's whole window; nothing is known of no job. Whole images are always cpp's: it computes
    every place once. So does triton, in thousands of launches that nobody has timed; cuda computes every place again for every pixel.
    """
    from . import NAMES

    seconds = math.inf
    if job is not None:
        once = isinstance(job.schedule, Raster)
        seconds = 0 if once else multiply_adds(job) / (CORE * (threads or native.cores()))
    names = list(reversed(NAMES))
    late = [name for name in names if STARTUP.get(name, 0) > seconds]
    early = [name for name in names if name not in late]
    behind = early.index("cpp") + 1
    return [*early[:behind], *late, *early[behind:]]


def multiply_adds(job: Job) -> float:
    """About how many a job of windows takes: of every place of every pixel's window, although no engine computes them all."""
    if job.network is None:
        return 0
    graph, side = job.network.graph, job.side
    window = sum(
        math.prod(graph.values[stage.output].size(side, side)) * read.weights.size
        for stage in graph.stages
        for read in stage.reads
    )
    return float(window) * len(job.images) * job.height * job.width


class Auto:
    """See the module. It is an engine; its name is that of the engine that drew last, or is about to draw.

    What is no failure of an engine: an interrupt, what `report` raises, a refusal of an argument, and memory that the processor does not
    have. A GPU without free memory is none either, but the next engine goes on.

    Args:
        precision, threads, device: as of `engines.get`; engines that lack one of them are passed over.
    """

    def __init__(self, precision: str = "fp32", threads: int | None = None, device: str | None = None):
        self.precision, self.threads, self.device = precision, threads, device
        self._made: dict[tuple[str, str | None], Engine] = {}
        self._failed: set[str] = set()
        self._reasons: dict[str, list[str]] = {}  # why engines were passed over: names by reason
        self._name = ""

    @property
    def name(self) -> str:
        """See the class."""
        return self._name or self.chosen().name

    def chosen(self, job: Job | None = None) -> Engine:
        """The engine that will draw a job. Of no job it is only likely: a GPU engine is tested when there is something to draw.

        Raises:
            SpxError: if none can, saying why.
        """
        engine = next(self._able(job, test=job is not None), None)
        if engine is None:
            reasons = [f"{', '.join(names)}: {reason}" for reason, names in self._reasons.items()]
            raise SpxError(f"engine: none can draw this: {'; '.join(reasons)}")
        self._name = engine.name
        return engine

    def why_not(self, job: Job) -> str | None:
        """See `Engine.why_not`."""
        try:
            self.chosen(job)
        except SpxError as error:
            return str(error)
        return None

    def draw(self, job: Job, canvas: Canvas, report: Report | None = None) -> None:
        """See `Engine.draw`. What an engine that failed has finished stands for the next one."""
        progress = _Progress(report)

        def work(engine: Engine) -> None:
            nonlocal canvas
            canvas = standing(canvas)
            progress.drawn = 0
            engine.draw(job, canvas, progress)

        self._first(job, work, progress)

    def evaluate(
        self,
        network: Network,
        height: int,
        width: int,
        inputs: Mapping[str, np.ndarray],
        code: np.ndarray | None = None,
    ) -> np.ndarray:
        """See `Engine.evaluate`."""
        return self._first(None, lambda engine: engine.evaluate(network, height, width, inputs, code), _Progress(None))

    def _first(self, job: Job | None, work: Callable[[Engine], Result], progress: _Progress) -> Result:
        """What the first engine returns that does not fail. If all fail, the first one's error is raised."""
        first: Exception | None = None
        told = ""
        for engine in self._able(job):
            if told:
                warn(f"{told}; the {engine.name} engine goes on, and nothing is lost")
            self._name = engine.name
            try:
                return work(engine)
            except Exception as error:
                if progress.stopped or not self._failure(engine, error):
                    raise
                first, told = first or error, _sentence(engine, error)
        if first:
            raise first
        self.chosen(job)
        raise AssertionError("an engine that could not draw can")

    def _failure(self, engine: Engine, error: Exception) -> bool:
        """Whether another engine shall go on after an error; if so, this one is not taken again."""
        on_gpu = engine.name in STARTUP
        if _interrupted(error) or (isinstance(error, SpxError) and not isinstance(error, Unable)):
            return False
        if refuses_memory(error):
            if not on_gpu:
                return False
        elif on_gpu and not isinstance(error, Unable):
            _failed_on_gpu.add(engine.name)
        self._failed.add(engine.name)
        return True

    def _able(self, job: Job | None, test: bool = True) -> Iterator[Engine]:
        """Engines that can draw a job, in order; each is looked at when it is asked for. test: GPU engines have to be trusted."""
        self._reasons = {}
        for name in order(job, self.threads):
            found = self._engine(name, job, test)
            if not isinstance(found, str):
                yield found
            elif found:
                self._reasons.setdefault(found, []).append(name)

    def _engine(self, name: str, job: Job | None, test: bool) -> Engine | str:
        """An engine, or why it is passed over; "" for an engine that this machine does not have."""
        from . import _module, emulated, why_not

        device = "cpu" if self.device is None and _failed_on_gpu else self.device
        try:
            if name in self._failed:
                return "it failed before"
            if why_not(name) or emulated(name):
                return ""
            if (name, device) not in self._made:
                made = _module(name).make(precision=self.precision, threads=self.threads, device=device)
                self._made[name, device] = made
            engine = self._made[name, device]
            if self.precision != "fp32" and getattr(getattr(engine, "device", None), "type", "") == "cpu":
                return f"on a processor {self.precision} takes PyTorch longer than fp32"
            reason = why_not_trusted(name, self.precision, device) if test and name in STARTUP else None
            reason = reason or (engine.why_not(job) if job else None)
        except SpxError as error:
            return str(error)
        except Exception as error:
            if name not in STARTUP or _interrupted(error):
                raise
            self._failed.add(name)  # a GPU, or its driver, that is there and does not work
            warn(f"{_sentence(None, error, name)}; another engine draws")
            return f"it failed ({error})"
        return reason or engine


class _Progress:
    """A report that no engine tells twice of a pixel: one that goes on begins anew.

    Attributes:
        drawn: pixels that the engine at work has told of.
        stopped: whether the caller's report raised something.
    """

    def __init__(self, report: Report | None):
        self._report, self._told, self.drawn, self.stopped = report, 0, 0, False

    def __call__(self, count: int) -> None:
        self.drawn += count
        new = max(0, self.drawn - self._told)
        self._told += new
        if self._report:
            try:
                self._report(new)
            except BaseException:
                self.stopped = True
                raise


def standing(canvas: Canvas) -> Canvas:
    """The same canvas with all rows given that are finished; itself if none is."""
    if not canvas.finished.any():
        return canvas
    height, width = canvas.pixels.shape[1:3]
    rows = np.arange(height) < canvas.finished[:, None]
    mask = np.repeat(rows[:, :, None], width, axis=2)
    return replace(canvas, given=mask if canvas.given is None else mask | canvas.given)


def _interrupted(error: BaseException) -> bool:
    """Whether an error is what a library made of an interrupt."""
    at: BaseException | None = error
    while at is not None and not isinstance(at, KeyboardInterrupt):
        at = at.__cause__ or at.__context__
    return at is not None


def _sentence(engine: Engine | None, error: Exception, name: str = "") -> str:
    """What a user is told of an engine's error."""
    name, first = engine.name if engine else name, (str(error).splitlines() or [""])[0]
    if refuses_memory(error):
        return f"the {name} engine's GPU does not have the memory ({first})"
    if isinstance(error, Unable):
        return f"the {name} engine cannot go on: {first}"
    return f"the {name} engine failed ({type(error).__name__}: {first}); {REPORT}"
