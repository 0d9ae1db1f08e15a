"""What the benchmarks draw."""

import numpy as np

from spx.models.spatial.config import NetworkConfig
from spxcore import Job, Network
from spxcore.feeds import Pixels, Places, unit_levels
from spxcore.schedules import Window


def make_job(network: Network, config: NetworkConfig, images: int, height: int, width: int) -> Job:
    """So many images of a size, with random codes and maps."""
    g = np.random.default_rng(0)
    code, maps = g.normal(size=(images, config.latent)), g.normal(size=(images, config.maps, 56, 56))
    feeds = {"x": Pixels(unit_levels(256))} | dict.fromkeys(
        (f"places.{k}" for k in range(3)), Places(maps, np.zeros(1))
    )
    numbers, window = np.arange(images), Window(config.patch)
    return Job(network, config.head, window, feeds, height, width, numbers, code, seed=1).check()
