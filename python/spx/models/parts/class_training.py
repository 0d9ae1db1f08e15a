"""How a `ClassModel` is trained: all pixels of an image at once, with its class where the network is told one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spxcore.errors import require

from ...data.images import Images
from .. import settings, training
from ..training import VALIDATION_BATCH, Batch, Phase, Run, mean_of
from .classes import SHARES


class ClassTraining(training.Training):
    """See `Training`."""

    def __init__(self, model, settings: settings.Settings, train: Images, validation: Images, run: Run):
        super().__init__(model, settings, train, validation, run)
        self.classes_of, self.validation_classes = (
            torch.from_numpy(i.labels.copy()).to(run.device) for i in (train, validation)
        )

    def begin_with(self, train: Images) -> None:
        """See `Training.begin_with`. The shares of the classes are the training images'."""
        super().begin_with(train)
        classes = self.config.classes
        if classes:
            last = int(train.labels.max())
            require(last < classes, "classes", f"at least {last + 1}, as many as the data has", classes)
            shares = torch.bincount(torch.from_numpy(train.labels), minlength=classes).double() / len(train)
            self.module.get_buffer(SHARES).copy_(shares.clamp_min(1e-12).log())

    def batch(self, phase: Phase, images: Tensor, generator: torch.Generator) -> Batch:
        """See `Training.batch`: "images" [B, C, H, W] and "classes" [B]."""
        return {**super().batch(phase, images, generator), "classes": self.classes_of[images]}

    def loss(self, phase: Phase, batch: Batch) -> dict[str, Tensor]:
        """See `Training.loss`: -log p(x | y). The bits of a network that is told classes hold -log p(y) too, so they are an upper bound
        of -log p(x)."""
        code = None
        if self.config.classes:
            code = torch.nn.functional.one_hot(batch["classes"], self.config.classes).float()
        found = self.nats(batch["images"], code)
        if code is not None:
            price = -(code @ self.module.get_buffer(SHARES)).mean()
            found["bits_per_dimension"] += price / batch["images"][0].numel() / math.log(2)
        return found

    def validate(self, phase: Phase, generator: torch.Generator) -> dict[str, float]:
        """See `Training.validate`."""
        chunks = zip(self.validation.split(VALIDATION_BATCH), self.validation_classes.split(VALIDATION_BATCH))
        return mean_of([(self.loss(phase, {"images": i, "classes": c}), len(i)) for i, c in chunks])
