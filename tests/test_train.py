"""Training: it learns, it stops with a sentence, and it continues bit for bit wherever it was stopped."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import write_dataset
from safetensors.torch import load_file

from spx.checkpoints import load_model
from spx.cli.train import main
from spx.io.files import alone_in
from spx.models.spatial.codes import refine
from spx.recipe import recipe
from spx.train import Averaged, Trainer, seed_of
from spxcore.errors import SpxError

# Seconds, not hours: a few steps of a few patches, a state after every step.
FAST = dict(
    data="idx", vae_steps=3, steps=4, batch=4, patches_per_image=2, vae_batch=4, components=1, warmup=0, log_every=1,
    validate_every=0, sample_every=0, save_every=1, refine=0,
)  # fmt: skip
MODES = {
    "frozen, spatial": ("small-4x4", {}),
    "joint": ("paper-small-4x4", {"patches_per_image": 1, "validate_every": 2}),
    "no latent": ("pixelcnnpp-small-4x4", {"patches_per_image": 1, "dropout": 0.0}),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums are made in the same order in every process of a test."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def own_signals():
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def settings(mode: str, data_dir: Path, **replaced):
    name, fields = MODES[mode]
    return recipe(name, **{**FAST, **fields, "data_dir": str(data_dir), **replaced})


def options(settings_) -> list[str]:
    """The same settings as options of the command."""
    given = [f"--preset={settings_.preset}"]
    for name, value in settings_.to_dict().items():
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            given.append(option if value else "--no-" + name.replace("_", "-"))
        elif name == "sizes":
            given += [option, *map(str, value)]
        elif name != "preset":
            given.append(f"{option}={value}")
    return given


def run(settings_, folder: Path, resume: bool = False, stop_at: int | None = None) -> Trainer:
    trainer = Trainer(settings_, folder, resume=resume, progress=False)
    trainer.train(stop_at)
    return trainer


def result(folder: Path) -> bytes:
    return (folder / "checkpoint" / "model.safetensors").read_bytes()


def states(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("state-*"))


def events(folder: Path, event: str) -> list[dict]:
    return [r for r in map(json.loads, (folder / "log.jsonl").read_text().splitlines()) if r["event"] == event]


@pytest.fixture(scope="module")
def uninterrupted(data_dir, tmp_path_factory):
    """Folders of finished runs by mode, each run once."""
    folders: dict[str, Path] = {}

    def of(mode: str) -> Path:
        if mode not in folders:
            folders[mode] = tmp_path_factory.mktemp("whole") / "run"
            run(settings(mode, data_dir), folders[mode])
        return folders[mode]

    return of


# ---- learning --------------------------------------------------------------------------------------------------------


def losses(trainer: Trainer) -> dict[str, float]:
    """Loss and its parts of the first batch, always with the same code."""
    torch.manual_seed(0)
    with torch.no_grad():
        return {name: float(value) for name, value in trainer.objective(*trainer._batch(0)).items()}


def test_the_joint_loss_is_the_weighted_sum_of_its_parts(data_dir, tmp_path):
    """Paper, equations 5 and 6."""
    parts = losses(
        Trainer(settings("joint", data_dir, kl_weight=0.5, patch_weight=12.25, dropout=0.0), tmp_path, progress=False)
    )
    assert parts["loss"] == pytest.approx(parts["image"] + 0.5 * parts["kl"] + 12.25 * parts["patch"], rel=1e-6)


def test_decoded_targets_change_the_loss_of_large_sizes_alone(data_dir, tmp_path):
    found = {}
    for sizes in ((28, 28), (28, 1400)):
        for targets in ("decoded", "data"):
            run = tmp_path / f"{targets}-{sizes[1]}"
            recipe_ = settings(
                "frozen, spatial", data_dir, vae_steps=0, batch=32, patches_per_image=8, sizes=sizes, targets=targets
            )
            trainer = Trainer(recipe_, run, progress=False)
            trainer.phase_index = 1
            trainer._begin_phase()
            found[sizes[1], targets] = losses(trainer)["loss"]
    assert found[28, "decoded"] == found[28, "data"]
    assert found[1400, "decoded"] != found[1400, "data"]


@pytest.mark.parametrize("mode", MODES)
def test_the_loss_falls(mode, data_dir, tmp_path):
    more = dict(
        vae_steps=12, steps=40, batch=16, patches_per_image=1, vae_batch=16, ema=0.5, save_every=0, validate_every=4
    )
    s = settings(mode, data_dir, **more)
    trainer = run(s, tmp_path / "run")
    for phase, steps in s.phases():
        losses = [r["loss"] for r in events(tmp_path / "run", "train") if r["phase"] == phase]
        figures = [r["bits_per_dimension"] for r in events(tmp_path / "run", "validation") if r["phase"] == phase]
        assert len(losses) == steps // 10 and len(figures) == steps // 4
        assert figures[-1] < 0.98 * figures[0], figures  # averaged weights, always the same test patches
    model = load_model(tmp_path / "run" / "checkpoint")
    assert model.components == (2 if mode == "frozen, spatial" else 0)  # one a class
    for name, mean in trainer.average.mean.items():  # averaged weights are what is saved
        assert torch.equal(model.state_dict()[name], mean), name
    assert any((p != model.state_dict()[name]).any() for name, p in trainer.model.named_parameters())
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_a_run_starts_from_a_checkpoints_weights(uninterrupted, data_dir, tmp_path):
    trained = uninterrupted("frozen, spatial") / "checkpoint"
    s = settings("frozen, spatial", data_dir, init=str(trained), vae_steps=0, steps=3, components=2)
    weights = load_model(trained).state_dict()
    trainer = Trainer(s, tmp_path / "run", progress=False)
    for name, p in trainer.model.named_parameters():
        assert torch.equal(p, weights[name]), name
    trainer.train()
    ended = load_model(tmp_path / "run" / "checkpoint")
    assert ended.components == 2  # fitted anew, not the other's
    for name, p in ended.named_parameters():
        assert torch.equal(p, weights[name]) == name.startswith("vae."), name
    resumed = Trainer(s, tmp_path / "again", progress=False)
    resumed.train(stop_at=1)
    Trainer(s, tmp_path / "again", resume=True, progress=False).train()
    assert result(tmp_path / "again") == result(tmp_path / "run")


def test_a_run_starts_from_the_vae_of_another_network(uninterrupted, data_dir, tmp_path):
    """Its network is initialised from data as if the VAE had just been trained here; the same after a pause."""
    trained = uninterrupted("frozen, spatial") / "checkpoint"
    s = recipe("small-8x8", data_dir=str(data_dir), **{**FAST, "init": str(trained), "vae_steps": 0, "steps": 2})
    weights = load_model(trained).state_dict()
    Trainer(s, tmp_path / "run", progress=False).train()
    ended = load_model(tmp_path / "run" / "checkpoint")
    for name, p in ended.named_parameters():
        if name.startswith("vae."):
            assert torch.equal(p, weights[name]), name
    scales = [p for name, p in ended.network.named_parameters() if name.endswith(".g")]
    assert any((p - 1).abs().max() > 0.05 for p in scales)  # two steps of Adam move them by 0.002
    Trainer(s, tmp_path / "again", progress=False).train(stop_at=0)
    Trainer(s, tmp_path / "again", resume=True, progress=False).train()
    assert result(tmp_path / "again") == result(tmp_path / "run")


def test_a_start_from_another_model(uninterrupted, data_dir, tmp_path, capsys):
    other = uninterrupted("no latent") / "checkpoint"
    s = settings("frozen, spatial", data_dir, init=str(other))
    refused(
        capsys,
        ["--out", tmp_path / "run", *options(s)],
        "init: expected a checkpoint of small-4x4 with the same --vae, or one with such a VAE, got ",
    )
    assert not (tmp_path / "run").exists()
    refused(
        capsys,
        ["--out", tmp_path / "run", *options(settings("no latent", data_dir, init="mnist"))],
        "checkpoint: expected one of mnist-8x8, a folder",
    )


def test_the_frozen_vae_stays_as_it_was_trained(uninterrupted, data_dir, tmp_path):
    trainer = run(settings("frozen, spatial", data_dir), tmp_path / "run", stop_at=3)
    while trainer.phase == "vae":
        trainer = run(trainer.recipe, tmp_path / "run", resume=True, stop_at=1)
    after_vae = {n: t.clone() for n, t in trainer.model.state_dict().items() if n.startswith(("vae.", "prior_"))}
    final = load_model(uninterrupted("frozen, spatial") / "checkpoint").state_dict()
    assert len(after_vae) > 20 and all(torch.equal(t, final[name]) for name, t in after_vae.items())


def test_the_moving_average():
    """mean_t = d mean_(t-1) + (1 - d) w_t with d = min(decay, (1 + t) / (10 + t))."""
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    average, expected = Averaged({"w": w}, 0.6), np.array([1.0, -2.0])
    for t in range(1, 12):
        with torch.no_grad():
            w += torch.tensor([1.0, 0.5]) * t
        average.update(t)
        d = min(0.6, (1 + t) / (10 + t))
        expected = d * expected + (1 - d) * w.detach().numpy()
        np.testing.assert_allclose(average.mean["w"], expected, rtol=1e-5)
    live = w.detach().clone()
    with pytest.raises(RuntimeError), average.swapped_in():
        np.testing.assert_allclose(w.detach(), expected, rtol=1e-5)
        raise RuntimeError
    assert torch.equal(w, live)


def test_learning_rates_and_the_order_of_the_data(data_dir, tmp_path):
    trainer = Trainer(settings("joint", data_dir, steps=100, lr=0.5), tmp_path / "a", progress=False)
    assert trainer._learning_rate(0) == 0.5 and trainer._learning_rate(1000) == pytest.approx(0.5 * 0.999995**1000)
    # An epoch shows every image once, each epoch in another order.
    epochs = [np.concatenate([trainer._indices(16 * e + i) for i in range(16)]) for e in range(2)]
    assert all(sorted(epoch) == list(range(64)) for epoch in epochs) and (epochs[0] != epochs[1]).any()

    trainer = Trainer(
        settings("no latent", data_dir, schedule="cosine", steps=100, warmup=10, lr=0.5), tmp_path / "b", progress=False
    )
    rates = [trainer._learning_rate(step) for step in range(100)]
    assert (
        rates[0] == pytest.approx(0.05, rel=0.01) and max(rates) > 0.48 and rates[-1] == pytest.approx(0.005, rel=0.1)
    )
    assert np.argmax(rates) == 9 and (np.diff(rates[10:]) < 0).all()


def test_seeds_depend_on_every_part():
    assert len({seed_of(0, "a", 1), seed_of(1, "a", 1), seed_of(0, "b", 1), seed_of(0, "a", 2), seed_of(0, "a1")}) == 5
    assert 0 <= seed_of("x") < 1 << 63 and seed_of(0, "weights") == seed_of(0, "weights")


# ---- continuing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_resume_in_the_middle_of_each_phase(mode, uninterrupted, data_dir, tmp_path, monkeypatch):
    s, folder = settings(mode, data_dir), tmp_path / "run"
    phases = len(s.phases())
    trainer = run(s, folder, stop_at=1)
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

    def interrupt(self, step, whole=False):
        if self.phase == "patch" and step == 2 and not whole:
            os.kill(os.getpid(), signal.SIGTERM)  # in the middle of a step
        return batch(self, step, whole)

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
    assert torch.equal(whole.posterior[0], codes["train"]) and torch.equal(whole.test_posterior[0], codes["test"])
    other = Trainer(settings("frozen, spatial", data_dir), shutil.copytree(uninterrupted("frozen, spatial"), tmp_path / "other"),
                    resume=True, progress=False)  # fmt: skip
    assert not torch.equal(other.posterior[0], codes["train"]) and torch.equal(other.posterior[1], whole.posterior[1])
    assert events(tmp_path / "whole", "prior") != events(tmp_path / "other", "prior")
    run(s, tmp_path / "part", stop_at=2)
    run(s, tmp_path / "part", resume=True, stop_at=3)  # in the patch network's phase
    with monkeypatch.context() as patch:
        patch.setattr("spx.train.refine", None)
        run(s, tmp_path / "part", resume=True, stop_at=3)
    (tmp_path / "part" / "codes.safetensors").write_bytes(b"damaged")
    with pytest.raises(SpxError, match=r"codes\.safetensors: cannot be read .* remove it, and the codes are made anew"):
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

    monkeypatch.setattr("spx.train.refine", interrupted)
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


def start(arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "spx.cli.train", "--threads=1", "--quiet", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(process: subprocess.Popen, condition) -> None:
    """Until the condition holds or the process has ended."""
    limit = time.monotonic() + 120
    while not condition() and process.poll() is None:
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
        process = start(options(s) + ["--out", str(folder)] if i == 0 else ["--out", str(folder), "--resume"])
        wait_for(process, moment)
        delay = random.uniform(0, 0.3)
        time.sleep(delay)
        process.kill()
        process.communicate()
        killed.append((round(delay, 3), states(folder), process.returncode))
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
    process = start(options(s) + ["--out", str(tmp_path / "run")])
    wait_for(process, lambda: (tmp_path / "run" / "log.jsonl").exists())
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"continue with: spx-train --out {tmp_path / 'run'} --resume" in err and "Traceback" not in err and out == ""
    assert len(states(tmp_path / "run")) == 1


def test_patience_is_final(data_dir, tmp_path):
    """A run that ran out of patience, resumed, trains no further."""
    s = settings("no latent", data_dir, steps=1000, lr=1e-12, patience=1, batch=16, validate_every=4)
    trainer = run(s, tmp_path / "run")
    assert trainer.step < 100
    before = result(tmp_path / "run")
    assert run(s, tmp_path / "run", resume=True).step == trainer.step
    assert result(tmp_path / "run") == before


# ---- several processes -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_equal_one(uninterrupted, data_dir, tmp_path):
    """The same global batch, half of it in each of two gloo processes: the same weights up to the order of sums."""
    s, folder = settings("no latent", data_dir), tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "spx.cli.train",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = ["--device=cpu", "--threads=1", "--quiet", *options(s), "--out", str(folder)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done:") == 1
    one, two = (load_file(f / "checkpoint" / "model.safetensors") for f in (uninterrupted("no latent"), folder))
    assert one.keys() == two.keys()
    # Adam makes a whole step of the sign of a gradient that is nothing but rounding: so the mean, not the largest, difference,
    # in units of what one step more would make.
    run(settings("no latent", data_dir, steps=5), tmp_path / "longer")
    longer = load_file(tmp_path / "longer" / "checkpoint" / "model.safetensors")

    def apart(other: dict) -> float:
        return sum((other[name] - one[name]).abs().sum().item() for name in one)

    assert apart(two) < 0.02 * apart(longer)


# ---- refusals --------------------------------------------------------------------------------------------------------


def refused(capsys, arguments: list[str], message: str) -> None:
    code = main(["--quiet", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1, err
    assert message in err


@pytest.mark.parametrize("mode", ["frozen, spatial", "no latent"])
def test_a_loss_that_is_no_number(mode, data_dir, tmp_path, capsys):
    s = settings(mode, data_dir, lr=1e30, steps=20, vae_steps=20)
    refused(capsys, [*options(s), "--out", tmp_path / "run"], "not finite at")
    for name in states(tmp_path / "run"):  # what was saved can be used
        tensors = load_file(tmp_path / "run" / name / "state.safetensors")
        assert all(torch.isfinite(t).all() for n, t in tensors.items() if n.startswith("model.")), name
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_the_message_of_a_loss_that_is_no_number(data_dir, tmp_path):
    """Found between two points of the curves, before the weights are saved over good ones."""
    trainer = Trainer(
        settings("no latent", data_dir, steps=20, log_every=10, save_every=1), tmp_path / "run", progress=False
    )
    step = trainer.optimiser.step

    def spoil(*args):
        step(*args)
        if trainer.step == 3:
            with torch.no_grad():
                trainer.model.network.nin_out.bias[0] = math.nan

    trainer.optimiser.step = spoil
    with pytest.raises(
        SpxError, match=r"not finite at patch step 4; the newest state in .*: --resume .*lower --lr \(now 0.001\)"
    ):
        trainer.train()
    assert states(tmp_path / "run") == ["state-0-00000003"]


def test_an_existing_run(uninterrupted, data_dir, capsys):
    folder = uninterrupted("no latent")
    before = result(folder)
    refused(
        capsys,
        [*options(settings("no latent", data_dir)), "--out", folder],
        "expected a new folder, got one with a run in it (--resume",
    )
    assert result(folder) == before


def test_nothing_to_resume(tmp_path, capsys):
    refused(capsys, ["--out", tmp_path / "none", "--resume"], "got no recipe.json there")
    (tmp_path / "recipe.json").write_text("{")
    refused(capsys, ["--out", tmp_path, "--resume"], "recipe.json: damaged")
    (tmp_path / "recipe.json").write_text('{"preset": "small-8x8", "momentum": 1}')
    refused(capsys, ["--out", tmp_path, "--resume"], "not a recipe of this version")


def test_resume_with_another_setting(uninterrupted, capsys):
    folder = uninterrupted("no latent")
    refused(
        capsys,
        ["--out", folder, "--resume", "--lr=0.5"],
        f"lr: expected 0.001, as the run in {folder} was started, got 0.5",
    )
    refused(capsys, ["--out", folder, "--resume", "--sizes", 28, 56], "sizes: expected [28, 28]")
    refused(capsys, ["--out", folder, "--resume", "--preset=small-8x8"], "preset: expected pixelcnnpp-small-4x4")


def test_resume_with_the_same_settings_or_moved_data(uninterrupted, data_dir, tmp_path, capsys):
    import shutil

    folder = shutil.copytree(uninterrupted("no latent"), tmp_path / "run")
    moved = shutil.copytree(data_dir, tmp_path / "moved")
    given = ["--lr=0.001", "--sizes", "28", "28", f"--data-dir={moved}"]
    assert main(["--quiet", "--out", str(folder), "--resume", *given]) == 0
    assert f"done: {folder / 'checkpoint'}" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["state.safetensors", "state.json"])
def test_a_damaged_state(uninterrupted, tmp_path, capsys, damage):
    import shutil

    folder = shutil.copytree(uninterrupted("no latent"), tmp_path / "run")
    path = folder / states(folder)[0] / damage
    path.write_bytes(path.read_bytes()[:50])
    refused(capsys, ["--out", folder, "--resume"], f"{path.parent}: cannot be read")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "preset: expected a name such as small-8x8, got None"),
        (["--preset=small-9x9"], "patch: expected a multiple of 4"),
        (["--preset=small-8x8", "--steps=0"], "steps: expected at least 1, got 0"),
        (["--preset=small-8x8", "--threads=0"], "threads: expected at least 1, got 0"),
        (["--preset=small-8x8", "--spoilt=1.5"], "spoilt: expected 0 to 1, got 1.5"),
        (["--preset=small-8x8", "--prior-spread=0"], "prior_spread: expected more than 0, got 0"),
        (["--preset=small-8x8", "--device=gpu"], "device: expected cpu"),
        (["--preset=small-8x8", "--data=idx", "--data-dir=/none"], "/none: expected a file train-images-idx3-ubyte"),
        (["--preset=small-8x8", "--data=mnst"], "data: expected mnist, fashion-mnist, idx, got 'mnst'"),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path, capsys):
    refused(capsys, ["--out", tmp_path / "run", *arguments], message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": (32, 1400)}, "sizes: expected the smallest to be the data's own 28, got 32"),
        ({"preset": "small-32x32", "sizes": (32, 64)}, "images of at least the patch's 32 pixels, got 28"),
        ({"vae_batch": 100}, "batch: expected at most the data set's 64 images a step, got 100"),
    ],
)
def test_settings_that_do_not_fit_the_data(change, message, data_dir, tmp_path):
    name = change.pop("preset", "small-4x4")
    s = recipe(name, **{**FAST, "data_dir": str(data_dir), **change})
    with pytest.raises(SpxError, match=message):
        Trainer(s, tmp_path / "run", progress=False)


def test_a_damaged_data_file(data_dir, tmp_path, capsys):
    import shutil

    broken = shutil.copytree(data_dir, tmp_path / "data")
    path = broken / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    refused(capsys, [*options(settings("joint", broken)), "--out", tmp_path / "run"], f"{path}: cannot be read")
    assert not (tmp_path / "run").exists()


# ---- options ---------------------------------------------------------------------------------------------------------


def test_bf16(data_dir, tmp_path):
    trainer = run(settings("frozen, spatial", data_dir, precision="bf16"), tmp_path / "run")
    assert trainer.step == 4 and all(p.dtype == torch.float32 for p in trainer.model.parameters())
    load_model(tmp_path / "run" / "checkpoint")


def test_rgb_data(tmp_path):
    folder = write_dataset(tmp_path / "data", channels=3)
    run(settings("frozen, spatial", folder), tmp_path / "run")
    assert load_model(tmp_path / "run" / "checkpoint").network_config.channels == 3


def test_sample_pictures(data_dir, tmp_path):
    """The VAE's reconstructions, and after the last step images, reconstructions and samples: three rows of eight."""
    from PIL import Image

    trainer = Trainer(settings("frozen, spatial", data_dir), tmp_path / "run", progress=False)
    trainer.train(stop_at=1)
    assert trainer.phase == "vae"
    trainer._draw_samples()
    with Image.open(tmp_path / "run" / "samples" / "vae-00000001.png") as picture:
        assert picture.size == (8 * 29 - 1, 2 * 29 - 1) and picture.mode == "L"


@pytest.mark.skipif(
    os.environ.get("SPX_TEST_COMPILE") != "1", reason="compiles for minutes; SPX_TEST_COMPILE=1 runs it"
)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.timeout(1800)
def test_torch_compile(mode, data_dir, tmp_path):
    run(settings(mode, data_dir, compile=True, validate_every=2), tmp_path / "run")
    load_model(tmp_path / "run" / "checkpoint")
