"""What fits this machine's memory: requests for more are refused before work begins, in one sentence."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from .errors import SpxError, require

_WAY_OUT = "ask for fewer or smaller images"


def machine_memory() -> int:
    """Bytes of memory that this machine has; 2^63 - 1 where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return (1 << 63) - 1


def require_memory(name: str, size: int) -> None:
    """Raise an `SpxError` for more bytes than this machine has: a system that promises any amount ends the process when it is used."""
    have = machine_memory()
    require(size <= have, name, f"at most the {have >> 20} MB of this machine's memory", f"{size >> 20} MB", _WAY_OUT)


def refuses_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory. PyTorch says so by a RuntimeError; CUDA's illegal access is none."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in said for words in ("out of memory", "allocate", "not enough memory"))
    )


@contextlib.contextmanager
def memory_is_refused() -> Iterator[None]:
    """Inside, or decorated with it, a `MemoryError` becomes an `SpxError`."""
    try:
        yield
    except MemoryError as error:
        raise SpxError(
            f"memory: expected room for the images and what draws them, got: {error} ({_WAY_OUT})"
        ) from error
