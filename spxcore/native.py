"""The one place that loads the native modules, and that can say why one of them is not there."""

from __future__ import annotations

import functools
import importlib
import os
from types import ModuleType

from .errors import SpxError

# Of what crosses to native code: tables (`spxcore.lower.tables`), jobs (`spxcore.lower.job`), options. `csrc/tables.h` has the same
# number; a module with another one was built from other sources.
VERSION = 4

_AGAIN = "run the `pip install` that installed spx once more, in a checkout: `pip install -e .`"


@functools.cache
def _load(name: str, missing: str) -> tuple[ModuleType | None, str]:
    """Import spxcore.<name>: the module and "", or None and why not; `missing` is what to do if it was never built."""
    full = f"spxcore.{name}"
    try:
        module = importlib.import_module(full)
        found = getattr(module, "VERSION", 0)
        return (module, "") if found == VERSION else (None, f"{full} was built from other sources: {_AGAIN}")
    except ModuleNotFoundError as error:
        if error.name == full:
            return None, f"{full} is not part of this installation: {missing}, and {_AGAIN}"
        return None, f"{full} is there but could not be loaded ({error}): {_AGAIN}"
    except ImportError as error:
        return None, f"{full} is there but could not be loaded ({error}): {_AGAIN}"


# The native modules: for the processor, and for NVIDIA GPUs.
MODULES = ("_native", "_cuda")


def build_info(name: str) -> dict[str, str] | None:
    """How one of `MODULES` was built: version, compiler, flags; None if it is not there. It needs no GPU."""
    module, _ = _native() if name == "_native" else _cuda_module()
    return None if module is None else dict(module.build_info())


def cores() -> int:
    """Processor cores that this process may use, where the system tells; else all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _native() -> tuple[ModuleType | None, str]:
    return _load(
        "_native",
        "install a C++17 compiler and the Python headers (Debian and Ubuntu: `apt install g++ python3-dev`)",
    )


def _cuda_module() -> tuple[ModuleType | None, str]:
    return _load("_cuda", "for NVIDIA GPUs install the CUDA toolkit, whose compiler is nvcc")


@functools.cache
def _cuda() -> tuple[ModuleType | None, str]:
    module, reason = _cuda_module()
    if module is None:
        return None, reason
    try:
        devices = module.device_count()
    except RuntimeError as error:
        return None, f"the GPU cannot be used: {error}"
    return (module, "") if devices else (None, "there is no NVIDIA GPU, or no driver for it, on this machine")


def have_native() -> bool:
    """Whether the C++ module is there."""
    return _native()[0] is not None


def have_cuda() -> bool:
    """Whether the CUDA module is there and sees a GPU."""
    return _cuda()[0] is not None


def why_no_native() -> str:
    """Why :func:`native` would raise, and what to do about it; "" if it would not."""
    return _native()[1]


def why_no_cuda() -> str:
    """Why :func:`cuda` would raise, and what to do about it; "" if it would not."""
    return _cuda()[1]


def native() -> ModuleType:
    """The C++ module spxcore._native.

    Raises:
        SpxError: it is not there; the message says what to install.
    """
    module, reason = _native()
    if module is None:
        raise SpxError(reason)
    return module


def cuda() -> ModuleType:
    """The CUDA module spxcore._cuda, on a machine with a GPU.

    Raises:
        SpxError: it is not there or sees no GPU; the message says what to install.
    """
    module, reason = _cuda()
    if module is None:
        raise SpxError(reason)
    return module
