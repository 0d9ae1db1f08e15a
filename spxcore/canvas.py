"""Canvas: images in the making. Engines write it; everybody else reads it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import SpxError, kind_of, require


def plain(name: str, array: object) -> np.ndarray:
    """The same memory as a plain array, whatever subclass it comes in: engines then treat all alike.

    Raises:
        SpxError: for entries that a masked array hides.
    """
    require(not np.ma.is_masked(array), name, "an array that hides none of its entries", "a masked array")
    return np.asarray(array)


def check_mask(name: str, mask: object) -> np.ndarray:
    """A mask as a contiguous bool array; numbers are accepted if they are 0 and 1.

    Raises:
        SpxError: for anything else.
    """
    try:
        array = plain(name, mask)
    except ValueError:  # NumPy finds no array in a list of lists
        array = np.array(None)
    good = array.dtype.kind in "biuf" and (array.dtype == bool or bool(((array == 0) | (array == 1)).all()))
    require(good, name, "an array of True and False", kind_of(mask))
    return np.ascontiguousarray(array, bool) if array.ndim else array.astype(bool)


def overlaps_itself(array: np.ndarray) -> bool:
    """Whether two entries of an array may be the same memory (`broadcast_to`, `as_strided`); slices and transposes never are."""
    reach = array.itemsize
    for stride, size in sorted((abs(s), n) for s, n in zip(array.strides, array.shape) if n > 1):
        if stride < reach:
            return True
        reach += stride * (size - 1)
    return False


def check_out(out: object, shape: tuple[int, ...], levels: int) -> np.ndarray | None:
    """An array to draw into as a plain one of the same memory; None for None.

    Args:
        out: what a caller gave.
        shape: it has to have.
        levels: of a channel; fixes the type.

    Raises:
        SpxError: for another shape or type, or memory that cannot be written, or that two pixels share.
    """
    if out is None:
        return None
    dtype = pixel_type(levels)
    fits = isinstance(out, np.ndarray) and out.shape == shape and out.dtype == dtype
    if not isinstance(out, np.ndarray) or not fits or not out.flags.writeable:
        got = kind_of(out) + (", which is read-only" if fits else "")
        raise SpxError(f"out: expected writable {dtype} {list(shape)}, got {got}")
    require(not overlaps_itself(out), "out", "memory of its own for every pixel", "an array that overlaps itself")
    return plain("out", out)


def pixel_type(levels: int) -> np.dtype:
    """The type of pixels with so many levels a channel."""
    return np.dtype(np.uint8 if levels <= 256 else np.uint16)


@dataclass(frozen=True)
class Given:
    """Pixels that stand before a drawing begins, and are kept to the bit: completion, resume, scoring, upscaling.

    Attributes:
        pixels: uint8 (uint16 from 257 levels on) [N or 1, H, W, C].
        mask: bool [H, W] or [N, H, W], true where a pixel is given.
    """

    pixels: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Canvas:
    """Images in the making.

    Attributes:
        pixels: uint8 (uint16 from 257 levels on) [N, H, W, C], C-contiguous: an array, or a mapped file.
        given: bool [H, W] or [N, H, W], C-contiguous: pixels that stand already and are kept to the bit; None: none is given.
        finished: int64 [N], rows that are complete from the top. An engine writes it before each report.
        params: float32 [N, H, W, P], where an engine leaves each pixel's parameters (of all moments, one after the other), for
            given pixels too; None: nobody asks for them.
    """

    pixels: np.ndarray
    given: np.ndarray | None
    finished: np.ndarray
    params: np.ndarray | None = None

    @classmethod
    def blank(
        cls, images: int, height: int, width: int, channels: int, levels: int = 256, given: Given | None = None,
        out: np.ndarray | None = None, parameters: int = 0,
    ) -> Canvas:  # fmt: skip
        """A canvas with nothing drawn on it.

        Args:
            images, height, width, channels: N, H, W, C.
            levels: of a channel; fixes the type of `pixels`.
            given: pixels that stand; they are copied in.
            out: array to draw into, of the right shape and type and C-contiguous; None: a new one.
            parameters: P, to keep each pixel's parameters; 0: do not.

        Raises:
            SpxError: for an `out` or `given` that does not fit.
        """
        shape, dtype = (images, height, width, channels), pixel_type(levels)
        if out is None:
            out = np.zeros(shape, dtype)
        good = out.shape == shape and out.dtype == dtype and out.flags.c_contiguous and out.flags.writeable
        require(good, "out", f"writable, contiguous {dtype} {list(shape)}", f"{out.dtype} {list(out.shape)}")
        mask = None
        if given is not None:
            mask = check_mask("given: mask", given.mask)
            require(
                mask.shape in ((height, width), (images, height, width)), "given: mask",
                f"bool [{height}, {width}], or one for each of {images} images", list(mask.shape),
            )  # fmt: skip
            pixels = plain("given: pixels", given.pixels)
            fits = pixels.dtype == dtype and pixels.shape in (shape, (1, *shape[1:]))
            require(
                fits, "given: pixels", f"{dtype} {list(shape)}, or of 1 image", f"{pixels.dtype} {list(pixels.shape)}"
            )
            in_range = levels in (256, 1 << 16) or not mask.any() or int(pixels.max()) < levels
            require(in_range, "given: pixels", f"levels 0 to {levels - 1}", int(pixels.max()) if pixels.size else None)
            np.copyto(out, pixels, where=np.broadcast_to(mask, shape[:3])[..., None])
        params = np.full((*shape[:3], parameters), np.nan, np.float32) if parameters else None
        return cls(out, mask, np.zeros(images, np.int64), params)

    def is_given(self, n: int, row, column):
        """Whether pixels of image n are given; row, column: numbers or arrays of them."""
        if self.given is None:
            return np.zeros(np.broadcast(row, column).shape, bool)
        return self.given[row, column] if self.given.ndim == 2 else self.given[n, row, column]
