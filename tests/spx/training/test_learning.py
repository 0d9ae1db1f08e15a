"""It learns: losses fall, a start from a checkpoint, the average, the rates and the order of the data."""

import numpy as np
import pytest
import torch
from helpers import write_dataset
from runs import FAST, MODES, events, losses, options, refused, result, run, settings

from spx.checkpoints import load_model
from spx.models.spatial.settings import preset
from spx.training.average import Averaged
from spx.training.seeds import seed_of
from spx.training.trainer import Trainer


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
            s = settings(
                "frozen, spatial", data_dir, vae_steps=0, batch=32, patches_per_image=8, sizes=sizes, targets=targets
            )
            trainer = Trainer(s, run, progress=False)
            trainer.phase_index = 1
            trainer._begin_phase()
            found[sizes[1], targets] = losses(trainer)["loss"]
    assert found[28, "decoded"] == found[28, "data"]
    assert found[1400, "decoded"] != found[1400, "data"]


@pytest.mark.parametrize("mode", MODES)
def test_the_loss_falls(mode, data_dir, tmp_path):
    more = dict(
        vae_steps=10, steps=20, batch=12, patches_per_image=1, vae_batch=12, ema=0.5, save_every=0, validate_every=5
    )
    s = settings(mode, data_dir, **more)
    trainer = run(s, tmp_path / "run")
    for phase in trainer.phases:
        phase, steps = phase.name, phase.steps
        losses = [r["loss"] for r in events(tmp_path / "run", "train") if r["phase"] == phase]
        figures = [r["bits_per_dimension"] for r in events(tmp_path / "run", "validation") if r["phase"] == phase]
        assert len(losses) == steps // 10 and len(figures) == steps // 5
        assert figures[-1] < 0.98 * figures[0], figures  # averaged weights, always the same test patches
    model = load_model(tmp_path / "run" / "checkpoint")
    assert model.components == (2 if mode == "frozen, spatial" else 0)  # one a class
    saved = model.state_dict()
    for name, mean in trainer.average.mean.items():  # averaged weights are what is saved
        assert torch.equal(saved[name], mean), name
    assert any((p != saved[name]).any() for name, p in trainer.module.named_parameters())
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_a_run_starts_from_a_checkpoints_weights(uninterrupted, data_dir, tmp_path):
    trained = uninterrupted("frozen, spatial") / "checkpoint"
    s = settings("frozen, spatial", data_dir, init=str(trained), vae_steps=0, steps=3, components=2)
    weights = load_model(trained).state_dict()
    trainer = Trainer(s, tmp_path / "run", progress=False)
    for name, p in trainer.module.named_parameters():
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
    s = preset("small-8x8", data_dir=str(data_dir), **{**FAST, "init": str(trained), "vae_steps": 0, "steps": 2})
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
        "checkpoint: expected one of mnist-8x8, pixelcnnpp-mnist, a folder",
    )


def test_the_frozen_vae_stays_as_it_was_trained(uninterrupted, data_dir, tmp_path):
    trainer = run(settings("frozen, spatial", data_dir), tmp_path / "run", stop_at=3)
    while trainer.phase.name == "vae":
        trainer = run(trainer.settings, tmp_path / "run", resume=True, stop_at=1)
    after_vae = {n: t.clone() for n, t in trainer.module.state_dict().items() if n.startswith(("vae.", "prior_"))}
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
    trainer = Trainer(
        settings("joint", data_dir, steps=100, lr=0.5, validation=0, patience=0), tmp_path / "a", progress=False
    )
    assert trainer._learning_rate(0) == 0.5 and trainer._learning_rate(1000) == pytest.approx(0.5 * 0.999995**1000)
    # An epoch shows every image once, each epoch in another order.
    epochs = [np.concatenate([trainer.order.images("joint", 16 * e + i, 4) for i in range(16)]) for e in range(2)]
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


def test_bf16(data_dir, tmp_path):
    trainer = run(settings("frozen, spatial", data_dir, precision="bf16"), tmp_path / "run")
    assert trainer.step == 4 and all(p.dtype == torch.float32 for p in trainer.module.parameters())
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
    assert trainer.phase.name == "vae"
    trainer._draw_samples()
    with Image.open(tmp_path / "run" / "samples" / "vae-00000001.png") as picture:
        assert picture.size == (8 * 29 - 1, 2 * 29 - 1) and picture.mode == "L"
