"""Checkpoints: a folder with config.json and model.safetensors, shipped, one's own or from the hub. Reading one needs no torch."""

from __future__ import annotations

import re
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

    Args:
        name_or_path: of the hub `owner/name`, or `owner/name@revision` for a branch, a tag or a commit.

    Raises:
        SpxError: if it is none of these, or the hub cannot be reached.
    """
    name = str(name_or_path)
    if name in shipped():
        return SHIPPED / name
    try:
        path = Path(name).expanduser()
        if name and path.is_dir():
            return path
    except (OSError, ValueError, RuntimeError):  # too long, with a zero byte, of no user
        path = None
    hub = _HUB.fullmatch(name)
    if hub and path is not None:
        return _fetched(hub["name"], hub["revision"])
    known = ", ".join(shipped()) or "(none shipped)"
    got = repr(name) if len(name) <= 200 else f"{name[:100]!r}..."
    raise SpxError(f"checkpoint: expected one of {known}, a folder, or a hub name owner/name, got {got}")


# A repository of the hub, and which revision of it.
_HUB = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[\w./-]+))?")


def _fetched(name: str, revision: str | None) -> Path:
    """The local copy of the two files of a repository of the hub."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[CONFIG, WEIGHTS]))
    except Exception as error:  # the hub's client raises many kinds
        what = f"{name}@{revision}" if revision else name
        why = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
        raise SpxError(f"checkpoint: {what} is no folder here, and the Hugging Face hub gave none ({why})") from error


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
