"""What NVIDIA's driver says of the GPUs of this machine: asked without torch, which takes seconds to import, and without work on any."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import NamedTuple

# Of cuDeviceGetAttribute.
_MAJOR, _MINOR = 75, 76

_VERSION = Path("/proc/driver/nvidia/version")


class Gpu(NamedTuple):
    """A GPU: its name, and 90 for compute capability 9.0."""

    name: str
    capability: int


class Driver(NamedTuple):
    """The driver: "13000" (CUDA 13.0), with its own version where the system tells; and the GPUs that this process may use."""

    version: str
    gpus: tuple[Gpu, ...]


@functools.cache
def driver() -> Driver:
    """The driver of this machine; without one an empty version, and no GPUs."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Driver("", ())
    version, count = ctypes.c_int(0), ctypes.c_int(0)
    cuda.cuDriverGetVersion(ctypes.byref(version))
    text = f"{version.value}{_own_version()}"
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return Driver(text, ())
    return Driver(text, tuple(_gpu(cuda, number) for number in range(count.value)))


def _gpu(cuda: ctypes.CDLL, number: int) -> Gpu:
    device, major, minor, name = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0), ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(device), number)
    cuda.cuDeviceGetName(name, len(name), device)
    for found, attribute in ((major, _MAJOR), (minor, _MINOR)):
        cuda.cuDeviceGetAttribute(ctypes.byref(found), attribute, device)
    return Gpu(name.value.decode("utf-8", "replace"), 10 * major.value + minor.value)


def _own_version() -> str:
    """ " 580.65.06", from the first line of the kernel module; "" where there is none."""
    try:
        words = _VERSION.read_text("utf-8", "replace").split()
    except OSError:
        return ""
    return next((f" {word}" for word in words if word[:1].isdigit() and "." in word), "")
