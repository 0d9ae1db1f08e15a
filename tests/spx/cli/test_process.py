"""Commands as processes: signals, standard streams that cannot be written, disks that are full. Nothing is lost, and a sentence says so."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import spx
from spx.cli.plan import main as plan
from spx.cli.sample import main
from spx.io import files

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def handlers():
    """Handlers of the signals as a terminal's process has them; a background job's are ignored."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in SIGNALS[1:]:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.fault("lost", "SIGTERM and SIGHUP ended a drawing and nothing was saved")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_saves_what_is_drawn(number, checkpoint, tmp_path, monkeypatch, capsys, handlers):
    from spxcore.engines.torch import Torch

    pixel_params, calls, during = Torch.pixel_params, [], {n: signal.getsignal(n) for n in SIGNALS}

    def counted(*arguments):
        calls.append(1)
        if len(calls) == 40:
            os.kill(os.getpid(), number)
        return pixel_params(*arguments)

    monkeypatch.setattr(Torch, "pixel_params", counted)
    out = tmp_path / "a.npy"
    code = main([f"--checkpoint={checkpoint}", "--engine=torch", "--res=16", f"--out={out}"])
    assert code == 128 + number and capsys.readouterr().err.endswith(f"what was drawn so far is in {out}\n")
    whole, drawn = spx.load(checkpoint).sample(16, engine="torch"), np.load(out)
    finished = 8 * np.indices((16, 16))[0] + np.indices((16, 16))[1] < 38
    np.testing.assert_array_equal(drawn[0, finished], whole[0, finished])
    assert {n: signal.getsignal(n) for n in SIGNALS} == during and os.listdir(tmp_path) == ["a.npy"]


@pytest.mark.fault("lost", "another signal, while the picture was written, lost it")
def test_a_second_signal_does_not_end_the_saving(checkpoint, tmp_path, monkeypatch, handlers):
    from spxcore.engines.torch import Torch

    replace_file = os.replace
    monkeypatch.setattr(Torch, "pixel_params", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(os, "replace", lambda *a: (os.kill(os.getpid(), signal.SIGHUP), replace_file(*a)))
    out = tmp_path / "a.npy"
    assert main([f"--checkpoint={checkpoint}", "--engine=torch", "--res=16", f"--out={out}"]) == 143 and out.exists()


def test_a_signal_that_the_process_was_started_to_ignore(handlers):
    """nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    hung_up = replace(plan, prepare=lambda _: lambda: os.kill(os.getpid(), signal.SIGHUP) or "")
    assert hung_up([]) == 0


@pytest.mark.fault("traceback", "SIGINT during imports")
def test_ctrl_c_during_imports():
    code = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Finder:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from spx.cli.sample import main
sys.exit(main(["--res=8", "--out=/none/a.png"]))
"""
    for module in ("spxcore", "numpy", "spxcore.errors", "PIL.Image"):
        done = subprocess.run([sys.executable, "-c", code, module], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (130, "stopped\n"), (module, done.stderr)


# Redirections of the shell, the exit code, whether standard error says why.
STREAMS = {
    ">&-": 74, ">/dev/full": 74, "2>&-": 0, "2>/dev/full": 0, "<&- 2>&-": 0, "<&- >&- 2>&-": 74, ">&- 2>/dev/full": 74,
}  # fmt: skip


@pytest.mark.fault("lost", "standard output or standard error closed or full")
@pytest.mark.parametrize("redirections", STREAMS)
def test_streams_that_cannot_be_written(redirections, checkpoint, tmp_path):
    """The picture is there whatever becomes of the report; and no file is opened as a standard stream."""
    command = (
        f"{sys.executable} -m spx.cli.sample --checkpoint={checkpoint} --engine=cpp --res=8 --out=a.npy {redirections}"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == STREAMS[redirections] and "Traceback" not in done.stderr, done.stderr
    assert np.load(tmp_path / "a.npy").shape == (1, 8, 8, 1)
    if "2>" not in redirections and done.returncode:
        kept = re.search(r"^error: standard output cannot be written \(.*\); the result is in (.*)$", done.stderr)
        assert kept and "a.npy: 1 image of 8x8" in Path(kept[1]).read_text()


@pytest.mark.fault("traceback", "--help into a full disk; python -OO")
def test_help_into_a_full_disk_and_without_docstrings():
    for flags, redirection, code in (("", ">/dev/full", 74), ("-OO", ">/dev/null", 0)):
        for module in ("train", "plan"):
            command = f"{sys.executable} {flags} -m spx.cli.{module} --help {redirection}"
            done = subprocess.run(command, shell=True, capture_output=True, text=True)
            assert done.returncode == code and done.stderr.count("\n") == (code != 0), done.stderr


# ---- errors -------------------------------------------------------------------------------------------------------------------


def raising(error: BaseException):
    def work():
        raise error

    return work


@pytest.mark.fault("traceback", "an error that nobody foresaw")
@pytest.mark.parametrize(
    ("error", "before", "during", "text"),
    [
        (MemoryError("8 TB"), 2, 2, "error: not enough memory (8 TB); ask for fewer or smaller images"),
        (RuntimeError("can't allocate memory: 9\nat"), 2, 2, "error: not enough memory (can't allocate memory: 9); "),
        (
            RuntimeError("an illegal memory access was"),
            70,
            70,
            "error: a fault of spx (RuntimeError: an illegal memory",
        ),
        (RecursionError("depth"), 2, 2, "error: a file is nested too deeply"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 2, 74, "error: /x: No space left on device"),
        (KeyError("a\nb"), 70, 70, "error: a fault of spx (KeyError: 'a\\nb'); SPX_TRACEBACK=1 shows where"),
        (files.Unwritten("out: x cannot be written"), 2, 74, "error: out: x cannot be written"),
        (BrokenPipeError(), 141, 141, ""),
        (KeyboardInterrupt(), 130, 130, "stopped"),
    ],
)
def test_an_error_is_a_sentence(error, before, during, text, capsys, monkeypatch):
    """In the validation, and in the work. Never swallowed: SPX_TRACEBACK shows it."""
    for prepare, code in ((lambda _: raising(error)(), before), (lambda _: raising(error), during)):
        assert replace(plan, prepare=prepare)([]) == code
        err = capsys.readouterr().err
        assert err.startswith(text) and err.count("\n") == bool(text)
    monkeypatch.setenv("SPX_TRACEBACK", "1")
    assert replace(plan, prepare=lambda _: raising(error))([]) == during
    assert "Traceback" in capsys.readouterr().err


# ---- a full disk --------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("lost", "a full disk lost a drawing")
@pytest.mark.parametrize("suffix", [".npy", ".png"])
@pytest.mark.parametrize("moment", ["open", "fsync", "replace", "write"])
def test_a_full_disk_does_not_lose_a_drawing(moment, suffix, checkpoint, tmp_path, monkeypatch, capsys):
    """What stood there stays, no temporary file is left, and the picture is in the folder for temporary files."""
    out, full = tmp_path / "out" / f"a{suffix}", tmp_path / "out"
    full.mkdir()
    out.write_bytes(b"old")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path / "temporary"))
    arguments = [f"--checkpoint={checkpoint}", "--engine=torch", "--res=8", "--n=2"]
    # The disk fills up while the picture is drawn: at its every use from then on, in that folder.
    prepare, real = main.prepare, {name: getattr(os, name) for name in ("open", "fsync", "replace")}

    def filled(name):
        def call(*args, **more):
            where = os.readlink(f"/proc/self/fd/{args[0]}") if name == "fsync" else str(args[0])
            if where.startswith(str(full)):
                raise OSError(errno.ENOSPC, "No space left on device")
            return real[name](*args, **more)

        return call

    def prepared(given):
        work = prepare(given)
        if moment == "write":
            monkeypatch.setattr("spxcore.files.flush", lambda path: filled("open")(path, os.O_RDONLY))
        else:
            monkeypatch.setattr(os, moment, filled(moment))
        return work

    assert replace(main, prepare=prepared)([*arguments, f"--out={out}"]) == 74
    err = capsys.readouterr().err
    found = re.search(r"^error: out: .* cannot be written \(No space.*; what was drawn is in (.*)$", err)
    assert found and err.count("\n") == 1, err
    assert out.read_bytes() == b"old" and os.listdir(full) == [out.name]
    monkeypatch.undo()
    assert main([*arguments, f"--out={out}"]) == 0
    assert Path(found[1]).parent == tmp_path / "temporary" and Path(found[1]).read_bytes() == out.read_bytes()


@pytest.mark.fault("lost", "a full disk lost the other files of a drawing")
def test_a_disk_that_takes_some_of_the_files(checkpoint, tmp_path, monkeypatch, capsys):
    """The real limit of a file's size, for one of three; nothing can be rescued either."""
    monkeypatch.chdir(tmp_path)
    from spx.io import pictures

    written, before = pictures.write_atomically, resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(path, write):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100 if path.name == "1.npy" else before[0], before[1]))
        written(path, write)

    monkeypatch.setattr(pictures, "write_atomically", limited)
    try:
        code = main([f"--checkpoint={checkpoint}", "--engine=torch", "--res=16", "--n=3", "--out={}.npy"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    err = capsys.readouterr().err
    assert code == 74 and err.startswith("error: out: 1.npy cannot be written (") and err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["0.npy", "2.npy"]
