"""Metrics and measures of images, each against a slow computation of its own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import slow_measures as slow
from helpers import digits

from spx.evaluation.lenet import LeNet, load_lenet, save_lenet, why_not
from spx.evaluation.measures import contour_ratios, copies, judged, nearest, pieces, similarity, standard_error
from spx.evaluation.metrics import components, contour_length, ms_ssim_pairs
from spxcore import SpxError


def blots(count: int, side: int = 28, seed: int = 0) -> np.ndarray:
    """Blurred noise: soft edges, holes and pieces. uint8 [N, side, side, 1]."""
    x = np.random.default_rng(seed).normal(size=(count, side + 4, side + 4))
    soft = sum(x[:, i : i + side, j : j + side] for i in range(5) for j in range(5)) / 5
    return (127.5 + 90 * soft).clip(0, 255).astype(np.uint8)[..., None]


@pytest.mark.parametrize("side", [28, 57])
def test_ms_ssim(side):
    images = np.concatenate([blots(2, side), blots(1, side) // 2 + 60, 255 - blots(1, side)])
    pairs = [slow.ms_ssim(a / 255, b / 255) for a, b in itertools.combinations(images[..., 0].astype(np.float64), 2)]
    assert min(pairs) < 0 < 0.5 < max(pairs)  # a negative term keeps its sign
    mean, deviation = ms_ssim_pairs(images, batch=4)
    assert (mean, deviation) == (pytest.approx(np.mean(pairs), abs=1e-5), pytest.approx(np.std(pairs), abs=1e-5))
    assert ms_ssim_pairs(images) == (pytest.approx(mean), pytest.approx(deviation))
    assert similarity(images) == {"ms_ssim": ms_ssim_pairs(images)[0], "ms_ssim_deviation": ms_ssim_pairs(images)[1],
                                  "ms_ssim_images": 4}  # fmt: skip


def test_ms_ssim_of_the_same_image_is_1():
    same = np.repeat(digits(1)[0][..., None], 3, axis=0)
    assert ms_ssim_pairs(same) == (pytest.approx(1, abs=1e-5), pytest.approx(0, abs=1e-3))
    assert similarity(same[:1]) == {}
    with pytest.raises(SpxError, match="images: expected"):
        ms_ssim_pairs(same[:1])


def test_contours_and_pieces():
    pytest.importorskip("skimage")
    for image in [*blots(4), *blots(2, 41), *digits(2)[0][..., None]]:
        assert contour_length(image) == pytest.approx(slow.contour(image[..., 0]), rel=1e-6)
        assert components(image) == slow.ink_and_ground(image[..., 0])
    found = pieces(blots(4))
    ink, ground = np.mean([slow.ink_and_ground(image[..., 0]) for image in blots(4)], axis=0)
    assert found == {"ink_pieces": ink, "ground_pieces": ground} and ink != ground


def test_contours_and_pieces_that_are_known():
    pytest.importorskip("skimage")
    square = np.zeros((40, 40, 1), np.uint8)
    square[10:30, 10:30] = 255
    assert contour_length(square) == pytest.approx(4 * 20 / 40, rel=0.05)
    assert components(square) == (1, 1)
    specks = square.copy()
    specks[2, 2] = specks[5, 35] = 255
    specks[20, 20] = 0
    assert components(specks) == (3, 2)
    y, x = np.mgrid[:9, :9]
    diamond = np.where(abs(y - 4) + abs(x - 4) == 3, 255, 0).astype(np.uint8)[..., None]
    assert components(diamond) == (1, 2)  # ink holds together at corners, ground does not


def test_contour_ratios():
    """Of the drawn ones over the real ones; the worst is the longest."""
    pytest.importorskip("skimage")
    drawn, real, dark = blots(3, seed=1), np.concatenate([digits(2)[0][..., None], blots(1)]), np.zeros((1, 28, 28, 1))
    ratios = [slow.contour(a[..., 0]) / slow.contour(b[..., 0]) for a, b in zip(drawn, real)]
    dark = dark.astype(np.uint8)
    found = contour_ratios(np.concatenate([drawn, drawn[:1]]), np.concatenate([real, dark]))  # the dark one is left out
    assert found["contour_ratio"] == pytest.approx(np.mean(ratios)) and found["contour_worst"] == pytest.approx(
        max(ratios)
    )
    assert found["contour_error"] == pytest.approx(slow.standard_error(ratios))
    assert contour_ratios(drawn[:1], dark) == {}


def test_the_classifiers_view():
    """Confidence and accuracy are percentages; of a single image the error is not known."""
    images, labels = digits(6)[0][..., None], np.array([0, 1, 2, 3, 0, 1])

    class Known:
        def probabilities(self, of):
            assert of is images
            p = np.full((6, 4), 0.1, np.float32)
            p[np.arange(6), [0, 1, 2, 0, 1, 1]] = np.float32([0.7, 0.6, 0.9, 0.7, 0.4, 0.7])
            return p

    found = judged(Known(), images, labels)
    tops = 100 * np.array([0.7, 0.6, 0.9, 0.7, 0.4, 0.7])
    assert found["confidence"] == pytest.approx(tops.mean(), rel=1e-5)
    assert found["confidence_error"] == pytest.approx(slow.standard_error(tops), rel=1e-5)
    assert found["accuracy"] == pytest.approx(100 * 4 / 6)
    assert "accuracy" not in judged(Known(), images) and standard_error(np.ones(1)) is None


def test_nearest():
    g = np.random.default_rng(0)
    points, among = g.normal(size=(300, 7)), g.normal(size=(40, 7))
    np.testing.assert_allclose(nearest(points, among), slow.nearest(points, among), atol=1e-3)


def test_copies_are_found():
    """Samples that are training images lie nearer to the training set than test images do; test images themselves do not."""
    g = np.random.default_rng(0)
    known, real = g.normal(size=(200, 9)), g.normal(size=(50, 9))
    copied = copies(known[:50] + 1e-3, real, known)
    assert copied["nearer"] == 100 and copied["samples_median"] < 0.01 < copied["test_median"]
    ours, theirs = slow.nearest(samples := g.normal(size=(50, 9)), known), slow.nearest(real, known)
    assert copies(samples, real, known) == {
        "compared": 50, "samples_median": pytest.approx(np.median(ours), abs=1e-3),
        "samples_closest": pytest.approx(np.quantile(ours, 0.01), abs=1e-3),
        "test_median": pytest.approx(np.median(theirs), abs=1e-3),
        "test_closest": pytest.approx(np.quantile(theirs, 0.01), abs=1e-3),
        "nearer": 100 * (ours < np.quantile(theirs, 0.01)).mean(),
    }  # fmt: skip
    assert copies(real, real, known)["nearer"] <= 2


def test_lenet_round_trip_and_sizes(tmp_path):
    model = LeNet(10).eval()
    save_lenet(model, tmp_path / "lenet", {})
    images = digits(5)[0][..., None]
    again = load_lenet(tmp_path / "lenet")
    assert np.array_equal(again.probabilities(images), model.probabilities(images))
    doubled = images.repeat(2, axis=1).repeat(2, axis=2)  # averaging over areas takes it back exactly
    assert np.allclose(again.probabilities(doubled), model.probabilities(images), atol=1e-6)
    with pytest.raises(SpxError, match="at least 28"):
        model.probabilities(images[:, :20])
    (tmp_path / "lenet" / "config.json").write_text("{}")
    with pytest.raises(SpxError, match="classes: expected a whole number"):
        load_lenet(tmp_path / "lenet")


def test_where_lenet_fits():
    assert why_not(1, 28) is None and why_not(1, 224) is None
    assert "3 channels" in why_not(3, 32) and "8 pixels" in why_not(1, 8) and "16 levels" in why_not(1, 28, 16)
