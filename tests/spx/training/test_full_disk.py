"""A disk that is full while a model is trained, and signals to the command: the newest state is whole, and the run goes on from it."""

import errno
import os
import resource
import signal

import pytest
from runs import options, result, settings, states

from spx.cli.train import main
from spx.io import files
from spx.training.trainer import Trainer


def train(*arguments) -> int:
    return main(["--quiet", "--threads=1", *map(str, arguments)])


@pytest.mark.fault("lost", "a disk that fills up while training")
@pytest.mark.parametrize("kept", [1, 3])
@pytest.mark.parametrize("how", ["rename", "size"])
def test_the_disk_fills_up(how, kept, uninterrupted, data_dir, tmp_path, monkeypatch, capsys):
    """When a state is written, from the third or the fifth on: by the system's refusal to rename, or its real limit of a file's size."""
    folder, states_written = tmp_path / "run", []
    replace, before = os.replace, resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(source, target):
        if "state-" in str(target) and not str(target).endswith(".json"):
            states_written.append(target)
            if len(states_written) > kept:
                if how == "rename":
                    raise OSError(errno.ENOSPC, "No space left on device")
                resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        return replace(source, target)

    monkeypatch.setattr(files.os, "replace", full)
    s = settings("no latent", data_dir)
    try:
        assert train(*options(s), "--out", folder) == 74
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and "cannot be written (" in err
    assert len(states(folder)) == 1 and not list(folder.glob(".*"))
    monkeypatch.undo()
    assert train("--out", folder, "--resume") == 0
    assert result(folder) == result(uninterrupted("no latent"))


@pytest.mark.fault("lost", "SIGTERM and SIGHUP to a training")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_command(number, uninterrupted, data_dir, tmp_path, monkeypatch, capsys):
    """The state of the step under way is saved; the exit code is the signal's."""
    step, folder, calls = Trainer._step, tmp_path / "run", []
    before = signal.getsignal(number)
    signal.signal(number, signal.default_int_handler)  # a background job is born ignoring it

    def signalled(self):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", signalled)
        s = settings("no latent", data_dir, save_every=0)
        try:
            assert train(*options(s), "--out", folder) == 128 + number
        finally:
            signal.signal(number, before)
    err = capsys.readouterr().err
    assert err.endswith(f"stopped; continue with: spx-train --out {folder} --resume\n") and "Traceback" not in err
    assert states(folder) == ["state-0-00000002"]
    assert train("--out", folder, "--resume") == 0
    assert result(folder) == result(uninterrupted("no latent"))


@pytest.mark.fault("lost", "what cannot be trained was refused after the first phase")
@pytest.mark.parametrize(
    "option", ["--batch=1000000000", "--vae-batch=1000000000", "--prior-spread=1e300", "--patches-per-image=1000000000"]
)
def test_refused_before_the_first_phase(option, data_dir, tmp_path, capsys):
    name = option.partition("=")[0].removeprefix("--")
    assert train("--preset=small-4x4", "--data=idx", "--data-dir", data_dir, "--out", tmp_path / "run", option) == 2
    assert capsys.readouterr().err.startswith(f"error: {name}: expected ")
    assert os.listdir(tmp_path) == []


@pytest.mark.fault("lost", "a seed that the clustering of codes refuses, after the first phase")
@pytest.mark.parametrize("seed", [2**32, 2**63 - 1])
def test_a_huge_seed(seed, data_dir, tmp_path):
    s = settings("frozen, spatial", data_dir, seed=seed)
    assert train(*options(s), "--out", tmp_path / "run") == 0
