"""How a Gated PixelCNN is trained: its settings, and the recipes behind the presets' names. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from ...fields import Range, setting
from .. import settings
from .config import LARGEST, NetworkConfig

_DEFAULT = NetworkConfig()


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of a run; see `models.settings.Settings`."""

    filters: int = setting(_DEFAULT.filters, "feature maps of a stack", range=Range(1, LARGEST["filters"]))
    layers: int = setting(_DEFAULT.layers, "gated layers", range=Range(1, LARGEST["layers"]))
    first: int = setting(_DEFAULT.first, "side of the first layer's kernel, odd", range=Range(3, LARGEST["first"]))
    kernel: int = setting(_DEFAULT.kernel, "side of the other layers' kernels, odd", range=Range(3, LARGEST["kernel"]))
    head: int = setting(_DEFAULT.head, "feature maps before the logits", range=Range(1, LARGEST["head"]))
    classes: int = setting(
        0, "classes that the network is told, by the images' labels; 0: none", range=Range(0, LARGEST["classes"])
    )


PRESETS = {"small": {"batch": 16, "steps": 30_000}}
