"""Draw a small image on a GPU engine and compare it with the CPU's: python gpu_smoke.py ENGINE, a process of its own.

A fault of memory on a GPU spoils every later call of its process; here it spoils this one only. The status is 0 if the pixels are right,
3 if the engine cannot run on this machine, 1 otherwise. The last line says why.
"""

from __future__ import annotations

import functools
import subprocess
import sys

# Seconds. Triton compiles its kernels for a quarter of a minute.
PATIENCE = 120


@functools.cache
def why_not_trusted(engine: str) -> str | None:
    """What went wrong when a process of its own drew with an engine; None if its pixels are right or it cannot run here."""
    command = [sys.executable, __file__, engine]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return f"a small image on the {engine} engine, in a process of its own, took more than {PATIENCE} s"
    if done.returncode in (0, 3):
        return None
    return (
        f"a small image on the {engine} engine, in a process of its own, failed: {(done.stdout + done.stderr)[-2000:]}"
    )


def main(engine: str) -> int:
    from helpers import config, drawn, job, same_images

    from spxcore import engines

    reason = engines.why_not(engine)
    if reason is None and engines.emulated(engine):
        reason = "it runs on the processor here, for tests"
    if reason is not None:
        print(f"{engine} cannot run here: {reason}")
        return 3
    task = job(config(patch=4, conditioning="spatial"), 7, 10, 2)
    cpu = engines.get("cpp" if engines.why_not("cpp") is None else "torch", device="cpu")
    same_images(task, drawn(engines.get(engine), task).pixels, drawn(cpu, task).pixels)
    print(f"{engine} draws the pixels of {cpu.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
