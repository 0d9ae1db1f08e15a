"""The PTX interpreter from Python: build it, put it in a GPU's place, say how programs are run, read what it has found."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = Path(os.environ.get("PTXEMU_BUILD", ROOT / "build" / "ptxemu"))


def find_nvcc() -> str | None:
    """The CUDA compiler: CUDA_HOME's, the PATH's, or /usr/local/cuda's."""
    home = os.environ.get("CUDA_HOME")
    named = shutil.which("nvcc", path=f"{home}/bin") if home else None
    return named or shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def tool(name: str) -> str:
    """cmake or ninja, even where they are beside Python only."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent)) or name


def build() -> None:
    """Build what is older than its sources.

    Raises:
        SystemExit: the tools' output has been printed.
    """
    import pybind11

    commands = [
        [
            tool("cmake"), "-S", str(HERE), "-B", str(BUILD), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
            f"-DCMAKE_CUDA_COMPILER={find_nvcc()}", f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        ],
        [tool("cmake"), "--build", str(BUILD)],
    ]  # fmt: skip
    for command in commands:
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if result.returncode:
            print(result.stdout[-6000:])
            raise SystemExit(f"ptxemu: {' '.join(command[:2])} failed")


def module_file() -> Path:
    """spxcore._cuda, linked with the interpreter."""
    (found,) = BUILD.glob("_cuda*.so")
    return found


def ptx() -> str:
    """The PTX that spxcore._cuda holds."""
    data = module_file().read_bytes()
    begin = data.index(b".version ")
    return data[begin : data.index(b"\0", begin)].decode()


@functools.cache
def library() -> ctypes.CDLL:
    found = ctypes.CDLL(str(BUILD / "libcudart.so"), mode=ctypes.RTLD_GLOBAL)
    for name in ("set", "reports", "coverage"):
        getattr(found, f"ptxemu_{name}").restype = ctypes.c_char_p
    found.ptxemu_load.restype, found.ptxemu_share.restype = ctypes.c_void_p, ctypes.c_uint64
    found.ptxemu_load.argtypes = [ctypes.c_char_p, ctypes.POINTER(ctypes.c_char_p)]
    found.ptxemu_share.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    found.ptxemu_unshare.argtypes = [ctypes.c_void_p]
    found.ptxemu_launch.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint * 3, ctypes.c_int, ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p)
    ]  # fmt: skip
    return found


def be_the_gpu() -> None:
    """From now on spxcore._cuda is the one that runs on the interpreter."""
    library()
    spec = importlib.util.spec_from_file_location("spxcore._cuda", module_file())
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.__file__ == str(module_file()), f"{module.__file__} was loaded before"
    sys.modules["spxcore._cuda"] = module
    from spxcore import native

    for function in (native._load, native._cuda):  # spxcore may have asked before
        function.cache_clear()


def settings(**values: str | int) -> None:
    """How the next launches are run: the words of settings.h. What is not named is as it was at first."""
    wrong = library().ptxemu_set(" ".join(f"{name}={value}" for name, value in values.items()).encode())
    if wrong:
        raise ValueError(wrong.decode())


def json_lines(text: bytes) -> list[dict]:
    return [json.loads(line) for line in text.decode().splitlines()]


def reports() -> list[dict]:
    """Of every launch since the last call: its kernel, instructions, seconds, why it failed, findings by kind and line."""
    return json_lines(library().ptxemu_reports())


def findings() -> dict[str, str]:
    """What the launches since the last call have found, by kind and line; an example of each."""
    found = {}
    for report in reports():
        if report["failed"]:
            found[f"failed: {report['failed']}"] = report["kernel"]
        found |= report["findings"]
    return found


def coverage() -> list[dict]:
    """Of every function of PTX that has run: how many of its instructions did, and the text of the others."""
    return json_lines(library().ptxemu_coverage())


class Refused(Exception):
    """PTX that the interpreter does not know."""


class Program:
    """PTX from elsewhere."""

    def __init__(self, source: str):
        why = ctypes.c_char_p()
        self.module = library().ptxemu_load(source.encode(), ctypes.byref(why))
        if not self.module:
            raise Refused(why.value.decode())

    def launch(self, name: str, grid: tuple[int, ...], threads: int, arguments: list, shared: int = 0) -> int:
        """0, or CUDA's number of the error.

        Args:
            arguments: a ctypes number each, or None for zeros.
        """
        pointers = [None if a is None else ctypes.cast(ctypes.pointer(a), ctypes.c_void_p) for a in arguments]
        blocks = (ctypes.c_uint * 3)(*(*grid, 1, 1)[:3])
        return library().ptxemu_launch(
            self.module, name.encode(), blocks, threads, shared, (ctypes.c_void_p * len(pointers))(*pointers)
        )


def share(address: int, size: int) -> int:
    """The device's address of so many bytes of the host's memory, from now on."""
    return library().ptxemu_share(address, size)


def unshare(address: int) -> None:
    library().ptxemu_unshare(address)
