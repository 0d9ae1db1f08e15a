"""Microseconds a pixel of the naive loop, the torch wavefront and the cpp engine, in one run.

    pytest benchmarks --benchmark-only --benchmark-json figures.json && python benchmarks/table.py figures.json

The network is the small 8x8 one with spatial conditioning and random weights: speed does not depend on what it learnt.
"""

import time

import numpy as np
import pytest
from jobs import make_job

from spxcore import Network, engines, native
from spxcore.lower.window import pack, window_programs
from spxcore.plan import plan_at

# Pixels that the naive loop is timed on; each is one evaluation of the network, wherever it is.
NAIVE_SIDE = 28
NAIVE_PIXELS = NAIVE_SIDE**2

# images, height, width. The last is a strip of the 1400x1400 problem: its rate is that of the whole but for the cheaper first rows (3 %).
JOBS = {
    "1 of 28x28": (1, 28, 28),
    "16 of 28x28": (16, 28, 28),
    "256 of 28x28": (256, 28, 28),
    "1 of 56x56": (1, 56, 56),
    "1 of 224x224": (1, 224, 224),
    "1 of 112x1400": (1, 112, 1400),
}
# The torch wavefront takes minutes for the larger ones.
TORCH_PIXELS = 13_000


@pytest.fixture(scope="session")
def naive(network, config) -> float:
    """Seconds a pixel of the naive loop."""
    job, engine = make_job(network, config, 1, NAIVE_SIDE, NAIVE_SIDE), engines.get("reference")
    start = time.perf_counter()
    engine.draw(job, job.canvas())
    return (time.perf_counter() - start) / NAIVE_PIXELS


def macs_of(network: Network, m: int, images: int, height: int, width: int) -> int:
    """Multiply-adds that the windows of a job need: those along the edges are smaller."""
    plan = plan_at(network.graph, m, m)
    macs = [sum(program.macs) for program in window_programs(plan, pack(plan))]
    rows = [macs[2 * min(r, m - 1) + 1] + (width - m) * macs[2 * min(r, m - 1)] for r in range(height)]
    return images * sum(rows)


def measure(benchmark, network, config, naive, name, engine) -> None:
    job, small = make_job(network, config, *JOBS[name]), make_job(network, config, 1, 8, 8)
    engine.draw(small, small.canvas())  # compiled, and warm
    pixels = np.prod(JOBS[name])
    benchmark.pedantic(engine.draw, (job, job.canvas()), rounds=3 if pixels < 5000 else 1)
    seconds = benchmark.stats.stats.min / pixels
    cores, module = native.cores(), native.native()
    macs = macs_of(network, config.patch, *JOBS[name])
    bf16 = getattr(engine, "precision", "fp32") == "bf16"
    peak = module.bf16_peak(0.2) if bf16 else module.fma_peak(0.2)
    benchmark.extra_info |= {
        "job": name,
        "us_a_pixel": 1e6 * seconds,
        "naive_us_a_pixel": 1e6 * naive,
        "ratio_to_naive": naive / seconds,
        "naive_pixels": NAIVE_PIXELS,
        # Had every core done nothing but the multiply-adds that the job needs, in that precision.
        "peak_per_core": peak or None,
        "share_of_peak": macs / pixels / seconds / (cores * peak) if peak else None,
    }


@pytest.mark.parametrize("name", [name for name, shape in JOBS.items() if np.prod(shape) <= TORCH_PIXELS])
def test_torch(benchmark, network, config, naive, name):
    benchmark.extra_info["engine"] = "torch"
    measure(benchmark, network, config, naive, name, engines.get("torch"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", JOBS)
def test_cpp(benchmark, network, config, naive, name, precision):
    if precision == "bf16" and not native.native().have_bf16():
        pytest.skip("bf16 needs a processor with AMX, or AMD's with AVX512_BF16")
    benchmark.extra_info["engine"] = f"cpp {precision}"
    measure(benchmark, network, config, naive, name, engines.get("cpp", precision=precision))
