"""Images in and out: files and grids."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from spxcore.errors import SpxError, require

from .files import Unwritten, check_file, followed, rescue, write_atomically, writing
from .reading import reading, shown

Image.MAX_IMAGE_PIXELS = None  # `LARGEST` is compared instead, with a sentence
LARGEST = 1 << 28  # pixels of a file that is read
# What is read, by its content. Pillow knows more formats, EPS among them, for which it would run another program.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "TGA", "ICO", "AVIF")
_GAP_GREY = 96
SUFFIXES = (".png", ".npy")


def read_image(path: str | Path, channels: int, alpha: str = "refuse") -> np.ndarray:
    """An image file as uint8 [H, W, channels].

    Args:
        path: a file of one of `FORMATS`.
        channels: 1 (grey: ITU-R 601's luma) or 3 (RGB).
        alpha: what becomes of transparent pixels: "refuse", or the "black" or "white" that shines through them.

    Raises:
        SpxError: if it cannot be read as an image, or only by guessing what its numbers mean.
    """
    return pixels_of(open_image(path, channels, alpha))


def pixels_of(image: Image.Image) -> np.ndarray:
    """A grey or RGB picture as uint8 [H, W, 1 or 3]."""
    pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], -1)


def open_image(path: str | Path, channels: int, alpha: str = "refuse") -> Image.Image:
    """An image file as Pillow's "L" or "RGB", upright as its EXIF orientation says; see `read_image`.

    16 bits are scaled to 8, and so are floats from 0 to 1; other floats and 32-bit numbers have no known white and are refused, as are
    files of several pictures.
    """
    try:
        with reading(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd EXIF and the like; what cannot be read is refused
            Image.init()
            image = Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
            width, height = image.size
            require(
                width * height <= LARGEST,
                str(path),
                f"at most {LARGEST} pixels",
                f"{width}x{height}",
                "make it smaller",
            )
            several = (
                getattr(image, "n_frames", 1) if image.format != "MPO" else 1
            )  # a camera's MPO has a preview in it
            require(several == 1, str(path), "one picture", f"{several} in one file", "save the one that is meant")
            image.load()
            upright = ImageOps.exif_transpose(image)
            return _opaque(_eight_bits(upright, image, str(path)), str(path), alpha).convert(
                "L" if channels == 1 else "RGB"
            )
    except SpxError:
        raise
    except UnidentifiedImageError as error:
        raise SpxError(f"{shown(path)}: cannot be read as an image (none of {', '.join(FORMATS)})") from error
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        why = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise SpxError(f"{shown(path)}: cannot be read as an image ({why})") from error


def _eight_bits(image: Image.Image, file: Image.Image, name: str) -> Image.Image:
    """The same picture with 8 bits a channel.

    Args:
        image: the picture, turned upright.
        file: as it was opened, which still knows its format.
        name: for the messages.
    """
    if image.mode == "F":
        values = np.asarray(image)
        known = bool(np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1)
        got = f"{values.min():g} to {values.max():g}"
        require(known, name, "floats from 0 to 1", got, "what is white? save it with 8 bits")
        return Image.fromarray((values.astype(np.float64) * 255 + 0.5).astype(np.uint8))
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    sixteen = image.mode.startswith("I;16") or file.format in ("PNG", "PPM") or _tiff_bits(file) == 16
    good = sixteen and values.min() >= 0 and values.max() < 1 << 16
    require(good, name, "8 or 16 bits", f"32, {values.min()} to {values.max()}", "what is white? save it with 8 bits")
    result = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    clear = image.info.get("transparency")  # of a PNG: the one level that is transparent
    if isinstance(clear, int):
        result.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return result


def _tiff_bits(file: Image.Image) -> int | None:
    bits = getattr(file, "tag_v2", {}).get(258)
    return bits[0] if isinstance(bits, tuple) else bits


def _opaque(image: Image.Image, name: str, alpha: str) -> Image.Image:
    """The same picture without an alpha channel."""
    if "transparency" not in image.info and not image.mode.endswith(("A", "a")):
        return image
    image = image.convert("RGBA")
    if np.asarray(image.getchannel("A")).min() < 255:
        way_out = "choose what shines through with --alpha black or --alpha white"
        require(alpha in ("black", "white"), name, "a picture without transparent pixels", "some", way_out)
        image = Image.alpha_composite(Image.new("RGBA", image.size, alpha), image)
    return image.convert("RGB")


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


def check_writable(path: Path, name: str = "out") -> None:
    """Raise an `SpxError` unless images can be written to `path`; found out before hours of drawing, not after."""
    require(path.suffix.lower() in SUFFIXES, name, "a name ending in " + " or ".join(SUFFIXES), repr(str(path)))
    check_file(path, name)


def write_images(images: np.ndarray, path: Path, name: str = "out") -> None:
    """Write uint8 [N, H, W, C]: .npy the array, of any type, .png the image or a grid of them. `name`: of the option that told the path.

    Raises:
        Unwritten: where it cannot be; the sentence says in which other place the images are, if there is one.
    """

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            if path.suffix.lower() == ".npy":
                np.save(file, images)
            else:
                grid(images).save(file, format="PNG")

    try:
        with writing(path, f"choose another --{name}", name):
            write_atomically(followed(path), write)
    except Unwritten as error:
        elsewhere = rescue(write, path.suffix.lower())
        raise Unwritten(f"{error}" + (f"; what was drawn is in {elsewhere}" if elsewhere else "")) from error
