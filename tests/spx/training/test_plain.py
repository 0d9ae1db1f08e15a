"""A plain model of one network, registered here, trains by the defaults: no line of its own but its settings."""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from helpers import digits, write_idx
from runs import events, result, states

import spx
from spx.checkpoints import read_checkpoint
from spx.cli.train import main
from spx.models import registry, training
from spx.models.settings import COUNT, Range, Settings, setting
from spx.training.trainer import Trainer
from spxcore.errors import SpxError

if "toy" not in sys.modules:
    _EXAMPLE = importlib.util.spec_from_file_location("toy", Path(__file__).parents[3] / "examples" / "toy.py")
    sys.modules["toy"] = importlib.util.module_from_spec(_EXAMPLE)
    _EXAMPLE.loader.exec_module(sys.modules["toy"])


@dataclass(frozen=True, kw_only=True)
class PlainSettings(Settings):
    """What any run has, and what the toy's `Config` has but the side, which the images tell."""

    levels: int = setting(256, "levels of a pixel", range=Range(2, 256))
    filters: int = setting(32, "filters of a layer", range=COUNT)
    layers: int = setting(4, "masked layers", range=COUNT)


class Plain(sys.modules["toy"].Toy):
    name, Settings = "plain-toy", PlainSettings
    presets: ClassVar = {"small": {"lr": 3e-3}}


MODEL = Plain()
registry.register("plain-toy", __name__)

QUICK = dict(
    data="idx", validation=0.25, levels=16, filters=6, layers=1, steps=20, batch=12, lr=0.01, warmup=0, ema=0.5, log_every=1,
    validate_every=10, sample_every=20, save_every=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def small_images(tmp_path_factory) -> Path:
    """IDX files of 8x8 images of 16 levels."""
    folder = tmp_path_factory.mktemp("small")
    for prefix, count, seed in (("train", 64, 0), ("t10k", 8, 1)):
        images, labels = digits(count, side=8, seed=seed)
        write_idx(folder / f"{prefix}-images-idx3-ubyte", images // 16)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels)
    return folder


def settings(folder: Path, **replaced):
    return registry.family("plain-toy").preset("small", **{**QUICK, "data_dir": str(folder), **replaced})


@pytest.fixture(scope="module")
def trained(small_images, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "run"
    Trainer(settings(small_images), folder, progress=False).train()
    return folder


def test_the_loss_falls(trained):
    figures = [r["bits_per_dimension"] for r in events(trained, "validation")]
    losses = [r["bits_per_dimension"] for r in events(trained, "train")]
    assert len(figures) == 2 and len(losses) == 2 and figures[1] < 0.97 * figures[0] and losses[1] < losses[0]
    assert (trained / "samples" / "network-00000020.png").exists()


def test_the_checkpoint_draws_and_scores_what_validation_said(trained, small_images):
    checkpoint = read_checkpoint(trained / "checkpoint")
    assert checkpoint.family == "plain-toy" and checkpoint.config.side == 8 and checkpoint.config.filters == 6
    sampler = spx.Sampler(checkpoint)
    drawn = sampler.sample(8, n=2, engine="reference")
    assert drawn.shape == (2, 8, 8, 1) and drawn.max() < 16
    trainer = Trainer(settings(small_images), trained, resume=True, progress=False)
    images = trainer.training.validation.permute(0, 2, 3, 1).numpy()
    bits = sampler.score(images, engine="reference").bits.mean()
    assert bits == pytest.approx(events(trained, "validation")[-1]["bits_per_dimension"], rel=1e-4)


def test_resume_is_bit_exact(trained, small_images, tmp_path):
    s = settings(small_images)
    Trainer(s, tmp_path / "run", progress=False).train(stop_at=7)
    assert states(tmp_path / "run") == ["state-0-00000007"]
    Trainer(s, tmp_path / "run", resume=True, progress=False).train()
    assert result(tmp_path / "run") == result(trained)


def test_by_the_command(trained, small_images, tmp_path, capsys):
    """Its own settings are options; the run to resume says of which family it is."""
    given = [f"--{name.replace('_', '-')}={value}" for name, value in {**QUICK, "data_dir": small_images}.items()]
    assert (
        main(["--out", str(tmp_path / "run"), "--quiet", "--model=plain-toy", "--preset=small", *given, "--threads=1"])
        == 0
    )
    assert result(tmp_path / "run") == result(trained)
    assert main(["--out", str(tmp_path / "run"), "--quiet", "--resume", "--filters=6"]) == 0
    capsys.readouterr()
    assert main(["--out", str(tmp_path / "run"), "--quiet", "--resume", "--filters=7"]) == 2
    assert "filters: expected 6, as the run" in capsys.readouterr().err


def test_a_start_from_a_checkpoint(trained, small_images, tmp_path):
    s = settings(small_images, init=str(trained / "checkpoint"))
    trainer = Trainer(s, tmp_path / "run", progress=False)
    for name, tensor in read_checkpoint(trained / "checkpoint").tensors.items():
        assert np.array_equal(trainer.module.state_dict()[name], tensor), name
    with pytest.raises(SpxError, match=r"^init: expected a checkpoint of small, got "):
        Trainer(settings(small_images, init=s.init, filters=7), tmp_path / "other", progress=False)


def test_one_step_by_hand(small_images, tmp_path):
    """The loss is the mean over images of -log p of all pixels: here by cross-entropy."""
    trainer = Trainer(settings(small_images), tmp_path / "run", progress=False)
    images = trainer._batch(0)["images"]
    logits = trainer.module.network({"x": images / 7.5 - 1})
    nats = torch.nn.functional.cross_entropy(logits, images[:, 0].long(), reduction="sum") / len(images)
    assert float(trainer._step()["loss"].detach()) == pytest.approx(float(nats.detach()), rel=1e-5)


def test_validation_by_hand(small_images, tmp_path, monkeypatch):
    """The mean over all images, whatever the chunks: of sixteen, ten and six."""
    monkeypatch.setattr(training, "VALIDATION_BATCH", 10)
    trainer = Trainer(settings(small_images, validation=0.25), tmp_path / "run", progress=False)
    trainer._validate()
    images = trainer.training.validation
    with torch.no_grad():
        logits = trainer.module.network({"x": images / 7.5 - 1})
        nats = torch.nn.functional.cross_entropy(logits, images[:, 0].long(), reduction="mean")
    assert len(images) == 16 and trainer.best == pytest.approx(float(nats) / np.log(2), rel=1e-5)


def test_pictures_of_few_levels(small_images, tmp_path):
    """Sixteen levels are shown as 0 to 255; the first validation images, then drawings."""
    trainer = Trainer(settings(small_images), tmp_path / "run", progress=False)
    trainer.training.drawn = lambda: np.full((8, 8, 8, 1), 9, np.uint8)
    found = trainer.training.pictures(trainer.phase)
    np.testing.assert_array_equal(found[:8, ..., 0], 17 * trainer.training.validation[:8, 0].numpy())
    assert found.shape == (16, 8, 8, 1) and (found[8:] == 9).all()


def test_what_does_not_fit(small_images, data_dir, tmp_path):
    for folder, replaced, message in (
        (small_images, {"levels": 8}, r"^data: expected levels below 8, got 15"),
        (small_images, {"preset": "large"}, r"^preset: expected small, got 'large'"),
        (small_images, {"mixtures": 8}, r"^settings: expected names of .*, got mixtures"),
    ):
        preset = replaced.pop("preset", "small")
        with pytest.raises(SpxError, match=message):
            made = registry.family("plain-toy").preset(preset, **{**QUICK, "data_dir": str(folder), **replaced})
            Trainer(made, tmp_path / "run", progress=False)
