"""The first pixel in which two drawings of a job differ, and the distance of its draw from the nearest bin edge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .drawing import Job
from .errors import require
from .rng import pixel_words


@dataclass(frozen=True)
class Difference:
    """Where two images of the same job differ first.

    Attributes:
        image, row, column: the pixel, the first in the order of drawing.
        levels: its values in the two images, [2, C].
        edge_distance: how far its draw lies from where the other value begins; see the heads' `edge_distance`.
    """

    image: int
    row: int
    column: int
    levels: np.ndarray
    edge_distance: float


def first_difference(job: Job, a: np.ndarray, b: np.ndarray) -> Difference | None:
    """The first pixel in which two drawings of a job differ, with its draw's distance from the nearest bin edge.

    Everything this pixel depends on is equal in both, so the network is evaluated on it once more and the draw repeated. Two
    correct engines differ only where the distance is of the size of float rounding; a larger one is a fault in one of them.

    Args:
        job: what was drawn.
        a, b: levels [N, H, W, C].

    Returns:
        None if the images are equal.
    """
    require(a.shape == b.shape, "b", f"shape {a.shape}", b.shape)
    different = np.argwhere((a != b).any(axis=3))
    if not len(different):
        return None
    from .engines.reference import make  # which imports torch

    times = different[:, 1] * (job.side or job.width) + different[:, 2]
    n, r, c = (int(i) for i in different[np.argmin(times)])
    params = make(device="cpu").pixel_params(job, a, np.array([n]), np.array([r]), np.array([c]))
    words = pixel_words(job.seed, np.array([r]), np.array([c]), job.images[n], job.draw)
    return Difference(n, r, c, np.stack([a[n, r, c], b[n, r, c]]), job.head.edge_distance(params, words, job.sampling))
