"""Jobs of the raster schedule, and what they draw by the plan's meaning."""

from __future__ import annotations

import functools

import numpy as np
from walks import relu_net, spread

from spx.models.pixelcnnpp.config import NetworkConfig
from spx.models.pixelcnnpp.network import pixelcnnpp
from spxcore import Job, Logistics
from spxcore.feeds import Pixels, Planes, unit_levels
from spxcore.plan import execute, plan_at
from spxcore.schedules import Raster


def whole_job(
    height: int, width: int, images: int = 2, head=None, seed: int = 3, filters: int = 7, gated: bool = False
) -> Job:
    """Whole images: a network of two resolutions, told two numbers at each place of the lower one, and a code. gated: see `relu_net`."""
    g, head = np.random.default_rng(seed), head or Logistics(1, 3)
    of = spread(
        functools.partial(
            relu_net, pixel=head.channels, outputs=head.parameters, told=2, latent=3, filters=filters, gated=gated
        )
    )
    planes = Planes(g.normal(size=(images, -(-height // 2), -(-width // 2), 2)))
    feeds = {"x": Pixels(unit_levels(head.levels)), "where": planes}
    return Job(of, head, Raster(), feeds, height, width, np.arange(images), g.normal(size=(images, 3)), seed).check()


def streams_job(height: int, width: int, channels: int = 1, images: int = 2, **fields) -> Job:
    """PixelCNN++ of three resolutions, told one of three classes. fields: of its configuration."""
    c = NetworkConfig(**{"channels": channels, "filters": 3, "layers": 1, "mixtures": 2, "classes": 3} | fields)
    code = np.eye(3, dtype=np.float32)[np.arange(images) % 3]
    feeds, of = {"x": Pixels(unit_levels(256))}, spread(functools.partial(pixelcnnpp, c=c))
    return Job(of, c.head, Raster(), feeds, height, width, np.arange(images), code, 5).check()


def expected(job: Job, pixels: np.ndarray) -> np.ndarray:
    """Parameters of all pixels given the ones before, float64 [N, H, W, P]: the network sees none of the later ones."""
    plan = plan_at(job.network.graph, job.height, job.width)
    x, where = job.feeds["x"].table.astype(np.float64)[pixels], job.feeds["where"].array.astype(np.float64)
    n = len(pixels)
    inputs = {"x": x.reshape(n, job.height * job.width, -1), "where": where.reshape(n, -1, 2)}
    return execute(plan, inputs, job.code.astype(np.float64))[plan.output].reshape(n, job.height, job.width, -1)
