"""Checkpoints: a folder with config.json and model.safetensors, shipped, one's own or from the hub. Reading one needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spxcore.errors import SpxError

from .io.tensors import CONFIG, WEIGHTS
from .models.model import Checkpoint, Savable

if TYPE_CHECKING:
    from torch import nn

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


def read_checkpoint(name_or_path: str | Path) -> Checkpoint:
    """Read a checkpoint and check that its two files are whole and belong together.

    Raises:
        SpxError: for anything wrong with it, naming the file and what it should be.
    """
    return Checkpoint.read(resolve(name_or_path))


def load_model(name_or_path: str | Path) -> nn.Module:
    """The torch model of a checkpoint; see `read_checkpoint`."""
    return read_checkpoint(name_or_path).module()


def save_checkpoint(model: Checkpoint | Savable, folder: str | Path) -> None:
    """Write a checkpoint, or a torch model that can make one, each of its two files to a temporary name first. The folder is made.

    Raises:
        SpxError: if the folder cannot be written.
    """
    checkpoint = model if isinstance(model, Checkpoint) else model.checkpoint()
    checkpoint.write(Path(folder))
