"""The naive loop of the paper: one full network evaluation a pixel, in raster order (Akoury & Nguyen 2017, section 3.2, figure 4).

The truth of every test and the baseline of every benchmark. It stays naive.
"""

from __future__ import annotations

import numpy as np

from ..canvas import Canvas
from ..drawing import Job
from ..errors import require
from .base import Report
from .torch import Torch

EMULATED = False


def why_not() -> None:
    """Always runs."""


def make(precision: str = "fp32", threads: int | None = None, device: str | None = None) -> Reference:
    """The engine; fp32 only."""
    require(precision == "fp32", "precision", "fp32 for the reference engine", repr(precision))
    return Reference("fp32", threads, device)


class Reference(Torch):
    """See the module. It evaluates as the torch engine does, one window or image at a time."""

    name = "reference"

    def draw(self, job: Job, canvas: Canvas, report: Report | None = None) -> None:
        """See `Engine.draw`."""
        with self.running():
            for n in range(len(job.images)):
                for r in range(job.height):
                    for c in range(job.width):
                        self.draw_pixels(job, canvas, np.array([n]), np.array([r]), np.array([c]))
                        canvas.finished[n] = r + (c == job.width - 1)
                        if report:
                            report(1)
