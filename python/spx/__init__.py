"""spx: the trainer, the checkpoints and the commands around spxcore's samplers. Importing it needs no torch."""

from __future__ import annotations

from spxcore import SpxError, __version__

from .api import Model, load

__all__ = ["Model", "SpxError", "__version__", "load"]
