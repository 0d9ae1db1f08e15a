"""A model of whole images whose network may be told the class, as a one-hot code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spxcore.drawing import Drawing

from ...request import Request
from ..model import Checkpoint, Evaluate, Model
from . import classes


class ClassModel(Model):
    """A family with a single network, "network". Its `Config` has `classes`, those that the network is told; 0: none."""

    Training = "spx.models.parts.class_training.ClassTraining"
    exact = True

    def extras(self, config) -> dict[str, tuple[int, ...]]:
        """The classes' shares."""
        return {classes.SHARES: (config.classes,)} if config.classes else {}

    def offers(self, config) -> frozenset[str]:
        """See `Model.offers`."""
        return frozenset({"given", *(("label",) if config.classes else ())})

    def drawing(self, checkpoint: Checkpoint, request: Request, evaluate: Evaluate) -> Drawing:
        """See `Model.drawing`. Without a class, images are of any: their classes are drawn from the shares, or from what the given
        pixels look like."""
        if checkpoint.config.classes:
            request = replace(request, code=classes.codes(checkpoint, request, evaluate))
        return super().drawing(checkpoint, request, evaluate)

    def paid_codes(
        self, checkpoint: Checkpoint, images: np.ndarray, evaluate: Evaluate, seed: int = 0
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """The most probable class y of each image x. Its price is -log p(x) + log p(x | y), where p(x) is the sum over all classes. So
        a score is that of the image alone, and exact."""
        if not checkpoint.config.classes:
            return super().paid_codes(checkpoint, images, evaluate, seed)
        joint = classes.joint(checkpoint, images, evaluate)
        best = joint.argmax(axis=1)
        given = joint[np.arange(len(images)), best] - classes.log_prior(checkpoint)[best]
        return classes.one_hot(best, checkpoint.config.classes), given - np.logaddexp.reduce(joint, axis=1)
