"""Priors over codes: densities, draws, and the fitted mixture."""

import numpy as np
import pytest
import torch
from helpers import tiny_prior
from scipy.stats import multivariate_normal, norm
from torch import distributions as D

from spx.models.spatial.prior import Prior, fit_mixture
from spxcore.errors import SpxError
from spxcore.rng import philox4x32


def full_prior(latent: int = 4, components: int = 5, seed: int = 0) -> Prior:
    """A mixture with full covariances, three classes."""
    g = np.random.default_rng(seed)
    cholesky = np.tril(g.normal(0, 0.4, (components, latent, latent)))
    cholesky[:, range(latent), range(latent)] = g.uniform(0.3, 1.5, (components, latent))
    weights = g.dirichlet(np.ones(components))
    means = g.normal(0, 2, (components, latent))
    return Prior(latent, *(a.astype(np.float32) for a in (weights,)), np.arange(components) % 3, means.astype(np.float32),
                 cholesky.astype(np.float32))  # fmt: skip


def distribution(p: Prior, label: int | None = None) -> D.Distribution:
    """The same prior, of one class or of all, as torch has it."""
    chosen = np.ones(len(p.weights), bool) if label is None else p.classes == label
    weights, means, cholesky = (torch.from_numpy(a[chosen]).double() for a in (p.weights, p.means, p.cholesky))
    return D.MixtureSameFamily(D.Categorical(weights), D.MultivariateNormal(means, scale_tril=cholesky))


def test_log_density():
    p, z = full_prior(), np.random.default_rng(1).normal(0, 3, (50, 4))
    gaussians = [
        w * multivariate_normal(mean, factor @ factor.T).pdf(z)
        for w, mean, factor in zip(p.weights, p.means, p.cholesky.astype(np.float64), strict=True)
    ]
    np.testing.assert_allclose(p.log_density(z), np.log(np.sum(gaussians, axis=0)), rtol=1e-6)
    assert np.isfinite(p.log_density(z * 1e3)).all()  # far out as well


def test_log_density_of_the_standard_normal():
    z = np.random.default_rng(1).normal(0, 3, (50, 7))
    np.testing.assert_allclose(Prior(7).log_density(z), norm.logpdf(z).sum(axis=1), rtol=1e-9)


@pytest.mark.parametrize("latent", [1, 5, 60])
def test_standard_normal(latent):
    p = Prior(latent)
    assert p.kind == "normal"
    n = 40_000 // max(4, latent)
    z = p.sample(3, np.arange(n))
    assert z.shape == (n, latent) and z.dtype == np.float32
    flat = z.ravel().astype(np.float64)
    moments = [(flat**k).mean() for k in range(1, 5)]
    errors = np.sqrt(np.array([1, 2, 15, 96]) / flat.size)  # of the first four moments
    assert (np.abs(np.array(moments) - [0, 1, 0, 3]) < 4.5 * errors).all(), moments
    # Nowhere a correlation between the numbers of a code, however Box-Muller pairs them.
    if latent > 1:
        correlation = np.corrcoef(z.T) - np.eye(latent)
        assert abs(correlation).max() < 5 / np.sqrt(n)
    within = (np.abs(flat) < 1).mean()
    assert within == pytest.approx(0.6827, abs=0.01)


@pytest.mark.parametrize("label", [None, 0, 2])
def test_draws_have_the_mixtures_moments(label):
    p, n = full_prior(), 8_000
    z = p.sample(11, np.arange(n), label)
    d = distribution(p, label)
    chosen = d.mixture_distribution.probs, d.component_distribution
    mean = d.mean
    second = (
        chosen[0][:, None, None] * (chosen[1].covariance_matrix + torch.einsum("gi,gj->gij", *[chosen[1].mean] * 2))
    ).sum(0)
    covariance = (second - torch.outer(mean, mean)).numpy()
    error = np.sqrt(np.diag(covariance) / n)
    assert (np.abs(z.mean(axis=0) - mean.numpy()) < 4.5 * error).all()
    np.testing.assert_allclose(np.cov(z.T), covariance, atol=0.1 * np.diag(covariance).max())
    # The mean log-density of the draws is minus the entropy; torch's own draws give the same.
    theirs = d.sample((n,))
    ours, expected = (d.log_prob(torch.as_tensor(t, dtype=torch.float64)) for t in (z, theirs))
    assert abs(ours.mean() - expected.mean()) < 4.5 * float(torch.hypot(ours.std(), expected.std())) / n**0.5


def test_a_class_draws_from_its_own_components():
    p = tiny_prior()
    first = {label: p.sample(0, np.arange(500), label)[:, 0] for label in (3, 5, None)}
    assert (first[3] < -3).all() and (first[5] > 3).all()
    near_nine = np.mean(first[3] < -7.5)  # two components of equal weight
    assert 0.4 < near_nine < 0.6
    assert 0.43 < np.mean(first[None] > 0) < 0.57  # class 5 has half of the weight


@pytest.mark.parametrize("p", [Prior(5), tiny_prior()], ids=["normal", "mixture"])
def test_an_images_code_is_its_own(p):
    """The same whatever else is drawn with it and in which order; another one for each image and seed."""
    together = p.sample(9, np.arange(20))
    np.testing.assert_array_equal(p.sample(9, np.array([13, 2])), together[[13, 2]])
    np.testing.assert_array_equal(p.sample(9, np.arange(3)), together[:3])
    assert len(np.unique(together, axis=0)) == 20
    assert (p.sample(10, np.arange(20)) != together).any(axis=1).all()
    assert (p.sample(9 + (1 << 40), np.arange(20)) != together).any(axis=1).all()


def test_codes_share_no_words_with_pixels():
    """A code's counters end in 1, pixels' in 0: so no pixel's noise is a function of its image's code."""
    from spx.models.spatial import prior
    from spxcore import rng

    counters = []
    original, prior.philox4x32 = prior.philox4x32, lambda seed, c: counters.append(c) or rng.philox4x32(seed, c)
    try:
        Prior(60).sample(0, np.array([4]))
    finally:
        prior.philox4x32 = original
    assert (counters[0][:, 3] == 1).all() and (counters[0][:, 2] == 4).all()
    assert len(np.unique(counters[0], axis=0)) == len(counters[0]) >= 16


@pytest.mark.parametrize("label", [0, 4, 12, -1])
def test_unknown_class(label):
    with pytest.raises(SpxError, match=f"^digit: expected a class of this checkpoint, 3 to 5, got {label}"):
        tiny_prior().sample(0, np.arange(1), label)


def test_the_normal_prior_knows_no_class():
    with pytest.raises(SpxError, match=r"^digit: this checkpoint's prior is N\(0, I\)"):
        Prior(3).sample(0, np.arange(1), 3)


@pytest.fixture(scope="module")
def synthetic():
    """Codes of two classes with three clusters each, their labels, and the truth."""
    truth = full_prior(latent=6, components=6, seed=2)
    truth = Prior(6, truth.weights, np.arange(6) % 2, truth.means * 2, truth.cholesky)
    label = np.random.default_rng(0).integers(0, 2, 4000)
    codes = np.concatenate([truth.sample(1, np.array([i]), int(k)) for i, k in enumerate(label)])
    return codes, label.astype(np.uint8), truth


def fit(codes: np.ndarray, labels: np.ndarray, **how) -> Prior:
    """The mixture of codes without noise, as wide as they are."""
    return fit_mixture(codes, np.zeros_like(codes), labels, spread=1.0, **how)


def test_fit_mixture(synthetic):
    codes, labels, truth = synthetic
    fitted = fit(codes[:3000], labels[:3000], components=3)
    assert fitted.kind == "mixture" and fitted.weights.sum() == pytest.approx(1, abs=1e-5)
    assert sorted(fitted.classes.tolist()) == [0, 0, 0, 1, 1, 1]
    assert all(a.dtype == np.float32 for a in (fitted.weights, fitted.means, fitted.cholesky))
    # Held out it is far better than one Gaussian, nearly as good as the truth, and no better on what it was fitted to.
    held_out = fitted.log_density(codes[3000:]).mean()
    single = fit(codes[:3000], np.zeros(3000), components=1).log_density(codes[3000:]).mean()
    classes = np.bincount(labels) / len(labels)
    weights = (
        truth.weights / np.array([truth.weights[k::2].sum() for k in (0, 1)])[truth.classes] * classes[truth.classes]
    )
    best = (
        Prior(6, weights.astype(np.float32), truth.classes, truth.means, truth.cholesky)
        .log_density(codes[3000:])
        .mean()
    )
    assert single + 0.5 < held_out < best + 0.02 and held_out > best - 0.5
    assert abs(fitted.log_density(codes[:3000]).mean() - held_out) < 0.3


def test_fit_mixture_keeps_the_classes_apart(synthetic):
    codes, labels, _ = synthetic
    fitted = fit(codes, labels, components=3)
    shares = [fitted.weights[fitted.classes == k].sum() for k in (0, 1)]
    np.testing.assert_allclose(shares, np.bincount(labels) / len(labels), atol=1e-5)
    for k in (0, 1):
        mean = codes[labels == k].mean(axis=0)
        np.testing.assert_allclose(fitted.sample(0, np.arange(4000), k).mean(axis=0), mean, atol=0.25)


def test_fit_mixture_is_repeatable_and_modest(synthetic):
    codes, labels, _ = synthetic
    a, b = (fit(codes[:600], labels[:600], components=20, seed=4) for _ in range(2))
    assert all((getattr(a, name) == getattr(b, name)).all() for name in ("weights", "classes", "means", "cholesky"))
    few = fit(codes[:40], labels[:40], components=20)  # too few for 20 clusters a class
    assert len(few.weights) <= 4 and np.isfinite(few.log_density(codes)).all()


def test_spread_scales_the_codes_and_leaves_their_noise(synthetic):
    codes, labels, _ = synthetic
    noise = np.full_like(codes, 0.25)
    whole, narrow = (fit_mixture(codes, noise, labels, components=3, spread=spread) for spread in (1.0, 0.5))
    assert np.array_equal(whole.means, narrow.means) and np.array_equal(whole.weights, narrow.weights)
    of_codes, half = (p.cholesky @ p.cholesky.transpose(0, 2, 1) - np.diag(np.full(6, 0.25)) for p in (whole, narrow))
    np.testing.assert_allclose(half, of_codes / 4, atol=1e-4)


def test_noise_is_as_good_as_drawn(synthetic):
    """The mixture of means and variances is that of endless draws."""
    codes, labels, _ = synthetic
    noise = np.random.default_rng(3).uniform(0.05, 0.3, codes.shape)
    exact = fit_mixture(codes, noise, labels, components=3, spread=1.0)
    repeats = 8
    eps = np.random.default_rng(4).normal(size=(repeats, *codes.shape))
    drawn = (codes + np.sqrt(noise) * eps).reshape(-1, codes.shape[1])
    held_out = codes + np.sqrt(noise) * np.random.default_rng(5).normal(size=codes.shape)
    by_draws = fit(drawn, np.tile(labels, repeats), components=3)
    assert abs(exact.log_density(held_out).mean() - by_draws.log_density(held_out).mean()) < 0.05


@pytest.mark.fault("unseen", "a mixture without shrinkage, with another class' covariance or noise, or other clusters")
@pytest.mark.parametrize("components, seed", [(1, 0), (3, 4), (40, 1)])
def test_fit_mixture_by_hand(components, seed, monkeypatch):
    """From each cluster's members: share, mean, covariance, a fifth of the class' mean covariance, spread, and q's variances."""
    from sklearn import cluster

    asked, kmeans = [], cluster.KMeans

    def noted(clusters, **options):
        asked.append((clusters, options["random_state"]))
        return kmeans(clusters, **options)

    monkeypatch.setattr(cluster, "KMeans", noted)
    g, latent = np.random.default_rng(0), 3
    labels = np.repeat([2, 7], (50, 20))
    means = g.normal(size=(70, latent)) * [[1, 2, 3]] + 5 * g.integers(0, 3, (70, 1)) + labels[:, None]
    variances = g.uniform(0.1, 2, (70, latent))
    found = fit_mixture(means, variances, labels, components=components, spread=0.5, seed=seed)
    # At least twice as many codes as numbers of a code to a cluster.
    assert asked == [(min(components, 50 // 6), seed), (min(components, 20 // 6), seed)]
    place = 0
    for label, (count, _) in zip((2, 7), asked):
        own, noise = means[labels == label], variances[labels == label]
        assigned = kmeans(count, n_init=1, random_state=seed).fit_predict(own)
        covariances = [
            np.cov(own[assigned == k].T) if (assigned == k).sum() > 1 else np.zeros((3, 3)) for k in range(count)
        ]
        shared = sum((assigned == k).mean() * covariances[k] for k in range(count))
        for k in range(count):
            members = assigned == k
            assert found.classes[place] == label and found.weights[place] == pytest.approx(members.sum() / 70)
            np.testing.assert_allclose(found.means[place], own[members].mean(axis=0), rtol=1e-5)
            expected = 0.25 * (0.8 * covariances[k] + 0.2 * shared) + np.diag(noise[members].mean(axis=0))
            factor = found.cholesky[place].astype(float)
            np.testing.assert_allclose(factor @ factor.T, expected, rtol=1e-3, atol=1e-4)
            place += 1
    assert place == len(found.weights)


@pytest.mark.parametrize("label", [None, 0, 2])
def test_a_code_by_hand(label):
    """Box-Muller on the words of counters (i, 0, image, 1), the first block choosing the component, one number after the other."""
    p, seed = full_prior(latent=5), 77
    weights = [w if label in (None, k) else 0.0 for w, k in zip(p.weights.astype(float), p.classes)]
    for image, found in zip((0, 3, 300), p.sample(seed, np.array([0, 3, 300]), label)):
        words = philox4x32(seed, np.array([[i, 0, image, 1] for i in range(3)], np.uint32)).astype(float)
        u = (np.floor(words / 512) + 0.5) / 2**23
        g, passed = 0, weights[0]
        while passed <= u[0, 0] * sum(weights):
            g, passed = g + 1, passed + weights[g + 1]
        noise = []
        for block in u[1:]:
            pairs = [(np.sqrt(-2 * np.log(block[k])), 2 * np.pi * block[k + 1]) for k in (0, 2)]
            noise += [radius * np.cos(angle) for radius, angle in pairs] + [
                radius * np.sin(angle) for radius, angle in pairs
            ]
        np.testing.assert_allclose(found, p.means[g] + p.cholesky[g] @ np.array(noise[:5]), rtol=1e-5, atol=1e-5)
