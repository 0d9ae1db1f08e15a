"""The loop over rounds and batches: what is lazy, what is given, what is handed on; and scores against a separate computation."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from helpers import config, drawn, job, network

from spxcore import Drawing, Given, Logistics, Round, Sampling, SpxError, draw, engines, score
from spxcore.feeds import Pixels, unit_levels
from spxcore.rng import DRAWS_A_ROUND
from spxcore.schedules import Window

PLAIN = config(coordinates=False, latent=0, filters=4)
TOLD = config(conditioning="spatial")


@pytest.fixture(scope="module")
def plain():
    return network(PLAIN)


def one_round(of, size=(8, 9), n=3, name="image", **fields) -> Drawing:
    feeds = {"x": Pixels(unit_levels(256))}
    r = Round(name, size, of, PLAIN.head, Window(8), lambda earlier, batch: feeds, **fields)
    return Drawing((r,), np.arange(n), seed=7)


def test_one_round_is_its_job(plain):
    task = job(PLAIN, 8, 9, images=3, of=plain)
    np.testing.assert_array_equal(draw(one_round(plain), "torch"), drawn("torch", task).pixels)


def test_rounds_draw_with_words_of_their_own(plain):
    """The same network twice: the second round's pixels are those of the draw word 256."""
    first = one_round(plain).rounds[0]
    both = replace(one_round(plain), rounds=(first, replace(first, name="again")))
    second = job(PLAIN, 8, 9, images=3, of=plain, draw=DRAWS_A_ROUND)
    np.testing.assert_array_equal(draw(both, "torch"), drawn("torch", second).pixels)


def test_a_round_sees_the_images_of_earlier_ones(plain):
    """Its feeds are asked for when it begins; its canvas may start from an earlier image."""
    seen = []
    feeds = {"x": Pixels(unit_levels(256))}
    mask = np.zeros((8, 9), bool)
    mask[::2, ::2] = True

    def later(earlier, batch):
        seen.append((earlier["base"].copy(), batch.tolist()))
        return feeds

    base = one_round(plain, name="base").rounds[0]
    rest = Round(
        "rest", (8, 9), plain, PLAIN.head, Window(8), later, start=lambda earlier: Given(earlier["base"], mask)
    )
    images = draw(Drawing((base, rest), np.arange(3), seed=7), "torch")
    alone = draw(one_round(plain), "torch")
    np.testing.assert_array_equal(seen[0][0], alone)
    assert seen[0][1] == [0, 1, 2]
    np.testing.assert_array_equal(images[:, mask], alone[:, mask])
    second = job(PLAIN, 8, 9, images=3, of=plain, draw=DRAWS_A_ROUND)
    np.testing.assert_array_equal(images, drawn("torch", second, Given(alone, mask)).pixels)


def test_batches_draw_the_same(monkeypatch):
    """Three batches: each round is asked for the feeds and codes of its own images."""
    of, asked = network(TOLD), []
    task = job(TOLD, 8, 9, images=5, of=of)
    places = task.feeds["places.0"]

    def feeds(earlier, batch):
        asked.append(batch.tolist())
        return task.feeds | dict.fromkeys((f"places.{k}" for k in range(3)), replace(places, maps=places.maps[batch]))

    r = Round("image", (8, 9), of, TOLD.head, Window(8), feeds, code=task.code, bytes_an_image=1 << 20)
    drawing = Drawing((r,), np.arange(5), seed=7)
    monkeypatch.setattr(sys.modules["spxcore.draw"], "MEMORY", 2 << 20)
    mask = np.random.default_rng(1).random((5, 8, 9)) < 0.3
    given = Given(np.full((5, 8, 9, 1), 9, np.uint8), mask)
    images = draw(replace(drawing, given={"image": given}), "torch")
    assert asked == [[0, 1], [2, 3], [4]]
    np.testing.assert_array_equal(images, drawn("torch", task, given).pixels)


@pytest.mark.parametrize("engine", ["torch", "cpp"])
def test_into_any_layout(plain, engine):
    """Into every other column of an array, and nothing beside them; what is drawn before a stop is there."""
    if engines.why_not(engine):
        pytest.skip(engines.why_not(engine))
    drawing = one_round(plain, (12, 12))
    expected, room = draw(drawing, engine), np.zeros((3, 12, 24, 1), np.uint8)
    out = room[:, :, ::2]
    assert draw(drawing, engine, out=out) is out
    np.testing.assert_array_equal(out, expected)
    assert not room[:, :, 1::2].any()

    def stop(pixels):
        raise KeyboardInterrupt

    room[:] = 0
    with pytest.raises(KeyboardInterrupt):
        draw(drawing, "torch", out=out, report=stop)
    assert out[0, 0, 0, 0] == expected[0, 0, 0, 0] and not room[:, :, 1::2].any()


@pytest.mark.parametrize("out", [np.zeros((3, 8, 8, 1), np.uint8), np.zeros((3, 8, 9, 1)), [[1]]])
def test_out_must_fit(plain, out):
    with pytest.raises(SpxError, match=r"^out: expected writable uint8 \[3, 8, 9, 1\], got"):
        draw(one_round(plain), "torch", out=out)


def test_scores_are_probabilities(plain):
    """Against the sum of logistic bins in double precision, pixel by pixel, from the reference's parameters."""
    drawing = one_round(plain, (8, 10), n=2)
    images = draw(drawing, "torch")
    found = score(drawing, {"image": images}, "torch")["image"]
    assert found.shape == (2, 8, 10)
    task = job(PLAIN, 8, 10, images=2, of=plain)
    params = drawn("reference", task, Given(images, np.ones((8, 10), bool)), keep=True).params.astype(float)
    for n, r, c in ((0, 0, 0), (0, 7, 9), (1, 3, 4), (1, 0, 9)):
        logits, means, log_scales = params[n, r, c].reshape(3, -1)
        x = int(images[n, r, c, 0])
        low, high = (
            1 / (1 + np.exp(-((x + half) / 127.5 - 1 - means) / np.exp(np.maximum(log_scales, -7))))
            for half in (-0.5, 0.5)
        )
        low, high = np.where(x == 0, 0, low), np.where(x == 255, 1, high)
        p = (np.exp(logits) / np.exp(logits).sum() * (high - low)).sum()
        assert found[n, r, c] == pytest.approx(np.log(p), abs=1e-3)


def test_temperature_does_not_change_a_score(plain):
    drawing = one_round(plain)
    images = draw(drawing, "torch")
    hot = replace(drawing, sampling=Sampling(2.0))
    np.testing.assert_array_equal(*(score(d, {"image": images}, "torch")["image"] for d in (drawing, hot)))


@pytest.mark.parametrize("engine", ["torch", "cpp"])
def test_the_log_probability_of_what_is_drawn(plain, engine, monkeypatch):
    """The score's, which looks at finished images: of drawn pixels alone, of all rounds, whatever the temperature and the batch."""
    if engines.why_not(engine):
        pytest.skip(engines.why_not(engine))
    mask, stands = np.random.default_rng(1).random((3, 8, 8)) < 0.3, np.full((3, 8, 8, 1), 9, np.uint8)
    first = one_round(plain, (8, 8)).rounds[0]
    drawing = replace(
        one_round(plain, (8, 8)), rounds=(first, replace(first, name="again")), given={"again": Given(stands, mask)},
        sampling=Sampling(1.5),
    )  # fmt: skip
    images, found = np.zeros((3, 8, 8, 1), np.uint8), np.zeros(3)
    monkeypatch.setattr(sys.modules["spxcore.draw"], "MEMORY", 2 * 4 * 64 * PLAIN.outputs)  # two images a batch
    draw(drawing, engine, images, log_prob=found)
    before = draw(replace(drawing, rounds=drawing.rounds[:1], given={}), engine)
    each = score(drawing, {"image": before, "again": images}, "torch")
    expected = each["image"].sum((1, 2)) + each["again"].sum((1, 2), where=~mask)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_array_equal(images, draw(drawing, engine))


BAD_GIVEN = {
    "mask": (Given(np.zeros((1, 8, 9, 1), np.uint8), np.zeros((9, 8), bool)), "given: mask: expected bool"),
    "pixels": (Given(np.zeros((2, 8, 9, 1), np.uint8), np.zeros((8, 9), bool)), "given: pixels: expected uint8"),
    "type": (Given(np.zeros((3, 8, 9, 1)), np.zeros((8, 9), bool)), "given: pixels: expected uint8"),
}


@pytest.mark.parametrize("case", BAD_GIVEN)
def test_given_pixels_that_do_not_fit(plain, case):
    given, message = BAD_GIVEN[case]
    with pytest.raises(SpxError, match=f"^{message}"):
        draw(replace(one_round(plain), given={"image": given}), "torch")


def test_levels_out_of_range_are_refused(plain):
    r = replace(
        one_round(plain).rounds[0], head=Logistics(1, 3, levels=16), feeds=lambda e, b: {"x": Pixels(unit_levels(16))}
    )
    given = Given(np.full((1, 8, 9, 1), 16, np.uint8), np.ones((8, 9), bool))
    with pytest.raises(SpxError, match=r"^given: pixels: expected levels 0 to 15, got 16"):
        draw(Drawing((r,), np.arange(1), given={"image": given}), "torch")


def test_names_of_rounds(plain):
    r = one_round(plain).rounds[0]
    with pytest.raises(SpxError, match=r"^rounds: expected at least one, each with its own name"):
        Drawing((r, r), np.arange(1))
    with pytest.raises(SpxError, match=r"^given: expected names of rounds"):
        Drawing((r,), np.arange(1), given={"other": Given(np.zeros(1), np.zeros(1))})


def test_an_engine_that_cannot_says_so(plain):
    class No:
        name = "no"

        def why_not(self, job):
            return "it never draws"

    with pytest.raises(SpxError, match=r"no cannot, got it never draws \(--engine auto finds one\)"):
        draw(one_round(plain), No())
