"""It continues bit for bit wherever it was stopped."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from runs import MODES, events, options, result, run, settings, start, states
from safetensors.torch import load_file

from spx.cli.train import main
from spx.io.files import alone_in
from spx.models.spatial.codes import refine
from spx.models.spatial.settings import Settings
from spx.models.spatial.training import SpatialTraining
from spx.training.trainer import Trainer
from spxcore.errors import SpxError


@pytest.mark.parametrize("mode", MODES)
def test_resume_in_the_middle_of_each_phase(mode, uninterrupted, data_dir, tmp_path, monkeypatch):
    s, folder = settings(mode, data_dir), tmp_path / "run"
    trainer = run(s, folder, stop_at=1)
    phases = len(trainer.phases)
    assert states(folder) == ["state-0-00000001"] and not (folder / "checkpoint").exists()
    trainer = run(s, folder, resume=True, stop_at=1)  # nothing to do: nothing changes
    if phases == 2:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(
                Trainer, "_next_phase", lambda self: os.kill(os.getpid(), signal.SIGINT) or self._stop_at_once()
            )
            patch.setattr(Trainer, "_stop_at_once", lambda self: os.kill(os.getpid(), signal.SIGINT), raising=False)
            run(s, folder, resume=True)
        assert states(folder) == ["state-0-00000003"]  # the VAE's last step is done, the next phase not begun
        run(s, folder, resume=True, stop_at=2)
        assert states(folder) == ["state-1-00000002"]
    else:
        run(s, folder, resume=True, stop_at=2)
    while not (folder / "checkpoint").exists() or trainer.step < s.steps:
        trainer = run(s, folder, resume=True, stop_at=None)
    whole = uninterrupted(mode)
    assert result(folder) == result(whole)
    assert states(folder) == states(whole) == [f"state-{phases - 1}-00000004"]
    a, b = (load_file(f / states(f)[0] / "state.safetensors") for f in (folder, whole))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert {name.split(".")[0] for name in a} == {"model", "adam", "average"}
    # A finished run resumed is left as it is.
    run(s, folder, resume=True)
    assert result(folder) == result(whole)


def test_resume_in_the_middle_of_the_patch_phase(uninterrupted, data_dir, tmp_path):
    s = settings("frozen, spatial", data_dir, vae_steps=3)
    trainer = Trainer(s, tmp_path / "run", progress=False)
    batch = Trainer._batch

    def interrupt(self, step):
        if self.phase.name == "patch" and step == 2:
            os.kill(os.getpid(), signal.SIGTERM)  # in the middle of a step
        return batch(self, step)

    trainer._batch = interrupt.__get__(trainer)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert states(tmp_path / "run") == ["state-1-00000003"]  # the step was finished first
    run(s, tmp_path / "run", resume=True)
    assert result(tmp_path / "run") == result(uninterrupted("frozen, spatial"))


def test_refined_codes_are_made_once(uninterrupted, data_dir, tmp_path, monkeypatch):
    s = settings("frozen, spatial", data_dir, refine=2)
    whole = run(s, tmp_path / "whole")
    codes = load_file(tmp_path / "whole" / "codes.safetensors")
    assert torch.equal(whole.training.posterior[0], codes["train"]) and torch.equal(
        whole.training.validation_posterior[0], codes["test"]
    )
    other = Trainer(settings("frozen, spatial", data_dir), shutil.copytree(uninterrupted("frozen, spatial"), tmp_path / "other"),
                    resume=True, progress=False)  # fmt: skip
    assert not torch.equal(other.training.posterior[0], codes["train"]) and torch.equal(
        other.training.posterior[1], whole.training.posterior[1]
    )
    assert events(tmp_path / "whole", "prior") != events(tmp_path / "other", "prior")
    run(s, tmp_path / "part", stop_at=2)
    run(s, tmp_path / "part", resume=True, stop_at=3)  # in the patch network's phase
    with monkeypatch.context() as patch:
        patch.setattr("spx.models.spatial.training.refine", None)
        run(s, tmp_path / "part", resume=True, stop_at=3)
    (tmp_path / "part" / "codes.safetensors").write_bytes(b"damaged")
    with pytest.raises(SpxError, match=r"codes\.safetensors: cannot be read .* remove it to have the codes made again"):
        run(s, tmp_path / "part", resume=True)
    (tmp_path / "part" / "codes.safetensors").unlink()  # even so
    run(s, tmp_path / "part", resume=True)
    assert result(tmp_path / "part") == result(tmp_path / "whole") != result(tmp_path / "other")


def test_a_signal_while_codes_are_refined(data_dir, tmp_path, monkeypatch):
    """It takes minutes: the run stops there, and what the VAE has learned is kept though no state was asked for."""
    s = settings("frozen, spatial", data_dir, refine=2, save_every=0)
    trainer = Trainer(s, tmp_path / "run", progress=False)

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return refine(*arguments)

    monkeypatch.setattr("spx.models.spatial.training.refine", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert states(tmp_path / "run") == ["state-0-00000003"]
    monkeypatch.undo()
    run(s, tmp_path / "run", resume=True)
    run(s, tmp_path / "whole")
    assert result(tmp_path / "run") == result(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_step_under_way(number, uninterrupted, data_dir, tmp_path):
    """In the worst moment: the weights are updated, the step not yet counted."""
    s = settings("no latent", data_dir, save_every=0)
    trainer = Trainer(s, tmp_path / "run", progress=False)
    step = trainer.optimiser.step
    calls = []

    def interrupt(*args):
        step(*args)
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), number)

    trainer.optimiser.step = interrupt
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert states(tmp_path / "run") == ["state-0-00000002"]
    run(s, tmp_path / "run", resume=True)
    assert result(tmp_path / "run") == result(uninterrupted("no latent"))


def wait_for(process: multiprocessing.Process, condition) -> None:
    """Until the condition holds or the process has ended."""
    limit = time.monotonic() + 120
    while not condition() and process.is_alive():
        assert time.monotonic() < limit
        time.sleep(0.002)


@pytest.mark.slow
def test_kill_9_at_any_moment(uninterrupted, data_dir, tmp_path):
    """Before the first state, in each phase, and with SIGTERM at last: the weights are those of the run nobody touched."""
    s, folder = settings("frozen, spatial", data_dir), tmp_path / "run"
    moments = [
        lambda: (folder / "recipe.json").exists(),
        lambda: states(folder)[-1:] >= ["state-0-00000001"],
        lambda: states(folder)[-1:] >= ["state-1-00000000"],
    ]
    killed = []
    for i, moment in enumerate(moments):
        arguments = options(s) if i == 0 else ["--resume"]
        process = start([*arguments, "--out", str(folder)], tmp_path / "printed")
        wait_for(process, moment)
        delay = random.uniform(0, 0.3)
        time.sleep(delay)
        process.kill()
        process.join()
        killed.append((round(delay, 3), states(folder), process.exitcode))
    assert killed[0][2] == -signal.SIGKILL, killed
    run(s, folder, resume=True)
    assert result(folder) == result(uninterrupted("frozen, spatial")), killed
    assert len(states(folder)) == 1 and not list(folder.glob(".*"))


def test_what_a_killed_process_left_goes_on_resume(data_dir, tmp_path):
    s, folder = settings("no latent", data_dir), tmp_path / "run"
    run(s, folder, stop_at=2)
    (folder / ".state-0-00000003.1.tmp").mkdir()
    (folder / ".recipe.json.1.tmp").write_text("{")
    run(s, folder, resume=True)
    assert not list(folder.glob(".*"))


def test_a_run_under_way_is_left_alone(data_dir, tmp_path):
    """Two trainers in one folder would overwrite each other's states."""
    s, folder = settings("no latent", data_dir), tmp_path / "run"
    second = run(s, folder, stop_at=1)
    (folder / ".state-0-00000003.1.tmp").mkdir()  # being written by the first
    with alone_in(folder):
        for go_on in (second.train, lambda: run(s, folder, resume=True)):
            with pytest.raises(SpxError, match=r"expected a run that no other process .* another --out"):
                go_on()
    assert list(folder.glob(".*.tmp"))
    run(s, folder, resume=True)


@pytest.mark.slow
def test_sigterm_to_the_command(data_dir, tmp_path):
    s = settings("no latent", data_dir, steps=100_000, save_every=0)
    process = start([*options(s), "--out", str(tmp_path / "run")], tmp_path / "printed")
    wait_for(process, lambda: (tmp_path / "run" / "log.jsonl").exists())
    process.terminate()
    process.join(60)
    printed = (tmp_path / "printed").read_text()
    assert process.exitcode == 143, printed
    lines = ["stopping after this step; interrupt again to stop at once"]
    lines += [f"stopped; continue with: spx-train --out {tmp_path / 'run'} --resume"]
    assert printed.splitlines() == lines
    assert len(states(tmp_path / "run")) == 1


def test_patience_is_final(data_dir, tmp_path):
    """A run that ran out of patience, resumed, trains no further."""
    s = settings("no latent", data_dir, steps=1000, lr=1e-12, patience=1, batch=16, validate_every=4)
    trainer = run(s, tmp_path / "run")
    assert trainer.step < 100
    before = result(tmp_path / "run")
    assert run(s, tmp_path / "run", resume=True).step == trainer.step
    assert result(tmp_path / "run") == before


def test_patience_and_the_best_figure_outlive_a_pause(data_dir, tmp_path, monkeypatch):
    """However often a run is stopped, it ends where the run that nobody touched does."""
    figures = iter([3.0, 2.0, *[2.5] * 50])
    told: dict[int, float] = {}  # the figure of each validation, by its step

    def validate(self, phase, generator):
        step = int(self.module.steps_seen)
        told.setdefault(step, next(figures) if step not in told else 0)
        return {"bits_per_dimension": told[step]}

    monkeypatch.setattr(SpatialTraining, "validate", validate)
    s = settings("no latent", data_dir, steps=100, batch=16, patience=2, validate_every=2, save_every=1)

    def trained(folder: Path, stops: list[int | None]) -> Trainer:
        for number, stop in enumerate(stops):
            trainer = Trainer(s, folder, resume=number > 0, progress=False)
            one = trainer._step

            def step(trainer=trainer, one=one):
                trainer.module.steps_seen = trainer.step + 1
                return one()

            trainer._step = step
            trainer.train(stop)
        return trainer

    whole = trained(tmp_path / "whole", [None])
    assert whole.patience_over and whole.best == 2.0 and whole.best_epoch == 1 and whole.step == 10
    paused = trained(tmp_path / "paused", [3, 5, 7, 9, None])
    assert (paused.step, paused.best, paused.best_epoch) == (whole.step, whole.best, whole.best_epoch)
    assert result(tmp_path / "paused") == result(tmp_path / "whole")


def test_a_run_of_an_older_version(data_dir, tmp_path):
    """Its recipe.json has no family and no split: it goes on with all training images, and validates on test images."""
    old = Path(__file__).with_name("old-recipe.json")
    fields = {**json.loads(old.read_text()), "data_dir": str(data_dir)}
    made = Settings(**Settings.upgrade(fields))
    assert (made.model, made.validation, made.validates_on) == ("spatial", 0, "test")
    whole, folder = run(made, tmp_path / "whole"), tmp_path / "run"
    assert len(whole.training.images) == 64 and len(whole.training.validation) == 16
    run(made, folder, stop_at=2)
    (folder / "recipe.json").write_text(json.dumps(fields))
    scalars = json.loads((folder / states(folder)[0] / "state.json").read_text())
    assert set(scalars) == {
        "phase_index", "step", "best", "best_epoch", "patience_over", "components", "network_given", "seconds"
    }  # fmt: skip
    assert main(["--quiet", "--out", str(folder), "--resume", "--threads=1"]) == 0
    assert result(folder) == result(tmp_path / "whole")
    assert (
        events(folder, "validation")[-1]["bits_per_dimension"]
        == events(tmp_path / "whole", "validation")[-1]["bits_per_dimension"]
    )
