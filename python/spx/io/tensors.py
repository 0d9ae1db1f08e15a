"""A folder of config.json and model.safetensors, Hugging Face's convention, in and out. No torch.

config.json holds the SHA-256 of model.safetensors. So a byte that has changed is seen, and a reader never takes the config of one model
and the weights of another.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spxcore.errors import SpxError, require

from .files import write_atomically, writing
from .reading import read_bytes, read_object

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# The field of config.json that holds the SHA-256 of model.safetensors, in hexadecimal digits.
CHECKSUM = "weights_sha256"

NUMBERS = 1 << 31  # in all tensors of a model
_AGAIN = "fetch the checkpoint again"
_DIVERGED = "the training run diverged; use another checkpoint"
_APART = f"the file and {CONFIG} do not belong together"
# Bytes of a number in a file, at most; and of the file's header, which names the tensors.
_WIDEST, _HEADER, _ENTRY = 8, 1 << 20, 1 << 10
# Seconds between two looks at a pair of files that another process may be replacing.
_WAITS = (0.001, 0.004, 0.016, 0.064, 0.128)


class Tensor(NamedTuple):
    """What a tensor has to be.

    Attributes:
        shape: of it.
        whole: whether it holds whole numbers, read as int64; the others are read as float32.
    """

    shape: tuple[int, ...]
    whole: bool = False


Wanted = Mapping[str, Tensor]


def read_folder(folder: Path, wanted: Callable[[dict], Wanted]) -> tuple[dict, dict[str, np.ndarray]]:
    """config.json of a folder, without its checksum, and the tensors of model.safetensors.

    While another process replaces the two files (see `write_tensors`), a reader gets the old pair or the new one.

    Args:
        folder: of the two files.
        wanted: name, shape and kind of every tensor by config.json's fields; may raise an SpxError.

    Raises:
        SpxError: for anything wrong with the files, naming the file and what it should be.
    """
    for wait in (*_WAITS, None):
        config = read_config(folder)
        checksum = config.pop(CHECKSUM, None)
        good = checksum is None or (isinstance(checksum, str) and len(checksum) == 64)
        require(good, f"{folder / CONFIG}: {CHECKSUM}", "a SHA-256", "something else", _AGAIN)
        tensors = wanted(dict(config))
        numbers = sum(math.prod(tensor.shape) for tensor in tensors.values())
        require(numbers <= NUMBERS, str(folder / CONFIG), f"a model of at most {NUMBERS} numbers", "a larger one")
        raw = _weights(folder, _HEADER + _ENTRY * len(tensors) + _WIDEST * numbers)
        if checksum is None or hashlib.sha256(raw).hexdigest() == checksum.lower():
            break
        if wait is None:
            changed = f"if you changed it yourself, take {CHECKSUM} out of {CONFIG}"
            raise SpxError(f"{folder / WEIGHTS}: damaged (its SHA-256 is not the one in {CONFIG}); {_AGAIN}; {changed}")
        time.sleep(wait)
    if checksum is None:
        lacks = f"{CONFIG} has no {CHECKSUM}, so damage to {WEIGHTS} would not be seen"
        print(f"warning: {folder}: {lacks}; saved again, it has one", file=sys.stderr)
    path = folder / WEIGHTS
    return config, checked(str(path), _parsed(path, raw), tensors, _APART, _DIVERGED)


def read_config(folder: Path) -> dict:
    """config.json of a folder.

    Raises:
        SpxError: if it is missing or not a JSON object.
    """
    path = folder / CONFIG
    whole = f"a checkpoint ({CONFIG} and {WEIGHTS})"
    require(path.exists(), str(folder), whole, f"a folder without {CONFIG}")
    return read_object(path, _AGAIN)


def _weights(folder: Path, limit: int) -> bytes:
    path = folder / WEIGHTS
    require(path.exists(), str(folder), f"{WEIGHTS} beside {CONFIG}", "none")
    return read_bytes(path, limit, _APART)


def _parsed(path: Path, raw: bytes) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(raw)
    except (KeyError, TypeError) as error:  # bfloat16 and other types NumPy does not have
        raise SpxError(
            f"{path}: expected tensors of NumPy's types, got another ({error}); save it in float32"
        ) from error
    except (SafetensorError, ValueError, OverflowError) as error:
        raise SpxError(f"{path}: damaged ({str(error).splitlines()[0][:200]}); {_AGAIN}") from error


def checked(
    where: str, found: Mapping[str, np.ndarray], wanted: Wanted, way_out: str, not_finite: str
) -> dict[str, np.ndarray]:
    """Copies of the tensors as float32 and int64, if they are the ones that are wanted.

    Args:
        where: they come from, for messages.
        found: arrays by name.
        wanted: what they have to be.
        way_out, not_finite: the way out of a tensor that does not belong there, and of NaN or infinity.

    Raises:
        SpxError: naming the tensor.
    """
    missing, surplus = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    require(not missing, where, f"a tensor {missing[0] if missing else ''}", "none", way_out)
    require(not surplus, where, "only the network's tensors", f"also {surplus[0] if surplus else ''}"[:200], way_out)
    for name, (shape, whole) in wanted.items():
        array, kinds = found[name], "iu" if whole else "f"
        if array.shape == shape and array.dtype.kind in kinds:
            continue
        require(array.shape == shape, f"{where}: {name}", f"shape {shape}", array.shape, way_out)
        numbers = "whole numbers" if whole else "floating-point numbers"
        require(False, f"{where}: {name}", numbers, array.dtype, way_out)
    with np.errstate(over="ignore"):  # a float64 may become infinite
        result = {name: found[name].astype(np.int64 if of.whole else np.float32) for name, of in wanted.items()}
    for name, tensor in result.items():
        if tensor.dtype == np.int64:
            require((tensor == found[name]).all(), f"{where}: {name}", "numbers of 64 bits", "larger ones")
        elif not np.isfinite(tensor).all():
            require(False, f"{where}: {name}", "finite numbers of float32", "NaN or infinity", not_finite)
    return result


def write_tensors(folder: Path, config: dict, tensors: Mapping[str, np.ndarray]) -> None:
    """Write config.json, with the checksum, and model.safetensors. The folder is made.

    Both are written to temporary names first; then the weights are renamed and at once the config, so that there is hardly a moment in
    which the two do not belong together, and a reader sees that moment.

    Raises:
        SpxError: if the folder cannot be written.
    """
    from safetensors.numpy import save

    raw = save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, metadata={"format": "pt"})
    text = json.dumps({**config, CHECKSUM: hashlib.sha256(raw).hexdigest()}, indent=2) + "\n"

    def write_weights(temporary: Path) -> None:
        temporary.write_bytes(raw)

    def write(temporary: Path) -> None:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # now, so that nothing slow is left between the two names
        write_atomically(folder / WEIGHTS, write_weights)

    with writing(folder, "choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / CONFIG, write)
