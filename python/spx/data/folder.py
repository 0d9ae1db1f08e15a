"""A folder of pictures: sub-folders are classes; pictures of any size and kind become images of one size."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from spxcore.errors import SpxError, require

from .arrays import TEST_SEED, TEST_SHARE
from .cache import Arrays, cached
from .images import Images, check_bytes, checked, split
from .settings import Reading

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pnm")
_NAMED = 5  # bad files in a message


@dataclass(frozen=True)
class Listing:
    """The pictures below a folder.

    Attributes:
        root: the folder.
        names: of the files, below it, in the order of their classes and names.
        labels: the class of each.
        classes: names of the sub-folders; None: the pictures lie in the folder itself.
    """

    root: Path
    names: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...] | None


def load_folder(folder: Path, part: str, reading: Reading, progress: bool = False) -> Images:
    """The images of a folder; those of its train/ or test/ if it has both, else all but a fixed tenth of each class, or that tenth.

    Raises:
        SpxError: for no pictures, pictures of several sizes without `reading.size`, or bad files, if they are refused.
    """
    require(folder.is_dir(), str(folder), "a folder of pictures", "none", "check --data-dir")
    if not all((folder / name).is_dir() for name in ("train", "test")):
        return split(read_folder(listing(folder), reading, progress), TEST_SHARE, TEST_SEED)[part == "test"]
    train, own = listing(folder / "train"), listing(folder / part)
    same = own.classes == train.classes
    require(same, str(own.root), f"the sub-folders of train/: {_some(train.classes or ())}", _some(own.classes or ()))
    return read_folder(own, reading, progress)


def listing(root: Path) -> Listing:
    """The pictures below a folder, by their names' endings; hidden files and folders do not count.

    Raises:
        SpxError: if there are none, or some lie beside the sub-folders and some in them.
    """
    loose = _pictures(root, deep=False)
    folders = [entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith((".", "__"))]
    above = {root.resolve(), *root.resolve().parents}
    loops = [name for name in folders if (root / name).resolve() in above]
    require(
        not loops,
        str(root),
        "sub-folders that are classes",
        f"{_some(loops)}, which leads back to it",
        "remove the link",
    )
    folders.sort(key=(lambda name: (int(name), name)) if all(name.isdecimal() for name in folders) else None)
    found = {name: _pictures(root / name, deep=True) for name in folders}
    if not any(found.values()):
        require(bool(loose), str(root), f"pictures ({' '.join(ENDINGS)})", "none", "check --data-dir")
        return Listing(root, tuple(loose), (0,) * len(loose), None)
    way_out = "sub-folders are classes: move the pictures into them, or the sub-folders away"
    require(not loose, str(root), "pictures in sub-folders alone", f"{_some(loose)} beside {_some(folders)}", way_out)
    empty = [name for name in folders if not found[name]]
    require(not empty, str(root), "pictures in each sub-folder", f"none in {_some(empty)}", "a sub-folder is a class")
    names = tuple(os.path.join(name, file) for name in folders for file in found[name])
    labels = tuple(label for label, name in enumerate(folders) for _ in found[name])
    return Listing(root, names, labels, tuple(folders))


def _pictures(folder: Path, deep: bool) -> list[str]:
    found = []
    for place, folders, names in os.walk(folder, onerror=_stop):
        folders[:] = [name for name in folders if deep and not name.startswith(".")]
        pictures = [name for name in names if name.lower().endswith(ENDINGS) and not name.startswith(".")]
        found += [os.path.relpath(os.path.join(place, name), folder) for name in pictures]
    return sorted(found)


def _stop(error: OSError) -> None:
    """What os.walk would pass over in silence: a folder that may not be read."""
    raise error


def read_folder(files: Listing, reading: Reading, progress: bool = False) -> Images:
    """The pictures of a listing as images of one size, from the cache if they are there."""
    state = [[name, *_state(files.root / name)] for name in files.names]
    place = [os.fsdecode(files.root.resolve()), asdict(Reading.part_of(reading))]
    names, what = ("images", "labels", "skipped"), [state, files.labels, files.classes]
    arrays = cached(place, what, names, lambda: _read(files, reading, progress))
    skipped = arrays["skipped"].tolist()
    if skipped:
        print(f"{files.root}: {len(skipped)} bad files left out: {_some(skipped)}", file=sys.stderr)
    return checked(str(files.root), arrays["images"], arrays["labels"], files.classes)


def _state(path: Path) -> tuple[int, int]:
    """Size and time of a file; of a link to nowhere -1, and reading it will say so."""
    try:
        stat = os.stat(path)
    except OSError:
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def _read(files: Listing, reading: Reading, progress: bool) -> Arrays:
    from tqdm import tqdm

    images: np.ndarray | None = None
    good: list[int] = []
    bad: dict[str, str] = {}
    names = tqdm(files.names, desc="reading", unit="file", disable=None if progress else True)  # None: no bar in a pipe
    for i, name in enumerate(names):
        try:
            image = read_picture(files.root / name, reading)
        except SpxError as error:
            bad[name] = str(error)
            continue
        if images is None:
            shape = (len(files.names), *image.shape)
            check_bytes(str(files.root), int(np.prod(shape, dtype=object)))
            images = np.zeros(shape, np.uint8)
        size, way_out = image.shape[:2], "give --size"
        require(
            size == images.shape[1:3],
            str(files.root / name),
            f"a size of {images.shape[1:3]} as the first file's",
            size,
            way_out,
        )
        images[len(good)] = image
        good.append(i)
    if bad and reading.bad == "refuse":
        raise SpxError(
            f"{len(bad)} of {len(files.names)} files are bad: {_some(bad.values(), '; ')} (--bad skip leaves them out)"
        )
    if images is None:
        raise SpxError(f"{files.root}: expected at least one good picture, got none: {_some(bad.values(), '; ')}")
    images = images[: len(good)]
    if (
        reading.colour == "auto"
        and (images[..., 0] == images[..., 1]).all()
        and (images[..., 0] == images[..., 2]).all()
    ):
        images = images[..., :1]
    return {
        "images": np.ascontiguousarray(images),
        "labels": np.array(files.labels, np.int64)[good],
        "skipped": np.array(list(bad), str),
    }


def read_picture(path: Path, reading: Reading) -> np.ndarray:
    """One picture file as an image of the size asked for: uint8 [H, W, C], C 3 unless grey is asked for."""
    from ..io.pictures import open_image, pixels_of

    channels = 1 if reading.colour == "grey" else 3
    image, size = open_image(path, channels, reading.alpha), reading.size
    if size and image.size != (size, size):
        from PIL import Image

        width, height = image.size
        if reading.fit == "crop":
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            image = image.crop((left, top, left + side, top + side))
        image = image.resize((size, size), Image.Resampling.BICUBIC)  # averages over areas where it shrinks
    return pixels_of(image)


def _some(names, between: str = ", ") -> str:
    names = list(names)
    return (
        between.join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        if names
        else "none"
    )
