"""What a run shows, keeps and hands on: its curves, averages, states, codes and prior. None of it changes what is trained."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import write_dataset
from runs import events, result, run, settings, states

from spx.checkpoints import load_model, read_checkpoint
from spx.data import Images
from spx.models.spatial import training as spatial_training
from spx.models.spatial.codes import refine
from spx.models.spatial.prior import fit_mixture
from spx.training import processes, run_folder, trainer
from spx.training.processes import Processes
from spx.training.rates import learning_rate
from spx.training.seeds import seed_of
from spx.training.settings import resumed
from spx.training.trainer import Trainer, images_of

PHASES = {
    "vae": ("frozen, spatial", {}), "patch": ("frozen, spatial", {"vae_steps": 0}), "joint": ("frozen, spatial", {"vae": "joint"}),
    "paper": ("joint", {"dropout": 0.0}), "no code": ("no latent", {}),
}  # fmt: skip


def made(case: str, data_dir, folder, **replaced) -> Trainer:
    """A trainer at the start of that phase."""
    mode, more = PHASES[case]
    found = Trainer(settings(mode, data_dir, **{**more, **replaced}), folder, progress=False)
    if case == "patch":
        found._next_phase()
    return found


# ---- several processes -------------------------------------------------------------------------------------------------


@pytest.mark.fault("unseen", "shares of a batch that are not the whole, in some phase")
@pytest.mark.parametrize("case", PHASES)
def test_two_processes_make_the_gradient_of_one(case, data_dir, tmp_path, monkeypatch):
    """With the same batch, and codes without noise: the mean of the shares' losses, figures and gradients is the whole's."""
    monkeypatch.setattr(spatial_training, "reparameterise", lambda mean, log_variance, generator=None: mean)
    t = made(
        case, data_dir, tmp_path, batch=8, vae_batch=6, sizes=(28, 28) if case in ("paper", "no code") else (28, 200)
    )
    batch, weights = t._batch(1), [p for p in t.module.parameters() if p.requires_grad]

    def gradient(of):
        parts = t.objective(of)
        return torch.autograd.grad(parts["loss"], weights, allow_unused=True), {
            k: float(v.detach()) for k, v in parts.items()
        }

    whole, figures = gradient(batch)
    t.processes.count, shares = 2, []
    for t.processes.rank in (0, 1):
        shares.append(t.processes.share(batch))
    for name, tensor in batch.items():
        assert torch.equal(torch.cat([share[name] for share in shares]), tensor), name
    (first, one), (second, two) = map(gradient, shares)
    assert figures == pytest.approx({name: (one[name] + two[name]) / 2 for name in figures}, rel=1e-4)
    assert one["loss"] != two["loss"]
    for a, b, c in zip(first, second, whole):
        assert (a is b is c is None) or torch.allclose(
            (a + b) / 2, c, rtol=1e-3, atol=1e-4 * float(c.abs().max()) + 1e-7
        )


@pytest.mark.fault("unseen", "processes that begin with other weights, or see other batches")
@pytest.mark.parametrize("case", ["vae", "patch", "joint"])
def test_processes_begin_alike(case, data_dir, tmp_path, monkeypatch):
    """Initialised from the whole batch, with the same noise, in each process as in a single one."""
    found = []
    for count, rank in ((1, 0), (2, 0), (2, 1)):
        mine = Processes()
        mine.count, mine.rank = count, rank
        monkeypatch.setattr(trainer, "Processes", lambda mine=mine: mine)
        found.append(made(case, data_dir, tmp_path / f"{count}{rank}", batch=8, dropout=0.3))
    ours, theirs = (found[0].module.state_dict(), [t.module.state_dict() for t in found[1:]])
    for name, tensor in ours.items():
        assert all(torch.equal(tensor, other[name]) for other in theirs), name
    batches = [t._batch(3) for t in found]
    assert all(torch.equal(batches[0][name], other[name]) for other in batches for name in batches[0])


@pytest.mark.fault("unseen", "a phase that begins by changing what an earlier one trained")
def test_a_phase_begins_with_what_is_frozen_as_it_was(data_dir, tmp_path):
    """The patch network is initialised from data that the frozen VAE makes."""
    t = made("vae", data_dir, tmp_path)
    with torch.no_grad():
        for p in t.average.mean.values():
            p += 0.1
    before = {name: mean.clone() for name, mean in t.average.mean.items()}
    t._next_phase()
    frozen = {name: p for name, p in t.module.named_parameters() if not p.requires_grad}
    assert frozen and set(before) <= set(frozen)
    for name, mean in before.items():
        assert torch.equal(frozen[name], mean), name


@pytest.mark.parametrize("others", [0, 1, 3])
@pytest.mark.parametrize("mine", [False, True])
def test_a_process_hears_the_others(mine, others, monkeypatch):
    """It stops if any of them was asked to, and raises what the first found wrong."""
    told = SimpleNamespace(all_reduce=lambda tensor: tensor.add_(others))
    monkeypatch.setattr(processes, "dist", told)
    p = Processes.__new__(Processes)
    p.together, p.rank, p.count = True, 1, 4
    assert p.any(mine, torch.device("cpu")) == (mine or others > 0)


# ---- what is shown -----------------------------------------------------------------------------------------------------


@pytest.fixture
def board(monkeypatch):
    """What is written to TensorBoard: {(curve, step): value}, and where its files were cut."""
    points, cuts = {}, []

    class Writer:
        def __init__(self, folder, purge_step):
            cuts.append(purge_step)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def add_scalar(self, name, value, step):
            assert (name, step) not in points
            points[name, step] = value

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", Writer)
    return points, cuts


@pytest.mark.fault("unseen", "a curve of another rate, another mean or other steps")
def test_the_curves_by_hand(data_dir, tmp_path, board):
    """Means over the steps since the last point, the rate of the last step, at the step of the whole run; again after a pause."""
    points, cuts = board
    s = settings(
        "frozen, spatial", data_dir, vae_steps=5, steps=7, log_every=3, warmup=3, validate_every=4, schedule="cosine"
    )
    first, done = Trainer(s, tmp_path / "run", progress=False), []

    def noted(t):
        step, validate = t._step, t.training.validate

        def noted_step():
            parts = step()
            done.append((t.phase.name, t.step, {name: float(value.detach()) for name, value in parts.items()}))
            return parts

        def noted_validation(phase, generator):
            figures = validate(phase, generator)
            done.append((phase.name, t.step, figures))
            return figures

        t._step, t.training.validate = noted_step, noted_validation
        return t

    noted(first).train(stop_at=6)  # the VAE's five, and six of the network
    noted(Trainer(s, tmp_path / "run", resume=True, progress=False)).train()
    assert cuts == [0, 11]
    expected, since = {}, []
    for phase, step, parts in done:
        steps, before = (5, 0) if phase == "vae" else (7, 5)
        if (phase, step) in [(p, n) for p, n, _ in since]:  # a validation, after the step
            expected |= {(f"{phase}/validation/{name}", before + step): value for name, value in parts.items()}
            continue
        since = [one for one in since if one[0] == phase] + [(phase, step, parts)]
        if step % 3 == 0 or step == steps:
            means = {name: np.mean([p[name] for *_, p in since]) for name in parts}
            means["learning_rate"] = (
                s.lr * min(1, step / 3) * (0.01 + 0.99 * (1 + np.cos(np.pi * (step - 1) / steps)) / 2)
            )
            expected |= {(f"{phase}/train/{name}", before + step): value for name, value in means.items()}
            since = since[-1:] if step % 4 == 0 or step == steps else []
    found = {key: value for key, value in points.items()}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-5), key
    logged = events(tmp_path / "run", "validation")
    assert [(e["phase"], e["step"]) for e in logged] == [("vae", 4), ("vae", 5), ("patch", 4), ("patch", 7)]


def test_what_is_shown_changes_nothing(data_dir, tmp_path, monkeypatch):
    """A run that validates, draws, logs and saves after every step ends with the weights of one that never does."""
    monkeypatch.setattr(
        spatial_training.SpatialTraining, "pictures", lambda self, phase: np.zeros((8, 9, 9, 1), np.uint8)
    )
    found = []
    for every in (0, 1):
        often = dict.fromkeys(("validate_every", "sample_every", "save_every"), every) | {"log_every": 9 - 8 * every}
        s = settings("frozen, spatial", data_dir, vae_steps=2, steps=2, dropout=0.3, **often)
        t = run(s, tmp_path / str(every))
        assert t.module.training
        found.append(t.module.state_dict() | {f"average.{n}": m for n, m in t.average.mean.items()})
    quiet, loud = found
    assert quiet.keys() == loud.keys() and all(torch.equal(quiet[name], loud[name]) for name in quiet)


@pytest.mark.fault("unseen", "validation, pictures, codes or a checkpoint of the live weights, or with dropout")
@pytest.mark.parametrize("case", ["vae", "patch", "joint"])
def test_what_is_evaluated_drawn_and_saved_is_the_average(case, data_dir, tmp_path, monkeypatch):
    t = made(case, data_dir, tmp_path, dropout=0.3, ema=0.2)
    for _ in range(2):
        t._step()
    live = {name: p.detach().clone() for name, p in t.module.named_parameters()}
    average, asked = {**live, **{name: mean.clone() for name, mean in t.average.mean.items()}}, []
    assert any(not torch.equal(live[name], average[name]) for name in live)

    def seen(name: str, result, evaluating: bool = True):
        def note(*arguments):
            asked.append(name)
            assert not evaluating or not (t.module.training or torch.is_grad_enabled()), name
            assert all(torch.equal(p, average[n]) for n, p in t.module.named_parameters()), name
            return result

        monkeypatch.setattr(t.training, name, note)

    seen("validate", {"bits_per_dimension": 1.0})
    seen("pictures", np.zeros((8, 9, 9, 1), np.uint8))
    seen("finish", None)
    seen("checkpoint", SimpleNamespace(write=lambda folder: None), evaluating=False)
    t._validate()
    t._draw_samples()
    t._finish()
    assert asked == ["validate", "pictures", "finish", "checkpoint"]
    assert t.module.training and all(torch.equal(p, live[n]) for n, p in t.module.named_parameters())


# ---- images, figures, codes and prior ----------------------------------------------------------------------------------


@pytest.mark.fault("unseen", "validation on training images, or on others for each seed")
def test_images_of_a_run(data_dir, monkeypatch):
    def numbered(count: int, first: int) -> Images:
        n = first + np.arange(count)
        return Images(np.stack([n // 256, n % 256], 1).astype(np.uint8)[:, None, None], n % 3)

    sets = {"train": numbered(1500, 0), "test": numbered(1500, 5000)}
    monkeypatch.setattr(trainer, "load", lambda data, folder, split, *_: sets[split])

    def numbers(images: Images) -> list[int]:
        return (images.images[:, 0, 0] @ np.array([256, 1])).tolist()

    s = settings("frozen, spatial", data_dir, validation=0.2)
    train, validation = map(numbers, images_of(s))
    assert len(validation) == 300 and sorted(train + validation) == list(range(1500))
    assert (
        numbers(images_of(replace(s, seed=9))[1]) == validation
    )  # so that runs can be compared, and start from each other
    train, validation = map(numbers, images_of(replace(s, validates_on="test")))
    assert train == list(range(1500)) and validation == list(range(5000, 6000))
    assert [len(part) for part in images_of(replace(s, validation=0.0))] == [1500, 0]


@pytest.mark.parametrize("channels", [1, 3])
def test_bits_per_dimension_of_each_phase(channels, tmp_path):
    """Nats over numbers of a patch, or of an image, and over log 2; colours count each."""
    folder = write_dataset(tmp_path / "data", channels=channels)
    for case, part, numbers in (("vae", "image", 784), ("joint", "patch", 16)):
        parts = made(case, folder, tmp_path / case)._step()
        assert float(parts["bits_per_dimension"]) == pytest.approx(
            float(parts[part].detach()) / (channels * numbers) / np.log(2)
        )


CODES = {
    "encoder": ("frozen, spatial", {"refine": 0}), "refined": ("frozen, spatial", {"refine": 2}),
    "joint": ("frozen, spatial", {"vae": "joint", "refine": 2}), "joint, paper": ("joint", {"prior": "mixture"}),
    "normal": ("frozen, spatial", {"refine": 2, "prior": "normal"}),
}  # fmt: skip


CODED = dict(seed=3, components=2, prior_spread=0.9, vae_steps=1, steps=1, save_every=0)


@pytest.mark.fault("unseen", "a prior fitted with other settings than the run's")
def test_the_prior_is_fitted_as_the_settings_say(data_dir, tmp_path, monkeypatch):
    told = []

    def fit(mean, variance, labels, **how):
        told.append(how)
        return fit_mixture(mean, variance, labels, **how)

    monkeypatch.setattr(spatial_training, "fit_mixture", fit)
    run(settings("frozen, spatial", data_dir, **CODED), tmp_path / "run")
    assert told and all(how == {"components": 2, "spread": 0.9, "seed": 3} for how in told)


@pytest.mark.fault("unseen", "a prior of other codes, variances or classes than the saved VAE's")
@pytest.mark.parametrize("case", CODES)
def test_the_prior_and_the_codes_of_a_run(case, data_dir, tmp_path):
    """From the saved VAE: its posterior of all training images, bettered where that is asked for, and the mixture fitted to it."""
    mode, more = CODES[case]
    t = run(settings(mode, data_dir, **{**CODED, **more}), tmp_path / "run")
    s, model = t.settings, load_model(tmp_path / "run" / "checkpoint")

    def posterior(images):
        with torch.no_grad():
            return model.vae.encode(images / 127.5 - 1)

    def fitted(mean, log_variance, chosen=slice(None)):
        how = {"components": 2, "spread": 0.9, "seed": 3}
        return fit_mixture(mean.numpy()[chosen], log_variance.exp().numpy()[chosen], t.training.labels[chosen], **how)

    train, validation = (posterior(images) for images in (t.training.images, t.training.validation))
    if s.vae == "frozen" and s.refine:
        prior = (fitted(*train) if s.prior == "mixture" else model.prior).distribution()
        train, validation = (
            (refine(model.vae, prior, 4, images, q, s.refine), q[1])
            for images, q in ((t.training.images, train), (t.training.validation, validation))
        )
    if s.vae == "frozen":
        close = dict(rtol=1e-3, atol=1e-4)
        for found, expected in ((t.training.posterior, train), (t.training.validation_posterior, validation)):
            for a, b in zip(found, expected):
                torch.testing.assert_close(a, b, **close)
    found = read_checkpoint(tmp_path / "run" / "checkpoint").module().prior
    assert found.kind == s.prior
    if s.prior == "normal":
        return
    expected = fitted(*train)
    for part in ("weights", "classes", "means", "cholesky"):
        np.testing.assert_allclose(getattr(found, part), getattr(expected, part), rtol=1e-3, atol=1e-4, err_msg=part)
    held_out, (told,) = np.arange(len(train[0])) % 10 == 9, events(tmp_path / "run", "prior")
    noise = torch.randn(train[0].shape, generator=torch.Generator().manual_seed(seed_of(3, "prior")))
    z, nine = (train[0] + (train[1] / 2).exp() * noise).numpy(), fitted(*train, ~held_out)
    kl = 0.5 * (train[0] ** 2 + train[1].exp() - 1 - train[1]).sum(1).mean()
    assert told["kl_to_standard_normal"] == pytest.approx(float(kl), rel=1e-3)
    assert told["codes_nats_held_out"] == pytest.approx(nine.log_density(z[held_out]).mean(), rel=1e-3)
    assert told["codes_nats_fitted"] == pytest.approx(nine.log_density(z[~held_out]).mean(), rel=1e-3)


@pytest.mark.parametrize("side, of_vae", [(28, 28), (33, 32)])
def test_what_a_checkpoint_says(side, of_vae, tmp_path):
    """Of its targets' contrast, the side of its data (the VAE sees a multiple of four), and how it was trained."""
    folder = write_dataset(tmp_path / "data", side=side)
    s = settings("frozen, spatial", folder, sizes=(side, 60), contrast=0.3, seed=8)
    found = Trainer(s, tmp_path / "run", progress=False).training.checkpoint()
    assert (found.config.contrast, found.config.vae.size) == (0.3, of_vae)
    assert found.config.network.sizes == (side, 60)
    told = {name: value for name, value in s.to_dict().items() if name != "data_dir"}  # which is nobody else's business
    assert found.about == {"data": "idx", "recipe": told}


# ---- states ------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("unseen", "the old state removed before the new one is written")
def test_a_state_that_cannot_be_written_leaves_the_old_one(data_dir, tmp_path, monkeypatch):
    """At every moment one state is whole."""
    t, folder = run(settings("no latent", data_dir), tmp_path / "run", stop_at=1), tmp_path / "run"
    before = (folder / states(folder)[0] / "state.safetensors").read_bytes()

    def full(tensors, path, **options):
        assert states(folder) == ["state-0-00000001"]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder, "save_file", full)
    t._step()
    with pytest.raises(Exception, match="No space left on device"):
        t._save_state()
    assert states(folder) == ["state-0-00000001"] and not list(folder.glob(".*.tmp"))
    assert (folder / states(folder)[0] / "state.safetensors").read_bytes() == before


def test_the_newest_state_is_gone_on_from(data_dir, tmp_path):
    """Killed after a state was written and before the last one was removed, there are two."""
    s, folder = settings("frozen, spatial", data_dir), tmp_path / "run"
    run(s, folder, stop_at=2)
    newest = folder / states(folder)[0]
    older = shutil.copytree(newest, folder / newest.name.replace(newest.name[-8:], "00000001"))
    scalars = json.loads((older / "state.json").read_text())
    (older / "state.json").write_text(json.dumps({**scalars, "step": 1}))
    assert len(states(folder)) == 2
    assert Trainer(s, folder, resume=True, progress=False).step == 2


def test_the_seconds_of_all_sittings_are_counted(data_dir, tmp_path):
    s = settings("no latent", data_dir)
    t = Trainer(s, tmp_path / "run", progress=False)
    t.seconds = 1000.0
    t.train(stop_at=2)
    assert Trainer(s, tmp_path / "run", resume=True, progress=False).seconds == t.seconds > 1000


def test_data_may_have_moved(data_dir, tmp_path):
    s = settings("no latent", data_dir)
    run(s, tmp_path / "run", stop_at=0)
    moved = shutil.copytree(data_dir, tmp_path / "moved")
    assert resumed(tmp_path / "run", {"data_dir": str(moved), "seed": s.seed}) == replace(s, data_dir=str(moved))
    assert resumed(tmp_path / "run", {}) == s


def test_a_start_from_a_checkpoint_outlives_a_pause(uninterrupted, data_dir, tmp_path):
    """Paused while the VAE is trained on, the given network is not initialised anew."""
    trained = uninterrupted("frozen, spatial") / "checkpoint"
    s = settings("frozen, spatial", data_dir, init=str(trained), vae_steps=2, steps=1, save_every=0)
    run(s, tmp_path / "whole")
    run(s, tmp_path / "paused", stop_at=1)
    assert states(tmp_path / "paused") == ["state-0-00000001"]
    run(s, tmp_path / "paused", resume=True)
    assert result(tmp_path / "paused") == result(tmp_path / "whole")


def test_rates_by_hand(data_dir):
    """The whole cosine: a rise, then down to 1 % of the peak."""
    s = settings("no latent", data_dir, schedule="cosine", lr=2.0, warmup=5)
    for step in range(21):
        expected = 2 * min(1, (step + 1) / 5) * (0.01 + 0.99 * (1 + np.cos(np.pi * step / 20)) / 2)
        assert learning_rate(s, step, 20) == pytest.approx(expected)
    s = replace(s, schedule="exponential", lr_decay=0.9)
    assert [learning_rate(s, step, 20) for step in range(9)] == pytest.approx([2 * 0.9**step for step in range(9)])
