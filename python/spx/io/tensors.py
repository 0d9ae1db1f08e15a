"""A folder of config.json and model.safetensors, Hugging Face's convention, in and out. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from spxcore.errors import SpxError, require

from .files import write_atomically, write_json, writing

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def read_config(folder: Path, needs: str = "") -> dict:
    """config.json of a folder, with the field `needs`.

    Raises:
        SpxError: if it is missing or not a JSON object.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise SpxError(
            f"{folder}: expected a checkpoint ({CONFIG} and {WEIGHTS}), got a folder without {CONFIG}"
        ) from error
    except (OSError, ValueError) as error:
        raise SpxError(f"{path}: cannot be read as JSON ({error}); fetch the checkpoint again") from error
    good = isinstance(config, dict) and (not needs or needs in config)
    require(good, str(path), f'an object with "{needs}"' if needs else "an object", type(config).__name__)
    return config


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """model.safetensors of a folder as NumPy arrays.

    Raises:
        SpxError: if it is missing, damaged, or holds a NaN or an infinity.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except FileNotFoundError as error:
        raise SpxError(f"{folder}: expected {WEIGHTS} beside {CONFIG}, got none") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise SpxError(f"{path}: damaged ({error}); fetch the checkpoint again") from error
    except TypeError as error:  # bfloat16 and other types NumPy does not have
        raise SpxError(
            f"{path}: expected tensors of NumPy's types, got another ({error}); save it in float32"
        ) from error
    for name, tensor in tensors.items():
        finite = tensor.dtype.kind != "f" or bool(np.isfinite(tensor).all())
        way_out = "the training run diverged; use another checkpoint"
        require(finite, f"{path}: {name}", "finite numbers", "NaN or infinity", way_out)
    return tensors


def write_tensors(folder: Path, config: dict, tensors: Mapping[str, np.ndarray]) -> None:
    """Write config.json and model.safetensors, each to a temporary name first. The folder is made.

    Raises:
        SpxError: if the folder cannot be written.
    """
    from safetensors.numpy import save_file

    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    way_out = "choose another folder"
    with writing(folder, way_out):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / WEIGHTS, lambda path: save_file(arrays, path, metadata={"format": "pt"}))
        write_json(folder / CONFIG, config, way_out)
