"""Randomness as data."""

import numpy as np
import pytest

from spxcore import rng


# Random123's known answers for Philox4x32-10: counter, key, words.
@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_known_answers(counter, key, words):
    counter, key, words = ([int(word, 16) for word in text.split()] for text in (counter, key, words))
    assert rng.philox4x32(key[0] | key[1] << 32, np.array([counter], np.uint32))[0].tolist() == words


def test_uniform_lies_strictly_inside_and_is_exact():
    words = np.array([0, 0x1FF, 0x200, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF], np.uint32)
    u = rng.uniform(words)
    assert u.dtype == np.float32
    assert u[0] == 2.0**-24 and u[-1] == 1 - 2.0**-24  # representable, so never 0 or 1 by rounding
    np.testing.assert_array_equal(u.astype(np.float64), ((words >> 9).astype(np.float64) + 0.5) / 2**23)
    # The logistic of both ends is finite.
    assert np.isfinite(np.log(u) - np.log1p(-u)).all()


def test_uniform_is_uniform():
    words = rng.pixel_words(5, np.arange(50_000), np.array([3]), np.array([0]))
    counts = np.histogram(rng.uniform(words), bins=20, range=(0, 1))[0]
    expected = words.size / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # chi-square of 19 degrees of freedom, 0.1 %


def test_a_pixel_is_the_same_in_any_order_and_company():
    g = np.random.default_rng(0)
    rows, columns, images = g.integers(0, 1 << 20, (3, 500))
    words = rng.pixel_words(9, rows, columns, images)
    order = g.permutation(500)
    np.testing.assert_array_equal(rng.pixel_words(9, rows[order], columns[order], images[order]), words[order])
    for i in (0, 499):
        np.testing.assert_array_equal(rng.pixel_words(9, rows[[i]], columns[[i]], images[i]), words[[i]])


def test_every_part_of_the_counter_and_the_key_counts():
    """Row, column, image, draw and both halves of the seed: change one and all words change."""
    base = dict(seed=1, rows=2, columns=3, images=4, draw=0)
    seen = {
        tuple(rng.pixel_words(a["seed"], *(np.array([a[n]]) for n in ("rows", "columns", "images")), a["draw"])[0])
        for a in ({**base, name: value} for name, value in base.items() for value in (value, value + 1))
    }
    assert len(seen) == 6  # the base five times over, and five others
    low, high = (rng.philox4x32(s, np.zeros((1, 4), np.uint32))[0].tolist() for s in (1, 1 << 32))
    assert low != high


def test_counters_are_row_column_image_draw():
    words = rng.pixel_words(6, np.array([10]), np.array([20]), np.array([30]), 40)
    np.testing.assert_array_equal(words, rng.philox4x32(6, np.array([[10, 20, 30, 40]], np.uint32)))
