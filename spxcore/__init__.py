"""spxcore: networks as data, and the engines that draw from them exactly. It names no model. Importing it needs neither torch nor a GPU."""

from __future__ import annotations

from ._version import __version__
from .canvas import Canvas, Given
from .draw import draw, score
from .drawing import Drawing, Job, Round, Tiles
from .errors import SpxError
from .heads import Logistics, Sampling, Softmax
from .walk.network import Network

__all__ = [
    "Canvas", "Drawing", "Given", "Job", "Logistics", "Network", "Round", "Sampling", "Softmax", "SpxError", "Tiles",
    "__version__", "draw", "score",
]  # fmt: skip
