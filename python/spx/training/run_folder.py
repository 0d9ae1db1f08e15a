"""A run's folder: who may work in it, its settings, its states, and what took long to compute."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from spxcore.errors import SpxError, require

from ..io.files import alone_in, remove_leftovers, write_atomically, write_folder_atomically, write_json
from ..models.settings import Settings
from .settings import FILE


class RunFolder:
    """A folder with `recipe.json`, the newest `state-<phase>-<step>` to resume from, `checkpoint/` (averaged weights, for
    `spx-sample --checkpoint`), `log.jsonl`, `tensorboard/` and `samples/`.

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

    def claim(self, settings: Settings, resume: bool) -> None:
        """Make a new folder, or clear what a killed process left in an old one.

        Raises:
            SpxError: if there is a run that is not to be resumed, none to resume, or one under way.
        """
        begun = (self.path / FILE).exists()
        if resume:
            require(begun, str(self.path), "a run to resume", "none", "leave --resume out to start a run")
            with alone_in(self.path):
                remove_leftovers(self.path)
            return
        way_out = "--resume continues it; or choose another --out"
        require(not begun, str(self.path), "a new folder", "one with a run in it", way_out)
        write_json(self.path / FILE, settings.to_dict())

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
        tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}

        def write(folder: Path) -> None:
            save_file(tensors, folder / "state.safetensors")
            write_json(folder / "state.json", scalars)

        path = self.path / f"state-{phase}-{step:08d}"
        older = [state for state in self.states() if state != path]
        if not path.exists():
            write_folder_atomically(path, write)
        for state in older:
            shutil.rmtree(state, ignore_errors=True)

    def load(self) -> tuple[dict[str, Tensor], dict]:
        """Tensors and scalars of the newest state.

        Raises:
            SpxError: if it is damaged.
        """
        folder = self.states()[-1]
        try:
            return load_file(folder / "state.safetensors"), json.loads((folder / "state.json").read_text())
        except Exception as error:
            raise SpxError(f"{folder}: cannot be read ({error}); remove it to resume from an older state") from error

    # ---- what else is kept ----------------------------------------------------------------------------------------------------

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors that took long to compute to a file of their own."""
        if self.writes:
            tensors = {key: t.detach().cpu().contiguous() for key, t in tensors.items()}
            write_atomically(self._file(name), lambda p: save_file(tensors, p))

    def kept(self, name: str) -> dict[str, Tensor] | None:
        """What is kept by that name, or None.

        Raises:
            SpxError: if it cannot be read.
        """
        path = self._file(name)
        if not path.exists():
            return None
        try:
            return load_file(path)
        except Exception as error:
            raise SpxError(f"{path}: cannot be read ({error}); remove it to have the {name} made again") from error

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.safetensors"
