"""What the benchmarks draw."""

import numpy as np

from spxcore import Job, Weights


def make_job(weights: Weights, images: int, height: int, width: int) -> Job:
    """So many images of a size, with random codes and maps."""
    g, c = np.random.default_rng(0), weights.config
    z = g.normal(size=(images, c.latent))
    return Job(height, width, 1, np.arange(images), z, g.normal(size=(images, c.maps, 56, 56)))
