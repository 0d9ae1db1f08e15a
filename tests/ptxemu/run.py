"""Build the PTX interpreter and run its checks: python tests/ptxemu/run.py [--quick] [PART ...]; `make ptx` runs all of them.

Without nvcc it says so and does nothing, which is no failure.
"""

import argparse
import os
import subprocess
import sys
import time

import emulator

TESTS = emulator.ROOT / "tests"
# Of tests/test_cuda.py, with what an interpreter takes too long for left out.
GPU_TESTS = "gpu and not on_a_gpu and not paper-large and not small-8x8 and not 56 and not 28 and not 64"


def pytest(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "3000", *arguments]


def check(name: str, *arguments: str) -> list[str]:
    return pytest("--noconftest", "-m", "slow or not slow", str(emulator.HERE / f"check_{name}.py"), *arguments)


def parts() -> dict[str, tuple[list[str], dict[str, str]]]:
    """Every part's command, and what it adds to the environment."""
    test_cuda = str(next(TESTS.rglob("test_cuda.py")))
    plugin = ["-p", "gpu_plugin", test_cuda, "-k", GPU_TESTS]
    script = [sys.executable, str(emulator.HERE / "mutants.py")]
    shipped = [sys.executable, str(emulator.HERE / "shipped.py")]
    return {
        "emulator": (check("emulator"), {}),
        "cuda": (check("cuda", "-p", "gpu_plugin"), {}),
        "gpu-tests": (pytest(*plugin), {"PTXEMU": "races=1"}),
        "triton-80": (check("triton"), {"PTXEMU_CAPABILITY": "80", "TRITON_INTERPRET": "0"}),
        "triton-90": (check("triton"), {"PTXEMU_CAPABILITY": "90", "TRITON_INTERPRET": "0"}),
        "mutants": ([*script, "cuda"], {}),
        "mutants-triton": ([*script, "triton"], {}),
        "shipped": (shipped, {}),
    }


# What CI runs: about a minute of one core, the build included.
QUICK = {
    "emulator": (check("emulator"), {}),
    "cuda": (pytest("--noconftest", "-p", "gpu_plugin", "-m", "not slow", str(emulator.HERE / "check_cuda.py")), {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the part that CI runs")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(parts())}; all of them by default")
    options = parser.parse_args()
    if emulator.find_nvcc() is None:
        print(
            "ptx: nvcc was not found in CUDA_HOME, on PATH or in /usr/local/cuda, so the CUDA kernels' PTX is not checked."
        )
        return
    known = QUICK if options.quick else parts()
    unknown = set(options.parts) - set(known)
    if unknown:
        parser.error(f"expected parts of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    emulator.build()
    folders = {str(emulator.HERE)} | {
        str(file.parent) for name in ("helpers", "test_cuda") for file in TESTS.rglob(f"{name}.py")
    }
    path = os.pathsep.join([*sorted(folders), *filter(None, [os.environ.get("PYTHONPATH")])])
    failed = []
    for name, (command, more) in known.items():
        if options.parts and name not in options.parts:
            continue
        print(f"== ptx: {name}", flush=True)
        started = time.time()
        environment = {
            "TRITON_INTERPRET": "1",
            "TRITON_CACHE_DIR": str(emulator.BUILD / "triton"),
            "OMP_NUM_THREADS": "1",
        }
        status = subprocess.run(command, env=os.environ | environment | {"PYTHONPATH": path} | more).returncode
        print(f"== ptx: {name} {'FAILED' if status else 'passed'} in {time.time() - started:.0f} s", flush=True)
        failed += [name] * (status != 0)
    sys.exit(f"ptx: failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
