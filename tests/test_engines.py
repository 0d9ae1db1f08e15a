"""Engines draw the same pixels, whatever the batch and the company; and what a job may be."""

import gc
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import EDGE, config, job, network, same_images

from spxcore import Weights, engines, sample
from spxcore.engines.base import torch_device
from spxcore.engines.reference import Reference
from spxcore.engines.torch import TorchWavefront
from spxcore.errors import SpxError
from spxcore.sampler import draw_job, edge_distance, first_difference

SPATIAL = {"conditioning": "spatial"}


def weights_of(**fields) -> Weights:
    return Weights.of(network(config(**fields)))


@pytest.fixture(scope="module")
def small() -> Weights:
    return weights_of(**SPATIAL)


@pytest.fixture(scope="module")
def drawn(small):
    """A job of three images and its drawing, 12x13."""
    task = job(small.config, 12, 13, images=3)
    return task, TorchWavefront().sample(small, task)


# ---- the same images -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "fields"),
    [
        (28, 28, SPATIAL),
        (31, 45, {"channels": 3}),
        (12, 19, {"patch": 12, "coordinates": False, "latent": 0, "filters": 3}),
        pytest.param(56, 56, {"patch": 4, "filters": 3, **SPATIAL}, marks=pytest.mark.slow),
    ],
    ids=lambda value: str(value).replace(" ", ""),
)
def test_reference_and_wavefront_draw_the_same(height, width, fields):
    weights = weights_of(**fields)
    task = job(weights.config, height, width)
    a, b = (engine.sample(weights, task) for engine in (Reference(), TorchWavefront()))
    assert len(np.unique(a)) > 50  # a picture of one value would prove nothing
    same_images(weights, task, a, b)


@pytest.mark.parametrize("options", [{"map": True}, {"temperature": 0.5}, {"seed": (1 << 64) - 1}])
def test_reference_and_wavefront_take_options_alike(small, options):
    plain = job(small.config, 9, 12)
    task = replace(plain, **options)
    a, b = (engine.sample(small, task) for engine in (Reference(), TorchWavefront()))
    same_images(small, task, a, b)
    assert (b != TorchWavefront().sample(small, plain)).any()


def test_small_preset_draws_the_same():
    """The shipped kind of network, at its real width."""
    from spxcore.config import preset

    weights = Weights.of(network(preset("small-8x8")))
    task = job(weights.config, 9, 12)
    same_images(weights, task, Reference().sample(weights, task), TorchWavefront().sample(weights, task))


@pytest.mark.parametrize("batch", [1, 3, 512])
def test_any_batch_draws_the_same(small, drawn, batch):
    task, expected = drawn
    same_images(small, task, expected, TorchWavefront(batch=batch).sample(small, task))


def test_images_together_are_the_images_alone(small, drawn):
    task, together = drawn
    for i in (2, 0):
        one = replace(task, images=task.images[i : i + 1], z=task.z[i : i + 1], maps=task.maps[i : i + 1])
        same_images(small, one, together[i : i + 1], TorchWavefront().sample(small, one))


def test_image_numbers_and_seeds_make_other_images(small, drawn):
    task, images = drawn
    same_code = replace(task, z=task.z[[0, 0, 0]], maps=task.maps[[0, 0, 0]])
    a = TorchWavefront().sample(small, same_code)
    assert (a[0] != a[1]).any() and (a[1] != a[2]).any()
    assert (TorchWavefront().sample(small, replace(task, seed=task.seed + 1)) != images).any(axis=(1, 2, 3)).all()


def test_bf16_is_close_in_distribution(small):
    """Rounding moves draws over edges, so pixels differ; the first row's, whose context is the same, by little."""
    task = job(small.config, 8, 16, images=4)
    exact, rounded = (TorchWavefront(precision).sample(small, task).astype(int) for precision in ("fp32", "bf16"))
    assert np.median(np.abs(exact[:, 0, :4] - rounded[:, 0, :4])) <= 3
    assert abs(exact.mean() - rounded.mean()) < 15


# ---- the comparison itself -------------------------------------------------------------------------------------------


def far_pixel(weights, task, images) -> tuple[int, int, int]:
    """A pixel whose draw lies far from every edge, so that another value of it can be no rounding."""
    for r in range(4, 8):
        for c in range(task.width):
            wrong = images.copy()
            wrong[1, r, c] ^= 1
            found = first_difference(weights, task, images, wrong)
            if found.edge_distance > 20 * EDGE and 0 < images[1, r, c] < 255:
                return 1, r, c
    raise AssertionError("no such pixel")


def test_the_comparison_refuses_a_flipped_pixel(small, drawn):
    task, images = drawn
    where = far_pixel(small, task, images)
    wrong = images.copy()
    wrong[where] ^= 1
    with pytest.raises(AssertionError, match=r"edge_distance=0"):
        same_images(small, task, images, wrong)
    found = first_difference(small, task, images, wrong)
    assert (found.image, found.row, found.column) == where
    assert found.levels.tolist() == [images[where].tolist(), wrong[where].tolist()]


def test_the_comparison_looks_at_every_image(small, drawn):
    """An excuse in one image is none for another."""
    task, images = drawn
    wrong = images.copy()
    wrong[far_pixel(small, task, images)] ^= 1
    wrong[0, 0, 0] ^= 1  # earlier in time
    with pytest.raises(AssertionError):
        same_images(small, task, images, wrong)


def test_the_first_difference_is_first_in_time(small, drawn):
    task, images = drawn
    wrong = images.copy()
    wrong[0, 3, 11] ^= 1  # t = 35
    wrong[0, 4, 2] ^= 1  # t = 34
    assert first_difference(small, task, images, images) is None
    found = first_difference(small, task, images, wrong)
    assert (found.row, found.column) == (4, 2)


def one_pixel(logits, means, log_scales) -> np.ndarray:
    return np.concatenate([logits, means, log_scales])[None].astype(np.float32)


def test_edge_distance_of_a_logistic_draw(small):
    """u = 1/2 draws the mean itself: its distance from the half between two levels is known."""
    task = job(small.config, 8, 8)
    words = np.array([[1 << 31, 1 << 31, 0, 0]], np.uint32)
    for level, expected in [(100.5, 0), (100.501, 0.001), (100.25, 0.25), (100, 0.5), (-3.0, 3.5), (258.0, 3.5)]:
        params = one_pixel([0.0], [level / 127.5 - 1], [-7.0])
        assert edge_distance(params, words, task, 1) == pytest.approx(expected, abs=2e-4)


def test_edge_distance_of_a_component_draw(small):
    task = job(small.config, 8, 8)
    words = np.array([[1 << 31, 1 << 31, 0, 0]], np.uint32)  # u = 1/2 to 24 bits
    means = [100 / 127.5 - 1, 100 / 127.5 - 1]
    assert edge_distance(one_pixel([0.0, 0.0], means, [-7.0, -7.0]), words, task, 1) < 1e-6
    for share in (0.51, 0.6):
        logits = [np.log(share), np.log(1 - share)]
        assert edge_distance(one_pixel(logits, means, [-7.0, -7.0]), words, task, 1) == pytest.approx(
            share - 0.5, abs=1e-6
        )


def test_the_comparison_accepts_a_draw_on_an_edge(small, drawn):
    """The output's bias is moved until one pixel's draw lies on an edge: then, and only then, its neighbour level passes."""
    task, images = drawn
    where = far_pixel(small, task, images)
    params = Reference().pixel_params(small, task, images, *where)[None]
    from spxcore.mixture import levels_real
    from spxcore.rng import pixel_words

    n, r, c = where
    words = pixel_words(task.seed, np.array([r]), np.array([c]), task.images[n])
    real = levels_real(params, words, 1)[0, 0]
    k = small.config.mixtures
    moved = {name: t.copy() for name, t in small.tensors.items()}
    moved["nin_out.bias"][k : 2 * k] += (np.floor(real) + 0.5 - real) / 127.5
    moved = Weights(small.config, moved)
    wrong = images.copy()
    wrong[where] = images[where] - 1 if real < images[where] else images[where] + 1
    same_images(moved, task, images, wrong)
    with pytest.raises(AssertionError):
        same_images(small, task, images, wrong)


# ---- the interface ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [Reference, TorchWavefront])
def test_progress_sums_to_the_pixels(small, engine):
    task, calls = job(small.config, 9, 11, images=2), []
    engine().sample(small, task, calls.append)
    assert sum(calls) == 2 * 9 * 11 and min(calls) >= 1


@pytest.mark.parametrize("engine", [Reference, TorchWavefront])
def test_what_was_drawn_before_a_stop_is_kept(small, engine):
    task = job(small.config, 10, 10)
    whole, out, calls = engine().sample(small, task), np.zeros((1, 10, 10, 1), np.uint8), []

    def stop(pixels: int) -> None:
        calls.append(pixels)
        if sum(calls) >= 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine().sample(small, task, stop, out)
    r, c = np.indices((10, 10))
    order = np.argsort((r * 10 + c if engine is Reference else r * 8 + c).ravel(), kind="stable")[: sum(calls)]
    finished = np.zeros(100, bool)
    finished[order] = True
    np.testing.assert_array_equal(out.ravel()[finished], whole.ravel()[finished])
    assert (out.ravel()[~finished] == 0).all()


def test_out_is_drawn_into(small):
    out = np.full((1, 8, 9, 1), 77, np.uint8)
    task = job(small.config, 8, 9)
    assert draw_job(small, task, "torch", out=out) is out
    np.testing.assert_array_equal(out, TorchWavefront().sample(small, task))


@pytest.mark.parametrize("out", [np.zeros((1, 8, 8, 1), np.uint8), np.zeros((1, 8, 9, 1)), [[1]]])
def test_out_must_fit(small, out):
    with pytest.raises(SpxError, match=r"^out: expected uint8 \[1, 8, 9, 1\], got"):
        draw_job(small, job(small.config, 8, 9), "torch", out=out)


def test_the_lower_level_entrance():
    """spxcore.sample with a torch module and with its weights; images as a number or as numbers."""
    net = network(config())
    z = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    a = sample(net, 8, 10, z=z, seed=3, images=2, engine="torch")
    b = sample(Weights.of(net), 8, 10, z=z[::-1], seed=3, images=[1, 0], engine=TorchWavefront())
    assert a.shape == (2, 8, 10, 1)
    np.testing.assert_array_equal(a, b[::-1])


def test_memory_grows_with_the_width_only():
    """Fourteen times the rows, no more memory beyond the image; the comparison would see the rows if anything kept them."""
    weights = weights_of(filters=1, mixtures=1, patch=4, latent=0, coordinates=False)

    def peak(height: int, width: int) -> int:
        task, out = job(weights.config, height, width), np.zeros((1, height, width, 1), np.uint8)
        gc.collect()  # garbage of earlier tests, collected while we look, would count
        tracemalloc.start()
        TorchWavefront().sample(weights, task, out=out)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(12, 12)  # whatever is made once
    # The peak itself wavers by 2 kB, with when Python collects its garbage; the smallest array that
    # kept a number for each pixel that is added would take 5 kB.
    low, high = peak(8, 12), peak(112, 12)
    assert high < low + 4 * 104 * 12


def test_weights_keep_the_networks_numbers():
    net = network(config(**SPATIAL))
    weights = Weights.of(net)
    assert all(t.dtype == np.float32 for t in weights.tensors.values())
    for name, tensor in weights.module.state_dict().items():
        assert (tensor == net.state_dict()[name]).all()
    assert not weights.module.training and weights.module is weights.module


BAD_JOBS = {
    "small": ({"height": 7}, "height: expected at least the patch size 8, got 7"),
    "narrow": ({"width": 0}, "width: expected at least the patch size 8, got 0"),
    "huge": ({"width": 1 << 21}, "width: expected at most 1048576"),
    "negative seed": ({"seed": -1}, r"seed: expected 0 to 2\^64 - 1, got -1"),
    "huge seed": ({"seed": 1 << 64}, "seed: expected 0 to"),
    "no temperature": ({"temperature": 0.0}, "temperature: expected more than 0, got 0"),
    "negative temperature": ({"temperature": -1.0}, "temperature"),
    "NaN temperature": ({"temperature": float("nan")}, "temperature"),
    "infinite temperature": ({"temperature": float("inf")}, "temperature"),
    "no images": ({"images": np.array([], int)}, "images: expected at least one image number"),
    "negative image": ({"images": np.array([-1])}, "images"),
    "huge image": ({"images": np.array([1 << 32])}, "images"),
    "no z": ({"z": None}, r"z: expected shape \[1, 5\], got None"),
    "short z": ({"z": np.zeros((1, 4))}, r"z: expected shape starting \[1, 5\] of rank 2, got \(1, 4\)"),
    "z of two": ({"z": np.zeros((2, 5))}, "z: expected"),
    "NaN z": ({"z": np.full((1, 5), np.nan)}, "z: expected finite numbers, got NaN"),
    "no maps": ({"maps": None}, r"maps: expected shape \[1, 3\], got None"),
    "flat maps": ({"maps": np.zeros((1, 3, 6))}, "maps: expected"),
    "infinite maps": ({"maps": np.full((1, 3, 6, 6), np.inf)}, "maps: expected finite numbers"),
}


@pytest.mark.parametrize("case", BAD_JOBS)
def test_jobs_that_do_not_fit(small, case):
    change, message = BAD_JOBS[case]
    with pytest.raises(SpxError, match=f"^{message}"):
        replace(job(small.config, 8, 8), **change).check(small.config)


def test_jobs_that_give_too_much():
    c = config(latent=0)
    with pytest.raises(SpxError, match=r"^z: expected None for this network, got"):
        replace(job(c, 8, 8), z=np.zeros((1, 5))).check(c)
    with pytest.raises(SpxError, match=r"^maps: expected None for this network, got"):
        replace(job(c, 8, 8), maps=np.zeros((1, 3, 6, 6))).check(c)


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
    assert engines.get("auto").name == engines.fastest() != "reference"


def test_auto_is_the_fastest_that_can_run(monkeypatch):
    reasons = dict.fromkeys(engines.NAMES)
    monkeypatch.setattr(engines, "why_not", lambda name: reasons[name])
    monkeypatch.setattr(engines, "emulated", lambda name: False)
    assert engines.fastest() == engines.NAMES[-1]
    reasons[engines.NAMES[-1]] = "not today"
    assert engines.fastest() == engines.NAMES[-2]
    reasons.update(dict.fromkeys(engines.NAMES[1:], "not today"))
    assert engines.fastest() == "reference"


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
