"""Whole images of PixelCNN++ in raster order: forward-pass equivalents, and the time against PyTorch's, in one run.

    pytest benchmarks/test_raster.py --benchmark-only --benchmark-json figures.json && python benchmarks/table.py figures.json

A forward-pass equivalent is the time that the multiply-adds of one pass over an image take at the peak of the same run, on the cores
that draw: one for a single image of the small network, all for the other jobs, or one thread where the row says so. The weights are
random: speed does not depend on what they learnt. Every job is compared with PyTorch's pass before it is timed: the parameters of all
pixels drawn, and the pixels that they give.
"""

import functools
import time

import numpy as np
import pytest
import torch

from spx.models.pixelcnnpp.config import NetworkConfig
from spx.models.pixelcnnpp.network import pixelcnnpp
from spxcore import Job, Network, engines, native, rng
from spxcore.feeds import Pixels, unit_levels
from spxcore.plan import plan_at
from spxcore.schedules import Raster
from spxcore.walk.shapes import shapes_of

# side, channels, filters, layers: Salimans et al. 2017, section 3, is the large one; the small one is Akoury & Nguyen 2017, table 1.
NETWORKS = {"small 28x28": (28, 1, 25, 2), "large 32x32x3": (32, 3, 160, 5)}
# Jobs: images, and threads, None being one for each core.
JOBS = {
    "small 28x28": [(1, None), (16, None), (256, None), (1000, None)],
    "large 32x32x3": [(1, 1), (1, None), (16, 1), (16, None)],
}
# Images of a job whose parameters are compared with PyTorch's.
CHECKED = 4
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda name: name.replace(" ", "-"))
def whole(request):
    """A network: its name, its side, its head, itself, and the multiply-adds of one pass."""
    side, channels, filters, layers = NETWORKS[request.param]
    config = NetworkConfig(side, channels, filters, layers)
    walk = functools.partial(pixelcnnpp, c=config)
    g, tensors = np.random.default_rng(0), {}
    centre = {"g": (0.75, 0.2), "bias": (0.0, 0.1)}
    for name, shape in shapes_of(walk).items():
        mean, deviation = centre.get(name.rsplit(".", 1)[-1], (0.0, 1.0))
        tensors[name] = (mean + deviation * g.normal(size=shape)).astype(np.float32)
    network = Network(walk, tensors)
    return request.param, side, config.head, network, plan_at(network.graph, side, side, fold=False).macs()


def passes(network: Network, levels: np.ndarray) -> np.ndarray:
    """Parameters of all pixels by one PyTorch pass over images [N, H, W, C], float32 [N, H, W, P]."""
    x = torch.from_numpy(unit_levels(256)[levels][..., 0]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        return network.module({"x": x}).permute(0, 2, 3, 1).numpy()


def check(job: Job, canvas) -> None:
    """The drawn pixels are those that the whole network's parameters give, but for rounding."""
    of, (h, w) = (
        np.linspace(0, len(job.images) - 1, min(CHECKED, len(job.images))).astype(int),
        canvas.pixels.shape[1:3],
    )
    expected = passes(job.network, canvas.pixels[of])
    assert np.abs(expected - canvas.params[of]).max() < TOLERANCE * max(1, np.abs(expected).max())
    row, column = np.divmod(np.arange(h * w), w)
    for i in of:
        words = rng.pixel_words(job.seed, row, column, np.full(h * w, job.images[i]))
        levels = job.head.draw(canvas.params[i].reshape(h * w, -1), words, job.sampling)
        np.testing.assert_array_equal(levels.reshape(canvas.pixels[i].shape), canvas.pixels[i])


@pytest.mark.parametrize("threads", [1, None], ids=["one-thread", "all-threads"])
@pytest.mark.parametrize("images", [1, 16, 256, 1000])
def test_raster(benchmark, whole, images, threads):
    name, side, head, network, macs = whole
    if (images, threads) not in JOBS[name]:
        pytest.skip("takes minutes, or shows nothing that other jobs do not")
    engine = engines.get("cpp", threads=threads)
    job = Job(network, head, Raster(), {"x": Pixels(unit_levels(256))}, side, side, np.arange(images), seed=1).check()
    canvas = job.canvas(keep=True)
    engine.draw(job, canvas)
    check(job, canvas)
    blank = job.canvas()
    benchmark.pedantic(engine.draw, (job, blank), rounds=50 if (name, images) == ("small 28x28", 1) else 3)
    np.testing.assert_array_equal(blank.pixels, canvas.pixels)
    drawing = engine.raster(network, side, side).workers(images)
    seconds, peak = benchmark.stats.stats.min, native.native().fma_peak(0.5)
    levels, forward = canvas.pixels[:256], []
    torch.set_num_threads(native.cores())
    for _ in range(3):
        start = time.perf_counter()
        passes(network, levels)
        forward.append((time.perf_counter() - start) / len(levels))
    benchmark.extra_info |= {
        "whole": f"{images} of {name}, {drawing} {'thread' if drawing == 1 else 'threads'}",
        "ms_an_image": 1e3 * seconds / images,
        "peak_per_core": peak,
        "equivalents": seconds * peak * min(native.cores(), drawing) / (images * macs),
        "of_a_torch_pass": seconds / images / min(forward),
        "times_the_naive_loop": side * side * min(forward) / (seconds / images),
    }
