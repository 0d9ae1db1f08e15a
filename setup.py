"""How the packages are found and the native modules are built; everything else is in pyproject.toml.

The environment has three switches:
    SPX_REQUIRE_NATIVE=1  a native module that cannot be built is an error, instead of a package without it
    SPX_CUDA=0            leave spxcore._cuda out, even where nvcc is found
    SPX_CUDA=1            spxcore._cuda must be built
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
AGAIN = "then run the same pip install again"
SWITCHES = {"_native": "SPX_REQUIRE_NATIVE", "_cuda": "SPX_CUDA"}


class BuildFailed(Exception):
    """A sentence for the person who installs, and what the tools printed."""

    def __init__(self, sentence: str, log: str = "") -> None:
        super().__init__(sentence)
        self.log = log


def switch(name: str) -> bool | None:
    """An environment switch: True, False, or None where it is not set."""
    value = os.environ.get(name, "")
    if value not in ("", "0", "1"):
        raise SystemExit(f"{name}: expected 0, 1 or nothing, got {value!r}")
    return value == "1" if value else None


def find_nvcc() -> str | None:
    """The CUDA compiler: CUDA_HOME's, the PATH's, or /usr/local/cuda's."""
    home = os.environ.get("CUDA_HOME")
    named = shutil.which("nvcc", path=f"{home}/bin") if home else None
    return named or shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def find_tool(name: str) -> str:
    """cmake or ninja of the environment that builds, even where that is not on PATH (pip with --no-build-isolation)."""
    beside_python = str(Path(sys.executable).parent)
    found = shutil.which(name) or shutil.which(name, path=beside_python)
    if found is None:
        raise BuildFailed(f"{name} was not found: pip install cmake ninja, {AGAIN}")
    return found


def call(command: list[str], sentence: str) -> None:
    """Run a command; if it fails, raise BuildFailed with the sentence and the command's output."""
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if result.returncode:
        raise BuildFailed(sentence, result.stdout)
    print(result.stdout)


class CMakeBuild(build_ext):
    """Builds spxcore._native and spxcore._cuda, each in its own CMake tree, so that one can fail without the other."""

    def run(self) -> None:
        # All of them before the first module is built: a mistake in one is told at once.
        self.required = {module: switch(name) for module, name in SWITCHES.items()}
        self.editable = self.inplace  # setuptools clears it while it builds
        super().run()

    def build_extension(self, ext: Extension) -> None:
        module = ext.name.rpartition(".")[2]
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        # A module of an earlier build must not outlive a failure of this one. The copy beside the sources belongs to an
        # editable install: another kind of build leaves it alone.
        target.unlink(missing_ok=True)
        if self.editable:
            (ROOT / "spxcore" / target.name).unlink(missing_ok=True)
        try:
            if module == "_native":
                self.cmake(module, target, ["-DSPX_CUDA=OFF"])
            else:
                self.cuda(module, target)
        except BuildFailed as error:
            if error.log:
                print(f"The end of what the tools printed:\n{error.log[-6000:]}")
            if self.required[module]:
                raise SystemExit(f"spx: {ext.name} is required ({SWITCHES[module]}=1) but {error}") from None
            print(f"\nspx: going on without {ext.name}: {error}.\n")

    def cuda(self, module: str, target: Path) -> None:
        if self.required[module] is False:
            raise BuildFailed("SPX_CUDA=0 leaves it out")
        nvcc = find_nvcc()
        if nvcc is None:
            raise BuildFailed(
                "nvcc was not found in CUDA_HOME, on PATH or in /usr/local/cuda: "
                f"for NVIDIA GPUs install the CUDA toolkit, {AGAIN}"
            )
        self.cmake(module, target, ["-DSPX_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={nvcc}"])

    def cmake(self, module: str, target: Path, options: list[str]) -> None:
        try:
            import pybind11
        except ModuleNotFoundError:
            raise BuildFailed(f"pybind11 was not found: pip install pybind11, {AGAIN}") from None

        ninja = find_tool("ninja")
        tree = Path(self.build_temp).resolve() / module
        configure = [
            find_tool("cmake"), "-S", str(ROOT), "-B", str(tree), "-G", "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}", *options,
        ]  # fmt: skip
        # A tree keeps the compiler it was configured with, so another one, and a failure, start afresh.
        settings = {name: os.environ.get(name) for name in ("CXX", "CXXFLAGS", "CUDAHOSTCXX", "CUDAFLAGS", "CUDAARCHS")}
        stamp, now = tree / "settings.json", json.dumps([configure, settings])
        if not stamp.exists() or stamp.read_text() != now:
            shutil.rmtree(tree, ignore_errors=True)
        if module == "_native":
            missing = (
                "no C++17 compiler that works, or no Python headers, were found: install them "
                "(Debian and Ubuntu: apt install g++ python3-dev; Fedora: dnf install gcc-c++ python3-devel; "
                f"macOS: xcode-select --install), {AGAIN}"
            )
        else:
            missing = f"CMake could not use nvcc with this C++ compiler: install a pair that match, {AGAIN}"
        try:
            call(configure, missing)
            stamp.write_text(now)
            call([configure[0], "--build", str(tree), "--target", module], f"compiling {module} failed")
            if not target.exists():
                raise BuildFailed(f"the build did not write {target.name}")
        except BuildFailed:
            shutil.rmtree(tree, ignore_errors=True)
            raise


def packages(name: str, folder: str) -> dict[str, str]:
    """A package and its sub-packages, each with its folder."""
    found = {name: folder}
    for sub in find_packages(folder):
        found[f"{name}.{sub}"] = f"{folder}/{sub.replace('.', '/')}"
    return found


package_dir = packages("spxcore", "spxcore") | packages("spxcore.kernels", "kernels") | packages("spx", "python/spx")

setup(
    packages=list(package_dir),
    package_dir=package_dir,
    # optional: setuptools shall not ask for the file of a module that was left out.
    ext_modules=[Extension(f"spxcore.{module}", sources=[], optional=True) for module in ("_native", "_cuda")],
    cmdclass={"build_ext": CMakeBuild},
)
