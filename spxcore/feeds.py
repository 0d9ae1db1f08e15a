"""Feeds: what fills the inputs of a network while it draws. Arrays are NumPy's; `N` may be 1 for all images alike."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from .errors import SpxError, kind_of, require


@dataclass(frozen=True)
class Pixels:
    """The pixels drawn so far.

    Attributes:
        table: float32 [levels, e], what the network sees of each level: one number in [-1, 1] (`unit_levels`), or an embedding.
    """

    table: np.ndarray

    @property
    def channels(self) -> int:
        """e, numbers of a channel of a pixel."""
        return self.table.shape[1]


@dataclass(frozen=True)
class Places:
    """What a window's network is told at each of its places: (y, x, extra ..., maps sampled there), D numbers.

    y and x are the place's coordinates in [-1, 1] over the whole image (Akoury & Nguyen 2017, section 4.1).

    Attributes:
        maps: float32 [N, M, h, w] feature maps over [-1, 1]^2, the outer samples at the ends of the range; None without.
        extra: float32 [E], the same at every place.
    """

    maps: np.ndarray | None = None
    extra: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))

    @property
    def channels(self) -> int:
        """D, numbers a place."""
        return 2 + len(self.extra) + (0 if self.maps is None else self.maps.shape[1])


@dataclass(frozen=True)
class Planes:
    """Numbers read where a place lies: coordinates, a location-dependent embedding, features of an earlier round's image.

    Attributes:
        array: float32 [N, h, w, C], h x w the size of the network's input.
    """

    array: np.ndarray

    @property
    def channels(self) -> int:
        """C, numbers a place."""
        return self.array.shape[3]


Feed = Pixels | Places | Planes


def unit_levels(levels: int) -> np.ndarray:
    """The table of a plain `Pixels` feed: level -> [-1, 1], float32 [levels, 1]."""
    return (np.arange(levels, dtype=np.float32) / np.float32((levels - 1) / 2) - np.float32(1))[:, None]


def axis(n: int) -> np.ndarray:
    """Coordinates of `n` pixels along one axis, evenly spaced over [-1, 1], both ends included. float32 [n]."""
    return np.linspace(-1.0, 1.0, n).astype(np.float32)


def scale(height: int, width: int, sizes: tuple[int, int]) -> float:
    """The scale input: log n, n the geometric mean of height and width, mapped from `sizes` to [-1, 1] and clamped.

    A network trained at a single size gets 0.
    """
    low, high = sizes
    if low == high:
        return 0.0
    n = math.sqrt(height * width)
    return float(np.clip(2.0 * math.log(n / low) / math.log(high / low) - 1.0, -1.0, 1.0))


def floats(name: str, value: object) -> np.ndarray:
    """`value` as a contiguous float32 array; `check_feed` and the like look at its numbers.

    Raises:
        SpxError: for what is no array of numbers.
    """
    try:
        with np.errstate(over="ignore"):  # becomes infinite, which is refused with a sentence
            array = np.asarray(value)
            require(array.dtype.kind in "biuf", name, "an array of numbers", kind_of(value))
            return np.ascontiguousarray(array, np.float32) if array.ndim else array.astype(np.float32)
    except ValueError:  # NumPy finds no array in a list of lists
        raise SpxError(f"{name}: expected an array of numbers, got {kind_of(value)}") from None


def check_feed(name: str, feed: Feed, images: int) -> Feed:
    """The feed with contiguous float32 arrays of finite numbers.

    Raises:
        SpxError: for another shape than the class says, or a NaN; `name` is the input's.
    """

    def numbers(what: str, value, shape: str, rank: int) -> np.ndarray:
        array = floats(f"{name}: {what}", value)
        require(array.ndim == rank and min(array.shape) > 0, f"{name}: {what}", f"shape {shape}", list(array.shape))
        require(bool(np.isfinite(array).all()), f"{name}: {what}", "finite numbers", "NaN or infinity")
        return array

    def of_images(what: str, value, shape: str) -> np.ndarray:
        array = numbers(what, value, shape, 4)
        require(len(array) in (1, images), f"{name}: {what}", f"1 or {images} images", len(array))
        return array

    if isinstance(feed, Pixels):
        return Pixels(numbers("table", feed.table, "[levels, e]", 2))
    if isinstance(feed, Planes):
        return Planes(of_images("array", feed.array, "[N, h, w, C]"))
    maps = None if feed.maps is None else of_images("maps", feed.maps, "[N, M, h, w]")
    extra = floats(f"{name}: extra", feed.extra)
    require(extra.ndim == 1, f"{name}: extra", "shape [E]", list(extra.shape))
    require(bool(np.isfinite(extra).all()), f"{name}: extra", "finite numbers", "NaN or infinity")
    return Places(maps, extra)
