"""A job and its canvas as native code reads them. `csrc/job.h` has the same names; `csrc/fields.h` checks every number."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..feeds import Planes, axis

if TYPE_CHECKING:
    from ..canvas import Canvas
    from ..drawing import Job
    from ..heads import Head


class NativeJob(NamedTuple):
    """Images to draw, by windows or whole.

    Attributes:
        height, width: H, W in pixels.
        seed, draw: key, and fourth word of the counter.
        images: uint32 [N] image numbers.
        code: float32 [N, Z], or None.
        maps: float32 [N or 1, M, h, w], or None.
        extra: float32 [E], told at every place.
        y_axis, x_axis: float32 [H], [W], coordinates of the rows and columns.
        table: float32 [levels, e], what the network sees of a level.
        head: kind, channels, components and levels.
        temperature, mode: see `Sampling`.
        given: bool [N or 1, H, W], or None.
        pixels, finished, params: of the canvas.
        planes: float32 [N or 1, h, w, C] of each input besides the pixels, in the graph's order: of the raster schedule.
    """

    height: int
    width: int
    seed: int
    draw: int
    images: np.ndarray
    code: np.ndarray | None
    maps: np.ndarray | None
    extra: np.ndarray
    y_axis: np.ndarray
    x_axis: np.ndarray
    table: np.ndarray
    head: Head
    temperature: float
    mode: bool
    given: np.ndarray | None
    pixels: np.ndarray
    finished: np.ndarray
    params: np.ndarray | None
    planes: tuple[np.ndarray, ...] = ()


def native_job(job: Job, canvas: Canvas) -> NativeJob:
    """A job of the sliding window (`spxcore.engines.base.why_no_window`) and its canvas as native code reads them.

    So is one of the raster schedule (`why_no_raster`), which is told nothing but planes.
    """
    told, given = job.told, canvas.given
    planes = (job.feeds[name] for name in job.evaluated.graph.inputs)
    return NativeJob(
        job.height, job.width, job.seed, job.draw, job.images, job.code, told.maps, told.extra, axis(job.height),
        axis(job.width), job.drawn.table, job.head, job.sampling.temperature, job.sampling.mode,
        given[None] if given is not None and given.ndim == 2 else given, canvas.pixels, canvas.finished, canvas.params,
        tuple(feed.array for feed in planes if isinstance(feed, Planes)),
    )  # fmt: skip
