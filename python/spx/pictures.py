"""Images in and out: files, grids, and the pictures a training run shows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from spxcore.errors import SpxError, require

from .files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

    from .model import SpatialPixelCNN

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


def training_samples(model: SpatialPixelCNN, images: Tensor, phase: str) -> np.ndarray:
    """What a training run looks like: rows of 8 pictures at the data's own size.

    Args:
        model: holds the weights to show.
        images: [8, C, H, W] in [-1, 1].
        phase: "vae": the images and the decoder's means; otherwise the images, their reconstructions, and 8 samples.

    Returns:
        uint8 [16 or 24, H, W, C].
    """
    from .api import Model
    from .vae import mean_image

    def to_levels(x: Tensor) -> np.ndarray:
        return ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()

    originals = to_levels(images)
    if phase == "vae":
        mean, _ = model.vae.encode(images)
        return np.concatenate([originals, to_levels(mean_image(model.vae.decode(mean), images.shape[1]))])
    drawer, side = Model(model), images.shape[-1]
    rows = [originals]
    if model.vae is not None:
        rows.append(drawer.reconstruct(originals, side, engine="torch"))
    rows.append(drawer.sample(side, n=len(originals), engine="torch"))
    return np.concatenate(rows)
