"""Images with labels, what every reader returns, and the limits on what a reader takes from a file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from spxcore.errors import require

LIMIT = 1 << 36  # bytes of pixels in one data set: 64 GiB
_FREE, _RATIO = 1 << 28, 100  # over 256 MiB, no honest file of images unpacks to 100 times its size


@dataclass(frozen=True)
class Images:
    """Images of one size with their classes.

    Attributes:
        images: uint8 [N, C, H, W], C 1 or 3.
        labels: int64 [N], the class of each image, from 0; all 0 where the files name no classes.
        classes: the name of each class, or None where the files do not say.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: np.ndarray) -> Images:
        """The images of some indices, in their order."""
        return Images(self.images[indices], self.labels[indices], self.classes)


def checked(name: str, images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...] | None = None) -> Images:
    """Images as files have them, as `Images`.

    Args:
        name: of the files or the split, for the messages.
        images: uint8 [N, H, W] or [N, H, W, 1 or 3].
        labels: whole numbers [N], 0 or more.
        classes: see `Images`.

    Raises:
        SpxError: for other shapes, types or counts.
    """
    require(images.dtype == np.uint8, f"{name} images", "uint8", images.dtype, "scale them to 0 to 255 and convert")
    require(images.ndim in (3, 4), f"{name} images", "shape [N, H, W] or [N, H, W, 3]", images.shape)
    images = images[:, None] if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    require(images.shape[1] in (1, 3), f"{name} images", "1 or 3 channels", images.shape[1])
    require(len(images) > 0, f"{name} images", "at least one image", 0)
    require(min(images.shape[2:]) > 0, f"{name} images", "a size of at least 1x1", images.shape[2:])
    one_each = labels.shape == (len(images),)
    require(one_each, f"{name} labels", f"shape ({len(images)},), one an image", labels.shape)
    require(labels.dtype.kind in "iu", f"{name} labels", "whole numbers", labels.dtype)
    low, high = int(labels.min()), int(labels.max())
    top = len(classes) - 1 if classes else (1 << 16) - 1
    require(low >= 0 and high <= top, f"{name} labels", f"0 to {top}", f"{low} to {high}")
    return Images(images, labels.astype(np.int64), classes)


def check_bytes(name: str, size: int, packed: int | None = None) -> None:
    """Refuse a file that says it holds `size` bytes of data, if that is too many, or too many for its `packed` bytes.

    Raises:
        SpxError: with a sentence.
    """
    require(size <= LIMIT, name, f"at most {LIMIT} bytes of data", size, "split it, or make the images smaller")
    if packed is not None and size > _FREE:
        sane = size <= packed * _RATIO
        require(
            sane,
            name,
            f"at most {_RATIO} times its {packed} packed bytes",
            size,
            "damaged or hostile; unpack it yourself",
        )


def split(images: Images, share: float, seed: int) -> tuple[Images, Images]:
    """Take a validation set out of a training set.

    Each class gives its share. Which of its images go is decided by a hash of their pixels and the seed: it depends neither on the
    order of the files nor on any library's random numbers, and equal images go the same way (but at the cut).

    Args:
        images: the training set.
        share: 0 <= share < 1 of each class, rounded; a class of two images or more gives at least one, and keeps at least one.
        seed: 0 <= seed < 2^64.

    Returns:
        (the images that remain, the images taken), both in the order of `images`.

    Raises:
        SpxError: for a share out of range.
    """
    require(0 <= share < 1, "share", "0 <= share < 1", share)
    key = int(seed).to_bytes(8, "little")
    ranks = np.array([_rank(image, key) for image in images.images], np.uint64)
    taken = np.zeros(len(images), bool)
    for label in np.unique(images.labels) if share > 0 else ():
        (members,) = np.nonzero(images.labels == label)
        count = min(max(1, round(share * len(members))), len(members) - 1)
        taken[members[np.argsort(ranks[members], kind="stable")[:count]]] = True
    return images.take(np.flatnonzero(~taken)), images.take(np.flatnonzero(taken))


def _rank(image: np.ndarray, key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=8, key=key).digest(), "little")
