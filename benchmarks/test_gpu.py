"""Pixels a second of the naive loop, the torch wavefront, triton and cuda on one GPU, in one run.

    pytest benchmarks/test_gpu.py --benchmark-only --benchmark-json gpu.json && python benchmarks/gpu_table.py gpu.json

The network is the small 8x8 one with spatial conditioning and random weights: speed does not depend on what it learnt. Every
figure comes with its share of the matrix-product ceiling, which is measured beside it.
"""

import time

import numpy as np
import pytest
import torch
from jobs import make_job

from spx.models.spatial.config import preset
from spxcore import engines, native
from spxcore.engines.cuda import Cuda, Options
from spxcore.plan import plan_at
from spxcore.schedules.window import Wavefront
from spxcore.walk.module import Module

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, and PyTorch finds none")

DEVICE = "cuda"

# Pixels that the naive loop is timed on, one evaluation of the network each; its other figures are this rate times their pixels.
NAIVE_SIDE = 16

# images, height, width. The target's come first: a run that is cut short has them.
JOBS = {"1 of 1400x1400": (1, 1400, 1400), "256 of 28x28": (256, 28, 28)}
JOBS |= {f"{n} of {side}x{side}": (n, side, side) for side in (28, 56) for n in (1, 16, 256)}
JOBS |= {f"{n} of 224x224": (n, 224, 224) for n in (1, 16)}
# Pixels of torch's largest job: its launches take minutes for larger ones.
LARGEST_OF_TORCH = 60_000
VARIANTS = ("torch fp32", "triton fp32", "triton tf32", "triton bf16", "cuda fp32", "cuda tf32", "cuda bf16")

# warps of a block, windows that it runs ahead: what a block of the cuda engine is. Blocks fill the GPU.
GRIDS = [(8, 2), (8, 1), (4, 1), (4, 2), (2, 1)]


def draw(engine, job) -> None:
    engine.draw(job, job.canvas())


@pytest.fixture(scope="module")
def naive(network, config) -> float:
    """Seconds a pixel of the naive loop, measured on NAIVE_SIDE^2 pixels."""
    engine = engines.get("reference", device="cuda")
    draw(engine, make_job(network, config, 1, 8, 8))
    start = time.perf_counter()
    draw(engine, make_job(network, config, 1, NAIVE_SIDE, NAIVE_SIDE))
    return (time.perf_counter() - start) / NAIVE_SIDE**2


@pytest.fixture(scope="module")
def ceiling() -> dict[str, float]:
    """Multiply-adds a second of a large matrix product in each precision."""
    found, n = {}, 8192
    for precision, dtype in (("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)):
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        a, b = (torch.randn(n, n, device="cuda", dtype=dtype) for _ in range(2))
        best = np.inf
        for _ in range(6):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            a @ b
            end.record()
            end.synchronize()
            best = min(best, start.elapsed_time(end) / 1000)
        found[precision] = n**3 / best
    torch.backends.cuda.matmul.allow_tf32 = False
    return found


def measure(benchmark, network, config, naive, ceiling, name, variant, engine, shape) -> None:
    job, precision = make_job(network, config, *shape), variant.split()[1]
    draw(engine, make_job(network, config, shape[0], 8, 8))  # compiled, and warm
    pixels = int(np.prod(shape))
    rounds = 1 if variant.startswith("torch") or pixels > 100_000 else 3  # torch takes seconds to tens of seconds
    benchmark.pedantic(draw, (engine, job), rounds=rounds)
    seconds = benchmark.stats.stats.min
    m = config.patch
    macs = plan_at(network.graph, m, m).cone([m * m - 1]).macs() * pixels
    steps = len(Wavefront(*shape[1:], m))
    cuda_version = torch.version.cuda
    info = {
        "job": name,
        "engine": variant,
        "seconds": seconds,
        "pixels_a_second": pixels / seconds,
        "us_a_step": 1e6 * seconds / steps if shape[0] == 1 else None,
        "ratio_to_naive": naive * pixels / seconds,
        "naive_us_a_pixel": 1e6 * naive,
        "naive_pixels": NAIVE_SIDE**2,
        "share_of_ceiling": macs / seconds / ceiling[precision],
        "ceiling_macs_a_second": ceiling[precision],
        "device": torch.cuda.get_device_name(),
        "cuda": cuda_version,
    }
    benchmark.extra_info |= info
    print(
        f"{name}, {variant}: {seconds:.3f} s, {pixels / seconds:,.0f} pixels/s, {info['ratio_to_naive']:,.0f} times the naive loop "
        f"(extrapolated from {NAIVE_SIDE**2} pixels), {100 * info['share_of_ceiling']:.1f} % of the {precision} ceiling"
        + (f", {info['us_a_step']:.1f} us a wavefront step" if shape[0] == 1 else "")
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", JOBS)
def test_engines(benchmark, network, config, naive, ceiling, name, variant):
    engine, precision = variant.split()
    if engine == "torch" and np.prod(JOBS[name]) > LARGEST_OF_TORCH:
        pytest.skip(f"takes too long with {variant}")
    reason = engines.why_not(engine)
    if reason:
        pytest.skip(reason)
    measure(
        benchmark, network, config, naive, ceiling, name, variant, engines.get(engine, precision=precision), JOBS[name]
    )


@pytest.mark.skipif(not native.have_cuda(), reason=native.why_no_cuda() or "there is a GPU")
@pytest.mark.parametrize(("warps", "windows"), GRIDS)
@pytest.mark.parametrize("name", ["1 of 128x1400", "256 of 28x28"])
def test_grids(benchmark, network, config, naive, ceiling, name, warps, windows):
    """What a block of the cuda engine should be: the default is the first."""
    engine = Cuda(native.cuda().Engine, "bf16", Options(warps=warps, windows=windows))
    blocks = engine.compiled(network, config.patch, config.patch)[0].options["blocks"]
    shape = (1, 128, 1400) if name.startswith("1 ") else JOBS[name]
    variant = f"cuda bf16 ({blocks} blocks, {warps} warps, {windows} windows)"
    measure(benchmark, network, config, naive, ceiling, name, variant, engine, shape)


@pytest.mark.parametrize("fused", [False, True], ids=["PyTorch", "fused"])
@pytest.mark.parametrize("name", ["small-8x8", "large-8x8"])
def test_training_pass(benchmark, name, fused):
    """Forward and backward of the network in training: whether `spx-train --fused` is worth it."""
    from spxcore.kernels.gated import gate

    c, patches = preset(name), 128
    net = Module(c.walk).to(DEVICE).train()
    net.fused = gate if fused else None
    sides = {"x": (c.channels, c.patch)} | {f"places.{k}": (c.place_inputs, c.patch >> k) for k in range(3)}
    inputs = {
        name: torch.randn(patches, channels, side, side, device=DEVICE) for name, (channels, side) in sides.items()
    }
    z = torch.randn(patches, c.latent, device=DEVICE)

    def forward_and_backward() -> None:
        net(inputs, z).square().mean().backward()
        torch.cuda.synchronize()

    benchmark.pedantic(forward_and_backward, rounds=20, warmup_rounds=3)
    milliseconds = 1000 * benchmark.stats.stats.median
    benchmark.extra_info |= {"training": name, "patches": patches, "fused": fused, "milliseconds": milliseconds}
    print(
        f"training pass of {name}, {patches} patches, {'fused' if fused else 'PyTorch'}: {milliseconds:.2f} ms (median of 20)"
    )
