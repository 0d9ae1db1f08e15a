"""Whether a GPU engine draws the right pixels on this machine. Nobody has seen it on this very card: so it draws a small job first.

The self-test (`spxcore.selftest`) runs in a process of its own, because an illegal address or a hang there would spoil this one. Its
verdict is kept in the user's cache for this card, driver, build of spx and these versions of torch and triton.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from .. import __path__ as _folders
from .._version import __version__
from ..files import cache_folder, write_atomically
from ..gpus import driver

# Seconds that a self-test may take. Triton compiles for a quarter of a minute first.
PATIENCE = 180

# What the process of a self-test runs: this process' modules, whatever folder it is in.
CODE = r"import sys; sys.path[:] = sys.argv[1].split('\n'); from spxcore.selftest import main; sys.exit(main(sys.argv[2:]))"

REPORT = "please report it with what `spx-doctor --json` prints"


class Verdict(NamedTuple):
    """What a self-test found.

    Attributes:
        fault: a sentence; "" if nothing was wrong.
        compared: what was compared with what.
        lasting: whether it would be the same again. A GPU without free memory says nothing about an engine.
    """

    fault: str
    compared: str = ""
    lasting: bool = True


def why_not(engine: str, precision: str, device: str | None = None) -> str | None:
    """Why an engine of this machine's GPU is not trusted; None if it is. The first time on a machine this takes the self-test's time.

    A self-test that finds a fault says so once on standard error. Later calls know its verdict.
    """
    found = known(engine, precision, device)
    if found is None:
        found = tested(engine, precision, device)
        if found.fault:
            again = "`spx-doctor --test` tries again" if found.lasting else "it is tried again next time"
            what = f"{REPORT}; {again}" if found.lasting else again
            warn(f"the {engine} engine is left out: {found.fault}; {what}")
    return f"its self-test on this machine failed: {found.fault}" if found.fault else None


def warn(text: str) -> None:
    """One line for the user."""
    print("warning: " + " ".join(text.split()), file=sys.stderr)


# ---- what is known ------------------------------------------------------------------------------------------------------------


def about(engine: str, precision: str, device: str | None) -> dict[str, str]:
    """All that a verdict holds for."""
    here, match = driver(), re.fullmatch(r"cuda:(\d+)", device or "cuda:0")
    number = int(match[1]) if match else 0
    gpu = here.gpus[number] if number < len(here.gpus) else None
    return {
        "engine": engine, "precision": precision, "gpu": f"{gpu.name}, {gpu.capability / 10}" if gpu else "unknown",
        "driver": here.version, "spx": __version__, "build": build(), "torch": version_of("torch"), "triton": version_of("triton"),
    }  # fmt: skip


def version_of(package: str) -> str:
    """The version of an installed package; "" if it is not there. The package is not imported."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def drawing_files() -> list[Path]:
    """All files that draw: the native modules, spxcore's and its kernels' Python."""
    kernels = find_spec("spxcore.kernels")
    places = [*_folders, *((kernels and kernels.submodule_search_locations) or [])]
    return sorted({path for place in places for ending in ("py", "so") for path in Path(place).rglob(f"*.{ending}")})


@functools.cache
def build() -> str:
    """A short hash of these files."""
    whole = hashlib.sha256()
    for path in drawing_files():
        whole.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()[:16]


def place(of: dict[str, str]) -> Path:
    """The file of a verdict."""
    return cache_folder("engines") / f"{hashlib.sha256(json.dumps(of).encode()).hexdigest()[:32]}.json"


def known(engine: str, precision: str, device: str | None = None) -> Verdict | None:
    """The verdict of an earlier self-test on this very machine, or None. A file that cannot be read is none."""
    of = about(engine, precision, device)
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(place(of).read_text("utf-8"))
        if found["about"] == of:
            return Verdict(str(found["fault"]), str(found["compared"]))
    return None


def _keep(of: dict[str, str], verdict: Verdict) -> None:
    """Write a verdict into the cache; where that cannot be written, the next process tests again."""
    text = json.dumps({"about": of, "fault": verdict.fault, "compared": verdict.compared}, indent=2)
    with contextlib.suppress(OSError):
        path = place(of)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: temporary.write_text(text + "\n", "utf-8"))


# ---- the self-test in a process of its own ------------------------------------------------------------------------------------


def tested(engine: str, precision: str, device: str | None = None) -> Verdict:
    """Run the self-test, and keep its verdict."""
    found = _run([engine, precision, device or "cuda"])
    if found.lasting:
        _keep(about(engine, precision, device), found)
    return found


def _run(arguments: list[str]) -> Verdict:
    command = [sys.executable or "python3", "-c", CODE, "\n".join(sys.path), *arguments]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            # In files: a grandchild that outlives it (an assembler) would hold a pipe open.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )
        except OSError as error:
            return Verdict(f"its self-test could not be started ({error})", lasting=False)
        try:
            status = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return Verdict(f"its self-test took more than {PATIENCE} s")
        finally:
            _end(process)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", "replace").strip())
    return _said(status, *texts)


def _end(process: subprocess.Popen) -> None:
    """End a process and all that it started. One that waits for a driver may outlast it; then nobody waits for it."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)


def _said(status: int, out: str, err: str) -> Verdict:
    """The verdict of a process that ended: what it says in its last line, if it ended well."""
    try:
        found = Verdict(**json.loads(out.splitlines()[-1]))
    except (ValueError, TypeError, IndexError):
        found = None
    if found and (found.fault or not status):
        return found
    last = err.splitlines()[-1][:300] if err else "it said nothing"
    if status < 0:
        names = {number.value: number.name for number in signal.Signals}
        return Verdict(f"its self-test was ended by {names.get(-status, f'signal {-status}')} ({last})")
    return Verdict(f"its self-test ended with status {status} ({last})")
