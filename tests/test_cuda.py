"""The cuda engine. Without a GPU its kernels run in their host build: numbers against the plan, images against the reference."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import (
    FOR_A_GPU,
    close,
    config,
    double,
    draws_into_any_layout,
    expected_images,
    job,
    lets_python_threads_run,
    network,
    same_images,
    stops_when_told,
    windows,
)  # fmt: skip

from spxcore import Weights, engines, native
from spxcore.engines import cuda
from spxcore.errors import SpxError
from spxcore.plan import compile_network, execute
from spxcore.plan.passes import PRECISIONS, window_passes
from spxcore.sampler import first_difference

needs_native = pytest.mark.skipif(not native.have_native(), reason=native.why_no_native() or "built")
needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not native.have_cuda(), reason=native.why_no_cuda() or "there is a GPU"),
]

SPATIAL = {"conditioning": "spatial"}
NETWORKS = {
    "8x8 spatial": {"patch": 8, **SPATIAL},
    "4x4 rgb": {"patch": 4, "channels": 3},
    "8x8 neither": {"patch": 8, "coordinates": False, "latent": 0},
    "8x8 rgb spatial of 9 filters, two layers": {"channels": 3, "filters": 9, "layers": 2, **SPATIAL},
    "4x4 of 25 filters": {"patch": 4, "filters": 25, "mixtures": 10, **SPATIAL},
}

# Largest difference from the plan in float64, as a share of the largest parameter. Measured in the host build: fp32 4e-7, tf32 6e-4,
# bf16 5e-3.
TOLERANCE = {"fp32": 5e-6, "tf32": 3e-3, "bf16": 3e-2}


ON = [
    pytest.param(cuda.host_build, marks=needs_native, id="host build"),
    pytest.param(lambda precision="fp32", **_: cuda.make(precision), marks=needs_gpu, id="gpu"),
]


@pytest.fixture(scope="module")
def spatial() -> Weights:
    return Weights.of(network(config(**SPATIAL)))


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_teacher_forced(name, precision, on):
    """Known windows through every window program: the plan's numbers."""
    engine = on(precision, blocks=2, warps=2, windows=3)
    weights = Weights.of(network(config(**NETWORKS[name])))
    c, plan = weights.config, compile_network(weights)
    _, inputs, z = windows(c, batch=5)
    expected = execute(plan, double(inputs), z)["params"]
    conditioning = [inputs[name] for name in plan.inputs if name != "x"]
    m = c.patch
    for i in range(m):
        for left in (0, 1):
            targets = [i * m + x for x in range(m)] if left else [i * m + m - 1]
            got = engine.window_params(weights, 2 * i + left, inputs["x"], conditioning, z)
            assert close(got, expected[:, targets], TOLERANCE[precision])
            assert precision == "fp32" or not close(got, expected[:, targets], 1e-6)


@pytest.mark.parametrize("on", ON)
def test_activations_far_from_zero(on):
    """Beyond the range of exp: the gate saturates and elu reaches -1, and nothing becomes NaN."""
    net = network(config(**SPATIAL))
    for name, p in net.named_parameters():
        if name.endswith("conv_in.g") or name.endswith("conv_out.bias"):
            p.data *= 300
    weights = Weights.of(net)
    plan = compile_network(weights)
    _, inputs, z = windows(weights.config, batch=3)
    expected = execute(plan, double(inputs), z)["params"][:, 56:]
    assert np.abs(expected).max() > 1e4
    conditioning = [inputs[name] for name in plan.inputs if name != "x"]
    assert close(on("fp32").window_params(weights, 15, inputs["x"], conditioning, z), expected, 1e-5)


@needs_native
def test_blocks_warps_and_windows_give_the_same_bits(spatial):
    """Who computes a number changes nothing in it."""
    plan = compile_network(spatial)
    _, inputs, z = windows(spatial.config, batch=7)
    conditioning = [inputs[name] for name in plan.inputs if name != "x"]
    for precision in PRECISIONS:
        one = cuda.host_build(precision, 1, 1, 1).window_params(spatial, 14, inputs["x"], conditioning, z)
        for options in ((2, 1, 3), (1, 5, 7), (3, 2, 2)):
            many = cuda.host_build(precision, *options).window_params(spatial, 14, inputs["x"], conditioning, z)
            np.testing.assert_array_equal(many, one)


@needs_native
def test_passes_share_weights(spatial):
    """Places of a stage with other taps are one product with zeros where that is no dearer, and weights are stored once."""
    plan = compile_network(spatial)
    passes = window_passes(plan, "bf16")
    begin, end = passes.parts[passes.programs[14, 0]], passes.parts[passes.programs[14, 0] + 1]
    assert len(plan.stages) - 10 < passes.passes[begin:end, 8].sum() <= end - begin <= 3 * len(plan.stages)
    assert (passes.sources == -1).any()
    assert passes.weights.nbytes < 4 * window_passes(plan, "fp32").weights.nbytes


# ---- images ----------------------------------------------------------------------------------------------------------


def sample_with(engine, weights, task) -> np.ndarray:
    image = engine.sample(weights, task)
    assert np.ptp(image) > 100  # a comparison of constants would prove nothing
    return image


@pytest.mark.parametrize(
    ("network_of", "height", "width", "images"),
    [
        (SPATIAL, 8, 8, 1),
        (SPATIAL, 13, 21, 3),
        (SPATIAL, 28, 28, 1),
        ({"patch": 4, "filters": 3, **SPATIAL}, 56, 56, 1),
        ({"patch": 4, **SPATIAL}, 4, 37, 1),
        ({"patch": 4, "channels": 3}, 23, 4, 2),
        ({"patch": 4, "channels": 3}, 5, 6, 64),
        ({"patch": 8}, 15, 9, 3),
        ({"patch": 8, "channels": 3, **SPATIAL}, 11, 17, 1),
        ({"coordinates": False, "latent": 0}, 9, 15, 1),
        ({"patch": 16, "filters": 4, "latent": 0}, 18, 19, 1),
        ({"patch": 16, "filters": 3, "channels": 3, **SPATIAL}, 17, 19, 1),
        ("small-8x8", 10, 13, 1),
        ("paper-large-4x4", 4, 4, 1),
    ],
    ids=lambda value: str(value).replace(" ", ""),
)
@pytest.mark.parametrize("on", ON)
def test_free_running_it_draws_what_the_reference_draws(network_of, height, width, images, on):
    weights, task, expected = expected_images(network_of, height, width, images)
    same_images(weights, task, sample_with(on(blocks=2, warps=1, windows=3), weights, task), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not native.have_cuda(), reason=native.why_no_cuda() or "there is a GPU")
@pytest.mark.filterwarnings("ignore:cuda. .*the triton engine draws instead")  # the large network, in fp32
@pytest.mark.parametrize(("network_of", "height", "width", "images"), FOR_A_GPU, ids=str)
def test_on_a_gpu(network_of, height, width, images):
    weights, task, expected = expected_images(network_of, height, width, images)
    same_images(weights, task, sample_with(cuda.make(), weights, task), expected)


@needs_native
@pytest.mark.parametrize(("height", "width", "images"), [(8, 8, 1), (12, 19, 2), (20, 9, 1)])
def test_the_same_pixels_for_any_grid(spatial, height, width, images):
    """Fewer blocks than rows, more blocks than rows, one warp or several, windows beyond the row's end."""
    task = job(spatial.config, height, width, images)
    one = sample_with(cuda.host_build(blocks=1, warps=1, windows=1), spatial, task)
    for options in ((2, 1, 2), (5, 2, 3), (25, 1, 8)):
        np.testing.assert_array_equal(cuda.host_build("fp32", *options).sample(spatial, task), one)


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_pixels_alone_and_in_company(spatial, precision, on):
    task = job(spatial.config, 12, 19, images=3)
    together = sample_with(on(precision, blocks=3, windows=2), spatial, task)
    for n in range(3):
        alone = replace(task, images=task.images[n : n + 1], z=task.z[n : n + 1], maps=task.maps[n : n + 1])
        np.testing.assert_array_equal(on(precision, windows=3).sample(spatial, alone)[0], together[n])


@pytest.mark.parametrize("map", [False, True])
@pytest.mark.parametrize("on", ON)
def test_temperature_and_map(spatial, map, on):
    task = job(spatial.config, 12, 14, temperature=0.5, map=map)
    expected = engines.get("torch", device="cpu").sample(spatial, task)
    same_images(spatial, task, on(blocks=2).sample(spatial, task), expected)


@needs_native
def test_the_comparison_sees_a_wrong_pixel(spatial):
    task = job(spatial.config, 12, 12)
    image = cuda.host_build().sample(spatial, task)
    wrong = image.copy()
    wrong[0, 9, 9] += 128
    assert first_difference(spatial, task, image, image.copy()) is None
    with pytest.raises(AssertionError):
        same_images(spatial, task, wrong, image)


# ---- the engine's interface ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ON)
def test_progress_adds_up(spatial, on):
    task, counts = job(spatial.config, 20, 33, images=2), []
    on(blocks=2).sample(spatial, task, counts.append)
    assert sum(counts) == 2 * 20 * 33 and all(count > 0 for count in counts)


@pytest.mark.parametrize("on", ON)
def test_what_progress_raises_stops_the_drawing(spatial, on):
    stops_when_told(on(blocks=3, warps=2), spatial, job(spatial.config, 3000, 300))


@needs_native
def test_a_row_does_not_wait_for_ever(spatial):
    """The bound on spinning: with no patience at all, the first wait ends the drawing with an error, in every block."""
    impatient = cuda.Cuda(native.native().CudaEmulation, blocks=3, patience=1)
    with pytest.raises(RuntimeError, match=r"^cuda: a row waited for the row above for too long"):
        impatient.sample(spatial, job(spatial.config, 3000, 300))


@needs_native
def test_other_python_threads_run_meanwhile(spatial):
    lets_python_threads_run(cuda.host_build(), spatial, job(spatial.config, 20, 20))


@pytest.mark.parametrize("on", ON)
def test_draws_into_an_array_of_any_layout(spatial, on):
    draws_into_any_layout(on(), spatial, 9)


def test_without_a_gpu_it_says_why():
    if native.have_cuda():
        pytest.skip("this machine has a GPU")
    assert engines.why_not("cuda") == native.why_no_cuda()
    with pytest.raises(SpxError, match="engine: cuda cannot run here: "):
        engines.get("cuda")


def test_the_gpu_that_is_asked_for_is_looked_at(monkeypatch):
    class Gpus:
        Engine = None
        device_count = staticmethod(lambda: 2)
        compute_capability = staticmethod([90, 75].__getitem__)

    monkeypatch.setattr(native, "have_cuda", lambda: True)
    monkeypatch.setattr(native, "cuda", lambda: Gpus)
    assert cuda.make().options == {"device": 0} and cuda.why_not() is None
    with pytest.raises(SpxError, match=r"^device: the cuda engine cannot run on cuda:1: its kernels need .* has 7.5$"):
        cuda.make(device="cuda:1")
    with pytest.raises(
        SpxError, match=r"^device: expected cuda, or cuda:0 to cuda:1, for the cuda engine, got 'cuda:2'"
    ):
        cuda.make(device="cuda:2")


def test_a_network_that_does_not_fit_is_drawn_by_triton(spatial, monkeypatch):
    def too_large(*_, **__):
        raise MemoryError("the network's windows take 9999 KB each")

    class Triton:
        def sample(self, weights, job, progress, out):
            return job.empty(weights.config)

    asked, engine = {}, cuda.Cuda(too_large, "bf16", device=1)
    monkeypatch.setattr(engines, "get", lambda name, **options: asked.update(options, name=name) or Triton())
    with pytest.warns(
        UserWarning, match="cuda: the network's windows take 9999 KB each; the triton engine draws instead"
    ):
        engine.sample(spatial, job(spatial.config, 8, 8))
    assert engine.name == "triton"
    assert asked == {"name": "triton", "precision": "bf16", "device": "cuda:1"}


@pytest.mark.gpu
@pytest.mark.skipif(not native.have_cuda(), reason=native.why_no_cuda() or "there is a GPU")
def test_options():
    for options, message in (
        ({"precision": "fp16"}, "precision: expected"),
        ({"device": "cpu"}, "device: expected cuda, or cuda:0 to"),
        ({"device": "cuda:99"}, "device: expected cuda, or cuda:0 to"),
    ):
        with pytest.raises(SpxError, match=message):
            cuda.make(**options)


# ---- tables that are wrong never run ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def passes(spatial):
    return window_passes(compile_network(spatial), "fp32")


def make_engine(spatial, passes, **change):
    c = spatial.config
    arguments = {"patch": c.patch, "channels": c.channels, "parameters": c.outputs, "place_inputs": c.place_inputs}
    return native.native().CudaEmulation(**{**arguments, "passes": passes, **change})


def changed(passes, field: str, index: tuple, value: int):
    array = getattr(passes, field).copy()
    array[index] = value
    return replace(passes, **{field: array})


@needs_native
@pytest.mark.parametrize("value", [1 << 30, -2, (1 << 31) - 1])
@pytest.mark.parametrize(
    ("field", "index"),
    [("passes", (9, column)) for column in range(7)]
    + [("rows", (700, column)) for column in (0, 1, 2, 3, 5, 6)]
    + [("programs", (3, column)) for column in range(8)]
    + [("sources", (40,)), ("kinds", (2,)), ("params", (1,)), ("parts", (2,))]
    + [
        ("pixels", (0, 0)),
        ("pixels", (0, 1)),
        ("conditioning", (0, 0)),
        ("conditioning", (0, 1)),
        ("conditioning", (0, 2)),
    ],
)
def test_an_index_out_of_range_is_refused(spatial, passes, field, index, value):
    with pytest.raises(ValueError, match=r"expected .*, got"):
        make_engine(spatial, changed(passes, field, index, value))


@needs_native
def test_other_faults_of_tables(spatial, passes):
    gated = int(np.flatnonzero(passes.passes[:, 7])[0])
    first = int(passes.parts[4])
    for wrong, message in (
        (changed(passes, "passes", (first, 8), 0), "pass, sync: expected 1 at the beginning of a part, got 0"),
        (changed(passes, "rows", (int(passes.passes[gated, 0]), 4), -1), "row, residual: expected"),
        (changed(passes, "passes", (gated, 6), 11), "pass, columns: expected an even number"),
        (replace(passes, words=100), "expected 0 to"),
        (replace(passes, programs=passes.programs[:-1]), "programs: expected 16, got 15"),
        (replace(passes, programs=passes.programs[::-1].copy()), "program, steps: expected 1"),
        (replace(passes, sources=passes.sources.astype(np.int64)), "sources: expected a int32"),
        (replace(passes, rows=passes.rows[:, :5]), r"rows: expected a int32 numpy array \[N, 7\]"),
        (replace(passes, precision="fp64"), "precision: expected"),
    ):
        with pytest.raises(ValueError, match=message):
            make_engine(spatial, wrong)
    for change, message in (
        ({"patch": 6}, "patch: expected a multiple of 4"),
        ({"channels": 2}, "channels: expected 1 or 3"),
        ({"parameters": 4}, "parameters: expected a multiple of 3"),
        ({"place_inputs": 1}, "place_inputs: expected"),
        ({"windows": 65}, "windows: expected 0 to 64, got 65"),
        ({"blocks": -1}, "blocks: expected"),
    ):
        with pytest.raises(ValueError, match=message):
            make_engine(spatial, passes, **change)


@needs_native
def test_native_arguments_are_checked(spatial, passes):
    engine = make_engine(spatial, passes)
    x, u = np.zeros((1, 64, 1), np.float32), np.zeros((1, passes.latent.shape[1]), np.float32)
    places = [np.zeros((1, s * s, 6), np.float32) for s in (8, 4, 2)]
    for arguments, message in (
        ((16, x, places, u), "program: expected 0 to 15, got 16"),
        ((0, x[:, :63], places, u), r"pixels: expected a float32 numpy array \[N, 64, 1\]"),
        ((0, x, places[:2], u), "conditioning: expected 3 arrays, got 2"),
        ((0, x, places[::-1], u), r"conditioning: expected a float32 numpy array \[1, 64, 6\]"),
        ((0, x, places, u[:, 1:]), "latent: expected a float32 numpy array"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.evaluate(*arguments)
    assert engine.evaluate(0, x[:0], [p[:0] for p in places], u[:0]).shape == (0, 1, 9)

    ones, image = np.ones(8, np.float32), np.zeros((1, 8, 8, 1), np.uint8)
    good = {
        "height": 8, "width": 8, "seed": 0, "images": np.zeros(1, np.uint32), "latent": u,
        "maps": np.zeros((1, 3, 2, 2), np.float32), "y_axis": ones, "x_axis": ones, "scale": 0.0, "temperature": 1.0,
        "map": False, "out": image, "progress": None,
    }  # fmt: skip
    engine.sample(**good)
    for change, message in (
        ({"height": 7}, r"height and width: expected 8 to 2\^20, got \[7, 8\]"),
        ({"seed": -1}, "seed: expected"),
        ({"images": np.zeros(2, np.uint32)}, r"latent: expected a float32 numpy array \[2, "),
        ({"images": np.zeros(0, np.uint32)}, "images: expected 1 to"),
        ({"maps": np.zeros((1, 2, 2, 2), np.float32)}, r"maps: expected a float32 numpy array \[1, 3, h, w\]"),
        ({"maps": np.zeros((1, 3, 0, 2), np.float32)}, "maps: expected at least one sample"),
        ({"x_axis": ones[:7]}, "x_axis: expected"),
        ({"out": image[:, :, ::2]}, "out: expected a uint8 numpy array"),
        (
            {"out": np.zeros((8, 8, 1, 1), np.uint8).transpose(2, 0, 1, 3)[:, ::-1]},
            "out: expected a C-contiguous array",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            engine.sample(**{**good, **change})
