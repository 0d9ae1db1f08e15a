"""Engines draw the same pixels, whatever the batch and the company; and what a job may be."""

import gc
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import EDGE, close, config, double, drawn, job, network, same_images, windows

from spxcore import Given, Job, Logistics, Network, Sampling, Softmax, Tiles, engines
from spxcore.compare import first_difference
from spxcore.engines.base import torch_device
from spxcore.engines.reference import Reference
from spxcore.engines.torch import Torch
from spxcore.errors import SpxError
from spxcore.feeds import Pixels, Places, Planes, unit_levels
from spxcore.plan import execute, plan_at
from spxcore.rng import pixel_words
from spxcore.schedules import Window

SPATIAL = config(conditioning="spatial")


@pytest.fixture(scope="module")
def small() -> Network:
    return network(SPATIAL)


def task_of(small, height: int, width: int, **options) -> Job:
    return job(SPATIAL, height, width, of=small, **options)


@pytest.fixture(scope="module")
def three(small):
    """A job of three images and its drawing, 12x13."""
    task = task_of(small, 12, 13, images=3)
    return task, drawn("torch", task).pixels


# ---- the same images -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "fields"),
    [
        (19, 19, {"conditioning": "spatial"}),
        (17, 27, {"channels": 3}),
        (12, 19, {"patch": 12, "coordinates": False, "latent": 0, "filters": 3}),
        pytest.param(24, 24, {"patch": 4, "filters": 3, "conditioning": "spatial"}, marks=pytest.mark.slow),
    ],
    ids=lambda value: str(value).replace(" ", ""),
)
def test_reference_and_wavefront_draw_the_same(height, width, fields):
    task = job(config(**fields), height, width)
    a, b = (drawn(name, task).pixels for name in ("reference", "torch"))
    assert len(np.unique(a)) > 50  # a picture of one value would prove nothing
    same_images(task, a, b)


@pytest.mark.parametrize("options", [{"mode": True}, {"temperature": 0.5}, {"seed": (1 << 64) - 1}, {"draw": 256}])
def test_reference_and_wavefront_take_options_alike(small, options):
    task = task_of(small, 9, 12, **options)
    a, b = (drawn(name, task).pixels for name in ("reference", "torch"))
    same_images(task, a, b)
    assert (b != drawn("torch", task_of(small, 9, 12)).pixels).any()


def test_small_preset_draws_the_same():
    """The shipped kind of network, at its real width."""
    from spx.models.spatial.config import preset

    task = job(preset("small-8x8"), 9, 12)
    same_images(task, drawn("reference", task).pixels, drawn("torch", task).pixels)


@pytest.mark.parametrize("batch", [1, 3, 512])
def test_any_batch_draws_the_same(three, batch):
    task, expected = three
    same_images(task, expected, drawn(Torch(batch=batch), task).pixels)


def one_of(task: Job, i: int) -> Job:
    """A job's image number i alone."""
    of = slice(i, i + 1)
    places = task.feeds["places.0"]
    feeds = task.feeds | dict.fromkeys((f"places.{k}" for k in range(3)), replace(places, maps=places.maps[of]))
    return replace(task, images=task.images[of], code=task.code[of], feeds=feeds)


def test_images_together_are_the_images_alone(three):
    task, together = three
    for i in (2, 0):
        one = one_of(task, i)
        same_images(one, together[i : i + 1], drawn("torch", one).pixels)


def test_maps_of_one_image_serve_all(three):
    """Feeds may have one image for all of the job's."""
    task, _ = three
    first = one_of(task, 0).feeds
    shared = replace(task, code=task.code[[0, 0, 0]], feeds=first)
    copied = dict.fromkeys(
        (f"places.{k}" for k in range(3)), replace(first["places.0"], maps=first["places.0"].maps[[0, 0, 0]])
    )
    copied = replace(shared, feeds=first | copied)
    np.testing.assert_array_equal(drawn("torch", shared).pixels, drawn("torch", copied).pixels)


def test_image_numbers_and_seeds_make_other_images(small, three):
    task, images = three
    alike = replace(task, code=task.code[[0, 0, 0]], feeds=one_of(task, 0).feeds)
    a = drawn("torch", alike).pixels
    assert (a[0] != a[1]).any() and (a[1] != a[2]).any()
    other = drawn("torch", replace(task, seed=task.seed + 1)).pixels
    assert (other != images).any(axis=(1, 2, 3)).all()


def test_bf16_is_bf16(small):
    """Parameters are off by what bf16 rounds, 8 bits of mantissa, and by no more."""
    task = task_of(small, 8, 9, images=2)
    given = Given(drawn("torch", task).pixels, np.ones((8, 9), bool))
    exact, rounded = (drawn(Torch(precision), task, given, keep=True).params for precision in ("fp32", "bf16"))
    error = np.abs(exact - rounded).max() / np.abs(exact).max()
    assert 1e-4 < error < 3e-2  # measured: 6e-3


# ---- given pixels, rows that are finished, parameters that are kept ---------------------------------------------------


@pytest.mark.parametrize("engine", ["reference", "torch"])
def test_given_pixels_are_kept_and_the_rest_is_drawn(small, engine):
    """A drawing in which some of its own pixels are given is that drawing; other given pixels change what follows them only."""
    task = task_of(small, 9, 12, images=2)
    whole = drawn(engine, task).pixels
    mask = np.random.default_rng(0).random((2, 9, 12)) < 0.4
    np.testing.assert_array_equal(drawn(engine, task, Given(whole, mask)).pixels, whole)
    mask = np.zeros((9, 12), bool)
    mask[4, 5] = mask[8, 11] = True
    moved = drawn(engine, task, Given(255 - whole, mask)).pixels
    np.testing.assert_array_equal(moved[:, mask], 255 - whole[:, mask])
    np.testing.assert_array_equal(moved[:, :4], whole[:, :4])
    assert (moved[:, 5:] != whole[:, 5:]).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("engine", ["reference", "torch"])
def test_kept_parameters_are_the_networks(small, engine):
    """Everything given and parameters kept: each pixel's are those of the plan for the window that it ends."""
    task = task_of(small, 9, 11)
    pixels = drawn("torch", task).pixels
    canvas = drawn(engine, task, Given(pixels, np.ones((9, 11), bool)), keep=True)
    np.testing.assert_array_equal(canvas.pixels, pixels)
    assert not np.isnan(canvas.params).any()
    words = pixel_words(task.seed, *np.indices((9, 11)).reshape(2, -1), np.zeros(99, int))
    again = task.head.draw(canvas.params[0].reshape(99, -1), words, task.sampling)
    np.testing.assert_array_equal(again.reshape(9, 11, 1), pixels[0])


@pytest.mark.parametrize("engine", ["reference", "torch"])
def test_finished_rows_are_complete(small, engine):
    """At every report the rows that are said to be finished are those of the whole drawing."""
    task, seen = task_of(small, 10, 12, images=2), []
    whole = drawn(engine, task).pixels
    canvas = task.canvas()

    def look(count):
        for n, rows in enumerate(canvas.finished):
            np.testing.assert_array_equal(canvas.pixels[n, :rows], whole[n, :rows])
        seen.append(canvas.finished.copy())

    engines.get(engine, threads=1).draw(task, canvas, look)
    seen = np.array(seen)
    assert (np.diff(seen, axis=0) >= 0).all() and canvas.finished.tolist() == [10, 10] and len(np.unique(seen)) == 11


@pytest.mark.parametrize("engine", ["torch", "reference"])
def test_evaluate_is_the_plan(small, engine):
    _, inputs, code = windows(SPATIAL, batch=3)
    plan = plan_at(small.graph, 8, 8)
    got = engines.get(engine).evaluate(small, 8, 8, inputs, code)
    assert close(got, execute(plan, double(inputs), code)[plan.output], 1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": {}}, "inputs: expected"),
        ({"code": None}, r"code: expected shape \[3, 5\]"),
        ({"x": np.zeros((3, 63, 1), np.float32)}, r"inputs: x: expected shape \[3, 64, 1\]"),
    ],
)
def test_inputs_that_do_not_fit(small, change, message):
    _, inputs, code = windows(SPATIAL, batch=3)
    code = change.pop("code", code)
    inputs = change.pop("inputs", {**inputs, **change})
    with pytest.raises(SpxError, match=message):
        engines.get("torch").evaluate(small, 8, 8, inputs, code)


# ---- the comparison itself -------------------------------------------------------------------------------------------


def far_pixel(task, images) -> tuple[int, int, int]:
    """A pixel whose draw lies far from every edge, so that another value of it can be no rounding."""
    for r in range(4, 8):
        for c in range(task.width):
            wrong = images.copy()
            wrong[1, r, c] ^= 1
            found = first_difference(task, images, wrong)
            if found.edge_distance > 20 * EDGE and 0 < images[1, r, c] < 255:
                return 1, r, c
    raise AssertionError("no such pixel")


def test_the_comparison_refuses_a_flipped_pixel(three):
    task, images = three
    where = far_pixel(task, images)
    wrong = images.copy()
    wrong[where] ^= 1
    with pytest.raises(AssertionError, match=r"edge_distance=0"):
        same_images(task, images, wrong)
    found = first_difference(task, images, wrong)
    assert (found.image, found.row, found.column) == where
    assert found.levels.tolist() == [images[where].tolist(), wrong[where].tolist()]


def test_the_comparison_looks_at_every_image(three):
    """An excuse in one image is none for another."""
    task, images = three
    wrong = images.copy()
    wrong[far_pixel(task, images)] ^= 1
    wrong[0, 0, 0] ^= 1  # earlier in time
    with pytest.raises(AssertionError):
        same_images(task, images, wrong)


def test_the_first_difference_is_first_in_time(three):
    task, images = three
    wrong = images.copy()
    wrong[0, 3, 11] ^= 1  # t = 35
    wrong[0, 4, 2] ^= 1  # t = 34
    assert first_difference(task, images, images) is None
    found = first_difference(task, images, wrong)
    assert (found.row, found.column) == (4, 2)


def one_pixel(logits, means, log_scales) -> np.ndarray:
    return np.concatenate([logits, means, log_scales])[None].astype(np.float32)


HALVES = np.array([[1 << 31, 1 << 31, 0, 0]], np.uint32)  # u = 1/2 to 24 bits


def test_edge_distance_of_a_logistic_draw():
    """u = 1/2 draws the mean itself: its distance from the half between two levels is known."""
    for level, expected in [(100.5, 0), (100.501, 0.001), (100.25, 0.25), (100, 0.5), (-3.0, 3.5), (258.0, 3.5)]:
        params = one_pixel([0.0], [level / 127.5 - 1], [-7.0])
        assert Logistics(1, 1).edge_distance(params, HALVES, Sampling()) == pytest.approx(expected, abs=2e-4)


def test_edge_distance_of_a_component_draw():
    head, means = Logistics(1, 2), [100 / 127.5 - 1, 100 / 127.5 - 1]
    assert head.edge_distance(one_pixel([0.0, 0.0], means, [-7.0, -7.0]), HALVES, Sampling()) < 1e-6
    for share in (0.51, 0.6):
        params = one_pixel([np.log(share), np.log(1 - share)], means, [-7.0, -7.0])
        assert head.edge_distance(params, HALVES, Sampling()) == pytest.approx(share - 0.5, abs=1e-6)


def test_edge_distance_of_a_softmax():
    logits = np.log(np.float32([[0.1, 0.3, 0.6]]))
    assert Softmax(3).edge_distance(logits, HALVES, Sampling()) == pytest.approx(0.1, abs=1e-6)
    assert Softmax(3).edge_distance(logits, HALVES, Sampling(mode=True)) == pytest.approx(np.log(2), abs=1e-6)


def test_the_comparison_accepts_a_draw_on_an_edge(small, three):
    """The output's bias is moved until one pixel's draw lies on an edge: then, and only then, its neighbour level passes."""
    task, images = three
    where = far_pixel(task, images)
    n, r, c = (np.array([i]) for i in where)
    params = Reference().pixel_params(task, images, n, r, c)
    real = task.head.levels_real(params, pixel_words(task.seed, r, c, task.images[n]), task.sampling)[0, 0]
    k = SPATIAL.mixtures
    moved = {name: t.copy() for name, t in small.tensors.items()}
    moved["nin_out.bias"][k : 2 * k] += (np.floor(real) + 0.5 - real) / 127.5
    moved = replace(task, network=Network(small.walk, moved))
    wrong = images.copy()
    wrong[where] = images[where] - 1 if real < images[where] else images[where] + 1
    same_images(moved, images, wrong)
    with pytest.raises(AssertionError):
        same_images(task, images, wrong)


# ---- the interface ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["reference", "torch"])
def test_reports_sum_to_the_pixels(small, engine):
    calls = []
    drawn(engine, task_of(small, 9, 11, images=2), report=calls.append)
    assert sum(calls) == 2 * 9 * 11 and min(calls) >= 1


@pytest.mark.parametrize("engine", ["reference", "torch"])
def test_what_was_drawn_before_a_stop_is_kept(small, engine):
    task, calls = task_of(small, 10, 10), []
    whole, canvas = drawn(engine, task).pixels, task.canvas()

    def stop(pixels: int) -> None:
        calls.append(pixels)
        if sum(calls) >= 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engines.get(engine, threads=1).draw(task, canvas, stop)
    r, c = np.indices((10, 10))
    order = np.argsort((r * 10 + c if engine == "reference" else r * 8 + c).ravel(), kind="stable")[: sum(calls)]
    there = np.zeros(100, bool)
    there[order] = True
    np.testing.assert_array_equal(canvas.pixels.ravel()[there], whole.ravel()[there])
    assert (canvas.pixels.ravel()[~there] == 0).all()


def test_memory_grows_with_the_width_only():
    """Six times the rows, no more memory beyond the image; the comparison would see the rows if anything kept them."""
    c = config(filters=1, mixtures=1, patch=4, latent=0, coordinates=False)
    of = network(c)

    def peak(height: int) -> int:
        task = job(c, height, 32, of=of)
        canvas = task.canvas()
        gc.collect()  # garbage of earlier tests, collected while we look, would count
        tracemalloc.start()
        Torch().draw(task, canvas)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(8)  # whatever is made once
    # The peak itself wavers by 3 kB, with when Python collects its garbage; the smallest array that kept a number for each pixel
    # that is added would take 5 kB. Eight rows are at work side by side in both. Other threads allocate too: once more if they did.
    assert any(peak(8) + 4 * 40 * 32 > peak(48) for _ in range(2))


def test_threads_are_the_engines_while_it_draws(small):
    before, seen = torch.get_num_threads(), []
    for threads in (1, 2):
        engine = engines.get("torch", threads=threads)
        engine.draw(task_of(small, 8, 8), task_of(small, 8, 8).canvas(), lambda _: seen.append(torch.get_num_threads()))
        assert set(seen) == {threads} and torch.get_num_threads() == before
        seen.clear()


def test_a_network_keeps_the_modules_numbers(small):
    assert all(t.dtype == np.float32 for t in small.tensors.values())
    for name, tensor in small.module.state_dict().items():
        assert (tensor.numpy() == small.tensors[name]).all()
    assert not small.module.training and small.module is small.module


PLACES = dict.fromkeys(f"places.{k}" for k in range(3))
BAD_JOBS = {
    "small": ({"height": 7}, "height: expected at least the patch size 8, got 7"),
    "narrow": ({"width": 0}, "width: expected at least the patch size 8, got 0"),
    "huge": ({"width": 1 << 21}, "width: expected at most 1048576"),
    "half a pixel": ({"width": 8.5}, "width: expected a whole number"),
    "negative seed": ({"seed": -1}, r"seed: expected a whole number, 0 to 2\^64 - 1, got -1"),
    "huge seed": ({"seed": 1 << 64}, "seed: expected a whole number, 0 to"),
    "true seed": ({"seed": True}, "seed: expected a whole number"),
    "no images": ({"images": np.array([], int)}, "images: expected at least one image number"),
    "negative image": ({"images": np.array([-1])}, "images"),
    "huge image": ({"images": np.array([1 << 32])}, "images"),
    "half an image": ({"images": np.array([0.5])}, "images"),
    "no code": ({"code": None}, r"code: expected shape \[1, 5\], got None"),
    "short code": ({"code": np.zeros((1, 4))}, r"code: expected shape \[1, 5\], got \(1, 4\)"),
    "codes of two": ({"code": np.zeros((2, 5))}, "code: expected"),
    "NaN code": ({"code": np.full((1, 5), np.nan)}, "code: expected finite numbers, got NaN"),
    "no feeds": ({"feeds": {}}, "feeds: expected one for each of"),
    "few levels": ({"x": Pixels(unit_levels(16))}, "feed x: expected 256 levels, got 16"),
    "an embedding": ({"x": Pixels(np.zeros((256, 2)))}, r"feed x: expected 1 numbers a place, got 2"),
    "places for pixels": ({"x": Places()}, "feed x: expected Pixels, got Places"),
    "no maps": ({"places": Places(None, np.zeros(1))}, "feed places.0: expected 6 numbers a place, got 3"),
    "flat maps": ({"places": Places(np.zeros((1, 3, 6)), np.zeros(1))}, "places.0: maps: expected shape"),
    "maps of two": ({"places": Places(np.zeros((2, 3, 6, 6)), np.zeros(1))}, "places.0: maps: expected 1 or 1 images"),
    "infinite maps": (
        {"places": Places(np.full((1, 3, 6, 6), np.inf), np.zeros(1))},
        "places.0: maps: expected finite",
    ),
    "NaN scale": ({"places": Places(np.zeros((1, 3, 6, 6)), np.float32([np.nan]))}, "places.0: extra: expected finite"),
}


@pytest.mark.parametrize("case", BAD_JOBS)
def test_jobs_that_do_not_fit(small, case):
    change, message = BAD_JOBS[case]
    task = task_of(small, 8, 8)
    change = dict(change)
    if "x" in change or "places" in change:
        feeds = {**task.feeds, "x": change.pop("x", task.feeds["x"])}
        if "places" in change:
            feeds |= dict.fromkeys(PLACES, change.pop("places"))
        change["feeds"] = feeds
    with pytest.raises(SpxError, match=f"^{message}"):
        replace(task, **change).check()


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_temperatures(temperature):
    with pytest.raises(SpxError, match=r"^temperature: expected a finite number, more than 0"):
        Sampling(temperature)


def test_jobs_that_give_too_much():
    task = job(config(latent=0), 8, 8)
    with pytest.raises(SpxError, match=r"^code: expected None for this network, got"):
        replace(task, code=np.zeros((1, 5))).check()
    with pytest.raises(SpxError, match=r"^feeds: expected one for each of"):
        replace(task, feeds={**task.feeds, "more": Places()}).check()


@pytest.mark.parametrize("engine", ["reference", "torch"])
def test_what_a_window_engine_cannot_draw(small, engine):
    task, engine = task_of(small, 8, 8), engines.get(engine)
    assert engine.why_not(task) is None
    assert "whole canvases" in engine.why_not(replace(task, tiles=Tiles(step=2)))
    assert "networks only" in engine.why_not(replace(task, network=None))
    planes = {**task.feeds, "places.1": Planes(np.zeros((1, 4, 4, 6), np.float32))}
    assert "no Planes" in engine.why_not(replace(task, feeds=planes))


def test_windows_have_a_side():
    with pytest.raises(SpxError, match=r"^side: expected a whole number, 1 to 1024, got 0"):
        Window(0)


def test_names():
    assert ("auto", *engines.NAMES) == engines.CHOICES
    assert {"reference", "torch", "cpp", "triton", "cuda"} == set(engines.NAMES)
    for name in engines.NAMES:
        reason = engines.why_not(name)
        if reason is None:
            assert engines.get(name).name == name
        else:
            assert len(reason) > 20 and "\n" not in reason
            with pytest.raises(SpxError) as caught:
                engines.get(name)
            assert str(caught.value) == f"engine: {name} cannot run here: {reason}"
    assert engines.why_not("reference") is None and engines.why_not("torch") is None
    assert engines.get("auto").name != "reference"


def test_unknown_engine():
    with pytest.raises(SpxError, match=r"^engine: expected auto, reference, torch, .*, got 'fast'"):
        engines.get("fast")


@pytest.mark.parametrize(("name", "precision"), [("reference", "bf16"), ("torch", "fp16")])
def test_unknown_precision(name, precision):
    with pytest.raises(SpxError, match=f"^precision: expected fp32.*, got '{precision}'"):
        engines.get(name, precision=precision)


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert torch_device("cuda:1") == torch.device("cuda:1") and torch_device(None) == torch.device("cuda")
    with pytest.raises(SpxError, match=r"^device: expected cpu, cuda, or cuda:0 to cuda:1, got 'cuda:2'"):
        torch_device("cuda:2")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "mps"])
def test_unknown_device(device):
    with pytest.raises(SpxError, match=f"^device: expected cpu.*, got '{device}'"):
        engines.get("torch", device=device)
