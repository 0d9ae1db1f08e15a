"""Engines: interchangeable ways to draw the same pixels. One file each; `get` finds one by name."""

from __future__ import annotations

from ..errors import SpxError, require
from .base import Engine, Job, Weights

# Slowest first. `auto` and `fastest` take the last that is available.
NAMES = ("reference", "torch", "cpp", "triton", "cuda")
CHOICES = ("auto", *NAMES)

# Of the network's arithmetic: all engines have the first; which have the others, their `make` knows.
PRECISIONS = ("fp32", "tf32", "bf16")


def _module(name: str):
    """The engine's module, imported only now: each has its own dependencies."""
    from importlib import import_module

    return import_module(f".{name}", __name__)


def why_not(name: str) -> str | None:
    """Why an engine cannot run here, in one sentence; None if it can."""
    require(name in NAMES, "engine", ", ".join(CHOICES), repr(name))
    return _module(name).why_not()


def emulated(name: str) -> bool:
    """Whether an engine that can run here does so only for tests (Triton's interpreter)."""
    return getattr(_module(name), "emulated", bool)()


def fastest() -> str:
    """Name of the fastest engine that can run here."""
    return next(name for name in reversed(NAMES) if why_not(name) is None and not emulated(name))


def get(name: str = "auto", **options) -> Engine:
    """An engine by name, "auto" for the fastest one that can run here.

    Args:
        name: one of `CHOICES`.
        options: precision (one of `PRECISIONS`), threads (None: all), device (None: the engine's own choice).

    Raises:
        SpxError: for an unknown name, or an engine that cannot run here, saying why.
    """
    if name == "auto":
        name = fastest()
    reason = why_not(name)
    if reason:
        raise SpxError(f"engine: {name} cannot run here: {reason}")
    return _module(name).make(**options)


__all__ = ["CHOICES", "NAMES", "PRECISIONS", "Engine", "Job", "Weights", "emulated", "fastest", "get", "why_not"]
