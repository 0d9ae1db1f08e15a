"""Data sets with a name: MNIST and Fashion-MNIST, downloaded by HTTPS and compared with a published checksum."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spxcore.errors import SpxError, require

from .idx import FILES, find, read_idx
from .images import Images, checked


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
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        {
            "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
            "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
            "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
        },
    ),
}

_LARGEST = 1 << 26  # bytes of a decompressed file; MNIST's largest has 47 million


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
        with gzip.open(packed) as file:
            Path(output_file).write_bytes(file.read(_LARGEST))  # what is cut here has another checksum
    finally:
        packed.unlink(missing_ok=True)


def load_named(name: str, folder: Path, split: str) -> Images:
    """The images of one of `SOURCES`: its files in `folder`, downloaded where they are missing, their checksums compared.

    Raises:
        SpxError: for a missing, damaged or wrong file.
    """
    source = SOURCES[name]

    def array(what: str) -> np.ndarray:
        file = FILES[split, what]
        path = find(folder, file) or _download(source, file, folder)
        found = read_idx(path)
        raw = bytes([0, 0, 8, found.ndim]) + np.array(found.shape, ">u4").tobytes()
        md5 = hashlib.md5(raw + found.tobytes(), usedforsecurity=False).hexdigest()
        way_out = f"damaged, or not {source.title}: fetch it again, or use --data idx for a data set of your own"
        require(md5 == source.md5[file], str(path), f"MD5 {source.md5[file]}", md5, way_out)
        return found

    return checked(split, array("images"), array("labels"))
