"""What every family of models passes by being registered, on its tiny configuration and every engine that can run here."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import close, drawn, same_images

import spx
from spx.models import registry
from spx.models.model import Checkpoint
from spx.request import Request
from spxcore import Given, engines
from spxcore.engines.auto import STARTUP
from spxcore.engines.torch_feeds import window_inputs
from spxcore.errors import SpxError
from spxcore.feeds import Pixels, unit_levels
from spxcore.heads.log_prob import log_prob

pytestmark = pytest.mark.usefixtures("quick_interpreter")

# The example registers itself, as a user's package does.
_EXAMPLE = importlib.util.spec_from_file_location("toy", Path(__file__).parents[3] / "examples" / "toy.py")
toy = importlib.util.module_from_spec(_EXAMPLE)
__import__("sys").modules["toy"] = toy
_EXAMPLE.loader.exec_module(toy)

FAMILIES = registry.names()


def tiny_checkpoint(name: str, seed: int = 0) -> Checkpoint:
    """A model of a family's tiny configuration, whose distributions are neither flat nor certain."""
    model, g = registry.family(name), np.random.default_rng(seed)
    config, tensors = model.tiny(), {}
    for tensor, shape in model.shapes(config).items():
        spread = {"g": (1.0, 0.3), "bias": (0.0, 0.3)}.get(tensor.rsplit(".", 1)[-1], (0.0, 0.5))
        tensors[tensor] = (spread[0] + spread[1] * g.normal(size=shape)).astype(np.float32)
    return Checkpoint(name, config, tensors)


def tiny_job(name: str, n: int = 2, levels: int = 0, grow: int = 0):
    """A job of such a model: one window or image, `grow` pixels more along each axis; levels: of a pixel, 0: the model's own."""
    checkpoint = tiny_checkpoint(name)
    side = checkpoint.model.side(checkpoint.config, "network")
    request = Request(side + grow, side + grow, n=n, seed=5)
    task = checkpoint.model.drawing(checkpoint, request, engines.evaluate).job(0, np.arange(n), {})
    if levels:
        table = {input: Pixels(unit_levels(levels)) for input in task.network.graph.drawn}
        task = replace(task, head=replace(task.head, levels=levels), feeds={**task.feeds, **table})
    return task.check()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_probabilities_of_all_images_sum_to_one(name):
    """Of two levels: every image there is, by one pass over whole windows. A pixel that sees itself, or a later one, breaks it."""
    task = tiny_job(name, n=1, levels=2)
    side, channels = task.height, task.head.channels
    bits = side * side * channels
    assert bits <= 16, "a tiny configuration has at most 16 numbers an image"
    every = (np.arange(1 << bits)[:, None] >> np.arange(bits) & 1).astype(np.uint8).reshape(-1, side, side, channels)
    last, total = np.array([side - 1]), []
    for some in np.array_split(every, max(1, len(every) // 2048)):
        many = replace(task, code=None if task.code is None else np.repeat(task.code, len(some), axis=0))
        inputs, code = window_inputs(many, some, np.arange(len(some)), last, last, torch.device("cpu"))
        with torch.no_grad():
            params = task.network.module(inputs, code)
            total.append(
                log_prob(task.head, params, torch.from_numpy(some).permute(0, 3, 1, 2)).double().sum(dim=(1, 2))
            )
    total = torch.cat(total)
    assert total.std() > 0.1  # not all images alike
    assert torch.logsumexp(total, 0).exp().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pixel_changes_nothing_that_is_drawn_before_it(name):
    """Every pixel and channel flipped: parameters up to its own stay to the bit, some of the later ones change."""
    task = tiny_job(name, n=1, grow=2)
    h, w, channels = task.height, task.width, task.head.channels
    g = np.random.default_rng(0)
    pixels = g.integers(0, task.head.levels, (1, h, w, channels)).astype(np.uint8)
    everything = np.ones((h, w), bool)
    before = drawn("torch", task, Given(pixels, everything), keep=True).params.reshape(h * w, -1)
    changed = np.zeros(h * w, bool)
    for place in range(h * w):
        for channel in range(channels):
            flipped = pixels.copy()
            flipped.reshape(h * w, channels)[place, channel] ^= 1
            after = drawn("torch", task, Given(flipped, everything), keep=True).params.reshape(h * w, -1)
            np.testing.assert_array_equal(after[: place + 1], before[: place + 1])
            changed |= (after != before).any(axis=1)
    assert changed[1:].mean() > 0.9  # all but the first see another one; a dead ReLU may hide one


@pytest.mark.parametrize("engine", [name for name in engines.NAMES if name != "reference"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_engine_draws_what_the_naive_loop_draws(name, engine):
    """First the parameters of given pixels, then pixels of its own. Triton's interpreter is slow: in one drawing of one image it does
    both, with all pixels given but the last three."""
    reason = engines.why_not(engine)
    if reason:
        pytest.skip(reason)
    slow = engines.emulated(engine)
    n = 1 if slow else 3
    task, engine = tiny_job(name, n=n, grow=n), engines.get(engine)
    if reason := engine.why_not(task):
        pytest.skip(reason)
    naive = drawn("reference", task, keep=True)
    assert not np.isnan(naive.params).any() and len(np.unique(naive.pixels)) > 1
    mask = np.ones(naive.pixels.shape[1:3], bool)
    mask[-1, -3:] = not slow
    forced = drawn(engine, task, Given(naive.pixels, mask), keep=True)
    same_images(task, naive.pixels, forced.pixels)
    same = (
        np.cumsum((forced.pixels != naive.pixels).any(axis=-1).reshape(n, -1), axis=1) == 0
    )  # up to a draw on a bin's edge
    assert close(
        forced.params.reshape(n, same.shape[1], -1)[same], naive.params.reshape(n, same.shape[1], -1)[same], 1e-4
    )
    if not slow:
        np.testing.assert_array_equal(forced.pixels, naive.pixels)
        same_images(task, naive.pixels, drawn(engine, task).pixels)


@pytest.mark.parametrize("engine", [name for name in engines.NAMES if name not in STARTUP])
@pytest.mark.parametrize("name", FAMILIES)
def test_an_updated_sampler_draws_and_scores_as_a_fresh_one(name, engine):
    """Twice, so that numbers are replaced in what the first update left. All engines but cpp draw three pixels. Engines for GPUs
    compile anew for each network, as they always do; their interpreters would take a minute."""
    if reason := engines.why_not(engine):
        pytest.skip(reason)
    samplers = [spx.Sampler(tiny_checkpoint(name, seed)) for seed in (0, 1, 2)]
    updated, size = samplers[0], (samplers[0].family.side(samplers[0].config, "network") + 1,) * 2
    shape = (1, *size, updated.head.channels)
    image = np.random.default_rng(1).integers(0, updated.head.levels, shape).astype(np.uint8)
    mask = np.zeros(size, bool)
    mask[-1, -3:] = True
    mask ^= engine != "cpp"

    def outcome(sampler):
        images, nats = sampler.complete(image, mask, seed=5, engine=engine, return_log_prob=True)
        return images, nats, sampler.score(image).bits

    try:
        before = outcome(updated)
    except SpxError as error:
        pytest.skip(str(error))
    for fresh in samplers[1:]:
        updated.update(fresh.checkpoint.tensors)
        after = outcome(updated)
        assert (after[1] != before[1]).all() and (after[2] != before[2]).all()
        for found, expected in zip(after, outcome(fresh)):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_score_is_the_bits_of_the_parameters_that_given_pixels_leave(name):
    """With the family's own codes, if it has any, and their price."""
    checkpoint = tiny_checkpoint(name)
    model, config = checkpoint.model, checkpoint.config
    size, head = (model.side(config, "network") + 1,) * 2, model.head(config)
    images = np.random.default_rng(1).integers(0, head.levels, (2, *size, head.channels)).astype(np.uint8)
    found, (codes, nats) = model.score(checkpoint, images), model.paid_codes(checkpoint, images, engines.evaluate)
    drawing = model.drawing(checkpoint, Request(*size, n=2, code=codes), engines.evaluate)
    given = Given(images, np.ones(size, bool))
    params = drawn("torch", drawing.job(0, np.arange(2), {}), given, keep=True).params
    levels, params = (torch.from_numpy(a).permute(0, 3, 1, 2) for a in (images, params))
    expected = nats - log_prob(head, params, levels).double().sum(dim=(1, 2)).numpy()
    np.testing.assert_allclose(found.bits, expected / images[0].size / np.log(2), rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_class_that_a_model_does_not_know_is_refused(name):
    """Also by a family without classes."""
    sampler = spx.Sampler(tiny_checkpoint(name))
    for label in (-1, 1000):
        with pytest.raises(SpxError, match="digit"):
            sampler.sample(digit=label)


def test_the_toy_learns_draws_completes_and_scores():
    """The example as a test: a few seconds of training tell digits from noise, on every fast engine the same pixels."""
    images = toy.digits()
    assert images.shape == (1797, 8, 8, 1) and images.max() == 15
    sampler = spx.Sampler(toy.train(images[:1500], steps=120))
    bits = sampler.score(images[1500:1540]).bits.mean()
    noise = np.random.default_rng(0).integers(0, 16, (40, 8, 8, 1), dtype=np.uint8)
    assert bits < 2.6 < 4 < sampler.score(noise).bits.mean()  # the levels' own histogram gives 2.7 bits
    expected = sampler.sample(8, n=2, seed=1, engine="reference")
    for engine in engines.NAMES:  # but Triton's interpreter, which draws the tiny one, above
        if engines.why_not(engine) is None and not engines.emulated(engine):
            np.testing.assert_array_equal(sampler.sample(8, n=2, seed=1, engine=engine), expected)
    mask = np.zeros((8, 8), bool)
    mask[:4] = True
    done = sampler.complete(images[1500:1501], mask, n=4, seed=2)
    assert (done[:, :4] == images[1500, :4]).all() and len(np.unique(done[:, 4:], axis=0)) > 1
