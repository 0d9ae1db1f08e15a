"""The self-test of a GPU engine: what it sees, a process of its own that crashes or hangs, and what is kept of its verdict."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spxcore import SpxError, engines, gpus, native, selftest
from spxcore.engines import cuda, trust
from spxcore.gpus import Driver, Gpu

H100, A100 = Gpu("NVIDIA H100 80GB HBM3", 90), Gpu("NVIDIA A100", 80)

needs_native = pytest.mark.skipif(bool(engines.why_not("cpp")), reason=str(engines.why_not("cpp")))

# An engine cuda for the process of a self-test: {} is what its drawing does.
FAKE = """
import os, signal, sys, time
sys.path[:] = sys.argv[1].split('\\n')
from spxcore import engines, selftest
from spxcore.engines import cpp, cuda
class Fake(cpp.Cpp):
    name = "cuda"
    def draw(self, job, canvas, report=None):
        super().draw(job, canvas, report)
        {}
cuda.why_not = lambda: None
cuda.make = lambda precision="fp32", threads=None, device=None: Fake(1, cpp.instruction_set())
sys.exit(selftest.main(sys.argv[2:]))
"""


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """Two GPUs, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(trust, "driver", lambda: Driver("13000 580.1", (H100, A100)))
    return tmp_path


def drawing(monkeypatch, what: str) -> None:
    monkeypatch.setattr(trust, "CODE", FAKE.format(what))


def kept(machine: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in (machine / "cache").rglob("*") if path.is_file()]


# ---- what it sees ------------------------------------------------------------------------------------------------------------


class Wrong:
    """An engine that draws another one's pixels and parameters, but for what `change` does to them."""

    def __init__(self, change, whole: bool):
        self.of, self.change, self.whole, self.name = (
            engines.get("torch", device="cpu", threads=1),
            change,
            whole,
            "wrong",
        )

    def why_not(self, job):
        return None if self.whole else "it draws by the sliding window only"

    def draw(self, job, canvas, report=None):
        self.of.draw(job, canvas, report)
        self.change(canvas)


def check_with(monkeypatch, change, precision="fp32", whole=False):
    get = engines.get
    monkeypatch.setattr(
        engines, "get", lambda name, **how: Wrong(change, whole) if name == "cuda" else get(name, **how)
    )
    return selftest.check("cuda", precision)


@pytest.mark.parametrize(("whole", "sizes"), [(False, "9x14"), (True, "9x14 and 3 images of 5x7")])
def test_right_pixels_pass(monkeypatch, whole, sizes):
    fault, compared = check_with(monkeypatch, lambda canvas: None, whole=whole)
    judge = "cpp" if engines.why_not("cpp") is None else "torch"
    assert fault == "" and compared == f"fp32 pixels of 3 images of {sizes} with the {judge} engine's"


def test_one_wrong_pixel_of_a_whole_image_is_seen(monkeypatch):
    def change(canvas):
        if canvas.pixels.shape[1:3] == (5, 7):
            canvas.pixels[1, 4, 6] ^= 128

    assert check_with(monkeypatch, change)[0] == ""
    assert check_with(monkeypatch, change, whole=True)[0].startswith("pixel (4, 6) of image 1 of its self-test is ")


@pytest.mark.parametrize("image", [0, 2])
def test_one_wrong_pixel_is_seen(monkeypatch, image):
    def change(canvas):
        canvas.pixels[image, 7, 3] ^= 128

    fault, _ = check_with(monkeypatch, change)
    assert fault.startswith(f"pixel (7, 3) of image {image} of its self-test is ") and "from a bin edge" in fault


def test_a_draw_at_a_bin_edge_is_no_fault(monkeypatch):
    def change(canvas):
        canvas.pixels[1, 8, 2] ^= 1

    found, looked = selftest.first_difference, []

    def near(job, a, b):
        difference = found(job, a, b)
        looked.append(difference)
        return difference and replace(difference, edge_distance=selftest.EDGE)

    monkeypatch.setattr(selftest, "first_difference", near)
    assert check_with(monkeypatch, change)[0] == "" and any(looked)


@pytest.mark.parametrize("wrong", [0, 1.02, np.nan])
def test_parameters_of_other_precisions_are_compared(monkeypatch, wrong):
    def change(canvas):
        if canvas.params is not None and wrong:
            np.multiply(canvas.params, np.float32(wrong), out=canvas.params)

    fault, compared = check_with(monkeypatch, change, "bf16")
    assert compared.startswith("fp32 pixels of") and compared.endswith(
        "; bf16 parameters of these pixels with its fp32 ones"
    )
    assert (fault == "") == (wrong == 0) and ("bf16 parameters are 2 % off" in fault) == (wrong == 1.02)


@needs_native
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_the_cuda_kernels_pass(monkeypatch, precision):
    """In the host build: the job runs there, and its tf32 and bf16 are within the tolerance, which is not wide."""
    runner = native.native().CudaEmulation
    monkeypatch.setattr(cuda, "why_not", lambda device=0: None)
    monkeypatch.setattr(cuda, "make", lambda precision="fp32", device=None: cuda.Cuda(runner, precision))
    fault, compared = selftest.check("cuda", precision)
    assert fault == "" and (precision in compared)


def test_what_is_raised_is_a_verdict():
    def raising(error):
        def checked():
            raise error

        return selftest.verdict(checked)

    assert raising(ValueError("a\nb")) == {"fault": "its self-test failed (ValueError: a)", "lasting": True}
    assert raising(SpxError("x: no")) == {"fault": "its self-test failed (x: no)", "lasting": True}
    for error in (MemoryError(), RuntimeError("CUDA out of memory"), RuntimeError("devices are busy or unavailable")):
        assert raising(error)["lasting"] is False


# ---- in a process of its own -------------------------------------------------------------------------------------------------


@needs_native
def test_a_good_engine_is_trusted_and_tested_once(machine, monkeypatch, capsys):
    drawing(monkeypatch, "pass")
    assert trust.why_not("cuda", "fp32") is None
    (file,) = kept(machine)
    assert file["fault"] == "" and file["compared"].startswith("fp32 pixels") and "H100" in file["about"]["gpu"]
    monkeypatch.setattr(trust, "CODE", "broken")
    assert trust.why_not("cuda", "fp32") is None and capsys.readouterr().err == ""
    assert trust.known("cuda", "fp32") == trust.Verdict("", file["compared"])


@needs_native
@pytest.mark.parametrize(
    ("what", "fault"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"its self-test was ended by SIGSEGV (it said nothing)"),
        ("print('last words', file=sys.stderr); os._exit(9)", "its self-test ended with status 9 (last words)"),
        ("canvas.pixels[0, 0, 0] ^= 255", "pixel (0, 0) of image 0 of its self-test is "),
        ("raise RuntimeError('an illegal memory access')", "its self-test failed (RuntimeError: an illegal memory access)"),
        ("import atexit; atexit.register(os._exit, 3)", "its self-test ended with status 3 ("),
    ],
)  # fmt: skip
def test_a_fault_is_told_once_and_kept(machine, monkeypatch, capsys, what, fault):
    drawing(monkeypatch, what)
    reason = trust.why_not("cuda", "fp32")
    assert reason.startswith(f"its self-test on this machine failed: {fault}")
    err = capsys.readouterr().err
    assert err.startswith(f"warning: the cuda engine is left out: {fault}") and err.count("\n") == 1
    assert "`spx-doctor --json`" in err and "`spx-doctor --test` tries again" in err
    assert trust.why_not("cuda", "fp32") == reason and capsys.readouterr().err == "" and len(kept(machine)) == 1


@needs_native
@pytest.mark.fault("hang", "a GPU engine that hangs held the drawing")
def test_a_hang_ends(machine, monkeypatch):
    """Also of what it started, which holds its output open."""
    drawing(
        monkeypatch,
        f"import subprocess; subprocess.Popen(['{sys.executable}', '-c', 'import time; time.sleep(99)']); time.sleep(99)",
    )
    monkeypatch.setattr(trust, "PATIENCE", 2)
    assert trust.why_not("cuda", "fp32") == "its self-test on this machine failed: its self-test took more than 2 s"
    assert kept(machine)[0]["fault"] == "its self-test took more than 2 s"


@needs_native
def test_an_interrupt_ends_the_test_and_nothing_is_kept(machine, monkeypatch):
    drawing(monkeypatch, f"open({str(machine / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(99)")
    waited = trust.subprocess.Popen.wait

    def interrupted(process, timeout=None):
        if timeout == trust.PATIENCE:
            while not (machine / "pid").exists() or not (machine / "pid").read_text():
                assert process.poll() is None
            raise KeyboardInterrupt
        return waited(process, timeout)

    monkeypatch.setattr(trust.subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trust.why_not("cuda", "fp32")
    assert not Path(f"/proc/{(machine / 'pid').read_text()}").exists() and kept(machine) == []


@needs_native
def test_a_gpu_without_memory_is_tested_again(machine, monkeypatch, capsys):
    drawing(monkeypatch, "raise RuntimeError('CUDA out of memory')")
    assert "out of memory" in trust.why_not("cuda", "fp32") and kept(machine) == []
    err = capsys.readouterr().err
    assert "it is tried again next time" in err and "report" not in err
    drawing(monkeypatch, "pass")
    assert trust.why_not("cuda", "fp32") is None


def test_a_process_that_cannot_be_started(monkeypatch, machine):
    monkeypatch.setattr(sys, "executable", str(machine / "nothing"))
    assert "could not be started" in trust.why_not("cuda", "fp32") and kept(machine) == []


# ---- what is kept ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(trust, "driver", lambda: Driver("13000 580.1", (A100,))),
        lambda patch: patch.setattr(trust, "driver", lambda: Driver("13000 580.2", (H100, A100))),
        lambda patch: patch.setattr(trust, "build", lambda: "other"),
        lambda patch: patch.setattr(trust, "version_of", lambda name: "2.99" if name == "torch" else "3.9"),
        lambda patch: patch.setattr(trust, "version_of", lambda name: trust.metadata.version("torch") if name == "torch" else "9"),
        lambda patch: patch.setattr(trust, "__version__", "9"),
    ],
    ids=["gpu", "driver", "build", "torch", "triton", "spx"],
)  # fmt: skip
def test_a_verdict_holds_for_one_machine_and_build(machine, monkeypatch, change):
    trust._keep(trust.about("cuda", "fp32", None), trust.Verdict("wrong", "pixels"))
    for device in (None, "cuda", "cuda:0"):
        assert trust.known("cuda", "fp32", device) == trust.Verdict("wrong", "pixels")
    assert trust.known("cuda", "fp32", "cuda:1") is trust.known("cuda", "bf16") is trust.known("triton", "fp32") is None
    change(monkeypatch)
    assert trust.known("cuda", "fp32") is None


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"about": 1, "fault": "", "compared": ""}', "\udcff"])
def test_a_damaged_verdict_is_none(machine, text):
    of = trust.about("cuda", "fp32", None)
    trust._keep(of, trust.Verdict("", "pixels"))
    trust.place(of).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert trust.known("cuda", "fp32") is None


def test_a_cache_that_cannot_be_written_is_left_out(machine, monkeypatch):
    (machine / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(machine / "file"))
    monkeypatch.setattr(trust, "_run", lambda arguments: trust.Verdict("", "pixels"))
    assert trust.why_not("cuda", "fp32") is None and trust.known("cuda", "fp32") is None


def test_the_build_is_all_that_draws():
    files = trust.drawing_files()
    names = {path.name for path in files}
    assert {"windows.py", "auto.py", "cuda.py", "selftest.py"} <= names
    assert any(name.startswith("_native") for name in names) == native.have_native()
    assert not any("__pycache__" in path.parts or "tests" in path.parts for path in files)


# ---- the driver --------------------------------------------------------------------------------------------------------------


class Library:
    """libcuda, with two GPUs."""

    def __init__(self, status=0):
        self.status = status

    def cuInit(self, flags):
        return self.status

    def cuDriverGetVersion(self, version):
        version._obj.value = 12040
        return 0

    def cuDeviceGetCount(self, count):
        count._obj.value = 2
        return 0

    def cuDeviceGet(self, device, number):
        device._obj.value = 7 + number
        return 0

    def cuDeviceGetName(self, name, length, device):
        name.value = {7: b"One", 8: b"Two"}[device.value][:length]
        return 0

    def cuDeviceGetAttribute(self, found, attribute, device):
        found._obj.value = {75: device.value + 1, 76: 6}[attribute]
        return 0


def test_what_the_driver_says(monkeypatch, tmp_path):
    asked = gpus.driver.__wrapped__
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27\nGCC version: gcc 12.2.0\n"
    )
    monkeypatch.setattr(gpus, "_VERSION", tmp_path / "version")
    monkeypatch.setattr(gpus.ctypes, "CDLL", lambda name: Library())
    assert asked() == Driver("12040 580.65.06", (Gpu("One", 86), Gpu("Two", 96)))
    monkeypatch.setattr(gpus, "_VERSION", tmp_path / "nothing")
    monkeypatch.setattr(gpus.ctypes, "CDLL", lambda name: Library(100))
    assert asked() == Driver("12040", ())

    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(gpus.ctypes, "CDLL", missing)
    assert asked() == Driver("", ())
