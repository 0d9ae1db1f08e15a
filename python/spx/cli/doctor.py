"""spx-doctor: what spx can do on this machine, and why not more: versions, processor, GPUs, engines and their self-tests, the cache."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from .command import Command, Work

# What measures a machine. The last two need a checkout of spx.
MEASURE = {
    "one large image": "spx-sample --res 1400 --fast --json",
    "many small images": "spx-sample --res 28 --n 1000 --fast --json",
    "every engine, as a table": "make bench",
    "a GPU: tests, times, training": "benchmarks/gpu_report.sh",
}


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    from . import options

    p = argparse.ArgumentParser(
        prog="spx-doctor",
        description="Print what spx can do on this machine, and why not more. What it prints with --json belongs into a report of a fault.",
    )
    p.add_argument(
        "--test",
        action="store_true",
        help="test the GPU engines anew, on the first GPU; a minute or two for each precision",
    )
    p.add_argument("--json", action="store_true", help="print one JSON object")
    options.add_version(p)
    return p


def doctor(arguments: argparse.Namespace) -> Work:
    """Nothing to look at before. The work: ask."""

    def work() -> str:
        found = facts(arguments.test)
        return json.dumps(found) if arguments.json else as_text(found)

    return work


# ---- what is asked --------------------------------------------------------------------------------------------------------------


def facts(test: bool = False) -> dict[str, Any]:
    """Everything that the command prints, of JSON's types.

    Args:
        test: run the self-tests of GPU engines, else tell their kept verdicts.
    """
    import platform

    from spxcore import __version__, engines, native
    from spxcore.engines.trust import version_of
    from spxcore.files import cache_folder
    from spxcore.gpus import driver

    here = driver()
    return {
        "spx": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: version_of(name) for name in ("torch", "triton", "numpy")},
        "torch_cuda": _torch_cuda(),
        "built": {name: native.build_info(name) for name in native.MODULES},
        "processor": _processor(),
        "driver": here.version,
        "gpus": [gpu._asdict() for gpu in here.gpus],
        "engines": [_engine(name, test) for name in reversed(engines.NAMES)],
        "cache": str(cache_folder("")),
        "measure": MEASURE,
    }


def _torch_cuda() -> str:
    """The version of CUDA that PyTorch was built with; "" without."""
    try:
        import torch
    except Exception as error:  # a broken installation is what this command is for
        return f"torch cannot be imported ({type(error).__name__}: {error})"
    return torch.version.cuda or ""


def _processor() -> dict[str, Any]:
    """Its name and cores; what it offers, and what spx has kernels for, fastest first."""
    import platform
    from contextlib import suppress
    from pathlib import Path

    from spxcore import native

    name = platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    if not native.have_native():
        return {"name": name, "cores": native.cores(), "features": [], "instruction_sets": [], "bf16": False}
    module = native.native()
    features = [feature for feature, there in module.cpu_features().items() if there and feature != "amd"]
    return {
        "name": name, "cores": native.cores(), "features": features, "instruction_sets": list(module.instruction_sets()),
        "bf16": bool(module.have_bf16()),
    }  # fmt: skip


def _engine(name: str, test: bool) -> dict[str, Any]:
    """An engine: why it cannot run, None if it can; of a GPU engine its self-tests by precision, None for one that was never run."""
    from spxcore import engines
    from spxcore.engines import auto, trust

    try:
        reason = engines.why_not(name)
    except Exception as error:  # a driver that is there and does not work
        reason = f"asking it failed ({type(error).__name__}: {error})"
    interpreter = reason is None and engines.emulated(name)
    found: dict[str, Any] = {"name": name, "why_not": reason, "interpreter": interpreter}
    if name not in auto.STARTUP or reason is not None or interpreter:
        return found
    verdicts: dict[str, dict | None] = {}
    for precision in engines.PRECISIONS:
        if test:
            print(f"testing {name} in {precision} ...", file=sys.stderr)
        verdict = trust.tested(name, precision) if test else trust.known(name, precision)
        verdicts[precision] = verdict and {"fault": verdict.fault, "compared": verdict.compared}
    return {**found, "self_tests": verdicts}


# ---- how it is told ----------------------------------------------------------------------------------------------------------------


def as_text(found: dict[str, Any]) -> str:
    """The facts for a reader, in parts of a heading and lines."""
    cpu, packages = found["processor"], found["packages"]
    cuda = f"CUDA {found['torch_cuda']}" if found["torch_cuda"][:1].isdigit() else found["torch_cuda"] or "no CUDA"
    versions = [
        ("spx", found["spx"]),
        ("Python", f"{found['python']}, {found['system']}"),
        ("torch", f"{packages['torch'] or 'not installed'} ({cuda})"),
        ("triton", packages["triton"] or "not installed"),
        ("numpy", packages["numpy"]),
        *((f"spxcore.{name}", _built(built)) for name, built in found["built"].items()),
    ]
    processor = [
        ("name", f"{cpu['name']}, {cpu['cores']} {'core' if cpu['cores'] == 1 else 'cores'} for spx"),
        ("has", ", ".join(cpu["features"]) or "not known"),
        ("spx uses", f"{' > '.join(cpu['instruction_sets']) or 'nothing'}; bf16: {'yes' if cpu['bf16'] else 'no'}"),
    ]
    gpus = [
        (f"cuda:{number}", f"{gpu['name']}, compute capability {gpu['capability'] / 10}")
        for number, gpu in enumerate(found["gpus"])
    ]
    gpus = [("driver", _driver(found["driver"])), *(gpus or [("GPU", "none")])]
    engines = [(engine["name"], line) for engine in found["engines"] for line in _told(engine)]
    parts = {
        "Versions": versions, "Processor": processor, "GPU": gpus, "Engines, as auto tries them for a large job": engines,
        "Cache": [("folder", found["cache"])], "To measure (make and benchmarks/ in a checkout)": list(found["measure"].items()),
    }  # fmt: skip
    return "\n\n".join(f"{heading}\n{_table(rows)}" for heading, rows in parts.items())


def _table(rows: list[tuple[str, str]]) -> str:
    """Two columns; a long text goes on below itself, and a name that stands above is not repeated."""
    import textwrap

    width, lines, before = max(len(name) for name, _ in rows), [], ""
    for name, text in rows:
        wrapped = textwrap.wrap(text, 100 - width, break_long_words=False, break_on_hyphens=False) or [""]
        first = "" if name == before else name
        lines += [f"  {label:{width}}  {line}" for label, line in zip([first, *[""] * len(wrapped)], wrapped)]
        before = name
    return "\n".join(lines)


def _built(built: dict[str, str] | None) -> str:
    if built is None:
        return "not there"
    more = f", for {built['architectures']}" if "architectures" in built else ""
    return f"{built['version']}, built by {built['compiler']}{more}"


def _driver(version: str) -> str:
    """ "13000 580.65" -> "580.65, up to CUDA 13.0"."""
    cuda, _, own = version.partition(" ")
    if not cuda:
        return "none"
    known = f"up to CUDA {int(cuda) // 1000}.{int(cuda) % 1000 // 10}"
    return f"{own}, {known}" if own else known


def _told(engine: dict[str, Any]) -> list[str]:
    """What is said of an engine, a line each."""
    if engine["why_not"]:
        return [f"no: {engine['why_not']}"]
    if engine["interpreter"]:
        return ["no: only in Triton's interpreter, for tests"]
    lines = ["yes"]
    for precision, verdict in engine.get("self_tests", {}).items():
        if verdict is None:
            said = "not tested on this machine yet; `spx-doctor --test` does, and so does the first drawing"
        else:
            said = f"FAILED: {verdict['fault']}" if verdict["fault"] else f"passed ({verdict['compared']})"
        lines.append(f"self-test in {precision}: {said}")
    return lines


main = Command("spx-doctor", lambda _: parser(), doctor)

if __name__ == "__main__":
    sys.exit(main())
