"""spx: the trainer, the checkpoints and the commands around spxcore's samplers. Importing it needs no torch."""

from __future__ import annotations

from spxcore import SpxError, __version__

from .api import Model, Sampler, Score, load
from .request import Request

__all__ = ["Model", "Request", "Sampler", "Score", "SpxError", "__version__", "load"]
