"""New weights for a sampler: the time of `Sampler.update`, the compiled network's numbers included, beside one drawn image.

    pytest benchmarks/test_update.py --benchmark-only --benchmark-json figures.json && python benchmarks/table.py figures.json

The PixelCNN++ has random weights: speed does not depend on what they learnt. An updated sampler's image is compared with a fresh one's
before anything is timed.
"""

import time

import numpy as np
import pytest
import torch

import spx
from spx.models import registry
from spx.models.model import Checkpoint
from spxcore import engines


def small(seed: int) -> Checkpoint:
    """The small PixelCNN++ of 28x28 with random weights."""
    family = registry.family("pixelcnnpp")
    config = family.trained(family.preset("small"), 1, 28)
    torch.manual_seed(seed)
    tensors = {name: tensor.numpy() for name, tensor in family.untrained(config).state_dict().items()}
    return Checkpoint("pixelcnnpp", config, tensors)


def shipped(seed: int) -> Checkpoint:
    """mnist-8x8, its weights scaled by the seed."""
    found = spx.load("mnist-8x8").checkpoint
    scaled = {n: t * np.float32(1 + seed / 100) if n.endswith(".g") else t for n, t in found.tensors.items()}
    return found.with_tensors(scaled)


@pytest.mark.parametrize("make", [small, shipped])
def test_update(benchmark, make):
    engine, sampler = engines.get("cpp"), spx.Sampler(make(0))
    weights = [make(seed).tensors for seed in (0, 1)]
    sampler.update(weights[1])
    expected = spx.Sampler(make(1)).sample(28, seed=3, engine="cpp")
    np.testing.assert_array_equal(sampler.sample(28, seed=3, engine=engine), expected)
    job = sampler.drawing(spx.Request(28)).job(0, np.arange(1), {})
    turns = iter(range(1 << 30))

    def update():
        """What a training loop waits for before a drawing begins."""
        sampler.update(weights[next(turns) % 2])
        network = sampler.checkpoint.networks["network"]
        engine.raster(network, 28, 28) if make is small else engine.windows(network, 8, 8)

    def drawing():
        start = time.perf_counter()
        engine.draw(job, job.canvas())
        return time.perf_counter() - start

    drawn = min(drawing() for _ in range(20))  # with weights of its own, put back by the first of them
    benchmark.pedantic(update, rounds=50, warmup_rounds=2)
    names = {small: "pixelcnnpp, small, 28x28", shipped: "mnist-8x8"}
    benchmark.extra_info |= {"model": names[make], "update_ms": 1e3 * benchmark.stats.stats.min, "one_image_ms": 1e3 * drawn}  # fmt: skip
