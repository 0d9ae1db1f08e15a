"""A run's folder: who may work in it, its settings, its states, and what took long to compute."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from spxcore.errors import SpxError, require

from ..data.images import Images
from ..io.files import alone_in, remove_leftovers, write_atomically, write_folder_atomically, write_json, writing
from ..io.reading import read_object, reading
from ..models.settings import Settings
from .settings import FILE

# The file of a run's folder that says which images it was begun with.
DATA = "data.json"
# Of the metadata of a file of tensors.
CHECKSUM = "sha256"
# Where a run cannot write, what it saved last is whole.
WAY_OUT = "make room, then go on from the newest saved state with --resume"


class RunFolder:
    """A folder with `recipe.json`, `data.json` (which images it is trained on), the newest `state-<phase>-<step>` to resume from,
    `checkpoint/` (averaged weights, for `spx-sample --checkpoint`), `log.jsonl`, `tensorboard/` and `samples/`.

    Args:
        path: the folder.
        writes: whether this process writes; else it only reads.
    """

    def __init__(self, path: Path, writes: bool = True):
        self.path, self.writes = path, writes

    @property
    def checkpoint(self) -> Path:
        """Folder of the averaged weights."""
        return self.path / "checkpoint"

    def claim(self, settings: Settings, data: dict, resume: bool) -> None:
        """Make a new folder, or clear what a killed process left in an old one.

        Args:
            settings: the run's.
            data: what tells the run's images from others, of JSON's types.
            resume: whether the run goes on.

        Raises:
            SpxError: if there is a run that is not to be resumed, none to resume, one under way, or one of other data.
        """
        begun = (self.path / FILE).exists()
        if resume:
            require(begun, str(self.path), "a run to resume", "none", "leave --resume out to start a run")
            with alone_in(self.path):
                self._compare(data)
                remove_leftovers(self.path)
            return
        way_out = "--resume continues it; or choose another --out"
        require(not begun, str(self.path), "a new folder", "one with a run in it", way_out)
        write_json(self.path / DATA, data)
        write_json(self.path / FILE, settings.to_dict())

    def _compare(self, data: dict) -> None:
        """Refuse other data than the run was begun with."""
        path = self.path / DATA
        if not path.exists():
            print(
                f"{self.path}: begun by a version that kept no {DATA}; whether the data are the same is not known",
                file=sys.stderr,
            )
            write_json(path, data)
            return
        begun, way_out = read_object(path, "remove it to go on with the data as they are"), "check --data-dir"
        for name, value in data.items():
            known = begun.get(name)
            require(known == value, f"data, {name}", f"{known}, as the run in {self.path} was started", value, way_out)

    def alone(self) -> AbstractContextManager:
        """Inside, no other process may work in the folder.

        Raises:
            SpxError: if another one does.
        """
        return alone_in(self.path) if self.writes else contextlib.nullcontext()

    # ---- states -----------------------------------------------------------------------------------------------------------

    def states(self) -> list[Path]:
        """Folders of states, the newest last."""
        return sorted(self.path.glob("state-*"))

    def save(self, phase: int, step: int, tensors: Mapping[str, Tensor], scalars: dict) -> None:
        """Write a state, then drop the older ones."""

        def write(folder: Path) -> None:
            _save(tensors, folder / "state.safetensors")
            write_json(folder / "state.json", scalars)

        path = self._state(phase, step)
        older = [state for state in self.states() if state != path]
        if not path.exists():
            with writing(path, WAY_OUT):
                write_folder_atomically(path, write)
        for state in older:
            shutil.rmtree(state, ignore_errors=True)

    def load(self) -> tuple[dict[str, Tensor], dict]:
        """Tensors and scalars of the newest state.

        Raises:
            SpxError: if it is damaged.
        """
        folder = self.states()[-1]
        way_out = "remove it to resume from an older state"
        try:
            tensors = _load(folder / "state.safetensors")
            scalars = read_object(folder / "state.json", "")
            phase, step = (scalars.get(name) for name in ("phase_index", "step"))
            require(
                type(phase) is type(step) is int and folder.name == self._state(phase, step).name,
                "state.json", f"phase and step of {folder.name}", f"{phase!r:.20} and {step!r:.20}",
            )  # fmt: skip
        except SpxError as error:
            raise SpxError(f"{folder}: cannot be read ({error}); {way_out}") from error
        return tensors, scalars

    def _state(self, phase: int, step: int) -> Path:
        return self.path / f"state-{phase}-{step:08d}"

    # ---- what else is kept ----------------------------------------------------------------------------------------------------

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors that took long to compute to a file of their own."""
        if self.writes:
            with writing(self._file(name), WAY_OUT):
                write_atomically(self._file(name), lambda path: _save(tensors, path))

    def kept(self, name: str) -> dict[str, Tensor] | None:
        """What is kept by that name, or None.

        Raises:
            SpxError: if it cannot be read.
        """
        path = self._file(name)
        if not path.exists():
            return None
        try:
            return _load(path)
        except SpxError as error:
            raise SpxError(f"{path}: cannot be read ({error}); remove it to have the {name} made again") from error

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.safetensors"


def fingerprint(train: Images, validation: Images) -> dict:
    """What tells the images of a run, and their labels, from others: of JSON's types."""
    found: dict[str, object] = {}
    for name, part in (("training", train), ("validation", validation)):
        digest = hashlib.sha256(np.ascontiguousarray(part.images).data)
        digest.update(np.ascontiguousarray(part.labels, "<i8").data)
        found[f"{name} images"] = list(part.images.shape)
        found[f"{name} SHA-256"] = digest.hexdigest()
    return found


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """A SHA-256 of tensors on the CPU, their names, types and shapes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].contiguous()
        digest.update(f"{name} {t.dtype} {list(t.shape)}\n".encode())
        digest.update(t.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors with their checksum."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    save_file(tensors, path, metadata={CHECKSUM: _checksum(tensors)})


def _load(path: Path) -> dict[str, Tensor]:
    """Tensors and, unless an older version wrote them, their checksum compared.

    Raises:
        SpxError: if they cannot be read, or are damaged.
    """
    with reading(path):  # a regular file
        pass
    try:
        with safe_open(path, "pt") as file:
            known = (file.metadata() or {}).get(CHECKSUM)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # a damaged file fails in any way
        raise SpxError(f"{path.name}: {(str(error) or type(error).__name__).splitlines()[0][:200]}") from error
    require(known in (None, _checksum(tensors)), path.name, "tensors of its own SHA-256", "others", "damaged")
    return tensors
