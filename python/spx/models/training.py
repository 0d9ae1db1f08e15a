"""How a model is trained: phases, batches, losses. The default trains a plain autoregressive model of a single network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from spxcore import engines
from spxcore.draw import draw
from spxcore.errors import require
from spxcore.heads.log_prob import log_prob
from spxcore.walk.module import Module

from ..data.images import Images
from ..request import Request
from .model import Checkpoint, Model
from .settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

# What a step's loss is made of: tensors whose first axis is shared among the processes, so images, or as many rows of each.
Batch = dict[str, Tensor]

# Images that validation sees at once.
VALIDATION_BATCH = 250
# Pictures in a row of a training's samples.
PICTURES = 8


@dataclass(frozen=True)
class Phase:
    """A stretch of a training with parameters, a batch and a learning-rate schedule of its own.

    Attributes:
        name: of the curves, and in seeds.
        steps: optimiser steps, 0 or more.
        images_a_step: training images of a batch, over all processes.
        parameters: prefixes of the names of the parameters that are trained; the others are held.
    """

    name: str
    steps: int
    images_a_step: int
    parameters: tuple[str, ...] = ("",)


class Run(Protocol):
    """What a model sees of its run."""

    @property
    def device(self) -> torch.device:
        """Where the model is trained."""

    def seed(self, *parts: int | str) -> int:
        """A seed that depends on the run's and on every part."""

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep what took long to compute; one process writes it."""

    def kept(self, name: str) -> dict[str, Tensor] | None:
        """What is kept by that name, or None.

        Raises:
            SpxError: if it cannot be read.
        """

    def log(self, record: dict) -> None:
        """Add a line to the run's log."""

    def bar(self, total: int, what: str, unit: str) -> AbstractContextManager[Callable[[int], None]]:
        """A progress bar. What it gives is told how many more units are done; it raises KeyboardInterrupt once the run is to stop."""


class Training:
    """How one model is trained. The trainer asks; everything random comes from the generators it passes or torch's own, which it seeds.

    Args:
        model: the family.
        settings: of the family's `Settings`.
        train: training images.
        validation: images never trained on; none if nothing is validated.
        run: the run.

    Attributes:
        module: the torch module; its state is saved, its parameters are trained.
        labels: int64 [N], the class of each training image.
        classes: the name of each class, or None.
        images: uint8 [N, C, H, W], the training images on the run's device.
        validation: uint8 [V, C, H, W].
    """

    module: nn.Module

    def __init__(self, model: Model, settings: Settings, train: Images, validation: Images, run: Run):
        self.model, self.settings, self.run, self.labels = model, settings, run, train.labels
        self.classes = train.classes
        self.begin_with(train)
        self.module = self.module.to(run.device)
        self.images, self.validation = (torch.from_numpy(i.images.copy()).to(run.device) for i in (train, validation))

    def begin_with(self, train: Images) -> None:
        """Make `module` for those images.

        Raises:
            SpxError: if the model and the images do not fit.
        """
        height, width = train.images.shape[2:]
        require(
            height == width,
            "data",
            "square images",
            f"{height}x{width}",
            "--size N makes squares of a folder's pictures",
        )
        self.config = self.model.trained(self.settings, *train.images.shape[1:3])
        self.module, self.head = self.model.untrained(self.config), self.model.head(self.config)
        levels, channels = int(train.images.max()) + 1, train.images.shape[1]
        require(levels <= self.head.levels, "data", f"levels below {self.head.levels}", levels - 1)
        require(channels == self.head.channels, "data", f"{self.head.channels} channels", channels)

    # ---- the default: one phase, all pixels ------------------------------------------------------------------------------

    def phases(self) -> Sequence[Phase]:
        """What is trained, in order; at least one."""
        return (Phase("network", self.settings.steps, self.settings.batch),)

    def begin(self, phase: Phase) -> None:
        """Prepare a phase, at its start and whenever it is resumed: encode all images once, say. What it computes is the same each
        time."""

    def batch(self, phase: Phase, images: Tensor, generator: torch.Generator) -> Batch:
        """A whole step's batch, the same in every process.

        Args:
            phase: under way.
            images: int64 [B], numbers of the training images.
            generator: source of all randomness.
        """
        return {"images": self.images[images]}

    def loss(self, phase: Phase, batch: Batch) -> dict[str, Tensor]:
        """What a process' share of a batch costs: "loss" [], which is minimised, and figures for the curves, such as its parts in
        nats and "bits_per_dimension"."""
        return self.nats(batch["images"])

    def nats(self, levels: Tensor, code: Tensor | None = None) -> dict[str, Tensor]:
        """-log p of images [B, C, H, W], given codes [B, Z] where the network is told one: "loss" [], nats an image, and
        "bits_per_dimension" []."""
        params = self.module.get_submodule("network")({"x": levels / ((self.head.levels - 1) / 2) - 1}, code)
        nats = -log_prob(self.head, params, levels).sum(dim=(1, 2)).mean()
        return {"loss": nats, "bits_per_dimension": nats.detach() / levels[0].numel() / math.log(2)}

    def validate(self, phase: Phase, generator: torch.Generator) -> dict[str, float]:
        """Figures on the validation images, "bits_per_dimension" among them, the one that should fall.

        The module holds the averaged weights, in evaluation mode. The generator, and torch's own, are the same each time.
        """
        chunks = self.validation.split(VALIDATION_BATCH)
        return mean_of([(self.loss(phase, {"images": chunk}), len(chunk)) for chunk in chunks])

    def pictures(self, phase: Phase) -> np.ndarray:
        """What the model draws at this step, uint8 [N, H, W, C], `PICTURES` in a row. The module is as in `validate`."""
        return np.concatenate([self.originals(), self.drawn()])

    def originals(self) -> np.ndarray:
        """The first few validation images, else training images, uint8 [PICTURES, H, W, C]. If there are fewer, they repeat."""
        shown = self.validation if len(self.validation) else self.images
        return self.shown(shown[torch.arange(PICTURES) % len(shown)]).permute(0, 2, 3, 1).cpu().numpy()

    def shown(self, levels: Tensor) -> Tensor:
        """Levels as levels of 256."""
        return levels if self.head.levels == 256 else levels * (255 // (self.head.levels - 1))

    def drawn(self, **request) -> np.ndarray:
        """New pictures of the training images' size, or what else `Request`'s fields ask for, uint8 [PICTURES, H, W, C]."""
        height, width = self.images.shape[2:]
        wanted = Request(height, width, n=PICTURES, **request)
        engine = engines.get("torch", device=str(self.run.device))
        pixels = draw(self.model.drawing(self.checkpoint(), wanted, engine.evaluate), engine)
        return self.shown(torch.from_numpy(pixels)).numpy()

    def finish(self) -> None:
        """After the last step: what a checkpoint needs beside the weights. The module is as in `validate`."""

    # ---- what is kept ----------------------------------------------------------------------------------------------------

    def start_from(self, checkpoint: Checkpoint) -> None:
        """Take a trained model's weights, before the first phase.

        Raises:
            SpxError: if they do not fit.
        """
        own, theirs = (
            {n: tuple(t.shape) for n, t in d.items()} for d in (self.module.state_dict(), checkpoint.tensors)
        )
        require(own == theirs, "init", f"a checkpoint of {self.settings.preset}", self.settings.init)
        self.module.load_state_dict({name: torch.from_numpy(np.array(t)) for name, t in checkpoint.tensors.items()})

    def given(self, name: str) -> bool:
        """Whether a parameter started from a checkpoint: it is not initialised from data."""
        return bool(self.settings.init)

    def about(self) -> dict:
        """What a checkpoint says of itself."""
        told = {name: value for name, value in self.settings.to_dict().items() if name != "data_dir"}
        names = {"classes": list(self.classes)} if self.classes else {}
        return {"data": self.settings.data, **names, "recipe": told}

    def checkpoint(self) -> Checkpoint:
        """The module as a checkpoint; float32 tensors on the CPU share its memory."""
        tensors = {name: t.detach().float().cpu().numpy() for name, t in self.module.state_dict().items()}
        return Checkpoint(self.settings.model, self.config, tensors, self.about())

    def state(self) -> dict:
        """Numbers beside the module's tensors that a resumed run needs, for JSON."""
        return {}

    def load(self, state: dict) -> None:
        """Take back what `state` gave, before the module's tensors are loaded."""


def training_of(model: Model, settings: Settings, train: Images, validation: Images, run: Run) -> Training:
    """How a model of the family is trained: a `Training` of the class that `Model.Training` names."""
    module, _, name = model.Training.rpartition(".")
    return getattr(import_module(module), name)(model, settings, train, validation, run)


def networks_of(module: nn.Module) -> list[Module]:
    """The networks inside a module."""
    return [part for part in module.modules() if isinstance(part, Module)]


def mean_of(figures: list[tuple[dict[str, Tensor], int]]) -> dict[str, float]:
    """Means of chunks' figures: (figures, images of the chunk)."""
    count = sum(n for _, n in figures)
    totals: dict[str, float] = {}
    for values, n in figures:
        for name, value in values.items():
            totals[name] = totals.get(name, 0.0) + float(value) * n / count
    return totals
