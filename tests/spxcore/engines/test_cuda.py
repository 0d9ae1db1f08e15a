"""The cuda engine. Without a GPU its kernels run in their host build: numbers against the plan, images against the reference."""

import functools
import re
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import (
    FOR_A_GPU,
    close,
    config,
    double,
    drawn,
    expected_images,
    flat,
    job,
    lets_python_threads_run,
    module,
    network,
    same_images,
    stops_when_told,
    windows,
)  # fmt: skip

from spx.models.spatial.network import decoder, encoder
from spxcore import Given, Job, Logistics, Network, Sampling, Softmax, Tiles, engines, native
from spxcore.compare import first_difference
from spxcore.engines import cuda
from spxcore.engines.torch_feeds import window_inputs
from spxcore.errors import SpxError
from spxcore.feeds import Pixels, Places, Planes, unit_levels
from spxcore.lower.passes import PRECISIONS, whole_products, window_products
from spxcore.lower.tables import GATE_SIGMOID
from spxcore.plan import execute, plan_at
from spxcore.schedules import Window
from spxcore.walk.language import down, down_right
from spxcore.walk.shapes import shapes_of

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


def host_build(precision: str = "fp32", **options: int) -> cuda.Cuda:
    """The same kernels compiled for the processor, a thread for each of a grid's warps. Its arenas begin as NaN."""
    options = {"blocks": 1, "warps": 1, "windows": 2, **options}
    return cuda.Cuda(native.native().CudaEmulation, precision, cuda.Options(poison=True, **options))


def on_gpu(precision: str = "fp32") -> cuda.Cuda:
    """The engine as `cuda.make` makes it, but a row waits for seconds only before the drawing fails."""
    return cuda.Cuda(native.cuda().Engine, precision, cuda.Options(patience=1 << 23))


ON = [
    pytest.param(host_build, marks=needs_native, id="host build"),
    pytest.param(lambda precision="fp32", **_: on_gpu(precision), marks=needs_gpu, id="gpu"),
]


@pytest.fixture(scope="module")
def spatial() -> Network:
    return network(config(**SPATIAL))


def spatial_job(of: Network, height: int, width: int, images: int = 1, **options) -> Job:
    return job(config(**SPATIAL), height, width, images, of=of, **options)


# ---- networks that users bring ---------------------------------------------------------------------------------------


def toy(net, filters: int, outputs: int, pixel: int, told: int, coarser: bool):
    """A small masked network with a bit of everything: relu beside concat_elu, a gate without a residual, a residual without a gate,
    and a coarser map, whose places the code and a feed tell about."""
    x = net.input("x", pixel, ones=True, drawn=True)
    places = [net.input(f"places.{k}", told, k) if told else None for k in range(1 + coarser)]
    h = net.conv("above", x, filters, down(2, 3).shifted(down=1)) + net.conv(
        "left", x, filters, down_right(1, 2).shifted(right=1)
    )
    (here,) = net.told("here", 1, 2 * filters, places[0], net.code(3))
    y = net.gate("gated", None, net.conv("y", net.relu(h), 2 * filters, down_right(2, 2)), here)
    if coarser:
        coarse = net.conv("coarse", y, filters, down_right(2, 2).halved())
        (there,) = net.told("there", 1, 2 * filters, places[1])
        seen = net.concat_elu(net.conv("w", net.concat_elu(coarse), filters))
        coarse = net.gate("coarse_gated", coarse, net.conv("z", seen, 2 * filters), there)
    y = net.conv("add", net.relu(y), filters, down_right(2, 2)) + y
    y = net.conv("both", net.relu(y), filters)
    if coarser:
        y = y + net.conv("fine", coarse, filters, down(2, 2).doubled())
    return net.conv("out", net.relu(y), outputs)


def toy_job(
    side: int,
    head,
    height: int,
    width: int,
    images: int = 2,
    embedding: int = 1,
    told: bool = True,
    coarser: bool = True,
    **options,
) -> Job:
    """A job of a `toy` network with random weights, tables, maps and codes."""
    g = np.random.default_rng(3)
    places = Places(g.normal(size=(1, 2, 3, 5)), np.float32([0.5])) if told else None

    def walk(net):
        return toy(net, 5, head.parameters, embedding * head.channels, places.channels if told else 0, coarser)

    tensors = {name: (g.normal(size=shape) * 0.7).astype(np.float32) for name, shape in shapes_of(walk).items()}
    table = unit_levels(head.levels) if embedding == 1 else g.normal(size=(head.levels, embedding))
    feeds = {"x": Pixels(table)} | ({f"places.{k}": places for k in range(1 + coarser)} if told else {})
    code, numbers = g.normal(size=(images, 3)), np.arange(images) + 5
    return Job(
        Network(walk, tensors), head, Window(side), feeds, height, width, numbers, code, 11, 256, **options
    ).check()  # fmt: skip


TOYS = {
    "softmax of 16 levels, side 5": (5, Softmax(16), 12, 14),
    "softmax of 256 levels, side 3": (3, Softmax(256), 9, 10),
    "logistics of 8 levels, side 6": (6, Logistics(1, 2, 8), 13, 14),
    "binary, side 1": (1, Softmax(2), 8, 9),
}


# ---- numbers ---------------------------------------------------------------------------------------------------------


def forced(engine, task: Job, seed: int = 0):
    """What an engine computes for pixels that are all given, and what the plan does in float64: [N, H, W, P] each."""
    shape = (len(task.images), task.height, task.width, task.head.channels)
    pixels = np.random.default_rng(seed).integers(0, task.head.levels, shape).astype(np.uint8)
    canvas = drawn(engine, task, Given(pixels, np.ones(shape[1:3], bool)), keep=True)
    np.testing.assert_array_equal(canvas.pixels, pixels)
    m, plan = task.schedule.side, plan_at(task.network.graph, task.schedule.side, task.schedule.side)
    r, c = (a.ravel() for a in np.indices(shape[1:3]))
    maps, code = window_inputs(task, pixels, np.arange(shape[0]), r, c, torch.device("cpu"))
    values = execute(plan, double({name: flat(v) for name, v in maps.items()}), None if code is None else code.numpy())
    place = np.minimum(r, m - 1) * m + np.minimum(c, m - 1)
    expected = values[plan.output][np.arange(len(r) * shape[0]), np.tile(place, shape[0])]
    return canvas.params, expected.reshape(canvas.params.shape)


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_teacher_forced(name, precision, on):
    """Every window program, by an image of given pixels that has every kind of window: the plan's numbers."""
    c = config(**NETWORKS[name])
    got, expected = forced(on(precision, blocks=2, warps=2, windows=3), job(c, c.patch + 2, c.patch + 3, images=2))
    assert close(got, expected, TOLERANCE[precision])
    assert precision == "fp32" or not close(got, expected, 1e-6)


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", TOYS)
def test_teacher_forced_toys(name, precision, on):
    """relu, gates without residuals, windows and maps of odd sides, other heads."""
    got, expected = forced(on(precision, blocks=2, windows=3), toy_job(*TOYS[name]))
    assert close(got, expected, TOLERANCE[precision])


@pytest.mark.parametrize("on", ON)
def test_activations_far_from_zero(on):
    """Beyond the range of exp: the gate saturates and elu reaches -1, and nothing becomes NaN."""
    net = module(config(**SPATIAL))
    for name, p in net.named_parameters():
        if name.endswith("conv_in.g") or name.endswith("conv_out.bias"):
            p.data *= 300
    got, expected = forced(on("fp32"), spatial_job(Network.of(net), 10, 11))
    assert np.abs(expected).max() > 1e4
    assert close(got, expected, 1e-4)  # measured 3e-5: last bits of the coordinates are multiplied, too


@needs_native
@pytest.mark.parametrize("precision", PRECISIONS)
def test_blocks_warps_and_windows_give_the_same_bits(spatial, precision):
    """Who computes a number changes nothing in it."""
    task = spatial_job(spatial, 10, 17)
    one, _ = forced(host_build(precision, windows=1), task)
    for blocks, warps, some in ((2, 1, 3), (1, 5, 7), (3, 2, 2)):
        many, _ = forced(host_build(precision, blocks=blocks, warps=warps, windows=some), task)
        np.testing.assert_array_equal(many, one)


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_known_windows(precision, on):
    """`evaluate`: all places of whole windows at once, alone as in company."""
    c = config(**SPATIAL)
    net, (_, inputs, z) = network(c), windows(c, batch=5)
    expected = execute(plan_at(net.graph, 8, 8), double(inputs), z)["nin_out"]
    engine = on(precision, blocks=2, warps=2, windows=3)
    got = engine.evaluate(net, 8, 8, inputs, z)
    assert close(got, expected, TOLERANCE[precision])
    alone = engine.evaluate(net, 8, 8, {name: value[3:4] for name, value in inputs.items()}, z[3:4])
    np.testing.assert_array_equal(alone[0], got[3])


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("walk", [encoder, decoder])
def test_networks_of_whole_images(walk, on):
    c = SimpleNamespace(filters=(4, 5, 6), layers=1, channels=1, latent=3, size=12, outputs=6)
    g = np.random.default_rng(0)
    shapes = shapes_of(lambda net: walk(net, c))
    net = Network(lambda net: walk(net, c), {name: g.normal(size=s).astype(np.float32) for name, s in shapes.items()})
    z = g.normal(size=(4, 3)).astype(np.float32) if walk is decoder else None
    inputs = {} if walk is decoder else {"x": g.normal(size=(4, 144, 1)).astype(np.float32)}
    expected = engines.get("torch", device="cpu").evaluate(net, 12, 12, inputs, z)
    assert close(on(blocks=2).evaluate(net, 12, 12, inputs, z), expected, 1e-5)


@needs_native
def test_products_share_weights(spatial):
    """Places of a stage with other taps are one product with zeros where that is no dearer, and weights are stored once."""
    plan = plan_at(spatial.graph, 8, 8)
    tables = window_products(plan, "bf16")
    part = tables.programs["part"][14]
    begin, end = tables.parts[part : part + 2]
    assert len(plan.stages) - 10 < tables.products["sync"][begin:end].sum() <= end - begin <= 3 * len(plan.stages)
    assert (tables.sources < 0).any()
    assert tables.weights.nbytes < 4 * window_products(plan, "fp32").weights.nbytes


# ---- images ----------------------------------------------------------------------------------------------------------


def pixels_of(engine, task: Job, **options) -> np.ndarray:
    image = drawn(engine, task, **options).pixels
    assert np.ptp(image) > 0.4 * (task.head.levels - 1)  # a comparison of constants would prove nothing
    return image


@pytest.mark.parametrize(
    ("network_of", "height", "width", "images"),
    [
        (SPATIAL, 8, 8, 1),
        (SPATIAL, 11, 13, 3),
        (SPATIAL, 20, 26, 1),
        ({"patch": 4, "filters": 3, **SPATIAL}, 30, 33, 1),
        ({"patch": 4, **SPATIAL}, 4, 37, 1),
        ({"patch": 4, "channels": 3}, 23, 4, 2),
        ({"patch": 4, "channels": 3}, 4, 6, 33),
        ({"patch": 8}, 15, 9, 3),
        ({"patch": 8, "channels": 3, **SPATIAL}, 11, 17, 1),
        ({"coordinates": False, "latent": 0}, 9, 15, 1),
        ({"patch": 16, "filters": 4, "latent": 0}, 18, 19, 1),
        ({"patch": 16, "filters": 3, "channels": 3, **SPATIAL}, 17, 19, 1),
        ("small-8x8", 8, 9, 1),
        ({"patch": 4, "filters": 140, "mixtures": 10}, 4, 4, 1),
    ],
    ids=lambda value: str(value).replace(" ", ""),
)
@pytest.mark.parametrize("on", ON)
def test_free_running_it_draws_what_the_reference_draws(network_of, height, width, images, on):
    task, expected = expected_images(network_of, height, width, images)
    same_images(task, pixels_of(on(blocks=2, warps=1, windows=3), task), expected)


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.5), Sampling(1.0, mode=True)], ids=str)
@pytest.mark.parametrize("name", TOYS)
def test_toys_are_drawn_as_torch_draws_them(name, sampling, on):
    task = toy_job(*TOYS[name], sampling=sampling, coarser=TOYS[name][0] % 2 == 0)  # torch doubles to even sides only
    expected = drawn(engines.get("torch", device="cpu"), task).pixels
    same_images(task, drawn(on(blocks=2, windows=3), task).pixels, expected)


@needs_native
def test_an_embedding_of_levels():
    """The network sees two numbers of each channel's level."""
    task = toy_job(4, Logistics(3, 2, 32), 9, 11, embedding=2, told=False)
    expected = drawn(engines.get("torch", device="cpu"), task).pixels
    same_images(task, pixels_of(host_build(), task), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not native.have_cuda(), reason=native.why_no_cuda() or "there is a GPU")
@pytest.mark.parametrize(("network_of", "height", "width", "images"), FOR_A_GPU, ids=str)
def test_on_a_gpu(network_of, height, width, images):
    task, expected = expected_images(network_of, height, width, images)
    engine = on_gpu()
    if engine.why_not(task):  # the large network, in fp32
        pytest.skip(engine.why_not(task))
    same_images(task, pixels_of(engine, task), expected)


@needs_native
@pytest.mark.parametrize(("height", "width", "images"), [(8, 8, 1), (12, 19, 2), (20, 9, 1)])
def test_the_same_pixels_for_any_grid(spatial, height, width, images):
    """Fewer blocks than rows, more blocks than rows, one warp or several, windows beyond the row's end."""
    task = spatial_job(spatial, height, width, images)
    one = pixels_of(host_build(windows=1), task)
    for blocks, warps, some in ((2, 1, 2), (5, 2, 3), (25, 1, 8)):
        np.testing.assert_array_equal(pixels_of(host_build(blocks=blocks, warps=warps, windows=some), task), one)


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_pixels_alone_and_in_company(spatial, precision, on):
    task = spatial_job(spatial, 12, 19, images=3)
    together = pixels_of(on(precision, blocks=3, windows=2), task)
    places = task.feeds["places.0"]
    for n in range(3):
        alone = dict.fromkeys(("places.0", "places.1", "places.2"), replace(places, maps=places.maps[n : n + 1]))
        feeds = {**task.feeds, **alone}
        one = replace(task, images=task.images[n : n + 1], code=task.code[n : n + 1], feeds=feeds)
        np.testing.assert_array_equal(pixels_of(on(precision, windows=3), one)[0], together[n])


@pytest.mark.parametrize("mode", [False, True])
@pytest.mark.parametrize("on", ON)
def test_temperature_and_mode(spatial, mode, on):
    task = spatial_job(spatial, 12, 14, temperature=0.5, mode=mode)
    expected = drawn(engines.get("torch", device="cpu"), task).pixels
    same_images(task, pixels_of(on(blocks=2), task), expected)


@needs_native
def test_the_comparison_sees_a_wrong_pixel(spatial):
    task = spatial_job(spatial, 12, 12)
    image = pixels_of(host_build(), task)
    wrong = image.copy()
    wrong[0, 9, 9] += 128
    assert first_difference(task, image, image.copy()) is None
    with pytest.raises(AssertionError):
        same_images(task, wrong, image)


# ---- given pixels ----------------------------------------------------------------------------------------------------


def masks(height: int, width: int, images: int) -> dict[str, np.ndarray]:
    """Which pixels are given, bool [H, W] or [N, H, W]."""
    r, c = np.indices((height, width))
    g = np.random.default_rng(0)
    return {
        "rows above": r < height // 2,
        "rows below": r >= height // 2,
        "columns": c >= 3,
        "every second": (r + c) % 2 == 0,
        "all but one": (r != 5) | (c != 2),
        "all": r >= 0,
        "others in each image": g.random((images, height, width)) < 0.7,
    }


@functools.cache
def finished(on):
    """A drawing of which tests give some pixels: its job and its canvas, with parameters."""
    task = job(config(patch=4, filters=3), 7, 75, images=2)
    return task, drawn(on(blocks=3), task, keep=True)


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("keep", [False, True], ids=["", "parameters kept"])
@pytest.mark.parametrize("name", masks(1, 1, 1))
def test_given_pixels(name, keep, on):
    """Pixels of a finished drawing are given: the same drawing comes out."""
    (task, whole), mask, counts = finished(on), masks(7, 75, 2)[name], []
    canvas = drawn(on(blocks=3, windows=3), task, Given(whole.pixels, mask), counts.append, keep)
    np.testing.assert_array_equal(canvas.pixels, whole.pixels)
    if keep:
        np.testing.assert_array_equal(canvas.params, whole.params)
    assert sum(counts) == whole.pixels.size and (canvas.finished == 7).all()


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("name", masks(1, 1, 1))
def test_given_pixels_from_elsewhere_are_kept(name, on):
    (task, whole), mask = finished(on), masks(7, 75, 2)[name]
    noise = np.random.default_rng(0).integers(0, 256, whole.pixels.shape).astype(np.uint8)
    other = drawn(on(blocks=3), task, Given(noise, mask)).pixels
    where = np.broadcast_to(mask, other.shape[:3])
    np.testing.assert_array_equal(other[where], noise[where])
    assert (other[~where] != whole.pixels[~where]).any() == (name not in ("all", "rows below"))


@needs_native
def test_given_pixels_are_drawn_around_as_torch_does(spatial):
    task, shape = spatial_job(spatial, 12, 19, images=2), (2, 12, 19)
    g = np.random.default_rng(0)
    given = Given(g.integers(0, 256, (*shape, 1)).astype(np.uint8), g.random(shape) < 0.5)
    expected = drawn(engines.get("torch", device="cpu"), task, given).pixels
    same_images(task, drawn(host_build(blocks=3), task, given).pixels, expected)


# ---- the engine's interface ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ON)
def test_reports_add_up_and_finished_rows_are_there(spatial, on):
    task, counts = spatial_job(spatial, 20, 33, images=2), []
    canvas, finished = task.canvas(), []

    def report(count):
        counts.append(count)
        finished.append((canvas.finished.copy(), canvas.pixels.copy()))

    on(blocks=2).draw(task, canvas, report)
    assert sum(counts) == 2 * 20 * 33 and all(count > 0 for count in counts)
    for rows, pixels in finished:
        for n in range(2):
            np.testing.assert_array_equal(pixels[n, : rows[n]], canvas.pixels[n, : rows[n]])
    assert (finished[-1][0] == 20).all() and (np.diff([rows for rows, _ in finished], axis=0) >= 0).all()


@pytest.mark.parametrize("on", ON)
def test_what_report_raises_stops_the_drawing(spatial, on):
    stops_when_told(on(blocks=3, warps=2), spatial_job(spatial, 3000, 300))


@needs_native
def test_a_row_does_not_wait_for_ever(spatial):
    """The bound on spinning: with no patience at all, the first wait ends the drawing with an error, in every block."""
    with pytest.raises(RuntimeError, match=r"^cuda: a row waited for the row above for too long"):
        drawn(host_build(blocks=3, patience=1), spatial_job(spatial, 3000, 300))


@needs_native
def test_other_python_threads_run_meanwhile(spatial):
    lets_python_threads_run(host_build(), spatial_job(spatial, 20, 20))


@pytest.mark.parametrize("on", ON)
def test_two_python_threads_share_an_engine(spatial, on):
    engine, tasks = on(blocks=2), [spatial_job(spatial, 12, 30, seed=seed) for seed in (1, 2)]
    expected, got = [pixels_of(engine, task) for task in tasks], [None, None]

    def run(i):
        got[i] = pixels_of(engine, tasks[i])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("on", ON)
def test_a_second_smaller_network_takes_nothing_from_the_first(spatial, on):
    """On a GPU the most shared memory that a launch may ask for belongs to the kernel, not to a network."""
    engine, task = on(), spatial_job(spatial, 9, 12)
    before = pixels_of(engine, task)
    drawn(engine, toy_job(*TOYS["binary, side 1"]))
    np.testing.assert_array_equal(pixels_of(engine, task), before)


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
    assert cuda.make().options == cuda.Options(device=0) and cuda.why_not() is None
    with pytest.raises(SpxError, match=r"^device: the cuda engine cannot run on cuda:1: its kernels need .* has 7.5$"):
        cuda.make(device="cuda:1")
    with pytest.raises(
        SpxError, match=r"^device: expected cuda, or cuda:0 to cuda:1, for the cuda engine, got 'cuda:2'"
    ):
        cuda.make(device="cuda:2")


def test_it_says_what_it_cannot_draw(spatial):
    class Runner:
        """A GPU with a kilobyte."""

        free_bytes = 1024

        def __init__(self, tables, options):
            if tables.side == 4:
                raise MemoryError("a window of the network takes 9999 KB")

    engine, task = cuda.Cuda(Runner), spatial_job(spatial, 9, 9)
    places = task.feeds["places.0"]
    assert engine.why_not(task) is None
    for wrong, reason in (
        (replace(task, network=None), "networks"),
        (replace(task, tiles=Tiles(side=3)), "whole canvases"),
        (replace(task, head=Softmax(257)), "up to 256 levels"),
        (replace(task, feeds={**task.feeds, "places.1": Planes(np.zeros((1, 4, 4, 6), np.float32))}), "Planes"),
        (replace(task, feeds={**task.feeds, "places.1": replace(places)}), "one feed of Places|one Places feed"),
        (toy_job(4, Softmax(2), 8, 9), "takes 9999 KB"),
        (spatial_job(spatial, 40, 40), "images take"),
    ):
        assert re.search(reason, engine.why_not(wrong) or ""), (reason, engine.why_not(wrong))


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
def tables(spatial):
    return window_products(plan_at(spatial.graph, 8, 8), "fp32")


def native_engine(tables, **options):
    return native.native().CudaEmulation(tables, cuda.Options(**options))


def changed(tables, field: str, index: int, value: int, column: str | None = None):
    array = getattr(tables, field).copy()
    (array if column is None else array[column])[index] = value
    return replace(tables, **{field: array})


PLACE_COLUMNS = ("bias", "code", "partial_in", "partial_out", "residual", "raw", "activated", "form")


@needs_native
@pytest.mark.parametrize("value", [1 << 30, -2, (1 << 31) - 1])
@pytest.mark.parametrize(
    ("field", "index", "column"),
    [("products", 9, c) for c in ("place", "places", "weights", "chunks", "kinds", "sources", "columns", "gate")]
    + [("places", 700, c) for c in PLACE_COLUMNS]
    + [
        ("programs", 3, c)
        for c in ("part", "steps", "pixel", "pixel_current", "pixel_end", "told", "told_end", "params", "targets")
    ]
    + [("sources", 40, None), ("kinds", 2, None), ("params", 1, None), ("parts", 2, None)]
    + [("pixels", 0, c) for c in ("place", "row")]
    + [("told", 0, c) for c in ("input", "place", "row")]
    + [("inputs", 1, c) for c in ("height", "width", "channels")],
)
def test_an_index_out_of_range_is_refused(tables, field, index, column, value):
    if field == "sources" and value == -2:
        value = ~(1 << 30)  # zeros, but where is no word
    with pytest.raises(ValueError, match=r"expected .*, got"):
        native_engine(changed(tables, field, index, value, column))


@needs_native
def test_other_faults_of_tables(tables):
    gated = int(np.flatnonzero(tables.products["gate"] == GATE_SIGMOID)[0])
    for wrong, message in (
        (
            changed(tables, "products", int(tables.parts[4]), 0, "sync"),
            "products, sync: expected 1 at the beginning of a part, got 0",
        ),
        (changed(tables, "products", gated, 11, "columns"), "products, columns: expected an even number"),
        (replace(tables, words=100), "expected 0 to"),
        (replace(tables, programs=tables.programs[:-1]), "programs: expected 16 to 16, got 15"),
        (replace(tables, programs=tables.programs[::-1].copy()), "programs, steps: expected 1"),
        (replace(tables, sources=tables.sources.astype(np.int64)), "sources: expected a int32"),
        (replace(tables, places=tables.pixels), r"places: expected column bias int32 at byte 0"),
        (replace(tables, precision="fp64"), "precision: expected"),
        (replace(tables, side=6), "programs: expected 12"),
        (replace(tables, parameters=0), "parameters: expected 1"),
    ):
        with pytest.raises(ValueError, match=message):
            native_engine(wrong)
    for options, message in (
        ({"windows": 65}, "windows: expected a whole number, 0 to 64, got 65"),
        ({"blocks": -1}, "blocks: expected"),
        ({"poison": 1}, "poison: expected True or False"),
    ):
        with pytest.raises(ValueError, match=message):
            native_engine(tables, **options)


@needs_native
def test_native_arguments_are_checked(spatial, tables):
    """The job's fields are `read_job`'s, which the cpp engine's tests try one by one."""
    from spxcore.lower.job import native_job

    engine, task = native_engine(tables), spatial_job(spatial, 8, 8)
    good = native_job(task, task.canvas())._replace(code=np.zeros((1, tables.code_numbers), np.float32))
    engine.draw(good, None)
    for change, message in (
        ({"code": good.code[:, 1:]}, "code: expected a float32"),
        ({"height": 7}, "height: expected"),
        ({"extra": np.zeros(2, np.float32)}, "extra and maps: expected 6 numbers a place"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.draw(good._replace(**change), None)
    with pytest.raises(ValueError, match="tables: expected those of a network that is evaluated only"):
        engine.evaluate([], good.code)

    whole = native_engine(whole_products(plan_at(spatial.graph, 8, 8)))
    x, places = np.zeros((1, 64, 1), np.float32), [np.zeros((1, s * s, 6), np.float32) for s in (8, 4, 2)]
    for inputs, code, message in (
        ([x, *places[:2]], good.code, "inputs: expected 4 arrays, got 3"),
        ([x[:, :63], *places], good.code, r"inputs: expected a float32 numpy array \[N, 64, 1\]"),
        ([x, *places[::-1]], good.code, r"inputs: expected a float32 numpy array \[1, 64, 6\]"),
        ([x, *places], good.code[:, 1:], "code: expected a float32 numpy array"),
    ):
        with pytest.raises(ValueError, match=message):
            whole.evaluate(inputs, code)
    assert whole.evaluate([x[:0], *(p[:0] for p in places)], good.code[:0]).shape == (0, 64, 9)
    with pytest.raises(ValueError, match="tables: expected those of a window"):
        whole.draw(good, None)
