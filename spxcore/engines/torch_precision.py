"""Switches of torch that hold for the whole process: fp32 that is fp32, and steps that repeat to the bit. Each is put back as it was."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch


def _switches() -> list[tuple[object, str, object]]:
    """What lets a GPU round fp32 factors to TF32's 11 bits: the object, its attribute, and the value that forbids it."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    if hasattr(cudnn, "conv"):  # torch 2.9 and later, where reading the old names may raise
        return [(part, "fp32_precision", "ieee") for part in (cudnn.conv, cudnn.rnn, matmul)]
    return [(part, "allow_tf32", False) for part in (cudnn, matmul)]


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Inside, convolutions and matrix products of fp32 numbers are computed in fp32. torch's default for convolutions is TF32.

    It is also a decorator. Nothing changes on a CPU.
    """
    before = [(part, name, getattr(part, name)) for part, name, _ in _switches()]
    try:
        for part, name, value in _switches():
            setattr(part, name, value)
        yield
    finally:
        for part, name, value in before:
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
    was, cudnn, memory = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn, torch.utils.deterministic
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
