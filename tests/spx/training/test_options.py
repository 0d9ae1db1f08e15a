"""Every setting, away from its default, changes what it says it changes."""

from collections import Counter
from dataclasses import fields, replace

import pytest
import torch
from helpers import write_dataset
from runs import settings

from spx.data.settings import DataSettings
from spx.models.spatial import training
from spx.models.spatial.settings import Settings
from spx.training.trainer import Trainer, images_of
from spxcore.walk.module import Convolution, Module

# All losses in one phase, on two sizes, so that most settings matter.
BASE = dict(
    vae="joint", sizes=(28, 100), spoilt=0.5, contrast=0.25, warmup=3, steps=4, batch=8, ema=0.2, validate_every=2, sample_every=2,
    save_every=2, kl_weight=0.8, log_every=2,
)  # fmt: skip


def weights(s, folder) -> torch.Tensor:
    """Weights after two steps."""
    trainer = Trainer(s, folder, progress=False)
    for _ in range(2):
        trainer._step()
    return torch.nn.utils.parameters_to_vector(trainer.module.parameters()).detach()


def average(s, folder) -> torch.Tensor:
    trainer = Trainer(s, folder, progress=False)
    for _ in range(2):
        trainer._step()
    return torch.cat([mean.flatten() for mean in trainer.average.mean.values()])


def codes_and_prior(s, folder) -> list:
    """What a frozen VAE's second phase begins with."""
    trainer = Trainer(replace(s, vae="frozen", vae_steps=0), folder, progress=False)
    trainer._next_phase()
    prior = trainer.module.prior
    return [
        *trainer.training.posterior,
        *([] if prior.kind == "normal" else map(torch.tensor, (prior.means, prior.cholesky))),
    ]


def fits(s, folder) -> list:
    """How many codes each mixture was fitted to, and how."""
    found, fit = [], training.fit_mixture

    def noted(mean, variance, labels, **how):
        found.append((len(mean), how))
        return fit(mean, variance, labels, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "fit_mixture", noted)
        codes_and_prior(s, folder)
    return found


def phases(s, folder) -> list:
    return Trainer(replace(s, vae="frozen"), folder, progress=False).phases


def sets(s, folder) -> list:
    return [torch.tensor(images.images) for images in images_of(s)]


def happenings(s, folder) -> Counter:
    """How often each thing happens in a run, and after which step. Nothing takes time, and figures never fall."""
    trainer, seen = Trainer(s, folder, progress=False), []

    def note(name: str, method=lambda *arguments: None):
        def noted(*arguments):
            seen.append((name, trainer.step))
            return method(*arguments)

        setattr(trainer, name, noted)

    def step():
        trainer.step += 1
        return {"loss": torch.tensor(1.0)}

    for name in ("_report", "_draw_samples", "_save_state", "_save_checkpoint"):
        note(name)
    note("_validate", trainer._validate)
    trainer._step = step
    trainer.training.validate = lambda phase, generator: {"bits_per_dimension": 1.0}
    trainer.train()
    return Counter(seen)


def networks(s, folder) -> list:
    """Networks that were compiled, and what ends their gated layers."""
    with pytest.MonkeyPatch.context() as patch:
        found = []
        patch.setattr(Module, "compile", lambda self, **options: found.append(options))
        trainer = Trainer(s, folder, progress=False)
    return [*found, *(m.fused for m in trainer.module.modules() if isinstance(m, Module))]


# Setting: what sees it, another value, and what else that comparison wants away from BASE.
CASES = {
    "model": None,  # test_plain.py trains another one
    "preset": (weights, "small-8x8"),
    "validation": (sets, 0.5),
    "validates_on": (sets, "test"),
    "seed": (weights, 1),
    "init": None,  # test_learning.py
    "steps": (happenings, 7),
    "batch": (weights, 16),
    "lr": (weights, 2e-3),
    "schedule": (weights, "exponential"),
    "warmup": (weights, 2),
    "lr_decay": (weights, 0.5, {"schedule": "exponential"}),
    "weight_decay": (weights, 0.1),
    "ema": (average, 0.1),
    "precision": (weights, "bf16"),
    "compile": (networks, True),
    "fused": (networks, True),
    "patience": (happenings, 1, {"steps": 14}),
    "log_every": (happenings, 1),
    "validate_every": (happenings, 1),
    "sample_every": (happenings, 1),
    "save_every": (happenings, 1),
    "vae": (weights, "none", {"preset": "paper-small-4x4", "sizes": (28, 28)}),
    "coordinates": (weights, False, {"preset": "paper-small-4x4", "sizes": (28, 28)}),
    "vae_steps": (phases, 5),
    "vae_batch": (phases, 5),
    "patches_per_image": (weights, 4),
    "kl_weight": (weights, 0.1),
    "patch_weight": (weights, 3.0),
    "refine": (codes_and_prior, 2),
    "prior": (codes_and_prior, "normal"),
    "components": (fits, 2),
    "prior_spread": (codes_and_prior, 1.5),
    "sizes": (weights, (28, 200)),
    "contrast": (weights, 0.9),
    "targets": (weights, "data"),
    "spoilt": (weights, 0.0),
    "dropout": (weights, 0.5),
}


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_every_setting_is_here():
    """Those of reading files are the data room's: tests of `spx.data`."""
    assert set(CASES) == {f.name for f in fields(Settings)} - {f.name for f in fields(DataSettings)}


_KNOWN: dict = {}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case])
def test_a_setting_does_something(name, data_dir, tmp_path, monkeypatch):
    if name == "fused":
        monkeypatch.setattr("spxcore.engines.triton.EMULATED", True)
        monkeypatch.setattr("spxcore.engines.triton.why_not", lambda: None)
    see, value, *other = CASES[name]
    base = settings("frozen, spatial", data_dir, **{**BASE, **(other[0] if other else {})})
    assert getattr(base, name) != value
    key = see, repr(base)
    if key not in _KNOWN:  # the same comparison serves many settings
        _KNOWN[key] = see(base, tmp_path / "base")
    assert not same(_KNOWN[key], see(replace(base, **{name: value}), tmp_path / "other"))


def test_the_comparison_sees_no_difference_where_there_is_none(data_dir, tmp_path):
    base = settings("frozen, spatial", data_dir, **BASE)
    for see in (weights, happenings, codes_and_prior):
        assert same(see(base, tmp_path / f"{see.__name__}-a"), see(base, tmp_path / f"{see.__name__}-b"))


def test_bf16_is_used_in_the_networks(data_dir, tmp_path):
    """Weights stay float32; convolutions give bfloat16."""
    trainer = Trainer(
        settings("frozen, spatial", data_dir, **{**BASE, "precision": "bf16"}), tmp_path / "run", progress=False
    )
    found = set()
    for layer in trainer.module.network.modules():
        if isinstance(layer, Convolution) and not layer.exact:
            layer.register_forward_hook(lambda module, inputs, output: found.add(output.dtype))
    trainer._step()
    assert found == {torch.bfloat16} and all(p.dtype == torch.float32 for p in trainer.module.parameters())


def test_the_prior_is_fitted_to_all_codes(data_dir, tmp_path):
    """What is logged is fitted to nine tenths of them."""
    assert [count for count, _ in fits(settings("frozen, spatial", data_dir, **BASE), tmp_path / "run")] == [44, 48]


def test_data_settings_reach_the_reader(data_dir, tmp_path, monkeypatch):
    """`data`, `data_dir` and how files are read are passed on whole."""
    seen = []
    original = images_of.__globals__["load"]

    def load(*arguments):
        seen.append(arguments)
        return original(*arguments)

    monkeypatch.setitem(images_of.__globals__, "load", load)
    s = settings("frozen, spatial", data_dir, **BASE)
    images_of(s)
    assert seen == [("idx", str(data_dir), "train", s, False)]  # test images are not even read
    other = write_dataset(tmp_path / "data", train=30)
    assert len(images_of(replace(s, data_dir=str(other)))[0]) < 30
