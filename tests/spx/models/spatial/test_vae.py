"""The VAE and the feature maps, as torch modules; `test_image_networks` compares them with their plans."""

import functools

import numpy as np
import pytest
import torch
from torch import distributions as D

from spx.models.parts.gaussian import kl_to_standard_normal, reparameterise
from spx.models.spatial import network
from spx.models.spatial.config import VAEConfig
from spx.models.spatial.module import VAE
from spx.models.spatial.vae import mean_image, to_unit
from spxcore.errors import SpxError
from spxcore.feeds import unit_levels
from spxcore.heads import Logistics, Sampling
from spxcore.walk.module import Module

SMALL = {"filters": (4, 6, 8), "mixtures": 2, "latent": 5}


def feature_maps(config: VAEConfig, count: int) -> Module:
    return Module(functools.partial(network.maps, c=config, count=count))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28])
def test_shapes(size, channels):
    config = VAEConfig(size=size, channels=channels, **SMALL)
    vae = VAE(config)
    mean, log_variance = vae.encode(torch.rand(3, channels, size, size) * 2 - 1)
    assert mean.shape == log_variance.shape == (3, 5)
    params = vae.decode(mean)
    assert params.shape == (3, 2 * (3 if channels == 1 else 10), size, size)
    image = mean_image(params, channels, torch)
    assert image.shape == (3, channels, size, size) and torch.equal(image, vae.mean_image(mean))
    assert feature_maps(config, 7)({"image": image}, mean).shape == (3, 7, 2 * size, 2 * size)


def test_every_parameter_is_used():
    config = VAEConfig(**SMALL)
    vae, maps = VAE(config), feature_maps(config, 3)
    z = reparameterise(*vae.encode(torch.rand(2, 1, 28, 28)))
    params = vae.decode(z)
    (params.square().sum() + maps({"image": mean_image(params, 1, torch)}, z).square().sum()).backward()
    for module in (vae, maps):
        assert [n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_kl_is_torchs():
    mean, log_variance = torch.randn(6, 5) * 2, torch.randn(6, 5)
    q = D.Normal(mean, (log_variance / 2).exp())
    expected = D.kl_divergence(q, D.Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(kl_to_standard_normal(mean, log_variance), expected)
    assert kl_to_standard_normal(torch.zeros(1, 5), torch.zeros(1, 5)).item() == 0


def test_reparameterise():
    mean, log_variance = torch.tensor([[1.0, -2.0]]).repeat(20_000, 1), torch.tensor([[0.0, -3.0]]).repeat(20_000, 1)
    z = reparameterise(mean, log_variance, torch.Generator().manual_seed(1))
    torch.testing.assert_close(z.mean(0), mean[0], atol=0.03, rtol=0)
    torch.testing.assert_close(z.std(0), (log_variance[0] / 2).exp(), rtol=0.03, atol=0)
    assert torch.equal(z, reparameterise(mean, log_variance, torch.Generator().manual_seed(1)))
    # Gradients pass to both.
    parts = mean[:1].clone().requires_grad_(), log_variance[:1].clone().requires_grad_()
    reparameterise(*parts).sum().backward()
    assert parts[0].grad.tolist() == [[1, 1]] and (parts[1].grad != 0).all()


def test_mean_image():
    """Weights 1/4 and 3/4 on means 1 and -0.2; means beyond the range count as its ends."""
    logits, means = torch.tensor([0.0, 3.0]).log_softmax(0), None
    logits = torch.tensor([0.25, 0.75]).log()
    for means, expected in (((1.0, -0.2), 0.1), ((9.0, -0.2), 0.1)):
        params = torch.cat([logits, torch.tensor(means), torch.zeros(2)]).view(1, 6, 1, 1)
        assert mean_image(params, 1, torch).item() == pytest.approx(expected)
    params = torch.zeros(1, 20, 1, 1)
    params[0, :2, 0, 0] = logits
    params[0, 2:8, 0, 0] = torch.tensor([1.0, -0.2, 0.0, 0.4, 0.5, 0.5])  # [channel][component]
    torch.testing.assert_close(mean_image(params, 3, torch).flatten(), torch.tensor([0.1, 0.3, 0.5]))


@pytest.mark.parametrize("size", [(14, 14), (56, 56), (40, 90)])
def test_images_of_other_sizes_are_resampled(size):
    vae = VAE(VAEConfig(**SMALL)).eval()
    flat = vae.resample(torch.full((1, 1, *size), 0.25))
    torch.testing.assert_close(flat, torch.full((1, 1, 28, 28), 0.25))
    ramp = torch.linspace(-1, 1, size[1]).expand(1, 1, *size)
    small = vae.resample(ramp)
    assert (small[0, 0, :, 1:] > small[0, 0, :, :-1]).all() and small.abs().max() <= 1
    assert (small[0, 0].std(dim=0) < 1e-5).all()
    assert all(torch.isfinite(p).all() for p in vae.encode(ramp))


def test_an_image_of_its_own_size_is_left_alone():
    vae, image = VAE(VAEConfig(**SMALL)), torch.rand(1, 1, 28, 28)
    assert vae.resample(image) is image


def test_a_fine_pattern_is_averaged_not_picked():
    """Black and white lines, four a pixel: grey, not stripes."""
    lines = torch.tensor([-1.0, 1.0]).repeat(56).expand(1, 1, 112, 112)
    assert VAE(VAEConfig(**SMALL)).resample(lines)[..., 2:-2, 2:-2].abs().max() < 0.1


def test_the_log_variance_is_bounded():
    vae = VAE(VAEConfig(**SMALL))
    with torch.no_grad():
        vae.encoder.code.bias.fill_(1e4)
        assert vae.encode(torch.zeros(1, 1, 28, 28))[1].max() == 4
        vae.encoder.code.bias.fill_(-1e4)
        assert vae.encode(torch.zeros(1, 1, 28, 28))[1].min() == -12


@pytest.mark.parametrize(
    "fields",
    [{"size": 30}, {"size": 4}, {"channels": 2}, {"filters": (1, 2)}, {"filters": (1, 0, 2)}, {"layers": 0}, {"mixtures": 0},
     {"mixtures": 65}, {"latent": 0}],
)  # fmt: skip
def test_configurations_that_cannot_be(fields):
    with pytest.raises(SpxError, match=f"^vae.{next(iter(fields))}: expected"):
        VAEConfig(**fields)


def test_levels_are_the_samplers():
    """By torch and by NumPy the same numbers as a job's pixels."""
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_unit(every), unit_levels(256)[:, 0])
    assert to_unit(every).dtype == np.float32
    np.testing.assert_array_equal(to_unit(torch.from_numpy(every)).numpy(), to_unit(every))


def test_mean_image_of_colour_is_the_mean_of_draws():
    """Green's mean depends on red, blue's on both: the mean of many pixels that the head draws, not the channels' own numbers."""
    g = np.random.default_rng(0)
    logits, means, coeffs = (
        [0.3, -0.2],
        [0.4, 0.5, -0.3, -0.2, 0.1, 0.0],
        [1, 0.8, -1, -0.9, 0.7, 0.8],
    )  # [channel][component]
    params = np.float32([*logits, *means, *[-4] * 6, *coeffs])
    head, n = Logistics(3, 2), 20_000
    words = g.integers(0, 1 << 32, (n, 4), dtype=np.uint64).astype(np.uint32)
    drawn = head.draw(np.tile(params, (n, 1)), words, Sampling()) / 127.5 - 1
    for library, p in ((np, params[None, :, None, None]), (torch, torch.from_numpy(params)[None, :, None, None])):
        found = np.asarray(mean_image(p, 3, library))[0, :, 0, 0]
        np.testing.assert_allclose(found, drawn.mean(axis=0), atol=0.01)
    weights = np.exp(params[:2]) / np.exp(params[:2]).sum()
    own = params[2:8].reshape(3, 2) @ weights
    assert np.abs(own[1:] - drawn.mean(axis=0)[1:]).max() > 0.1
