"""Checkpoints: a folder with config.json and model.safetensors, by Hugging Face's convention. Reading one needs no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spxcore.engines import Weights
from spxcore.errors import SpxError, require

from .config import ModelConfig
from .files import write_atomically
from .prior import Prior

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


@dataclass(frozen=True)
class Checkpoint:
    """A whole model as NumPy arrays.

    Attributes:
        config: what it is.
        tensors: arrays by the names of `SpatialPixelCNN.state_dict()`; the VAE's only where there is one, and so on.
    """

    config: ModelConfig
    tensors: dict[str, np.ndarray]

    @classmethod
    def of(cls, model: SpatialPixelCNN) -> Checkpoint:
        """The checkpoint of a torch model; float32 tensors on the CPU share its memory."""
        config, state = model.model_config, model.state_dict()  # which may still hold a prior that is no longer its own
        tensors = {
            name: state[name].float() if state[name].is_floating_point() else state[name] for name in config.shapes()
        }
        return cls(config, {name: t.cpu().numpy() for name, t in tensors.items()})

    def part(self, prefix: str) -> dict[str, np.ndarray]:
        """The tensors whose names begin so, by the rest of their names."""
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}

    @property
    def weights(self) -> Weights:
        """The patch network's."""
        return Weights(self.config.network, self.part("network."))

    @property
    def prior(self) -> Prior:
        """The prior over codes."""
        return Prior(self.config.network.latent, **self.part("prior_"))

    def module(self) -> SpatialPixelCNN:
        """The torch model, in evaluation mode, on the CPU."""
        import torch

        from .model import SpatialPixelCNN

        model = SpatialPixelCNN(**self.config.to_dict())
        model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in self.tensors.items()})
        return model.eval()


def read_checkpoint(name_or_path: str | Path) -> Checkpoint:
    """Read a checkpoint and check that its two files are whole and belong together.

    Raises:
        SpxError: for anything wrong with it, naming the file and what it should be.
    """
    folder = resolve(name_or_path)
    fields, tensors = read_config(folder), read_tensors(folder)
    try:
        config = ModelConfig.of(**fields)
    except (SpxError, TypeError, ValueError) as error:
        raise SpxError(f"{folder / CONFIG}: not a model ({str(error).splitlines()[0]})") from error
    expected = config.shapes()
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
    for name, shape in expected.items():
        require(
            tensors[name].shape == shape, f"{path}: {name}", f"shape {shape}", tensors[name].shape,
            f"the file and {CONFIG} do not belong together",
        )  # fmt: skip
        tensors[name] = tensors[name].astype(np.int64 if name == "prior_classes" else np.float32, copy=False)
    return Checkpoint(config, tensors)


def load_model(name_or_path: str | Path) -> SpatialPixelCNN:
    """The torch model of a checkpoint; see `read_checkpoint`."""
    return read_checkpoint(name_or_path).module()


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
