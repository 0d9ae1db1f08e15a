"""The request that a command's options and files make."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spxcore.canvas import Given
from spxcore.errors import SpxError, require
from spxcore.heads import Sampling
from spxcore.memory import require_memory

from ..request import Request

if TYPE_CHECKING:
    from ..api import Sampler

SIDES = ("top", "bottom", "left", "right")


def size(text: str) -> tuple[int, int]:
    """ "HxW" -> (H, W)."""
    try:
        height, width = text.lower().split("x")
        return int(height), int(width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected HxW such as 56x112, got {text!r}") from None


def given(text: str) -> tuple[str, float] | Path:
    """ "top:0.5" -> ("top", 0.5); anything without a colon is a mask file's name."""
    side, colon, share = text.partition(":")
    if not colon or side not in SIDES:
        return Path(text)
    try:
        value = float(share)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1 such as {side}:0.5, got {text!r}")
    return side, value


def mask(where: tuple[str, float] | Path, height: int, width: int) -> np.ndarray:
    """Which pixels are given: bool [H, W].

    Args:
        where: a side and the share of the rows or columns that are given, rounded; or a picture that is light where pixels are given.
        height, width: of the picture to be completed.

    Raises:
        SpxError: for a mask file that is none, or of another size.
    """
    if isinstance(where, Path):
        from ..io.pictures import read_image

        sides = ", ".join(f"{side}:SHARE" for side in SIDES)
        if not where.exists():
            raise SpxError(f"given: expected {sides} or a mask file, got {str(where)!r}, which is no file")
        levels = read_image(where, 1)[..., 0]
        require(
            levels.shape == (height, width), str(where), f"a mask of {height}x{width}, as the picture", levels.shape
        )
        return levels >= 128
    side, share = where
    y, x = np.mgrid[:height, :width]
    if side in ("bottom", "right"):
        y, x = y[::-1, ::-1], x[::-1, ::-1]
    return y < round(share * height) if side in ("top", "bottom") else x < round(share * width)


def unseen(given: np.ndarray) -> bool:
    """Whether pixels are given that the model draws others before: bool [H, W], in raster order."""
    drawn = ~given.ravel()
    return bool(given.ravel()[int(drawn.argmax()) :].any()) if drawn.any() else False


def request(arguments: argparse.Namespace, model: Sampler) -> Request:
    """What is to be drawn: new images, or images of files; --n of each file."""
    from ..io.pictures import read_image

    n, files = arguments.n, arguments.source or arguments.given or []
    height, width = arguments.width or (arguments.height or model.family.size(model.config),) * 2
    asked = partial(Request, seed=arguments.seed, sampling=Sampling(arguments.temperature, arguments.mode))
    if not arguments.given:
        model.schedule.check_size(height, width)
    count = n * max(1, len(files))
    images = [read_image(file, model.head.channels, arguments.alpha or "refuse") for file in files]
    if arguments.given:
        shape = images[0].shape
        height, width = shape[:2]
        for file, image in zip(files, images):
            require(image.shape == shape, str(file), f"the size of the first file, {shape[:2]}", image.shape[:2])
        require_memory("images", count * height * width * model.head.channels)
        kept = Given(np.repeat(images, n, axis=0), mask(arguments.where or ("top", 0.5), height, width))
        return asked(height, width, n=count, label=arguments.label, given=kept)
    require_memory("images", count * height * width * model.head.channels)
    if arguments.source:
        images = [255 - image if arguments.invert else image for image in images]
        codes = np.concatenate([model.encode(image[None], arguments.refine) for image in images])
        return asked(height, width, n=count, code=np.repeat(codes, n, axis=0))
    return asked(height, width, n=n, label=arguments.label)
