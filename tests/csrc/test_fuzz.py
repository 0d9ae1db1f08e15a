"""A thousand calls of the native module with wrong arguments; `csrc/sanitize.sh address` makes ten thousand under sanitizers."""

import subprocess
import sys
from pathlib import Path

import pytest

from spxcore import native

pytestmark = pytest.mark.skipif(not native.have_native(), reason=native.why_no_native() or "built")


def fuzz(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(Path(__file__).with_name("fuzz.py")), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.fault("crash", "an argument of a native function ends the process")
def test_no_call_crashes():
    done = fuzz("--calls=1000", "--seed=20")
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = done.stdout.split("\n")[0]
    assert "ValueError" in outcomes and "returned" in outcomes  # calls that are good are among them


@pytest.mark.parametrize(("fault", "said"), [("crash", "exit status -11"), ("hang", "Timeout")])
def test_a_crash_and_a_hang_are_found(fault, said):
    done = fuzz("--calls=200", "--seed=3", f"--break={fault}")
    assert done.returncode == 1 and said in done.stdout + done.stderr
    assert "seed 3, call " in done.stdout and ": philox: " in done.stdout
