"""What a run shows: its log, its curves, its pictures and its progress bars."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..io.files import write_atomically
from ..io.pictures import grid


class Curves:
    """`log.jsonl`, `tensorboard/` and `samples/` of a run's folder, and its bars on the terminal.

    Args:
        folder: the run's.
        writes: whether this process writes.
        bars: whether it draws progress bars.
    """

    def __init__(self, folder: Path, writes: bool, bars: bool):
        self.folder, self.writes, self.bars = folder, writes, bars and writes
        self.writer = None

    @contextlib.contextmanager
    def written(self, step: int) -> Iterator[None]:
        """Inside, points are written to TensorBoard's files; those of steps after `step`, of a killed run, go."""
        if not self.writes:
            yield
            return
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        with SummaryWriter(self.folder / "tensorboard", purge_step=step) as self.writer:
            yield

    def log(self, record: dict) -> None:
        """A line of log.jsonl."""
        if self.writes:
            with open(self.folder / "log.jsonl", "a") as file:
                file.write(json.dumps(record) + "\n")

    def points(self, name: str, values: dict[str, float], step: int) -> None:
        """A point of each curve `name`/key."""
        if self.writer:
            for key, value in values.items():
                self.writer.add_scalar(f"{name}/{key}", value, step)

    def pictures(self, phase: str, images: np.ndarray, columns: int, steps: tuple[int, int]) -> None:
        """A grid of images uint8 [N, H, W, C], as a PNG and in TensorBoard; steps: of the phase, of the run."""
        if not self.writes:
            return
        picture = grid(images, columns=columns)
        folder = self.folder / "samples"
        folder.mkdir(exist_ok=True)
        write_atomically(folder / f"{phase}-{steps[0]:08d}.png", lambda p: picture.save(p, format="PNG"))
        if self.writer:
            layout = "HW" if picture.mode == "L" else "HWC"
            self.writer.add_image(f"{phase}/samples", np.asarray(picture), steps[1], dataformats=layout)

    def bar(self, total: int, what: str, unit: str, done: int = 0) -> tqdm:
        """A progress bar."""
        return tqdm(total=total, initial=done, desc=what, unit=unit, dynamic_ncols=True, disable=not self.bars)

    def say(self, text: str) -> None:
        """A line beside the bars."""
        if self.bars:
            tqdm.write(text)
