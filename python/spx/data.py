"""Image data sets in the IDX format of MNIST, plain or gzip; downloaded with a checksum where there is a network."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spxcore.errors import SpxError, require

FILES = {
    ("train", "images"): "train-images-idx3-ubyte",
    ("train", "labels"): "train-labels-idx1-ubyte",
    ("test", "images"): "t10k-images-idx3-ubyte",
    ("test", "labels"): "t10k-labels-idx1-ubyte",
}


@dataclass(frozen=True)
class Source:
    """A named data set: where its gzip files are, the MD5 of the decompressed files, what it is."""

    title: str
    licence: str
    base_url: str
    md5: dict[str, str]


SOURCES = {
    "mnist": Source(
        "MNIST handwritten digits (LeCun, Cortes, Burges)",
        "CC BY-SA 3.0",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
            "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
        },
    ),
    "fashion-mnist": Source(
        "Fashion-MNIST (Xiao, Rasul, Vollgraf)",
        "MIT",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
            "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
            "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
        },
    ),
}


@dataclass(frozen=True)
class Images:
    """Images uint8 [N, C, H, W] with their class labels uint8 [N]."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file of unsigned bytes, plain or gzip (the content decides, not the name).

    Returns:
        uint8 array of the file's shape.

    Raises:
        SpxError: if the file cannot be read, is damaged or is not IDX of unsigned bytes.
    """
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise SpxError(f"{path}: cannot be read ({error}); fetch the file again") from error
    require(
        len(raw) >= 4 and raw[:2] == b"\0\0", str(path), "an IDX file (first bytes 00 00)", raw[:2].hex() or "nothing"
    )
    require(raw[2] == 8, str(path), "IDX of unsigned bytes (type 08)", f"type {raw[2]:02x}")
    rank = raw[3]
    header = 4 + 4 * rank
    require(len(raw) >= header, str(path), f"a header of {header} bytes", f"{len(raw)} bytes", "fetch the file again")
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", rank, 4))
    expected = header + int(np.prod(shape))
    require(len(raw) == expected, str(path), f"{expected} bytes for shape {shape}", len(raw), "fetch the file again")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _find(folder: Path, name: str) -> Path | None:
    """The file of that name in `folder`, plain or .gz, also with the dot some distributions write before idx."""
    for stem in (name, name.replace("-idx", ".idx")):
        for candidate in (folder / stem, folder / f"{stem}.gz"):
            if candidate.is_file():
                return candidate
    return None


def _download(source: Source, name: str, folder: Path) -> Path:
    import pooch

    try:
        return Path(
            pooch.retrieve(
                f"{source.base_url}{name}.gz",
                known_hash=f"md5:{source.md5[name]}",
                fname=name,
                path=folder,
                processor=None,
                downloader=_gunzipping_downloader,
            )
        )
    except Exception as error:  # pooch raises whatever its transport raises
        raise SpxError(
            f"{name}: not in {folder} and cannot be downloaded ({type(error).__name__}: {error}); "
            "put the IDX files there by hand, or point --data-dir at a folder that has them"
        ) from error


def _gunzipping_downloader(url: str, output_file: str, pooch_) -> None:
    """Download and decompress, so that the checksum of the decompressed file, the one that is published, can be checked."""
    import pooch

    packed = Path(f"{output_file}.gz")
    try:
        pooch.HTTPDownloader()(url, str(packed), pooch_)
        Path(output_file).write_bytes(gzip.decompress(packed.read_bytes()))
    finally:
        packed.unlink(missing_ok=True)


def load(name: str, folder: str | Path, split: str) -> Images:
    """A data set's images and labels.

    Args:
        name: "mnist", "fashion-mnist", or "idx" for any folder with files of the same names (no checksum, no download).
        folder: where the four files are, or, if one is missing, where it is downloaded to.
        split: "train" or "test".

    Raises:
        SpxError: for a missing, damaged or wrong file.
    """
    require(name in (*SOURCES, "idx"), "data", ", ".join((*SOURCES, "idx")), repr(name))
    require(split in ("train", "test"), "split", "train or test", repr(split))
    source, folder = SOURCES.get(name), Path(folder).expanduser()
    arrays = {}
    for what in ("images", "labels"):
        file = FILES[split, what]
        path = _find(folder, file)
        if path is None:
            require(source is not None, str(folder), f"a file {file} or {file}.gz", "none", "check --data-dir")
            path = _download(source, file, folder)
        arrays[what] = read_idx(path)
        if source:
            raw = np.uint8([0, 0, 8, arrays[what].ndim]).tobytes() + np.array(arrays[what].shape, ">u4").tobytes()
            md5 = hashlib.md5(raw + arrays[what].tobytes(), usedforsecurity=False).hexdigest()
            way_out = f"damaged, or not {source.title}: fetch it again, or use --data idx for a data set of your own"
            require(md5 == source.md5[file], str(path), f"MD5 {source.md5[file]}", md5, way_out)
    images, labels = arrays["images"], arrays["labels"]
    require(images.ndim in (3, 4), f"{split} images", "shape [N, H, W] or [N, H, W, 3]", images.shape)
    images = images[:, None] if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    require(images.shape[1] in (1, 3), f"{split} images", "1 or 3 channels", images.shape[1])
    require(len(images) > 0, f"{split} images", "at least one image", 0)
    one_each = labels.shape == (len(images),)
    require(one_each, f"{split} labels", f"shape ({len(images)},), one an image", labels.shape)
    return Images(images, labels)
