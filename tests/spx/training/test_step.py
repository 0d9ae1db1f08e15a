"""One step of every phase, computed apart: images, patches, loss, gradient, Adam, learning rate, average."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image
from runs import FAST, settings

from spx.models.spatial import training
from spx.models.spatial.patches import decoded_targets, sample_patches
from spx.training.seeds import seed_of
from spx.training.trainer import Trainer
from spxcore.heads.log_prob import logistics_log_prob

# Settings away from their defaults.
EVERYTHING = dict(
    seed=5, weight_decay=0.1, ema=0.2, kl_weight=0.5, patch_weight=3.0, contrast=0.3, spoilt=0.5, lr=3e-3, warmup=3,
    schedule="cosine", sizes=(28, 200), dropout=0.3, patches_per_image=2, targets="decoded", steps=9, vae_steps=7,
)  # fmt: skip
# Share of the weights that may part by rounding; measured: 3e-6.
SHARE = 1e-4
PHASES = {
    "vae": ("frozen, spatial", {}),
    "patch": ("frozen, spatial", {}),
    "joint": ("frozen, spatial", {"vae": "joint"}),
    "patch without a code": ("no latent", {"sizes": (28, 28), "schedule": "exponential", "lr_decay": 0.9}),
}


def images_by_hand(seed: int, phase: str, step: int, count: int, batch: int) -> np.ndarray:
    """The first epoch's permutation, in pieces."""
    return np.random.default_rng(seed_of(seed, phase, 0)).permutation(count)[step * batch : (step + 1) * batch]


def loss_by_hand(module, s, phase: str, step: int, images: torch.Tensor) -> torch.Tensor:
    """Paper, equations 5 to 7, with our weights. images: uint8 [B, 1, 28, 28]."""
    x = images.float() / 127.5 - 1
    generator = torch.Generator().manual_seed(seed_of(s.seed, phase, step, "patches"))
    patches = None
    if phase != "vae":
        repeated = x.repeat_interleave(2, dim=0)
        patches = sample_patches(repeated, module.network_config, generator, s.contrast, spoilt_share=s.spoilt)
    torch.manual_seed(seed_of(s.seed, phase, step, 0))  # of process 0: the code's noise, then dropout
    total, z, decoded = 0.0, None, None
    if module.vae is not None:
        with torch.set_grad_enabled(phase != "patch"):
            mean, log_variance = module.vae.encode(x)
        z = mean + (log_variance / 2).exp() * torch.randn(mean.shape)
        if phase != "patch":
            kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum() / len(x)
            pixels = logistics_log_prob(module.vae.decode(z), x).sum() / len(x)
            total = total - pixels + s.kl_weight * kl
        if phase != "vae":
            with torch.no_grad():
                decoded = module.vae.mean_image(z)
            patches = decoded_targets(patches, x, decoded, s.contrast)
    if patches is not None:
        nats = -logistics_log_prob(module(patches, z, decoded), patches.x).sum(dim=(1, 2))
        total = total + (s.patch_weight if phase == "joint" else 1) * (patches.weight * nats).sum() / len(nats)
    return total


def rate_by_hand(s, step: int, steps: int) -> float:
    if s.schedule == "exponential":
        return s.lr * s.lr_decay**step
    return s.lr * min(1, (step + 1) / s.warmup) * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)


@pytest.mark.parametrize("case", PHASES)
def test_two_steps_by_hand(case, data_dir, tmp_path):
    mode, replaced = PHASES[case]
    common = {k: v for k, v in EVERYTHING.items() if mode != "no latent" or k not in ("targets", "kl_weight")}
    s = settings(mode, data_dir, **{**common, **replaced})
    trainer = Trainer(s, tmp_path / "run", progress=False)
    if case == "patch":
        trainer.phase_index = 1
        trainer._begin_phase()
    phase, module = trainer.phase, copy.deepcopy(trainer.module)
    assert phase.name == case.split()[0] and phase.steps == (7 if case == "vae" else 9)
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
    prefixes = {"vae": ("vae.",), "joint": ("vae.", "network.", "maps.")}.get(phase.name, ("network.", "maps."))
    assert set(trained) == {n for n, _ in module.named_parameters() if n.startswith(prefixes)}
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    first, second = ({n: torch.zeros_like(p, dtype=torch.float64) for n, p in trained.items()} for _ in range(2))
    mean = {n: p.detach().double() for n, p in trained.items()}
    for step in range(2):
        chosen = images_by_hand(
            s.seed, phase.name, step, len(trainer.training.images), FAST["batch"] // (1 if case == "vae" else 2)
        )
        loss = loss_by_hand(module, s, phase.name, step, trainer.training.images[torch.from_numpy(chosen)])
        gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        told = trainer._step()
        assert float(told["loss"].detach()) == pytest.approx(float(loss.detach()), rel=1e-5)
        assert trainer.optimiser.param_groups[0]["lr"] == pytest.approx(rate_by_hand(s, step, phase.steps))
        t, decay = step + 1, min(s.ema, (2 + step) / (11 + step))
        for (name, p), g in zip(trained.items(), gradients, strict=True):
            if g is None:
                continue
            g = g.double() + s.weight_decay * p.detach().double()
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g * g
            change = first[name] / (1 - 0.9**t) / ((second[name] / (1 - 0.999**t)).sqrt() + 1e-8)
            with torch.no_grad():
                p -= (rate_by_hand(s, step, phase.steps) * change).float()
            mean[name] = decay * mean[name] + (1 - decay) * p.detach().double()
    live = dict(trainer.module.named_parameters())
    pairs = [(live[name].detach(), p.detach()) for name, p in module.named_parameters()]
    pairs += [(trainer.average.mean[name], mean[name].float()) for name in trained]
    # Where a gradient is next to nothing, rounding decides which way Adam goes. All others agree.
    apart = torch.cat([(a - b).abs().flatten() for a, b in pairs])
    share = (apart > 1e-5).float().mean()  # a step is 1e-3
    assert share < SHARE, (case, float(share), float(apart.max()))
    assert all(torch.equal(live[n], before[n]) for n in before if n not in trained)


def test_the_next_phase_starts_from_the_average(data_dir, tmp_path):
    trainer = Trainer(settings("frozen, spatial", data_dir, ema=0.2), tmp_path / "run", progress=False)
    for _ in range(3):
        trainer._step()
    average = {name: mean.clone() for name, mean in trainer.average.mean.items()}
    live = dict(trainer.module.named_parameters())
    assert any(not torch.equal(live[name], mean) for name, mean in average.items())
    trainer._next_phase()
    assert all(torch.equal(live[name], mean) for name, mean in average.items())


def test_codes_are_those_of_the_batchs_images(data_dir, tmp_path):
    """In each process' share too."""
    trainer = Trainer(settings("frozen, spatial", data_dir, vae_steps=0), tmp_path / "run", progress=False)
    trainer._next_phase()
    trainer.processes.count = 2
    for trainer.processes.rank in (0, 1):
        share = trainer.processes.share(trainer._batch(3))
        mean, log_variance = trainer.module.vae.encode(share["images"])
        assert len(share["images"]) == 1 and len(share["patches.x"]) == 2
        torch.testing.assert_close(share["mean"], mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(share["log_variance"], log_variance, rtol=1e-4, atol=1e-5)


def test_shares_make_the_whole(data_dir, tmp_path):
    """The mean of two processes' losses is that of one with the whole batch."""
    trainer = Trainer(settings("no latent", data_dir), tmp_path / "run", progress=False)
    batch, losses = trainer._batch(0), []
    whole = trainer.objective(batch)["loss"]
    trainer.processes.count = 2
    for trainer.processes.rank in (0, 1):
        losses.append(trainer.objective(trainer.processes.share(batch))["loss"])
    assert losses[0] != losses[1]
    assert float(sum(losses) / 2) == pytest.approx(float(whole), rel=1e-5)


def test_draws_differ_by_step_and_process(data_dir, tmp_path, monkeypatch):
    """Noise and dropout by both; patches and images by step alone."""
    noise, patches = {}, {}
    for rank in (0, 1):
        trainer = Trainer(settings("joint", data_dir), tmp_path / str(rank), progress=False)
        trainer.processes.rank = rank
        loss = trainer.training.loss

        def spied(phase, batch, loss=loss, trainer=trainer, rank=rank):
            noise[rank, trainer.step] = torch.random.get_rng_state().numpy().tobytes()
            patches[rank, trainer.step] = (
                tuple(batch["patches.y0"].tolist()),
                tuple(batch["images"].sum((1, 2, 3)).tolist()),
            )
            return loss(phase, batch)

        monkeypatch.setattr(trainer.training, "loss", spied)
        for _ in range(3):
            trainer._step()
    assert len(set(noise.values())) == 6
    assert len(set(patches.values())) == 3
    assert all(patches[0, step] == patches[1, step] for step in range(3))


@pytest.mark.fault(
    "unseen", "validation with dropout, of other sizes or codes, or whose chunks count alike whatever their size"
)
@pytest.mark.parametrize("mode, at_once", [("joint", 6), ("vae", 6), ("patch", 6)])
def test_validation_by_hand(mode, at_once, data_dir, tmp_path, monkeypatch):
    """Averaged weights, no dropout; patches of the data's own size, told the scale of that size; sixteen images, chunk by chunk."""
    monkeypatch.setattr(training, "VALIDATION_BATCH", at_once)
    replaced = {"joint": {"vae": "joint"}, "patch": {"vae_steps": 0}}.get(mode, {})
    s = settings("frozen, spatial", data_dir, **{**EVERYTHING, **replaced})
    trainer = Trainer(s, tmp_path / "run", progress=False)
    if mode == "patch":
        trainer._next_phase()
    for _ in range(2):
        trainer._step()
    trainer._validate()
    module, total = copy.deepcopy(trainer.module).eval(), 0.0
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(trainer.average.mean.get(name, p))
        torch.manual_seed(seed_of("validation"))
        generator = torch.Generator().manual_seed(seed_of("validation"))
        images = trainer.training.validation
        assert len(images) == 16
        for start in range(0, 16, at_once):
            x = images[start : start + at_once].float() / 127.5 - 1
            if mode != "vae":
                patches = sample_patches(x, dataclasses.replace(module.network_config, sizes=(28, 28)), generator)
                assert (patches.weight == 1).all() and (patches.x == patches.context).all()
                smallest = torch.full((len(x),), -1.0)  # -1 the smallest size, 1 the largest
                patches = dataclasses.replace(patches, scale=smallest)
            mean, log_variance = module.vae.encode(x)
            z = mean + (log_variance / 2).exp() * torch.randn(mean.shape)
            if mode == "vae":  # an upper bound: the code's nats count in full
                nats = -logistics_log_prob(module.vae.decode(z), x).sum(dim=(1, 2))
                nats = nats + 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1)
            else:
                nats = -logistics_log_prob(module(patches, z), patches.x).sum(dim=(1, 2))
            total += float(nats.sum())
    dimensions = 28 * 28 if mode == "vae" else 4 * 4
    assert trainer.best == pytest.approx(total / 16 / dimensions / math.log(2), rel=1e-5)


def test_pictures(data_dir, tmp_path):
    """Validation images, the same drawn anew from their codes, and new ones. (test_plain.py draws.)"""
    trainer = Trainer(settings("frozen, spatial", data_dir, vae="joint"), tmp_path / "run", progress=False)
    asked = []

    def drawn(**request):
        asked.append(request.get("source"))
        return np.full((8, 28, 28, 1), 50 * len(asked), np.uint8)

    trainer.training.drawn = drawn
    trainer._draw_samples()
    originals = trainer.training.validation[:8, 0].numpy()
    assert (asked[0][..., 0] == originals).all() and asked[1:] == [None]
    with Image.open(tmp_path / "run" / "samples" / "joint-00000000.png") as picture:
        shown = np.asarray(picture)
    assert shown.shape == (3 * 29 - 1, 8 * 29 - 1) and (shown[:28, 29:57] == originals[1]).all()
    assert (shown[29:57, :28] == 50).all() and (shown[58:, :28] == 100).all()
