"""The moving average of the weights, which is what is evaluated, sampled and saved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


class Averaged:
    """Exponential moving average of parameters (Polyak & Juditsky 1992; paper, section 4.2).

    The first steps average over fewer, (1 + t) / (10 + t), so that the initial weights are soon forgotten.

    Args:
        parameters: the live ones by name.
        decay: 0 <= decay < 1.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float):
        self.live, self.decay = parameters, decay
        self.mean = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the live parameters, after `step` optimiser steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.mean.values()), [p.detach() for p in self.live.values()], 1 - decay)

    @torch.no_grad()
    def take_over(self) -> None:
        """Make the live parameters the average, for good."""
        for name, p in self.live.items():
            p.copy_(self.mean[name])

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Inside, the live parameters hold the average."""
        saved = {name: p.detach().clone() for name, p in self.live.items()}
        self.take_over()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, p in self.live.items():
                    p.copy_(saved[name])
