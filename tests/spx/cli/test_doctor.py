"""spx-doctor: what it says of this machine, of faked GPUs, and of self-tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from spx.cli import doctor
from spxcore import __version__, engines, gpus, native
from spxcore.engines import triton, trust
from spxcore.gpus import Driver, Gpu

NO_GPU = pytest.mark.skipif(bool(gpus.driver().gpus), reason="this machine has a GPU")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def gpu(monkeypatch):
    """cuda can run on the first of two GPUs."""
    driver = Driver("12040 580.65.06", (Gpu("NVIDIA H100", 90), Gpu("NVIDIA A100", 80)))
    monkeypatch.setattr(gpus, "driver", lambda: driver)
    monkeypatch.setattr(trust, "driver", lambda: driver)
    why_not = engines.why_not
    monkeypatch.setattr(engines, "why_not", lambda name: None if name == "cuda" else why_not(name))


def told(capsys, *arguments: str) -> tuple[dict | str, str]:
    assert doctor.main(list(arguments)) == 0
    out, err = capsys.readouterr()
    return json.loads(out) if "--json" in arguments else out, err


def test_what_it_says_of_this_machine(capsys, cache):
    found, err = told(capsys, "--json")
    assert err == "" and found["spx"] == __version__ and found["python"] == sys.version.split()[0]
    assert found["packages"]["torch"] == trust.version_of("torch") and found["cache"] == str(cache / "spx")
    assert [engine["name"] for engine in found["engines"]] == list(reversed(engines.NAMES))
    for engine in found["engines"]:
        assert engine["why_not"] == engines.why_not(engine["name"])
    assert found["built"]["_native"] == (native.native().build_info() if native.have_native() else None)
    if native.have_native():
        assert found["processor"]["instruction_sets"] == native.native().instruction_sets()
    text, _ = told(capsys)
    for words in (
        __version__,
        str(cache / "spx"),
        "cpp ",
        *found["processor"]["instruction_sets"],
        *found["measure"].values(),
    ):
        assert words in text
    assert max(map(len, text.splitlines())) <= 140 and not list(cache.rglob("*"))


@NO_GPU
def test_without_a_gpu_it_ends_well(tmp_path):
    """As a user runs it, and nothing is left to test."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "spx.cli.doctor", "--test"], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        "triton     no: there is no NVIDIA GPU" in done.stdout
        or "triton     no: Triton is not installed" in done.stdout
    )
    assert "driver  none" in done.stdout and "testing" not in done.stdout


def test_what_it_says_of_gpus_and_their_engines(gpu, capsys):
    """A verdict that is kept is told, whatever it is; nothing is tested."""
    trust._keep(trust.about("cuda", "fp32", None), trust.Verdict("", "some pixels"))
    trust._keep(trust.about("cuda", "bf16", None), trust.Verdict("wrong pixels", "some pixels"))
    text, err = told(capsys)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert (
        err == ""
        and "cuda:1 NVIDIA A100, compute capability 8.0" in lines
        and "driver 580.65.06, up to CUDA 12.4" in lines
    )
    at = lines.index("cuda yes")
    assert lines[at + 1] == "self-test in fp32: passed (some pixels)"
    assert lines[at + 2].startswith("self-test in tf32: not tested on this machine yet; `spx-doctor --test`")
    assert "self-test in bf16: FAILED: wrong pixels" in lines
    found, _ = told(capsys, "--json")
    tests = found["engines"][0]["self_tests"]
    assert tests == {
        "fp32": {"fault": "", "compared": "some pixels"},
        "tf32": None,
        "bf16": {"fault": "wrong pixels", "compared": "some pixels"},
    }
    assert found["gpus"][0] == {"name": "NVIDIA H100", "capability": 90}
    assert all("self_tests" not in engine for engine in found["engines"][1:])


def test_it_tests_anew(gpu, capsys, monkeypatch):
    trust._keep(trust.about("cuda", "fp32", None), trust.Verdict("an old fault", "pixels"))
    ran = []
    monkeypatch.setattr(trust, "_run", lambda arguments: ran.append(arguments) or trust.Verdict("", "new pixels"))
    found, err = told(capsys, "--json", "--test")
    assert [verdict["fault"] for verdict in found["engines"][0]["self_tests"].values()] == ["", "", ""]
    assert ran == [["cuda", precision, "cuda"] for precision in ("fp32", "tf32", "bf16")]
    assert err.splitlines() == [f"testing cuda in {precision} ..." for precision in ("fp32", "tf32", "bf16")]
    assert trust.known("cuda", "fp32") == trust.Verdict("", "new pixels")


def test_a_driver_that_does_not_work(gpu, capsys, monkeypatch):
    def broken(name):
        raise RuntimeError("unknown error")

    monkeypatch.setattr(engines, "why_not", broken)
    text, _ = told(capsys)
    assert "asking it failed (RuntimeError: unknown error)" in text


def test_what_is_not_there(capsys, monkeypatch):
    """No torch, no native modules: it says so, which is what it is for."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(native, "build_info", lambda name: None)
    monkeypatch.setattr(native, "have_native", lambda: False)
    monkeypatch.setattr(trust, "version_of", lambda name: "")
    monkeypatch.setattr(triton, "why_not", lambda: None)
    monkeypatch.setattr(triton, "EMULATED", True)
    text, _ = told(capsys)
    assert "torch cannot be imported" in text and "not there" in text and "spx uses  nothing; bf16: no" in text
    assert "no: only in Triton's interpreter, for tests" in text
