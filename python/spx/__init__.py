"""spx: the trainer, the checkpoints and the commands around spxcore's samplers. Importing it needs no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spxcore import SpxError, __version__

    from .api import Model, Sampler, Score, load
    from .request import Request

__all__ = ["Model", "Request", "Sampler", "Score", "SpxError", "__version__", "load"]

# Where each name is. It is imported when it is first asked for, so that a command can look after signals before anything heavy is imported.
_WHERE = {
    "Model": ".api", "Sampler": ".api", "Score": ".api", "load": ".api", "Request": ".request",
    "SpxError": "spxcore", "__version__": "spxcore",
}  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_WHERE[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
