"""The loop over a drawing's rounds and batches: drawing, and scoring what is already drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from . import engines
from .canvas import Canvas, Given, check_out, pixel_type
from .drawing import Drawing, Job
from .engines import Auto, Engine, Report
from .errors import require, shown
from .memory import memory_is_refused, require_memory

# Bytes that the feeds of a batch of images may take.
MEMORY = 1 << 30


@memory_is_refused()
def draw(
    drawing: Drawing, engine: str | Engine = "auto", out: np.ndarray | None = None, report: Report | None = None,
    log_prob: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Draw images.

    The result depends on the drawing alone, whatever the engine, the batch or the number of threads: up to draws that fall within
    float rounding of a bin edge (`spxcore.compare` finds them).

    Args:
        drawing: what is drawn.
        engine: a name of `engines.CHOICES`, or an engine.
        out: array [N, H, W, C] to draw into, of any layout; None: a new one. What was drawn before a stop is in it.
        report: called with the number of pixels drawn since the last call; what it raises stops the drawing.
        log_prob: float64 [N] that gets, for each image, the nats of its drawn pixels in all rounds, each given the pixels before it: at
            temperature 1, by the parameters that the drawing computes anyway. It needs torch.

    Returns:
        uint8 (uint16 from 257 levels on) [N, H, W, C] of the last round.

    Raises:
        SpxError: for an array that does not fit, or an engine that cannot draw this.
    """
    last = drawing.rounds[-1]
    shape = (len(drawing.images), *last.size, last.head.channels)
    memory = check_call(shape, last.head.levels, engine, out, report)
    if memory is None:
        memory = out = np.zeros(shape, pixel_type(last.head.levels))
    engine = _one(engine)
    levels = memory if memory.flags.c_contiguous else np.ascontiguousarray(memory)
    drawing = replace(drawing, given={name: _apart(given, memory) for name, given in drawing.given.items()})
    try:
        keep = log_prob is not None
        for batch in batches(drawing, keep):
            total = np.zeros(len(batch))
            for _, job, canvas in _rounds(drawing, batch, engine, levels[batch[0] : batch[-1] + 1], report, keep):
                if keep:
                    drawn = True if canvas.given is None else ~canvas.given
                    total += _nats(job, canvas).sum(axis=(1, 2), dtype=np.float64, where=drawn)
            if log_prob is not None:
                log_prob[batch] = total
    finally:
        if levels is not memory:
            memory[...] = levels
    assert out is not None
    return out


def check_call(
    shape: tuple[int, ...], levels: int, engine: object, out: object = None, report: object = None
) -> np.ndarray | None:
    """What can be refused of a call before any work. `out` as a plain array of the same memory, or None.

    Args:
        shape: (N, H, W, C) of the result.
        levels: of a channel.
        engine, out, report: as of `draw`.

    Raises:
        SpxError: for an argument of another kind, or images that do not fit this machine.
    """
    memory = check_out(out, shape, levels)
    if memory is None:
        require_memory("images", math.prod(map(int, shape)) * pixel_type(levels).itemsize)
    able = not isinstance(engine, type) and callable(getattr(engine, "why_not", None))
    known = engine in engines.CHOICES if isinstance(engine, str) else able
    require(known, "engine", f"{', '.join(engines.CHOICES)}, or an engine", shown(engine))
    require(report is None or callable(report), "report", "a function, or None", shown(report))
    return memory


def _apart(given: Given, out: np.ndarray) -> Given:
    """Given pixels in memory of their own: a later image reads them when an earlier one is drawn already."""
    pixels, mask = (np.array(a) if np.may_share_memory(a, out) else a for a in (given.pixels, given.mask))
    return Given(pixels, mask)


@memory_is_refused()
def score(drawing: Drawing, images: Mapping[str, np.ndarray], engine: str | Engine = "auto") -> dict[str, np.ndarray]:
    """Log-probabilities of images that are there, at temperature 1.

    Args:
        drawing: the images' sizes, feeds and codes; nothing is drawn.
        images: of each round, by its name, levels [N, H, W, C].
        engine: as of `draw`.

    Returns:
        For each round float32 [N, H, W], nats of each pixel.
    """
    everything = {r.name: Given(images[r.name], np.ones(r.size, bool)) for r in drawing.rounds}
    drawing, engine = replace(drawing, given=everything), _one(engine)
    result = {r.name: np.empty((len(drawing.images), *r.size), np.float32) for r in drawing.rounds}
    for batch in batches(drawing, keep=True):
        for name, job, canvas in _rounds(drawing, batch, engine, None, None, keep=True):
            result[name][batch] = _nats(job, canvas)
    return result


def _nats(job: Job, canvas: Canvas) -> np.ndarray:
    """Log-probability of each pixel by the parameters that were kept, at temperature 1: float32 [N, H, W]."""
    import torch

    from .heads.log_prob import log_prob

    params, levels = (torch.from_numpy(a).permute(0, 3, 1, 2) for a in (canvas.params, canvas.pixels))
    return log_prob(job.head, params, levels).numpy()


def _one(engine: str | Engine) -> str | Engine:
    """One engine "auto" for all rounds and batches: it remembers what failed."""
    return Auto() if isinstance(engine, str) and engine == "auto" else engine


def batches(drawing: Drawing, keep: bool = False) -> Iterator[np.ndarray]:
    """Indices of the images that are taken through all rounds together, so that their feeds, and what is kept of their pixels'
    parameters, fit into `MEMORY`."""
    kept = (4 * math.prod(r.size) * r.head.parameters if keep else 0 for r in drawing.rounds)
    size = max(1, MEMORY // max(1, *(r.bytes_an_image + k for r, k in zip(drawing.rounds, kept))))
    every = np.arange(len(drawing.images))
    return (every[first : first + size] for first in range(0, len(every), size))


def _rounds(
    drawing: Drawing, batch: np.ndarray, engine: str | Engine, out: np.ndarray | None, report: Report | None,
    keep: bool = False,
) -> Iterator[tuple[str, Job, Canvas]]:  # fmt: skip
    """Draw a batch round by round: the name, the job and the finished canvas of each."""
    earlier: dict[str, np.ndarray] = {}
    for number, r in enumerate(drawing.rounds):
        job = drawing.job(number, batch, earlier)
        given = drawing.given.get(r.name)
        if given is not None:
            n = len(drawing.images)
            given = Given(*(_of_batch(array, batch, n, rank) for array, rank in ((given.pixels, 4), (given.mask, 3))))
        elif r.start is not None:
            given = r.start(earlier)
        is_last = number == len(drawing.rounds) - 1
        canvas = job.canvas(given, out if is_last else None, keep)
        engine_of_job(engine, job).draw(job, canvas, report)
        earlier[r.name] = canvas.pixels
        yield r.name, job, canvas


def _of_batch(array: np.ndarray, batch: np.ndarray, n: int, rank: int) -> np.ndarray:
    """The batch's part of an array that has something for each of n images; any other one as it is."""
    return array[batch] if np.ndim(array) == rank and len(array) == n > 1 else array


def engine_of_job(engine: str | Engine, job: Job) -> Engine:
    """The engine that draws a job: by name, or itself.

    Raises:
        SpxError: if it cannot, saying why.
    """
    if isinstance(engine, str):
        return engines.get(engine, job)
    if isinstance(engine, Auto):
        engine.chosen(job)
        return engine
    reason = engine.why_not(job)
    require(
        reason is None, "engine", f"one that can draw this; {engine.name} cannot", reason, "--engine auto finds one"
    )
    return engine
