"""Checkpoints: a folder with config.json and model.safetensors, by Hugging Face's convention. Reading one needs no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spxcore.errors import SpxError, require

from .files import write_atomically

if TYPE_CHECKING:
    from .model import SpatialPixelCNN

CONFIG, WEIGHTS = "config.json", "model.safetensors"
SHIPPED = Path(__file__).with_name("assets") / "checkpoints"


def shipped() -> list[str]:
    """Names of the checkpoints inside the package."""
    return (
        sorted(folder.name for folder in SHIPPED.iterdir() if (folder / CONFIG).is_file()) if SHIPPED.is_dir() else []
    )


def resolve(name_or_path: str | Path) -> Path:
    """The local folder of a checkpoint: one that is shipped, a folder, or a Hugging Face hub name (fetched).

    Raises:
        SpxError: if it is none of these, or the hub cannot be reached.
    """
    name = str(name_or_path)
    if name in shipped():
        return SHIPPED / name
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    looks_like_hub = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    if looks_like_hub:
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS]))
        except Exception as error:  # the hub's client raises many kinds
            raise SpxError(
                f"checkpoint: {name} is no folder here, and the Hugging Face hub gave none "
                f"({type(error).__name__}: {str(error).splitlines()[0]})"
            ) from error
    raise SpxError(
        f"checkpoint: expected one of {', '.join(shipped()) or '(none shipped)'}, a folder, or a hub name owner/name, got {name!r}"
    )


def read_config(folder: Path, needs: str = "network") -> dict:
    """config.json of a checkpoint, with the field `needs`.

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
    good = isinstance(config, dict) and needs in config
    require(good, str(path), f'an object with "{needs}"', type(config).__name__)
    return config


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """model.safetensors of a checkpoint as NumPy arrays.

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
        require(
            finite,
            f"{path}: {name}",
            "finite numbers",
            "NaN or infinity",
            "the training run diverged; use another checkpoint",
        )
    return tensors


def load_model(name_or_path: str | Path) -> SpatialPixelCNN:
    """The model of a checkpoint, in evaluation mode, on the CPU.

    Raises:
        SpxError: for anything wrong with the checkpoint, naming the file and what it should be.
    """
    import torch

    from .model import SpatialPixelCNN

    folder = resolve(name_or_path)
    config, tensors = read_config(folder), read_tensors(folder)
    try:
        model = SpatialPixelCNN(**config)
    except (SpxError, TypeError, ValueError, RuntimeError) as error:  # torch's own messages go on for lines
        raise SpxError(f"{folder / CONFIG}: not a model ({str(error).splitlines()[0]})") from error
    expected = model.state_dict()
    missing, surplus = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    path = str(folder / WEIGHTS)
    require(
        not missing,
        path,
        f"a tensor {missing[0] if missing else ''}",
        "none",
        "the file and config.json do not belong together",
    )
    require(not surplus, path, "only the network's tensors", f"also {surplus[0] if surplus else ''}", "as above")
    for name, tensor in expected.items():
        require(
            tuple(tensor.shape) == tensors[name].shape, f"{path}: {name}", f"shape {tuple(tensor.shape)}", tensors[name].shape,
            f"the file and {CONFIG} do not belong together",
        )  # fmt: skip
    model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})
    return model.eval()


def save_checkpoint(model: SpatialPixelCNN, folder: str | Path) -> None:
    """Write a model's config.json and model.safetensors, each to a temporary name first. The folder is made.

    Raises:
        SpxError: if the folder cannot be written.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    config = json.dumps(model.config_dict(), indent=2) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / WEIGHTS, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
        write_atomically(folder / CONFIG, lambda path: path.write_text(config))
    except OSError as error:
        raise SpxError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error
