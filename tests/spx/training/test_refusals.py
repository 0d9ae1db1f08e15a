"""What it refuses, each with a sentence."""

import math
import shutil

import pytest
import torch
from runs import FAST, options, refused, result, settings, states
from safetensors.torch import load_file

from spx.cli.train import main
from spx.models.spatial.settings import preset
from spx.training.trainer import Trainer
from spxcore.errors import SpxError


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
                trainer.module.network.nin_out.bias[0] = math.nan

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
    refused(capsys, ["--out", tmp_path, "--resume"], "recipe.json: cannot be read")
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

    folder = shutil.copytree(uninterrupted("no latent"), tmp_path / "run")
    moved = shutil.copytree(data_dir, tmp_path / "moved")
    given = ["--lr=0.001", "--sizes", "28", "28", f"--data-dir={moved}"]
    assert main(["--quiet", "--out", str(folder), "--resume", *given]) == 0
    assert f"done: {folder / 'checkpoint'}" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["state.safetensors", "state.json"])
def test_a_damaged_state(uninterrupted, tmp_path, capsys, damage):

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
        (["--preset=small-8x8", "--threads=0"], "threads: expected a whole number, 1 to 65536, got 0"),
        (["--preset=small-8x8", "--spoilt=1.5"], "spoilt: expected 0 to 1, got 1.5"),
        (["--preset=small-8x8", "--prior-spread=0"], "prior-spread: expected more than 0 to 100, got 0"),
        (["--preset=small-8x8", "--device=gpu"], "device: expected cpu"),
        (["--preset=small-8x8", "--data=idx", "--data-dir=/none"], "/none: expected a file train-images-idx3-ubyte"),
        (
            ["--preset=small-8x8", "--data=mnst"],
            "data: expected mnist, fashion-mnist, idx, cifar10, folder, arrays, got 'mnst'",
        ),
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
        ({"vae_batch": 100}, "batch: expected at most the data set's 48 images a step, got 100"),
    ],
)
def test_settings_that_do_not_fit_the_data(change, message, data_dir, tmp_path):
    name = change.pop("preset", "small-4x4")
    s = preset(name, **{**FAST, "data_dir": str(data_dir), **change})
    with pytest.raises(SpxError, match=message):
        Trainer(s, tmp_path / "run", progress=False)


def test_a_damaged_data_file(data_dir, tmp_path, capsys):

    broken = shutil.copytree(data_dir, tmp_path / "data")
    path = broken / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    refused(capsys, [*options(settings("joint", broken)), "--out", tmp_path / "run"], f"{path}: cannot be read")
    assert not (tmp_path / "run").exists()
