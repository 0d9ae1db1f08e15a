"""Images in and out: files and grids."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from spxcore.errors import SpxError, require

from .files import write_atomically

Image.MAX_IMAGE_PIXELS = 1 << 31  # our own large pictures are no attack
_GAP_GREY = 96
SUFFIXES = (".png", ".npy")


def read_image(path: str | Path, channels: int) -> np.ndarray:
    """An image file as uint8 [H, W, channels].

    Raises:
        SpxError: if it cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except FileNotFoundError as error:
        raise SpxError(f"{path}: no such file") from error
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise SpxError(f"{path}: cannot be read as an image ({error})") from error
    return pixels.reshape(*pixels.shape[:2], channels)


def grid(images: np.ndarray, columns: int | None = None) -> Image.Image:
    """Images side by side, with thin grey lines between them; a single image is left as it is.

    Args:
        images: uint8 [N, H, W, C].
        columns: images in a row; None for about as many as rows.
    """
    n, height, width, channels = images.shape
    columns = min(n, columns or math.ceil(math.sqrt(n * height / width)))
    rows, gap = -(-n // columns), max(1, height // 56) if n > 1 else 0
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), _GAP_GREY, np.uint8)
    for i, image in enumerate(images):
        y, x = (height + gap) * (i // columns), (width + gap) * (i % columns)
        sheet[y : y + height, x : x + width] = image
    for i in range(n, rows * columns):  # an unfilled last row ends in black, not in grey
        y, x = (height + gap) * (i // columns), (width + gap) * (i % columns)
        sheet[y : y + height, x : x + width] = 0
    return Image.fromarray(sheet[..., 0] if channels == 1 else sheet)


def check_writable(path: Path) -> None:
    """Raise an `SpxError` unless images can be written to `path`; found out before hours of drawing, not after."""
    require(path.suffix.lower() in SUFFIXES, "out", "a name ending in " + " or ".join(SUFFIXES), repr(str(path)))
    require(not path.is_dir(), "out", "a file's name", f"the folder {path}")
    probe = path.with_name(f".{path.name}.probe")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SpxError(f"out: {path} cannot be written ({error.strerror}); choose another --out") from error


def write_images(images: np.ndarray, path: Path) -> None:
    """Write uint8 [N, H, W, C]: .npy the array, .png the image or a grid of them. To a temporary file first."""
    if path.suffix.lower() == ".npy":

        def write(temporary: Path) -> None:
            with open(temporary, "wb") as file:
                np.save(file, images)
    else:
        picture = grid(images)

        def write(temporary: Path) -> None:
            picture.save(temporary, format="PNG")

    try:
        write_atomically(path, write)
    except OSError as error:
        raise SpxError(f"out: {path} cannot be written ({error.strerror or error})") from error
