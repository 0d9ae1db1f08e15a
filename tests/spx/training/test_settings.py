"""Recipes: the presets' settings and what they refuse."""

import json
import subprocess
import sys
from dataclasses import fields

import pytest

from spx.cli.train import parser
from spx.models.spatial.settings import Settings
from spx.models.spatial.settings import preset as recipe
from spx.models.spatial.training import SpatialTraining
from spxcore.errors import SpxError


def phases(settings) -> list[tuple[str, int]]:
    """Names and steps of the phases of such a run."""
    whole = SpatialTraining.__new__(SpatialTraining)
    whole.settings = settings
    return [(phase.name, phase.steps) for phase in whole.phases()]


def test_ours():
    r = recipe("small-8x8")
    assert (r.vae, r.prior, r.schedule, r.sizes, r.dropout) == ("frozen", "mixture", "cosine", (28, 1400), 0.0)
    assert phases(r) == [("vae", r.vae_steps), ("patch", r.steps)]
    network = r.network()
    assert (network.conditioning, network.patch, network.filters, network.layers) == ("spatial", 8, 25, 2)
    assert network.latent == 60 and network.sizes == (28, 1400) and network.dropout == 0.0
    assert r.network(3).channels == 3


@pytest.mark.parametrize("name", ["paper-small-8x8", "paper-large-16x16", "pixelcnnpp-small-28x28"])
def test_the_papers(name):
    """Section 4.2: Adam 1e-3 times 0.999995 a step, batch 128, one patch an image, L2 1e-4, EMA 0.9995, patience 100 epochs."""
    r = recipe(name)
    assert (r.lr, r.schedule, r.lr_decay, r.warmup) == (1e-3, "exponential", 0.999995, 0)
    assert (r.batch, r.patches_per_image, r.weight_decay, r.ema, r.patience) == (128, 1, 1e-4, 0.9995, 100)
    assert (r.kl_weight, r.prior, r.sizes, r.contrast, r.dropout) == (1.0, "normal", (28, 28), 0.0, 0.5)
    network = r.network()
    assert network.conditioning == "paper" and network.dropout == 0.5 and network.sizes == (28, 28)
    assert (network.filters, network.layers) == ((140, 5) if "large" in name else (25, 2))
    if name.startswith("paper"):
        assert r.vae == "joint" and network.latent == 60 and network.coordinates
        assert phases(r) == [("joint", r.steps)]
    else:
        assert r.vae == "none" and network.latent == 0 and not network.coordinates
        assert phases(r) == [("patch", r.steps)]


def test_the_papers_ablations():
    assert not recipe("paper-small-8x8", coordinates=False).network().coordinates
    without = recipe("paper-small-8x8", vae="none")
    assert without.network().latent == 0 and without.network().coordinates
    assert phases(recipe("paper-small-8x8", vae="frozen"))[0] == ("vae", 6000)


def test_settings_can_be_replaced_and_written():
    r = recipe("small-8x8", steps=5, sizes=[28, 56], lr=2e-3)
    assert (r.steps, r.sizes, r.lr) == (5, (28, 56), 2e-3)
    assert Settings(**json.loads(json.dumps(r.to_dict()))) == r


def test_a_patch_larger_than_the_presets_smallest_image():
    assert recipe("small-32x32", sizes=(32, 64)).network().sizes == (32, 64)
    with pytest.raises(SpxError, match=r"^sizes: expected"):
        recipe("small-32x32")


@pytest.mark.parametrize("name", ["", "small", "small-8x8x8", "huge-8x8", "paper-8x8", "small-7x7"])
def test_unknown_presets(name):
    with pytest.raises(SpxError, match=r"^(preset|patch): expected"):
        recipe(name)


@pytest.mark.parametrize(
    "setting",
    [
        {"steps": 0}, {"batch": 0}, {"patches_per_image": 0}, {"vae_batch": 0}, {"components": 0}, {"log_every": 0},
        {"vae_steps": -1}, {"warmup": -1}, {"patience": -1}, {"validate_every": -1}, {"sample_every": -1}, {"save_every": -1},
        {"seed": -1}, {"weight_decay": -1e-4}, {"kl_weight": -1.0}, {"contrast": -0.1}, {"lr": 0.0}, {"lr": -1.0},
        {"lr": float("nan")}, {"weight_decay": float("nan")}, {"lr_decay": 0.0}, {"lr_decay": 1.1}, {"ema": 1.0}, {"ema": -0.1},
        {"dropout": 1.0}, {"sizes": (4, 28)}, {"sizes": (56, 28)}, {"sizes": (28,)}, {"vae": "some"}, {"prior": "other"},
        {"schedule": "linear"}, {"precision": "fp16"}, {"batch": 130}, {"coordinates": False},
        {"validation": 1.0}, {"validation": -0.1}, {"steps": 1.5}, {"targets": "other"},
        {"patch_weight": 0.0}, {"spoilt": 1.1}, {"refine": -1},
    ],
    ids=str,
)  # fmt: skip
def test_values_out_of_range(setting):
    with pytest.raises(SpxError, match=f"^{next(iter(setting))}: expected .*, got "):
        recipe("small-8x8", **setting)


@pytest.mark.parametrize(
    ("name", "vae"), [("small-8x8", "none"), ("pixelcnnpp-small-28x28", "joint"), ("pixelcnnpp-small-8x8", "frozen")]
)
def test_a_network_with_a_latent_and_a_vae_go_together(name, vae):
    with pytest.raises(SpxError, match=r"^(vae|latent): expected"):
        recipe(name, vae=vae)


def test_unknown_settings():
    with pytest.raises(SpxError, match=r"^settings: expected names of .*, got learning_rate"):
        recipe("small-8x8", learning_rate=1e-3)


def test_every_setting_is_an_option():
    """The options and their help are made of the fields' metadata."""
    shown = " ".join(parser().format_help().split())
    for field in fields(Settings):
        option, hidden = f"--{field.name.replace('_', '-')}", field.metadata.get("hidden")
        assert (option in shown) == (not hidden), option
        assert hidden or field.name == "model" or " ".join(field.metadata["help"].split()) in shown, option
    assert "family of the model: " in shown


def test_help_without_docstrings():
    """python -OO drops them."""
    code = "from spx.cli.train import parser; print(parser().format_help())"
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "peak learning rate of Adam" in done.stdout, done.stderr


def test_choices_are_in_the_help():
    """A refusal names all choices, so does the help."""
    for field in fields(Settings):
        for choice in field.metadata.get("choices", ()):
            assert choice in field.metadata["help"], (field.name, choice)
