"""How a PixelCNN++ is trained: its settings, and the recipes behind the presets' names. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...fields import UNDER_ONE, Range, setting
from .. import settings
from .config import LARGEST


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of a run; see `models.settings.Settings`."""

    filters: int = setting(25, "filters of every convolution", range=Range(1, LARGEST["filters"]))
    layers: int = setting(2, "gated layers a block", range=Range(1, LARGEST["layers"]))
    mixtures: int = setting(10, "logistics in the mixture of a pixel", range=Range(1, LARGEST["mixtures"]))
    classes: int = setting(
        0, "classes that the network is told, by the images' labels; 0: none", range=Range(0, LARGEST["classes"])
    )
    dropout: float = setting(0.0, "dropout inside the network", range=UNDER_ONE)


# As the paper trains (Salimans et al. 2017, section 3, and its code): Adam of 1e-3, times 0.999995 each step; the average of the weights
# with decay 0.9995; dropout 0.5; 16 images a step on each of 8 GPUs.
_PAPER: dict[str, Any] = {"schedule": "exponential", "warmup": 0, "dropout": 0.5}

PRESETS = {
    "small": {"batch": 16, "steps": 30_000},
    "paper-small": {**_PAPER, "steps": 500_000, "weight_decay": 1e-4, "patience": 100},
    "large": {**_PAPER, "filters": 160, "layers": 5, "steps": 1_000_000},
}
