"""Drawing images: the lower-level entrance, and the account of where two engines may differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import engines
from .engines import Engine, Job, Weights
from .errors import require
from .mixture import MIN_LOG_SCALE, component, levels_real, split
from .rng import pixel_words, uniform

if TYPE_CHECKING:
    from .network import PixelCNN


def sample(
    network: Weights | PixelCNN,
    height: int,
    width: int,
    *,
    z: np.ndarray | None = None,
    maps: np.ndarray | None = None,
    seed: int = 0,
    images: np.ndarray | int = 1,
    temperature: float = 1.0,
    map: bool = False,
    engine: str | Engine = "auto",
    progress: Callable[[int], None] | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Draw images of any size from a Spatial PixelCNN by the window rule (paper, section 3.2).

    The result depends on the network, the size, z, maps, the seed and the image numbers alone, whatever the engine, the batch
    or the number of threads: up to draws that fall within float rounding of a bin edge (`first_difference` finds them).

    Args:
        network: weights, or a torch module.
        height, width: H, W in pixels, at least the patch size m, square or not.
        z: [N, latent] codes of the images; None for a network without latent.
        maps: [N, M, h, w] feature maps over [-1, 1]^2; None unless the network's conditioning is "spatial".
        seed: 0 <= seed < 2^64.
        images: image numbers [N], or how many (0, 1, 2 ...).
        temperature: factor on the scales of the logistics; > 0.
        map: MAP sampling: the mean of the drawn component.
        engine: a name of `spxcore.engines.CHOICES`, or an engine.
        progress: called with the number of pixels drawn since the last call.
        out: uint8 [N, H, W, C] to draw into.

    Returns:
        uint8 [N, H, W, C].

    Raises:
        SpxError: for an argument that does not fit; it names what was expected and what was given.
    """
    numbers = np.arange(images) if isinstance(images, int) else np.asarray(images)
    return draw_job(network, Job(height, width, seed, numbers, z, maps, temperature, map), engine, progress, out)


def draw_job(
    network: Weights | PixelCNN,
    job: Job,
    engine: str | Engine = "auto",
    progress: Callable[[int], None] | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Draw a job: `sample` with its arguments in one object. Returns uint8 [N, H, W, C]."""
    weights = network if isinstance(network, Weights) else Weights.of(network)
    job = job.check(weights.config)
    if out is not None:
        expected = (len(job.images), job.height, job.width, weights.config.channels)
        good = isinstance(out, np.ndarray) and out.shape == expected and out.dtype == np.uint8
        require(good, "out", f"uint8 {list(expected)}", f"{getattr(out, 'dtype', type(out))} {list(np.shape(out))}")
    drawer = engines.get(engine) if isinstance(engine, str) else engine
    return drawer.sample(weights, job, progress, out)


@dataclass(frozen=True)
class Difference:
    """Where two images of the same job part.

    Attributes:
        image, row, column: the pixel, the first in wavefront order.
        levels: its values in the two images, uint8 [2, C].
        edge_distance: how far its draw lies from where the other value begins, in levels for the logistic draw, relative to
            the component weights' sum for the component draw; the smaller of the two.
    """

    image: int
    row: int
    column: int
    levels: np.ndarray
    edge_distance: float


def first_difference(network: Weights | PixelCNN, job: Job, a: np.ndarray, b: np.ndarray) -> Difference | None:
    """The first pixel in which two drawings of a job differ, with its draw's distance from the nearest bin edge.

    Everything this pixel depends on is equal in both, so the reference network is evaluated on it and the draw repeated. Two
    correct engines differ only where the distance is of the size of float rounding; a larger one is a fault in one of them.

    Args:
        network: as of `sample`.
        job: what was drawn.
        a, b: uint8 [N, H, W, C].

    Returns:
        None if the images are equal.
    """
    from .engines.reference import Reference

    weights = network if isinstance(network, Weights) else Weights.of(network)
    job = job.check(weights.config)
    require(a.shape == b.shape, "b", f"shape {a.shape}", b.shape)
    different = np.argwhere((a != b).any(axis=3))
    if not len(different):
        return None
    times = different[:, 1] * weights.config.patch + different[:, 2]
    n, r, c = (int(i) for i in different[np.argmin(times)])
    params = Reference(device="cpu").pixel_params(weights, job, a, n, r, c)[None]
    words = pixel_words(job.seed, np.array([r]), np.array([c]), job.images[n])
    return Difference(
        n, r, c, np.stack([a[n, r, c], b[n, r, c]]), edge_distance(params, words, job, weights.config.channels)
    )


def edge_distance(params: np.ndarray, words: np.ndarray, job: Job, channels: int) -> float:
    """Distance of one pixel's draw from the nearest place where it would fall elsewhere; see `Difference`."""
    logits, _, log_scales, _ = split(params, channels)
    u = uniform(words[:, 0])
    cumulative = np.cumsum(np.exp(logits[0] - logits[0].max()))
    to_component = np.abs(cumulative[:-1] / cumulative[-1] - u[0]).min() if len(cumulative) > 1 else np.inf
    real = levels_real(params, words, channels, job.temperature, job.map)[0].astype(np.float64)
    # A draw beyond the ends stays at the end level: its edge is the end bin's inner one.
    shifted = np.clip(real, 0, 255) + 0.5
    to_edge = np.where(
        real < 0, 0.5 - real, np.where(real > 255, real - 254.5, np.minimum(shifted % 1, 1 - shifted % 1))
    )
    # Rounding of the parameters is relative to the scale of the draw.
    k = component(logits, u)[0]
    width = 127.5 * np.exp(np.maximum(log_scales[0, :, k], MIN_LOG_SCALE))
    return float(min(to_component, (to_edge / np.maximum(1.0, width)).min()))
