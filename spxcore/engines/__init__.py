"""Engines: interchangeable ways to draw the same pixels. One file each; `get` finds one by name."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import ModuleType

import numpy as np

from ..drawing import Job
from ..errors import SpxError, require, shown, whole_number
from ..lower.window import why_not as why_no_native
from ..walk.network import Network
from .auto import Auto
from .base import Engine, Report

# Slowest first; `auto.order` says which one "auto" takes.
NAMES = ("reference", "torch", "cpp", "triton", "cuda")
CHOICES = ("auto", *NAMES)

# Precisions. Every engine has fp32; its `make` refuses the others it lacks.
PRECISIONS = ("fp32", "tf32", "bf16")


def _module(name: str) -> ModuleType:
    """The engine's module, imported only now: each has its own dependencies."""
    from importlib import import_module

    require(name in NAMES, "engine", ", ".join(CHOICES), repr(name))
    return import_module(f".{name}", __name__)


def why_not(name: str) -> str | None:
    """Why an engine cannot run on this machine, in one sentence; None if it can."""
    return _module(name).why_not()


def emulated(name: str) -> bool:
    """Whether an engine that can run here does so only for tests (Triton's interpreter)."""
    return bool(_module(name).EMULATED)


def get(name: str = "auto", job: Job | None = None, **options) -> Engine:
    """An engine by name; "auto": one that chooses for each job, see `auto.Auto`.

    Args:
        name: one of `CHOICES`.
        job: what it is to draw, so that it is refused now if that cannot be drawn.
        options: precision (one of `PRECISIONS`), threads (None: all), device (None: the engine's own choice).

    Raises:
        SpxError: for an unknown name, or an engine that cannot run here or draw the job, saying why.
    """
    options = check_options(**options)
    if name == "auto":
        auto = Auto(**options)
        auto.chosen(job)
        return auto
    reason = why_not(name)
    if reason is None:
        engine = _module(name).make(**options)
        reason = engine.why_not(job) if job else None
        if reason is None:
            return engine
    raise SpxError(f"engine: {name} cannot run here: {reason}")


def check_options(**options) -> dict:
    """The options of `get` with the types they must have, alike for all engines; whether an engine has a value, its `make` says.

    Raises:
        SpxError: for another type, or a number of threads out of range.
    """
    if options.get("threads") is not None:
        options["threads"] = whole_number("threads", options["threads"], 1, 4096)
    for name in ("precision", "device"):
        value = options.get(name, "")
        require(isinstance(value, str) or (value is None and name == "device"), name, "a name", shown(value))
    return options


def evaluate(
    network: Network, height: int, width: int, inputs: Mapping[str, np.ndarray], code: np.ndarray | None = None
) -> np.ndarray:
    """`Engine.evaluate` of a network of a whole image, the same to the bit whichever engine draws: by the cpp engine where it is
    there and can run the network, else by torch."""
    native = why_not("cpp") is None and why_no_native(network.graph) is None
    return _evaluator("cpp" if native else "torch").evaluate(network, height, width, inputs, code)


@functools.cache
def _evaluator(name: str) -> Engine:
    """The engine that evaluates, one for all calls: it remembers the networks that it has compiled."""
    return get(name)


__all__ = ["CHOICES", "NAMES", "PRECISIONS", "Auto", "Engine", "Report", "emulated", "evaluate", "get", "why_not"]
