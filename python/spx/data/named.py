"""Data sets with a name: MNIST and Fashion-MNIST, downloaded by HTTPS and compared with published checksums."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np

from spxcore.errors import SpxError, require

from ..io.download import fetch
from .idx import FILES, find, read_idx
from .images import Images, checked


@dataclass(frozen=True)
class Source:
    """A named data set: what it is, where its gzip files are, and checksums.

    Attributes:
        md5: of each file unpacked, as published; files that lie there already may be packed in any way.
        sha256: of each file as the server has it, packed.
    """

    title: str
    licence: str
    base_url: str
    md5: dict[str, str]
    sha256: dict[str, str]


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
        {
            "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
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
        {
            "train-images-idx3-ubyte": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
}

_LARGEST = 1 << 26  # bytes of a file; MNIST's largest has 10 million, packed


def _download(source: Source, name: str, folder: Path) -> Path:
    """The file, packed, as the server has it; compared with its SHA-256 before anything unpacks it."""
    path = folder / f"{name}.gz"
    try:
        fetch(f"{source.base_url}{name}.gz", path, source.sha256[name], _LARGEST)
    except (OSError, HTTPException, SpxError, ValueError) as error:
        why = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])[:300]
        raise SpxError(
            f"{name}: not in {folder} and cannot be downloaded ({why}); "
            "put the IDX files there by hand, or point --data-dir at a folder that has them"
        ) from error
    return path


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
