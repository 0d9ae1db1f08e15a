"""Switches of torch that hold for the whole process: fp32 that is fp32, and steps that repeat to the bit. Each is put back as it was."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

# What of torch.backends lets a GPU round fp32 factors to TF32's 11 bits, and the values that forbid it. torch 2.9 brought the later
# ones. Both are set: torch refuses to tell the older ones where the two disagree.
_SWITCHES = (
    ("cudnn", "allow_tf32", (False,)),
    ("cuda.matmul", "allow_tf32", (False,)),
    ("cudnn.conv", "fp32_precision", ("ieee", "none")),
    ("cudnn.rnn", "fp32_precision", ("ieee", "none")),
    ("cuda.matmul", "fp32_precision", ("ieee", "none")),
)


def _known() -> list[tuple[object, str, tuple]]:
    """Those of the switches that this torch has, and that a caller has not mixed up: the object, the attribute, good values."""
    found = []
    for path, name, good in _SWITCHES:
        part: object = torch.backends
        for step in path.split("."):
            part = getattr(part, step, None)
        with contextlib.suppress(RuntimeError, AttributeError):
            getattr(part, name)
            found.append((part, name, good))
    return found


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Inside, convolutions and matrix products of fp32 numbers are computed in fp32. torch's default for convolutions is TF32.

    It is also a decorator. Nothing changes on a CPU.
    """
    switches = _known()
    before = [getattr(part, name) for part, name, _ in switches]
    try:
        for part, name, good in switches:
            if getattr(part, name) not in good:
                setattr(part, name, good[0])
        yield
    finally:
        for (part, name, _), value in zip(switches, before, strict=True):
            setattr(part, name, value)


@contextlib.contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Inside, what torch computes on a GPU is the same to the bit each time, on the same GPU with the same versions.

    torch warns of an operation that has no such way to be computed. A CPU repeats by itself, so nothing changes there.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    was, cudnn = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn
    memory: Any = torch.utils.deterministic  # its attributes are set where torch does not declare them
    warns, benchmark, fills = (
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.benchmark,
        memory.fill_uninitialized_memory,
    )
    try:
        torch.use_deterministic_algorithms(True, warn_only=warns or not was)
        # Trials would choose another algorithm in another process. Filling new memory costs time, and hides nothing here.
        cudnn.benchmark, memory.fill_uninitialized_memory = False, False
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warns)
        cudnn.benchmark, memory.fill_uninitialized_memory = benchmark, fills
