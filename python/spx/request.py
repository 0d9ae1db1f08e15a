"""A request: everything that a user may ask of any model, normalised and refused early."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import MISSING, dataclass, field
from typing import ClassVar

import numpy as np

from spxcore.canvas import Given, check_mask, plain
from spxcore.errors import SpxError, kind_of, require, seed_number, whole_number
from spxcore.heads import Sampling

from .fields import ANY, COUNT, SEED, setting


@dataclass(frozen=True)
class Request:
    """Images to draw.

    Attributes: the help of each field says what it is. No width, None: as the height. No n: as many as there are codes, sources or given
    pictures, else 1; one of these serves all. The arrays: code float32 [n, Z]; source uint8 [n or 1, H', W', C].
    """

    height: int = setting(
        MISSING, "height and width in pixels (the data's own)", options=("--res",), metavar="N", range=COUNT
    )
    width: int = setting(None, "height and width in pixels, such as 56x112", options=("--size",), metavar="HxW")
    n: int = setting(None, "number of images, or of drawings of each file", metavar="K", range=COUNT)
    seed: int = setting(0, "the same seed draws the same pixels", metavar="S", range=SEED)
    sampling: Sampling = field(default_factory=Sampling)
    label: int | None = setting(
        None,
        "class to draw, from 0; --digit is its name for MNIST (any class)",
        options=("--class", "--digit"),
        metavar="D",
    )
    code: np.ndarray | None = setting(None, "the code of each image", hidden=True)
    source: np.ndarray | None = setting(
        None, "draw these images anew, from their codes", options=("--reconstruct",), metavar="FILE"
    )
    refine: int = setting(0, "gradient steps that bring the codes nearer to the files", metavar="K", range=ANY)
    given: Given | None = setting(
        None, "keep a part of these images and draw the rest", options=("--complete",), metavar="FILE"
    )

    # What only some models understand, by the name that a user knows.
    OPTIONS: ClassVar[dict[str, str]] = {
        "label": "digit", "code": "code", "source": "reconstruct", "refine": "refine", "given": "complete",
    }  # fmt: skip

    def __post_init__(self):
        def whole(name: str, *bounds) -> None:
            object.__setattr__(self, name, whole_number(name, getattr(self, name), *bounds))

        whole("height", -(1 << 62), 1 << 62, "in pixels")  # a model's schedule says what fits
        if self.width is None:
            object.__setattr__(self, "width", self.height)
        whole("width", -(1 << 62), 1 << 62, "in pixels")
        object.__setattr__(self, "seed", seed_number(self.seed))
        whole("refine", 0, 1 << 20, "0 steps or more")
        if self.label is not None:
            object.__setattr__(self, "label", whole_number("digit", self.label, -(1 << 62), 1 << 62, "a class"))
        for name in ("code", "source"):
            array = getattr(self, name)
            if array is not None:
                require(isinstance(array, np.ndarray) and array.ndim > 0, name, "an array", kind_of(array))
                object.__setattr__(self, name, plain(name, array))
        if self.given is not None:
            pixels, mask = self.given.pixels, check_mask("mask", self.given.mask)
            require(isinstance(pixels, np.ndarray) and pixels.ndim > 0, "images", "an array", kind_of(pixels))
            object.__setattr__(self, "given", Given(plain("images", pixels), mask))
        pictures = [self.source, self.code, None if self.given is None else self.given.pixels]
        counts = [len(array) for array in pictures if array is not None]
        if self.n is None:
            object.__setattr__(self, "n", max(counts, default=1))
        whole("n", 1, 1 << 32, "at least 1")
        for count in counts:
            require(count in (1, self.n), "n", f"{self.n} codes or pictures, or one for all", count)

    def check(self, offers: Set[str], channels: int) -> Request:
        """The same request; its images are looked at.

        Args:
            offers: those of `OPTIONS` that the model understands.
            channels: C of its images.

        Raises:
            SpxError: for an option that the model does not understand, or images that the model does not draw.
        """
        for name, option in self.OPTIONS.items():
            if name not in offers and (self.refine > 0 if name == "refine" else getattr(self, name) is not None):
                known = ", ".join(self.OPTIONS[offered] for offered in self.OPTIONS if offered in offers) or "none"
                raise SpxError(f"{option}: this checkpoint's model does not understand it (it understands: {known})")
        if self.source is not None:
            check_images(self.source, channels)
        if self.given is not None:
            size, pixels, mask = (self.height, self.width), np.shape(self.given.pixels), np.shape(self.given.mask)
            fits = mask in (size, (1, *size), (self.n, *size))
            require(fits, "mask", f"{list(size)}, or one for each of {self.n} images", list(mask))
            fits = pixels in ((1, *size, channels), (self.n, *size, channels))
            require(fits, "images", f"{[self.n, *size, channels]}, or of 1 image", list(pixels))
        return self


def check_images(images: np.ndarray, channels: int) -> np.ndarray:
    """Images uint8 [N, H, W, C], N >= 1, as a plain array.

    Raises:
        SpxError: for anything else.
    """
    good = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 4 and images.size > 0
    require(good and images.shape[3] == channels, "images", f"uint8 [N, H, W, {channels}]", kind_of(images))
    return plain("images", images)
