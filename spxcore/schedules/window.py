"""The sliding window's geometry and its wavefront: pure integers (Akoury & Nguyen 2017, section 3.2 and figure 4).

Pixel (r, c) is drawn from the window with origin (max(0, r - m + 1), max(0, c - m + 1)), at its place in that window. It
depends on the window's pixels before it in raster order. The earliest-time schedule of that dependency has a closed form:

    t(r, c) = m r + c

Along a row every pixel waits for its left neighbour. Between rows: the first m columns share the window whose right column is
m - 1, and a window sees all columns of the rows above, so pixel (r, 0) waits for (r - 1, m - 1): a row follows the row above
at a distance of m columns, everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import require, whole_number

LARGEST = 1 << 20  # side of an image, in pixels


@dataclass(frozen=True)
class Window:
    """Each pixel is drawn from the window that it ends. An image of exactly one window is a whole image.

    Attributes:
        side: m, of the window, in pixels.
    """

    side: int

    def __post_init__(self):
        object.__setattr__(self, "side", whole_number("side", self.side, 1, 1024))

    def check_size(self, height: int, width: int) -> None:
        """Raise an `SpxError` unless an image of this size, in pixels, holds a window and is indexable."""
        check_size(height, width, self.side)


def window_origin(r: np.ndarray, c: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Origin (row, column) of the window that pixel (r, c) is drawn from; integer arrays of any one shape."""
    return np.maximum(0, r - m + 1), np.maximum(0, c - m + 1)


def check_size(height: int, width: int, m: int) -> None:
    """Raise an `SpxError` unless an image of this size, in pixels, holds a window of side m and is indexable."""
    for name, n in (("height", height), ("width", width)):
        n = whole_number(name, n, -(1 << 62), 1 << 62, "in pixels")
        require(n >= m, name, f"at least the patch size {m}", n, "the window must fit; ask for a larger image")
        require(n <= LARGEST, name, f"at most {LARGEST}", n)


class Wavefront:
    """The steps of an H x W image: all pixels of a step are independent of each other and depend on earlier steps only.

    Args:
        height, width: of the image, at least m.
        m: side of the patch.
    """

    def __init__(self, height: int, width: int, m: int):
        check_size(height, width, m)
        self.height, self.width, self.m = height, width, m

    def __len__(self) -> int:
        """Number of steps: m (H - 1) + W."""
        return self.m * (self.height - 1) + self.width

    def time(self, r: np.ndarray, c: np.ndarray) -> np.ndarray:
        """Step at which pixel (r, c) is drawn."""
        return self.m * r + c

    def pixels(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of a step's pixels, from the top down; int64, at most ceil(W / m) of them."""
        first = max(0, -(-(step - self.width + 1) // self.m))
        last = min(self.height - 1, step // self.m)
        rows = np.arange(first, last + 1)
        return rows, step - self.m * rows

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return (self.pixels(step) for step in range(len(self)))
