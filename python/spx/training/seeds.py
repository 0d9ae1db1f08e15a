"""Seeds. Each random number of a run is a function of its purpose, so a run can be stopped anywhere and continued."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from spxcore.errors import require


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Order:
    """Which training images a step sees: consecutive pieces of one permutation an epoch.

    Args:
        seed: of the run.
        count: training images.
        device: where the numbers are wanted. An epoch's are sent there at once.
    """

    def __init__(self, seed: int, count: int, device: torch.device | str = "cpu"):
        self.seed, self.count, self.device = seed, count, device
        self._latest: tuple[tuple, Tensor] | None = None

    def steps_an_epoch(self, images: int) -> int:
        """Steps of an epoch, for steps of this many images. Images that fill no step are left over.

        Raises:
            SpxError: if there are fewer than a step wants.
        """
        wanted = f"at most the data set's {self.count} images a step"
        require(images <= self.count, "batch", wanted, images, "give --batch, and --vae-batch where the model has it")
        return self.count // images

    def images(self, phase: str, step: int, images: int) -> Tensor:
        """Numbers of the images of a step, int64 [images]."""
        epoch, place = divmod(step, self.steps_an_epoch(images))
        key = (phase, epoch)
        if self._latest is None or self._latest[0] != key:
            order = np.random.default_rng(seed_of(self.seed, *key)).permutation(self.count)
            self._latest = key, torch.from_numpy(order).to(self.device)
        return self._latest[1][place * images : (place + 1) * images]
