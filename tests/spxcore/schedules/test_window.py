"""The window rule and the wavefront, against their definitions by brute force."""

import numpy as np
import pytest

from spxcore.errors import SpxError
from spxcore.schedules.window import Wavefront, check_size, window_origin

SIZES = [(m, h, w) for m in (4, 8, 12) for h in (m, m + 1, 2 * m + 3) for w in (m, m + 1, 2 * m - 1, 3 * m + 2)]
SIZES += [(4, 37, 5), (4, 5, 37), (8, 28, 28), (16, 20, 33)]


def earliest_times(height: int, width: int, m: int) -> np.ndarray:
    """t = 1 + max over the window's pixels before it in raster order; 0 for the pixel that has none. int [H, W]."""
    times = np.full((height, width), -1)
    for r in range(height):
        for c in range(width):
            r0, c0 = max(0, r - m + 1), max(0, c - m + 1)
            before = np.concatenate([times[r0:r, c0 : c0 + m].ravel(), times[r, c0:c], [-1]])
            times[r, c] = 1 + before.max()
    return times


@pytest.mark.parametrize(("m", "height", "width"), SIZES)
def test_wavefront_is_the_earliest_schedule(m, height, width):
    wave = Wavefront(height, width, m)
    times = earliest_times(height, width, m)
    np.testing.assert_array_equal(wave.time(*np.indices((height, width))), times)
    assert len(wave) == times.max() + 1

    drawn = np.full((height, width), -1)
    for step, (r, c) in enumerate(wave):
        assert 1 <= len(r) <= -(-width // m)
        assert (drawn[r, c] == -1).all()
        assert (np.diff(r) > 0).all()
        drawn[r, c] = step
    np.testing.assert_array_equal(drawn, times)  # every pixel, once, at its time


def test_the_wavefront_is_as_wide_as_promised():
    """ceil(W / m) pixels are reached, so the bound in the test above is no loose one."""
    assert max(len(r) for r, _ in Wavefront(40, 33, 8)) == 5


@pytest.mark.parametrize("m", [4, 8, 12])
def test_windows_hold_their_pixel(m):
    height, width = 2 * m + 3, 3 * m + 1
    r, c = np.indices((height, width))
    r0, c0 = window_origin(r, c, m)
    assert (r0 >= 0).all() and (r0 + m <= height).all() and (c0 >= 0).all() and (c0 + m <= width).all()
    row, column = r - r0, c - c0
    inside = (r >= m - 1) & (c >= m - 1)
    assert (row[inside] == m - 1).all() and (column[inside] == m - 1).all()  # the maximally conditioned pixel
    # The first window yields all its pixels, windows along the top their right column, along the left their bottom row.
    first = (r < m) & (c < m)
    assert (r0[first] == 0).all() and (c0[first] == 0).all()
    top, left = (r < m) & (c >= m), (r >= m) & (c < m)
    assert (column[top] == m - 1).all() and (row[top] == r[top]).all()
    assert (row[left] == m - 1).all() and (column[left] == c[left]).all()


def test_memory_does_not_grow_with_the_rows():
    """Steps are computed when they are asked for."""
    wave = Wavefront(1 << 20, 28, 8)
    assert len(wave) == 8 * ((1 << 20) - 1) + 28
    rows, columns = wave.pixels(len(wave) // 2)
    assert len(rows) <= 4 and (columns >= 0).all() and (columns < 28).all()


@pytest.mark.parametrize(
    ("height", "width", "named"), [(7, 8, "height"), (8, 7, "width"), (0, 8, "height"), (8, (1 << 20) + 1, "width")]
)
def test_sizes_that_do_not_fit(height, width, named):
    with pytest.raises(SpxError, match=rf"^{named}: expected at (least the patch size 8|most 1048576), got"):
        check_size(height, width, 8)
    with pytest.raises(SpxError):
        Wavefront(height, width, 8)
