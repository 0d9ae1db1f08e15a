"""spxcore: the network of Spatial PixelCNN and the engines that draw from it. Importing it needs neither torch nor a GPU."""

from __future__ import annotations

from ._version import __version__
from .config import NetworkConfig, preset
from .engines import Engine, Job, Weights
from .errors import SpxError
from .sampler import sample

__all__ = ["Engine", "Job", "NetworkConfig", "SpxError", "Weights", "__version__", "preset", "sample"]
