"""The cpp engine: its numbers against the plan's meaning for every instruction set, its images against other engines and the heads."""

import functools
import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    close,
    config,
    double,
    drawn,
    job,
    lets_python_threads_run,
    network,
    probabilities,
    same_images,
    stops_when_told,
    windows,
)
from PIL import Image
from walks import expected_params, relu_job, relu_net, spread

import spx
from spx.models.spatial import network as spatial_walks
from spx.models.spatial.config import VAEConfig
from spx.request import Request
from spxcore import Canvas, Given, Logistics, Network, Softmax, engines, native, rng
from spxcore.compare import first_difference
from spxcore.engines import cpp
from spxcore.errors import SpxError
from spxcore.feeds import Planes
from spxcore.lower.job import native_job
from spxcore.lower.window import full_program, inputs_of, pack, window_programs
from spxcore.plan import execute, plan_at

pytestmark = pytest.mark.skipif(not native.have_native(), reason=native.why_no_native() or "built")

# Instruction sets to test, whatever this machine has: what is missing skips by name.
ALL_SETS = ("avx512", "avx2", "portable")
HERE = native.native().instruction_sets() if native.have_native() else []

SPATIAL = {"conditioning": "spatial"}
NETWORKS = {
    "8x8 spatial": {"patch": 8, **SPATIAL},
    "4x4 rgb": {"patch": 4, "channels": 3},
    "8x8 neither": {"patch": 8, "coordinates": False, "latent": 0},
    "12x12 rgb spatial": {"patch": 12, "channels": 3, "filters": 5, **SPATIAL},
    "8x8 of 25 filters": {"patch": 8, "filters": 25, "mixtures": 10, **SPATIAL},
    "4x4 of 61 filters": {"patch": 4, "filters": 61, "mixtures": 7},
}
# Height and width of windows of `relu_net`, among them those that do not halve evenly.
RELU_SIZES = [(1, 1), (2, 2), (3, 3), (5, 5), (6, 6), (4, 7)]


def isa_or_skip(isa: str) -> str:
    if isa not in HERE:
        pytest.skip(f"this machine has no {isa}")
    return isa


@functools.cache
def poisoned(**options):
    """The engine with NaN in all new memory, on one thread unless told otherwise."""
    return cpp.make(**{"threads": 1, "poison": True, **options})


@pytest.fixture(scope="module")
def spatial() -> Network:
    return network(config(**SPATIAL))


def spatial_job(spatial, height, width, images=1, **options):
    return job(config(**SPATIAL), height, width, images, of=spatial, **options)


def random_inputs(graph, height, width, batch, seed=0):
    """Random inputs of a network but for its code, and its code."""
    g = np.random.default_rng(seed)
    sizes = {name: (*graph.values[name].size(height, width), graph.values[name].channels) for name in graph.inputs}
    inputs = {
        name: g.normal(size=(batch, h * w, c)).astype(np.float32) for name, (h, w, c) in sizes.items() if name != "z"
    }
    return inputs, g.normal(size=(batch, graph.code)).astype(np.float32) if graph.code else None


# ---- numbers ---------------------------------------------------------------------------------------------------------


def agrees_with_the_plan(net: Network, height: int, width: int, inputs: dict, code, isa: str) -> None:
    """Known windows through every program: the plan's numbers, and the same bits from wide and narrow kernels."""
    engine, plan = poisoned(isa=isa), plan_at(net.graph, height, width)
    expected = execute(plan, double(inputs), code)[plan.output]
    assert close(engine.evaluate(net, height, width, inputs, code), expected, 1e-5)  # measured: 1e-7 to 8e-7
    compiled, given = engine.windows(net, height, width), [inputs[name] for name in inputs_of(plan)]
    for number in range(2 * height):
        i, left = divmod(number, 2)
        targets = [i * width + x for x in range(width)] if left else [i * width + width - 1]
        wide = compiled.evaluate(number, given, code)
        assert close(wide, expected[:, targets], 1e-5)
        np.testing.assert_array_equal(wide, compiled.evaluate(number, given, code, narrow=True))


@pytest.mark.parametrize("isa", ALL_SETS)
@pytest.mark.parametrize("name", NETWORKS)
def test_teacher_forced(name, isa):
    c = config(**NETWORKS[name])
    _, inputs, code = windows(c, batch=19)  # one full set of lanes and a part of one
    agrees_with_the_plan(network(c), c.patch, c.patch, inputs, code, isa_or_skip(isa))


@pytest.mark.parametrize("isa", ALL_SETS)
@pytest.mark.parametrize(("height", "width"), RELU_SIZES)
def test_teacher_forced_relu_at_any_size(height, width, isa):
    net = spread(functools.partial(relu_net, told=4, latent=3))
    inputs, code = random_inputs(net.graph, height, width, batch=19)
    agrees_with_the_plan(net, height, width, inputs, code, isa_or_skip(isa))


def test_activations_far_from_zero(spatial):
    """Beyond the range of exp: the gate saturates and elu reaches -1, and nothing becomes NaN."""
    tensors = {
        name: t * np.float32(300 if name.endswith(("conv_in.g", "conv_out.bias")) else 1)
        for name, t in spatial.tensors.items()
    }
    net = Network(spatial.walk, tensors)
    _, inputs, code = windows(config(**SPATIAL), batch=3)
    expected = execute(plan_at(net.graph, 8, 8), double(inputs), code)[net.graph.output]
    assert np.abs(expected).max() > 1e4
    for isa in HERE:
        assert close(poisoned(isa=isa).evaluate(net, 8, 8, inputs, code), expected, 1e-5)


VAES = {
    "12x12 rgb": VAEConfig(size=12, channels=3, filters=(4, 6, 8), mixtures=2, latent=5),
    "16x16, three layers": VAEConfig(size=16, filters=(17, 6, 4), layers=3, mixtures=3, latent=1),
    "28x28": VAEConfig(filters=(5, 6, 8), mixtures=2, latent=7),
}


@pytest.mark.parametrize("isa", ALL_SETS)
@pytest.mark.parametrize("name", VAES)
def test_networks_of_a_whole_image(name, isa):
    """Strides, transposed convolutions, from and to a single place; the same bits in any company and on any number of threads."""
    vae = VAES[name]
    walks = (spatial_walks.encoder, spatial_walks.decoder, functools.partial(spatial_walks.maps, count=7))
    for walk in walks:
        net = spread(functools.partial(walk, c=vae))
        inputs, code = random_inputs(net.graph, vae.size, vae.size, batch=19)
        few = {name: value[:2] for name, value in inputs.items()}
        with_code = few | ({"z": code[:2, None]} if code is not None else {})
        expected = execute(
            plan_at(net.graph, vae.size, vae.size), double(with_code), None if code is None else code[:2]
        )
        got = poisoned(isa=isa_or_skip(isa)).evaluate(net, vae.size, vae.size, inputs, code)
        assert close(got[:2], expected[net.graph.output], 1e-5)  # measured: 1e-7 to 9e-7
        for threads, rows in ((7, slice(0, 19)), (2, slice(4, 5)), (1, slice(7, 10))):  # up to 3 go one after the other
            part = {name: value[rows] for name, value in inputs.items()}, None if code is None else code[rows]
            again = poisoned(isa=isa, threads=threads).evaluate(net, vae.size, vae.size, *part)
            np.testing.assert_array_equal(again, got[rows])


# ---- images ----------------------------------------------------------------------------------------------------------


def is_the_drawing(task, canvas: Canvas, given: Given | None = None) -> None:
    """Assert that a canvas with parameters kept is a drawing of the job: each pixel's parameters are the plan's, given the pixels
    before it, and each pixel is the head's draw from them."""
    expected = expected_params(task, canvas.pixels)
    assert close(canvas.params, expected, 1e-5)
    n, r, c = (a.ravel() for a in np.indices(canvas.pixels.shape[:3]))
    words = rng.pixel_words(task.seed, r, c, task.images[n], task.draw)
    params = canvas.params.reshape(len(n), -1)
    levels = task.head.draw(params, words, task.sampling)
    own = canvas.pixels.reshape(len(n), -1)
    for i in np.flatnonzero((levels != own).any(axis=1)):
        if given is None or not canvas.is_given(n[i], r[i], c[i]):
            assert task.head.edge_distance(params[i : i + 1], words[i : i + 1], task.sampling) < 1e-3
    assert len(np.unique(own)) > min(task.head.levels, 16) * 0.7  # a comparison of constants would prove nothing
    assert (canvas.finished == task.height).all()


RELU_JOBS = {
    "m 5": (5, 9, 12, 2, {"told": True, "latent": 3}),
    "m 1": (1, 6, 7, 1, {"told": True}),
    "m 3, one window": (3, 3, 3, 17, {"latent": 2, "gated": True}),
    "softmax of 16": (6, 11, 14, 1, {"head": Softmax(16), "told": True}),
    "softmax of 256, modes": (4, 8, 9, 2, {"head": Softmax(256), "latent": 1}),
    "rgb of 16 levels": (4, 7, 10, 2, {"head": Logistics(3, 2, 16)}),
    "an embedding": (5, 8, 8, 1, {"head": Softmax(5), "embedding": 4, "told": True}),
    "two levels": (7, 10, 9, 2, {"head": Logistics(1, 2, 2)}),
    "another round, cooler": (5, 8, 9, 1, {"draw": 512, "temperature": 0.6, "told": True}),
    "modes": (5, 8, 9, 4, {"mode": True, "told": True}),
    "18 images": (3, 6, 6, 18, {"told": True, "latent": 2, "gated": True}),
}


@pytest.mark.parametrize("isa", ALL_SETS)
@pytest.mark.parametrize("name", RELU_JOBS)
def test_drawings_of_any_network_and_head(name, isa):
    side, height, width, images, options = RELU_JOBS[name]
    task = relu_job(side, height, width, images, **options)
    is_the_drawing(task, drawn(poisoned(isa=isa_or_skip(isa)), task, keep=True))


@pytest.mark.parametrize("isa", ALL_SETS)
@pytest.mark.parametrize(
    ("fields", "height", "width", "images"),
    [
        (SPATIAL, 13, 21, 2),
        ({"patch": 4, **SPATIAL}, 4, 37, 1),
        ({"patch": 4, "channels": 3}, 23, 4, 2),
        ({"coordinates": False, "latent": 0}, 9, 15, 1),
        ({"patch": 12, "latent": 0}, 14, 13, 1),
    ],
)
def test_drawings_of_spatial_networks(fields, height, width, images, isa):
    task = job(config(**fields), height, width, images)
    is_the_drawing(task, drawn(poisoned(isa=isa_or_skip(isa)), task, keep=True))


@pytest.fixture(scope="module")
def reference_images():
    """Drawings of the reference engine, each made once."""
    made = {}

    def get(fields, height, width, images):
        key = (*sorted(fields.items()), height, width, images)
        if key not in made:
            task = job(config(**fields), height, width, images)
            made[key] = task, drawn("reference", task).pixels
        return made[key]

    return get


@pytest.mark.parametrize("isa", ALL_SETS)
@pytest.mark.parametrize(
    ("fields", "height", "width", "images"),
    [(SPATIAL, 8, 8, 1), ({"patch": 8, "channels": 3, **SPATIAL}, 11, 17, 1), (SPATIAL, 9, 15, 2)],
)
def test_free_running_it_draws_what_the_reference_draws(fields, height, width, images, isa, reference_images):
    task, expected = reference_images(fields, height, width, images)
    image = drawn(poisoned(isa=isa_or_skip(isa), threads=2), task).pixels
    assert np.ptp(image) > 100
    same_images(task, image, expected)


def test_a_shipped_size_of_network():
    """25 filters, two layers a block, against the torch wavefront (the reference takes minutes)."""
    task = job(config(filters=25, layers=2, mixtures=10, latent=60, maps=12, **SPATIAL), 12, 21, images=2)
    same_images(task, drawn(cpp.make(), task).pixels, drawn("torch", task).pixels)


@pytest.mark.parametrize("mode", [False, True])
def test_temperature_and_mode(spatial, mode):
    task = spatial_job(spatial, 12, 14, temperature=0.5, mode=mode)
    same_images(task, drawn(poisoned(), task).pixels, drawn("torch", task).pixels)


@pytest.mark.parametrize("images", [1, 3, 16, 21])
def test_the_same_pixels_for_any_number_of_threads(spatial, images):
    for height, width in ((8, 8), (11, 30), (30, 9)):
        task = spatial_job(spatial, height, width, images)
        one = drawn(poisoned(), task).pixels
        for threads in (2, 7):
            np.testing.assert_array_equal(drawn(poisoned(threads=threads), task).pixels, one)


def alone(task, n):
    """The job of one of its images, or of several in another order."""
    maps = {name: feed for name, feed in task.feeds.items() if name != "x"}
    told = next(iter(maps.values()))
    told = replace(told, maps=told.maps[n])
    return replace(task, images=task.images[n], code=task.code[n], feeds=task.feeds | dict.fromkeys(maps, told))


def test_the_same_pixels_alone_and_in_company(spatial):
    """In a group of 16 lanes are images, alone they are columns; order and company do not matter, to the bit."""
    task = spatial_job(spatial, 17, 41, images=20)
    together = drawn(poisoned(threads=2), task).pixels
    for n in (0, 7, 19):
        np.testing.assert_array_equal(drawn(poisoned(), alone(task, slice(n, n + 1))).pixels[0], together[n])
    order = np.random.default_rng(0).permutation(20)
    np.testing.assert_array_equal(drawn(cpp.make(), alone(task, order)).pixels, together[order])


def test_maps_of_one_image_serve_all(spatial):
    task = spatial_job(spatial, 9, 12, images=3)
    told = task.feeds["places.0"]
    one, three = (replace(told, maps=np.repeat(told.maps[:1], count, axis=0)) for count in (1, 3))
    names = [name for name in task.feeds if name != "x"]
    a, b = (drawn(poisoned(), replace(task, feeds=task.feeds | dict.fromkeys(names, feed))) for feed in (one, three))
    np.testing.assert_array_equal(a.pixels, b.pixels)


def test_the_comparisons_see_a_wrong_pixel(spatial):
    task = spatial_job(spatial, 12, 12)
    canvas = drawn(cpp.make(), task, keep=True)
    wrong = canvas.pixels.copy()
    wrong[0, 9, 9] += 128
    assert first_difference(task, canvas.pixels, canvas.pixels.copy()) is None
    is_the_drawing(task, canvas)
    with pytest.raises(AssertionError):
        same_images(task, wrong, canvas.pixels)
    with pytest.raises(AssertionError):
        is_the_drawing(task, replace(canvas, pixels=wrong))


# ---- given pixels ----------------------------------------------------------------------------------------------------


MASKS = {
    "scattered": lambda h, w: np.random.default_rng(1).random((h, w)) < 0.5,
    "few": lambda h, w: np.random.default_rng(1).random((h, w)) < 0.03,
    "most": lambda h, w: np.random.default_rng(1).random((h, w)) < 0.97,
    "rows": lambda h, w: np.arange(h)[:, None] + np.zeros(w, int) < h // 2,
    "right half": lambda h, w: np.zeros((h, 1), int) + np.arange(w) >= w // 2,
    "every second": lambda h, w: (np.arange(h)[:, None] % 2 == 0) & (np.arange(w) % 2 == 0),
    "all": lambda h, w: np.ones((h, w), bool),
    "none": lambda h, w: np.zeros((h, w), bool),
}


@pytest.mark.parametrize("images", [1, 2, 17])
@pytest.mark.parametrize("mask", MASKS)
def test_given_pixels_are_kept_and_the_others_drawn(spatial, mask, images):
    """With the pixels of a drawing given, the rest is that drawing; with others given, parameters kept or not, it follows them."""
    task = spatial_job(spatial, 13, 83 if images == 1 else 19, images)
    free = drawn(poisoned(), task).pixels
    where, counts = MASKS[mask](*free.shape[1:3]), []
    again = drawn(poisoned(threads=2), task, Given(free, where), counts.append)
    np.testing.assert_array_equal(again.pixels, free)
    assert sum(counts) == free[..., 0].size and (again.finished == task.height).all()
    others = np.random.default_rng(2).integers(0, 256, free.shape, np.uint8)
    plain, kept = (drawn(poisoned(), task, Given(others, where), keep=keep) for keep in (False, True))
    np.testing.assert_array_equal(plain.pixels[:, where], others[:, where])
    np.testing.assert_array_equal(plain.pixels, kept.pixels)
    if images < 17:
        is_the_drawing(task, kept, Given(others, where))


def test_each_image_may_have_its_own_given_pixels(spatial):
    task = spatial_job(spatial, 12, 21, images=6)
    free = drawn(poisoned(), task).pixels
    where = np.random.default_rng(0).random(free.shape[:3]) < np.linspace(0, 1, 6)[:, None, None]
    np.testing.assert_array_equal(drawn(poisoned(), task, Given(free, where)).pixels, free)
    others = np.full_like(free, 77)
    together = drawn(poisoned(), task, Given(others, where)).pixels
    for n in range(6):
        one = alone(task, slice(n, n + 1))
        own = drawn(poisoned(), one, Given(others[n : n + 1], where[n : n + 1])).pixels
        np.testing.assert_array_equal(own[0], together[n])


def test_given_pixels_cost_nothing(spatial):
    """Work is skipped where pixels are given: a canvas of given pixels is done at once."""
    task = spatial_job(spatial, 3000, 3000)
    given = Given(np.zeros((1, 3000, 3000, 1), np.uint8), np.ones((3000, 3000), bool))
    canvas = task.canvas(given)
    cpp.make(threads=1).draw(task, canvas)  # some 5 minutes of drawing
    assert canvas.finished.tolist() == [3000]


# ---- bf16 ------------------------------------------------------------------------------------------------------------

needs_bf16 = pytest.mark.skipif(
    not (native.have_native() and native.native().have_bf16()),
    reason="bf16 needs a processor with AMX, or AMD's with AVX512_BF16",
)


@needs_bf16
@pytest.mark.parametrize("name", [*NETWORKS, "8x8 of 16 filters", "8x8 of 33 filters"])
def test_bf16_teacher_forced(name):
    """Rounding activations and weights to 8 bits changes the parameters by a little, and a wrong place by much more."""
    more = {"8x8 of 16 filters": {"filters": 16}, "8x8 of 33 filters": {"filters": 33, **SPATIAL}}
    c = config(**{**NETWORKS, **more}[name])
    net, m = network(c), c.patch
    _, inputs, code = windows(c, batch=19)
    plan = plan_at(net.graph, m, m)
    expected = execute(plan, double(inputs), code)[plan.output]
    engine = poisoned(precision="bf16")
    whole = engine.evaluate(net, m, m, inputs, code)
    assert close(whole, expected, 3e-2) and not close(whole, expected, 1e-6)  # measured: 3e-3 to 1e-2
    compiled, given = engine.windows(net, m, m), [inputs[name] for name in inputs_of(plan)]
    for i in (m - 1, 0):
        assert close(compiled.evaluate(2 * i, given, code), expected[:, [i * m + m - 1]], 3e-2)


@needs_bf16
def test_bf16_runs_relu_in_fp32():
    net = spread(functools.partial(relu_net, told=4, latent=3))
    inputs, code = random_inputs(net.graph, 5, 5, batch=19)
    plan = plan_at(net.graph, 5, 5)
    got = poisoned(precision="bf16").evaluate(net, 5, 5, inputs, code)
    assert close(got, execute(plan, double(inputs), code)[plan.output], 1e-5)


@needs_bf16
def test_bf16_draws_the_same_pixels_in_any_company(spatial):
    task = spatial_job(spatial, 17, 41, images=20)
    together = drawn(poisoned(precision="bf16", threads=2), task).pixels
    assert np.ptp(together) > 100
    for threads in (1, 7):
        again = drawn(poisoned(precision="bf16", threads=threads), task).pixels
        np.testing.assert_array_equal(again, together)
    for n in (0, 19):
        own = drawn(poisoned(precision="bf16"), alone(task, slice(n, n + 1))).pixels
        np.testing.assert_array_equal(own[0], together[n])


def divergence(task, images: np.ndarray, engines_of=("fp32", "bf16")) -> tuple[np.ndarray, np.ndarray, float]:
    """Of the distributions of given grey images' pixels: each pixel's divergence in bits, and what it costs a dimension."""
    given, params = Given(images, np.ones(images.shape[1:3], bool)), []
    for precision in engines_of:
        params.append(drawn(cpp.make(precision=precision), task, given, keep=True).params.reshape(images.size, -1))
    p, q = (probabilities(numbers) for numbers in params)
    at = np.arange(images.size), images.ravel()
    return (p * np.log2((p + 1e-30) / (q + 1e-30))).sum(axis=1), -np.log2(p[at]), float(np.log2(p[at] / q[at]).mean())


@needs_bf16
def test_bf16_hardly_changes_the_distributions():
    """Mean divergence of the pixels' distributions, for a network whose scales are those of a trained one."""
    c = config(filters=25, layers=2, mixtures=10, latent=60, maps=12, **SPATIAL)
    net = network(c)
    # A trained network's last layer is small beside its biases: means within [-1, 1], scales of a few levels and more.
    tensors = net.tensors | {"nin_out.g": net.tensors["nin_out.g"] * np.float32(0.1)}
    task = job(c, 24, 24, images=4, of=Network(net.walk, tensors))
    images = np.random.default_rng(0).integers(0, 256, (4, 24, 24, 1), np.uint8)
    assert 0 < divergence(task, images)[0].mean() <= 1e-3


@needs_bf16
def test_bf16_of_the_shipped_model():
    """Pixels of real digits, each in the window that draws it: at most 1e-4 bits of divergence, 0.002 bits a dimension.

    docs/how-it-works.md has what `pytest -s` prints here.
    """
    model, folder = spx.load("mnist-8x8"), Path(spx.__file__).parent / "assets" / "digits"
    images = np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])[..., None]
    drawing = model.drawing(Request(28, code=model.encode(images)))
    bits_apart, bits, cost = divergence(drawing.job(0, np.arange(len(images)), {}), images)
    print(
        f"\n{len(bits)} pixels: mean divergence {bits_apart.mean():.1e} bits, largest {bits_apart.max():.1e};", end=" "
    )
    print(f"{bits.mean():.4f} bits a dimension, in bf16 {cost:+.5f}")
    assert 0 < bits_apart.mean() <= 1e-4
    assert cost <= 0.002


# ---- the engine's interface ------------------------------------------------------------------------------------------


def test_it_is_what_auto_takes_without_a_gpu(spatial):
    if engines.why_not("cuda") is None or (engines.why_not("triton") is None and not engines.emulated("triton")):
        pytest.skip("this machine has a GPU")
    assert engines.get("auto", spatial_job(spatial, 9, 9)).name == "cpp"


def test_report_adds_up(spatial):
    task, counts = spatial_job(spatial, 20, 33, images=5), []
    drawn(cpp.make(threads=2), task, report=counts.append)
    assert sum(counts) == 5 * 20 * 33 and all(count > 0 for count in counts)


def test_finished_rows_stand(spatial):
    """Before each report `finished` says which rows are complete: they are the final ones already."""
    task, seen = spatial_job(spatial, 150, 40, images=4), []
    canvas = task.canvas()
    canvas.finished[:] = 999
    cpp.make(threads=2).draw(task, canvas, lambda _: seen.append((canvas.finished.copy(), canvas.pixels.copy())))
    assert (
        len(seen) > 2
        and (seen[-1][0] == 150).all()
        and any((rows > 0).any() and (rows < 150).any() for rows, _ in seen)
    )
    for (before, _), (rows, _) in itertools.pairwise(seen):
        assert (before <= rows).all()
    for rows, pixels in seen:
        for n, count in enumerate(rows):
            np.testing.assert_array_equal(pixels[n, :count], canvas.pixels[n, :count])


def test_what_report_raises_stops_the_drawing(spatial):
    stops_when_told(cpp.make(threads=2), spatial_job(spatial, 300, 300))


def test_other_python_threads_run_meanwhile(spatial):
    lets_python_threads_run(cpp.make(threads=1), spatial_job(spatial, 40, 40))


def test_it_draws_into_a_mapped_file(spatial, tmp_path):
    task = spatial_job(spatial, 9, 12)
    file = np.memmap(tmp_path / "canvas", np.uint8, "w+", shape=(1, 9, 12, 1))
    poisoned().draw(task, task.canvas(out=file))
    np.testing.assert_array_equal(file, drawn(poisoned(), task).pixels)


def test_why_it_cannot_draw_a_job(spatial):
    task, engine = spatial_job(spatial, 9, 9), cpp.make()
    planes = {name: feed if name == "x" else Planes(np.zeros((1, 9, 9, 5))) for name, feed in task.feeds.items()}
    assert engine.why_not(task) is None
    for change, message in (
        ({"head": Softmax(300)}, "it draws up to 256 levels, and this head has 300"),
        ({"feeds": planes}, "Places"),
        ({"network": None}, "it draws from networks only"),
    ):
        assert message in engine.why_not(replace(task, **change))


def test_it_compiles_a_network_once_and_only_what_is_asked_for(spatial):
    net = Network(spatial.walk, spatial.tensors)
    engine, task = cpp.make(threads=1), job(config(**SPATIAL), 9, 9, of=net)
    drawn(engine, task)
    compiled = engine.windows(net, 8, 8)
    assert engine.why_not(task) is None and engine.windows(net, 8, 8) is compiled
    assert len(engine._compiled[net.structure]) == 1
    _, inputs, code = windows(config(**SPATIAL), batch=1)
    engine.evaluate(net, 8, 8, inputs, code)
    assert len(engine._compiled[net.structure]) == 2
    del net, task
    assert not len(engine._compiled)


def test_options():
    assert cpp.make().isa == (os.environ.get(cpp.ISA_VARIABLE) or HERE[0])
    assert cpp.make().threads == native.cores()
    for options, message in (
        ({"precision": "fp16"}, "precision: expected"),
        ({"device": "cuda"}, "device: expected cpu for the cpp engine, got 'cuda'"),
        ({"threads": 0}, "threads: expected 1 to 4096, got 0"),
        ({"isa": "mmx"}, "SPX_ISA: expected"),
    ):
        with pytest.raises(SpxError, match=message):
            cpp.make(**options)


def test_the_environment_chooses_the_instruction_set(monkeypatch):
    monkeypatch.setenv("SPX_ISA", "portable")
    assert cpp.make().isa == "portable"
    monkeypatch.setenv("SPX_ISA", "sse9")
    with pytest.raises(SpxError, match=r"SPX_ISA: expected .* on this machine, got 'sse9'"):
        cpp.make()


def test_it_draws_without_torch():
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2] / "support")!r})
from walks import relu_job
from spxcore import engines
task = relu_job(5, 10, 10, told=True, latent=2)
canvas = task.canvas()
engines.get("cpp", task).draw(task, canvas)
assert canvas.pixels.any() and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- what is wrong never runs ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts(spatial):
    plan = plan_at(spatial.graph, 8, 8)
    packed = pack(plan)
    return cpp.tables_of(plan, packed, [*window_programs(plan, packed), full_program(plan, packed)])


def make_engine(tables, **change):
    return native.native().Engine(tables, cpp.Options(HERE[0], False, True, 1)._replace(**change))


def with_program(tables, number, **fault):
    programs = list(tables.programs)
    programs[number] = replace(programs[number], **fault)
    return tables._replace(programs=programs)


def changed(tables, number: int, field: str, row: int, column: str, value: int):
    array = getattr(tables.programs[number], field).copy()
    array[column][row] = value
    return with_program(tables, number, **{field: array})


@pytest.mark.parametrize("value", [1 << 30, -2, (1 << 31) - 1])
@pytest.mark.parametrize(
    ("field", "row", "column"),
    [("taps", 7, column) for column in ("source", "weights", "inputs", "pairs")]
    + [("ops", 3, column) for column in ("bias", "code", "outputs", "tap_begin", "tap_end", "gate", "form")]
    + [("pixels", 0, "place"), ("pixels", 0, "row"), ("told", 0, "input"), ("told", 0, "place"), ("told", 0, "row")],
)  # fmt: skip
def test_an_index_out_of_range_is_refused(parts, field, row, column, value):
    with pytest.raises(ValueError, match=r"program 0: .*expected .*, got"):
        make_engine(changed(parts, 0, field, row, column, value))


@pytest.mark.parametrize(
    "column", ["code", "partial_in", "partial_out", "residual", "residual_ahead", "raw", "activated"]
)
def test_rows_beyond_the_arena_are_refused(parts, column):
    row = int(np.flatnonzero(parts.programs[1].ops[column] >= 0)[0])
    with pytest.raises(ValueError, match=r"program 1: op, .*expected 0 to .*, got"):
        make_engine(changed(parts, 1, "ops", row, column, 1 << 29))


def swapped(array: np.ndarray, first: int = 0) -> np.ndarray:
    """A table of the same bytes with two columns' names exchanged."""
    names = list(array.dtype.names)
    names[first], names[first + 1] = names[first + 1], names[first]
    return array.view([(name, np.int32) for name in names])


def test_a_table_of_another_type_is_refused_by_name(parts):
    first = parts.programs[0]
    numbers = first.ops.view(np.int32).reshape(len(first.ops), -1)
    for fault, message in (
        ({"ops": swapped(first.ops)}, "ops: expected column bias int32 at byte 0, got code int32 at byte 0"),
        ({"ops": swapped(first.ops, 11)}, "ops: expected column gate int32 at byte 44, got form int32 at byte 44"),
        ({"taps": swapped(first.taps, 2)}, "taps: expected column inputs int32 at byte 8, got pairs int32 at byte 8"),
        ({"pixels": swapped(first.pixels)}, "pixels: expected column place int32 at byte 0, got row"),
        ({"told": swapped(first.told, 1)}, "told: expected column place int32 at byte 4, got row"),
        ({"ops": numbers}, "ops: expected column bias int32 at byte 0, got int32 ["),
        ({"ops": first.ops[list(first.ops.dtype.names[:4])]}, "ops: expected column residual int32 at byte 16"),
        ({"ops": first.ops.astype([(name, "f4") for name in first.ops.dtype.names])}, "got bias float32 at byte 0"),
        ({"taps": first.taps.astype([(name, "i8") for name in first.taps.dtype.names])}, "got source int64 at byte 0"),
        ({"taps": list(first.taps)}, "taps: expected a numpy array of structs, got list"),
    ):
        with pytest.raises(ValueError) as caught:
            make_engine(with_program(parts, 0, **fault))
        assert f"program 0: {message}" in str(caught.value) or message in str(caught.value)
    with pytest.raises(ValueError, match="inputs: expected column height int32 at byte 0, got width"):
        make_engine(parts._replace(inputs=swapped(parts.inputs)))
    with pytest.raises(ValueError, match="blocks: expected column inputs int32 at byte 4, got outputs"):
        make_engine(parts._replace(blocks=swapped(parts.blocks, 1)))


def test_other_faults_of_a_program(parts):
    first = parts.programs[0]
    for fault, message in (
        ({"begins": first.begins[::-1].copy()}, "begins: expected rising"),
        ({"begins": np.zeros(0, np.int32)}, "begins: expected rising"),
        ({"params": first.params + (1 << 20)}, "params: expected"),
        ({"params": np.zeros(3, np.int32)}, "params: expected one row a target"),
        ({"targets": first.targets + 64}, "targets: expected"),
        ({"rows": 0}, "rows: expected a whole number, 1 to"),
        ({"rows": first.rows // 2}, "expected"),
    ):
        with pytest.raises(ValueError, match=message):
            make_engine(with_program(parts, 0, **fault))


def test_faults_of_tables_and_options(parts):
    inputs, blocks = parts.inputs.copy(), parts.blocks.copy()
    inputs["channels"][1] = 0
    blocks["first"] += 1
    for change, message in (
        ({"inputs": parts.inputs[:0]}, "inputs: expected 1 to 64, got 0"),
        ({"inputs": inputs}, r"inputs: expected 1 to 2\^20 places and channels, got 0"),
        ({"places": 63}, "targets: expected 0 to 62, got 63"),
        ({"places": 0}, "places: expected a whole number, 1 to"),
        ({"parameters": 1 << 19}, "params: expected"),
        ({"parameters": 9.0}, "parameters: expected a whole number, 1 to 1048576, got 9.0"),
        ({"blocks": blocks}, "blocks: expected|expected the first number of a block"),
        ({"weights": parts.weights[:100]}, "blocks: expected ranges"),
        ({"weights": parts.weights.astype(np.float64)}, r"weights: expected a float32 numpy array \[N\], got float64"),
        ({"code": parts.code[0]}, r"code: expected a float32 numpy array \[Z, L\]"),
    ):
        with pytest.raises(ValueError, match=message):
            make_engine(parts._replace(**change))
    for change, message in (
        ({"isa": "mmx"}, "isa: expected one of"),
        ({"threads": 0}, "threads: expected a whole number, 1 to 4096, got 0"),
        ({"bf16": 1}, "bf16: expected True or False, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make_engine(parts, **change)


def test_programs_in_another_order_do_not_draw(spatial, parts):
    task = spatial_job(spatial, 9, 9)
    told = native_job(task, task.canvas())
    drawing = parts._replace(programs=parts.programs[:-1])
    make_engine(drawing).draw(told, None)
    for tables, message in (
        (parts, "programs: expected 16 to draw with, got 17"),
        (drawing._replace(programs=drawing.programs[::-1]), "program 0: expected that of window row 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make_engine(tables).draw(told, None)


@pytest.fixture(scope="module")
def drawing_engine(parts):
    return make_engine(parts._replace(programs=parts.programs[:-1]))


FAULTY_JOBS = {
    "a missing field": (lambda j: object(), "height: expected a field, got none"),
    "height below the window": (lambda j: {"height": 7}, "height: expected a whole number, 8 to 1048576, got 7"),
    "negative width": (lambda j: {"width": -9}, "width: expected a whole number, 8 to 1048576, got -9"),
    "height as a float": (lambda j: {"height": 9.0}, "height: expected a whole number, 8 to 1048576, got 9.0"),
    "another height": (lambda j: {"height": 10}, "y_axis: expected a float32 numpy array [10], got float32 [9]"),
    "negative seed": (lambda j: {"seed": -1}, "seed: expected a whole number, 0 to 2^64 - 1, got -1"),
    "large draw": (lambda j: {"draw": 1 << 32}, "draw: expected a whole number, 0 to 4294967295, got 4294967296"),
    "no images": (lambda j: {"images": j.images[:0]}, "images: expected 1 to 2^24, got 0"),
    "images of another type": (lambda j: {"images": np.zeros(2)}, "images: expected a uint32 numpy array [N], got float64"),
    "no code": (lambda j: {"code": None}, "code: expected a float32 numpy array [2, 5], got NoneType"),
    "NaN in the code": (lambda j: {"code": j.code * np.nan}, "code: expected finite numbers, got NaN or infinity"),
    "infinite maps": (lambda j: {"maps": j.maps + np.inf}, "maps: expected finite numbers, got NaN or infinity"),
    "maps of 3 images": (lambda j: {"maps": np.zeros((3, 3, 2, 2), np.float32)}, "maps: expected 1 or 2 images, got 3"),
    "few maps": (lambda j: {"maps": j.maps[:, :2]}, "extra and maps: expected 6 numbers a place, y and x among them, got 5"),
    "empty maps": (lambda j: {"maps": j.maps[:, :, :0]}, "maps: expected no empty axis, got [2, 3, 0, 6]"),
    "no maps": (lambda j: {"maps": None}, "extra and maps: expected 6 numbers a place, y and x among them, got 3"),
    "NaN told": (lambda j: {"extra": j.extra * np.nan}, "extra: expected finite numbers, got NaN or infinity"),
    "NaN coordinates": (lambda j: {"x_axis": j.x_axis * np.nan}, "x_axis: expected finite numbers, got NaN or infinity"),
    "NaN in the table": (lambda j: {"table": j.table * np.nan}, "table: expected finite numbers, got NaN or infinity"),
    "a short table": (lambda j: {"table": j.table[:16]}, "table: expected a float32 numpy array [256, e], got float32 [16, 1]"),
    "a wide table": (lambda j: {"table": np.zeros((256, 2), np.float32)}, "table: expected 1 numbers a pixel, got 1 channels of 2 numbers"),
    "another head": (lambda j: {"head": Logistics(1, 4)}, "head: expected 9 parameters, got 12"),
    "cold": (lambda j: {"temperature": 0.0}, "temperature: expected a finite number, more than 0, got 0.0"),
    "a mode of 1": (lambda j: {"mode": 1}, "mode: expected True or False, got 1"),
    "given of another size": (lambda j: {"given": np.ones((1, 9, 8), bool)}, "given: expected a bool numpy array [N, 9, 9]"),
    "given as numbers": (lambda j: {"given": np.ones((1, 9, 9), np.uint8)}, "given: expected a bool numpy array [N, 9, 9]"),
    "given of 3 images": (lambda j: {"given": np.ones((3, 9, 9), bool)}, "given: expected 1 or 2 images, got 3"),
    "small pixels": (lambda j: {"pixels": j.pixels[:, :8]}, "pixels: expected a uint8 numpy array [2, 9, 9, 1], got"),
    "pixels in another layout": (
        lambda j: {"pixels": np.zeros((2, 9, 18, 1), np.uint8)[:, :, ::2]},
        "pixels: expected a C-contiguous, aligned array, got another layout",
    ),
    "pixels that are read-only": (
        lambda j: {"pixels": np.frombuffer(bytes(2 * 9 * 9), np.uint8).reshape(2, 9, 9, 1)},
        "pixels: expected a writable array, got one that is read-only",
    ),
    "finished as int32": (lambda j: {"finished": np.zeros(2, np.int32)}, "finished: expected a int64 numpy array [2]"),
    "few params": (lambda j: {"params": np.zeros((2, 9, 9, 8), np.float32)}, "params: expected a float32 numpy array [2, 9, 9, 9]"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTY_JOBS)
def test_a_faulty_job_is_refused(spatial, drawing_engine, case):
    task = spatial_job(spatial, 9, 9, images=2)
    change, message = FAULTY_JOBS[case]
    good = native_job(task, task.canvas(keep=True))
    fault = change(good)
    with pytest.raises(ValueError) as caught:
        drawing_engine.draw(good._replace(**fault) if isinstance(fault, dict) else fault, None)
    assert message in str(caught.value)
    drawing_engine.draw(good, None)


def test_levels_beyond_the_heads_do_no_harm():
    """A canvas made by hand may hold them; they are read as the last level."""
    task = relu_job(4, 9, 9, head=Softmax(4))
    canvas = task.canvas(Given(np.zeros((1, 9, 9, 1), np.uint8), np.tri(9, dtype=bool)))
    canvas.pixels[:] = 255
    poisoned().draw(task, canvas)
    assert (canvas.pixels[0, np.tri(9, dtype=bool)] == 255).all() and canvas.pixels.min() < 4


def test_arguments_of_evaluate_are_checked(spatial, parts):
    engine, code = make_engine(parts), np.zeros((1, 5), np.float32)
    x, places = np.zeros((1, 64, 1), np.float32), [np.zeros((1, s * s, 6), np.float32) for s in (8, 4, 2)]
    for arguments, message in (
        ((17, [x, *places], code), "program: expected a whole number, 0 to 16, got 17"),
        ((0, [x[:, :63], *places], code), r"inputs: expected a float32 numpy array \[N, 64, 1\]"),
        ((0, [x, *places[:2]], code), "inputs: expected 4 arrays, got 3"),
        ((0, [x, *places[::-1]], code), r"inputs: expected a float32 numpy array \[1, 64, 6\]"),
        ((0, [x, *places], None), r"code: expected a float32 numpy array \[1, 5\], got NoneType"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.evaluate(*arguments)
    assert engine.evaluate(0, [x[:0], *(p[:0] for p in places)], code[:0]).shape == (0, 1, 9)
    with pytest.raises(SpxError, match=r"inputs: x: expected shape \[1, 64, 1\]"):
        inputs = {"x": x[:, :63]} | {f"places.{k}": p for k, p in enumerate(places)}
        cpp.make().evaluate(spatial, 8, 8, inputs, code)
