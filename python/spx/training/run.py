"""What a model sees of its run; see `models.training.Run`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..signals import Signals, Stopped
from .curves import Curves
from .run_folder import RunFolder
from .seeds import seed_of


@dataclass(frozen=True)
class Run:
    """See `models.training.Run`.

    Attributes:
        device: where the model is trained.
        number: the run's seed.
    """

    device: torch.device
    number: int
    folder: RunFolder
    curves: Curves
    signals: Signals

    def seed(self, *parts: int | str) -> int:
        """A seed that depends on the run's and on every part."""
        return seed_of(self.number, *parts)

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """See `RunFolder.keep`."""
        self.folder.keep(name, tensors)

    def kept(self, name: str) -> dict[str, Tensor] | None:
        """See `RunFolder.kept`."""
        return self.folder.kept(name)

    def log(self, record: dict) -> None:
        """See `Curves.log`."""
        self.curves.log(record)

    @contextlib.contextmanager
    def bar(self, total: int, what: str, unit: str) -> Iterator[Callable[[int], None]]:
        """A progress bar. What it gives is told how many more units are done; it raises KeyboardInterrupt once the run is to stop."""
        with self.curves.bar(total, what, unit) as bar:

            def done(count: int) -> None:
                bar.update(count)
                if self.signals.asked:
                    raise Stopped(self.signals.asked)

            yield done
