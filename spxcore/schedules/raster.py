"""The raster schedule: the pixels of a whole image one after the other, row by row (van den Oord, Kalchbrenner & Kavukcuoglu 2016)."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import whole_number
from .window import LARGEST


@dataclass(frozen=True)
class Raster:
    """A network sees the whole image. Each place is computed once, when its latest moment is drawn."""

    def check_size(self, height: int, width: int) -> None:
        """Raise an `SpxError` unless an image of this size, in pixels, is indexable."""
        for name, n in (("height", height), ("width", width)):
            whole_number(name, n, 1, LARGEST, f"1 to {LARGEST} pixels")
