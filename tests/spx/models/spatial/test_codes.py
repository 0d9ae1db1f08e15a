"""q(z | x): the encoder's, and the refined one."""

import numpy as np
import pytest
import torch
from helpers import digits, tiny_model
from scipy.stats import multivariate_normal
from torch.nn import functional as F

from spx.api import Sampler
from spx.models.parts.gaussian import reparameterise
from spx.models.spatial import codes, drawing
from spx.models.spatial.codes import coverage, encode, posterior, refine
from spx.models.spatial.vae import to_unit
from spxcore import Given, engines
from spxcore.heads.log_prob import logistics_log_prob as log_prob


def test_coverage_counts_windows():
    counts = F.fold(torch.ones(1, 9, 16), 6, 3)[0, 0]  # 16 windows of 3x3 in 6x6
    torch.testing.assert_close(coverage(6, 3), counts / counts.mean())
    assert (coverage(5, 5) == 1).all()


def test_the_encoders_posterior_is_not_touched():
    model, images = Sampler(tiny_model()), np.random.default_rng(0).integers(0, 256, (3, 1, 28, 28), np.uint8)
    expected = model.module.vae.encode(to_unit(torch.from_numpy(images)))
    for found, own in zip(posterior(model.checkpoint, images.transpose(0, 2, 3, 1)), expected, strict=True):
        torch.testing.assert_close(found, own)


def test_steps_better_the_bound():
    model = Sampler(tiny_model())
    images = np.random.default_rng(1).integers(0, 256, (40, 1, 28, 28), np.uint8)
    x, prior, weight = to_unit(torch.from_numpy(images)), model.module.prior.distribution(), coverage(28, 8)

    def nats(mean, log_variance):
        z = reparameterise(mean, log_variance, torch.Generator().manual_seed(0))
        with torch.no_grad():
            return float(-(weight * log_prob(model.module.vae.decode(z), x)).sum() - prior.log_prob(z).sum())

    before, few, many = (posterior(model.checkpoint, images.transpose(0, 2, 3, 1), steps) for steps in (0, 3, 30))
    assert nats(*many) < nats(*few) < nats(*before)
    assert torch.equal(before[1], many[1])  # the variance stays


def test_refining_leaves_the_model_alone_and_repeats():
    model = Sampler(tiny_model())
    images = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)
    prior = model.module.prior.distribution()
    mean, log_variance = encode(model.module.vae, images)
    with torch.no_grad():  # as the evaluation runs
        one, two = (refine(model.module.vae, prior, 8, images, (mean, log_variance), 4) for _ in range(2))
    assert torch.equal(one, two) and not one.requires_grad and not torch.equal(one, mean)
    assert all(p.grad is None for p in model.module.parameters())


def refined_by_hand(model, images: np.ndarray, steps: int) -> np.ndarray:
    """Adam up log p(x | z) + log p(z), in units of q's deviations, its step falling as a cosine. uint8 [N, 28, 28, 1] -> [N, latent]."""
    x, vae = torch.from_numpy(images / np.float32(127.5) - 1).permute(0, 3, 1, 2), model.module.vae
    prior, m = model.module.prior, model.config.network.patch
    with torch.no_grad():
        mean, log_variance = vae.encode(x)
    sigma, cover = (log_variance / 2).exp(), np.minimum(np.arange(1, 29), np.arange(28, 0, -1)).clip(max=m)
    weight = torch.from_numpy(np.outer(cover, cover) / np.outer(cover, cover).mean()).float()
    moved, first, second = (torch.zeros_like(mean) for _ in range(3))
    for step in range(steps):
        moved.requires_grad_()
        z = mean + sigma * moved
        pixels = (weight * log_prob(vae.decode(z), x)).sum()
        if not len(prior.weights):
            density = -0.5 * (z**2).sum()
        else:
            parts = []
            for share, middle, factor in zip(prior.weights, prior.means, prior.cholesky):
                u = torch.linalg.solve_triangular(
                    torch.from_numpy(factor), (z - torch.from_numpy(middle)).T, upper=False
                )
                parts.append(float(np.log(share) - np.log(np.diag(factor)).sum()) - 0.5 * (u**2).sum(0))
            density = torch.logsumexp(torch.stack(parts), 0).sum()
        (gradient,) = torch.autograd.grad(-(pixels + density), moved)
        first, second = 0.7 * first + 0.3 * gradient, 0.9 * second + 0.1 * gradient**2
        t, rate = step + 1, 0.8 * (1 + np.cos(np.pi * step / steps)) / 2
        change = rate * (first / (1 - 0.7**t)) / ((second / (1 - 0.9**t)).sqrt() + 1e-8)
        moved = moved.detach() - change
    return (mean + sigma * moved).numpy()


@pytest.mark.fault(
    "unseen", "codes bettered by another objective, prior, coverage, rate, or of the first 250 images alone"
)
@pytest.mark.parametrize("prior", [True, False])
def test_steps_by_hand(prior, monkeypatch):
    """Wherever codes are bettered: for the likelihood, for drawing anew, in pieces of as many images as the VAE takes at once."""
    model, images = (
        Sampler(tiny_model(prior=prior)),
        np.random.default_rng(2).integers(0, 256, (3, 28, 28, 1), np.uint8),
    )
    monkeypatch.setattr(codes, "VAE_BATCH", 2)
    expected = refined_by_hand(model, images, 3)
    for found in (posterior(model.checkpoint, images, 3)[0].numpy(), model.encode(images, refine=3)):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-3)
    assert abs(expected - model.encode(images)).max() > 0.1


@pytest.mark.parametrize("prior", [True, False])
def test_what_a_code_costs_by_hand(prior):
    """In nats: KL to N(0, I) in closed form; of a mixture the density of the draw under q over that under the prior."""
    p, g = tiny_model(prior=prior).prior, np.random.default_rng(0)
    mean, log_variance, noise = (g.normal(size=(4, 5)) for _ in range(3))
    z = mean + np.exp(log_variance / 2) * noise
    found = codes.kl_nats(p, *(torch.from_numpy(a).float() for a in (mean, log_variance, z)))
    if not prior:
        expected = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(1)
    else:
        q = (-0.5 * noise**2 - log_variance / 2 - 0.5 * np.log(2 * np.pi)).sum(1)
        density = sum(
            w * multivariate_normal(middle, factor @ factor.T).pdf(z)
            for w, middle, factor in zip(p.weights, p.means, p.cholesky.astype(float))
        )
        expected = q - np.log(density)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.fault("unseen", "missing pixels guessed once, from a wrong start, or weighed wrongly")
@pytest.mark.parametrize("side, times", [(28, 10), (20, 10), (28, 1)])
def test_a_guess_by_hand(side, times, monkeypatch):
    """Ten times: the code of the image with the guess in it, and the guess from the code. Once: the start still counts."""
    assert drawing._GUESSES == 10
    monkeypatch.setattr(drawing, "_GUESSES", times)
    model, images = Sampler(tiny_model()), digits(2, side=side)[0][..., None]
    mask = np.random.default_rng(1).random((2, side, side)) < 0.6
    vae = model.module.vae

    def resized(x) -> torch.Tensor:
        x = torch.from_numpy(np.asarray(x, np.float32)).permute(0, 3, 1, 2)
        return x if side == 28 else F.interpolate(x, (28, 28), mode="bicubic", antialias=True).clamp(-1, 1)

    known, share = resized(np.where(mask[..., None], images, 0) / 127.5 - 1), resized(mask[..., None]).clamp(0, 1)
    start = np.random.default_rng(2).normal(size=(2, 5)).astype(np.float32)
    z = torch.from_numpy(start)
    with torch.no_grad():
        for _ in range(times):
            z, _ = vae.encode(share * known + (1 - share) * vae.mean_image(z))
    found = drawing.guessed(model.checkpoint, Given(images, mask), start, engines.evaluate)
    np.testing.assert_allclose(found, z, rtol=1e-3, atol=2e-3)


@pytest.mark.fault("unseen", "codes of another seed, or without q's noise")
def test_codes_to_compare_by_hand():
    model, sets = Sampler(tiny_model()), [digits(count, seed=count)[0][..., None] for count in (3, 4)]
    samples, drawn = model.family.drawn_codes(model.checkpoint, 5, 9, *sets)
    np.testing.assert_array_equal(samples, model.module.prior.sample(9, np.arange(5)))
    g = torch.Generator().manual_seed(9)
    for images, found in zip(sets, drawn):
        with torch.no_grad():
            mean, log_variance = model.module.vae.encode(to_unit(torch.from_numpy(images)).permute(0, 3, 1, 2))
        expected = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=g)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
