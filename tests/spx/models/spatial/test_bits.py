"""Bits per dimension: over all windows of Spatial PixelCNN, by the score of any other model."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import TINY, digits, probabilities, tiny_model
from spatial_windows import lively, windows_at_once

from spx.api import Sampler
from spx.models.parts.gaussian import kl_to_standard_normal
from spx.models.spatial.bits import bits
from spx.models.spatial.codes import kl_nats
from spx.models.spatial.drawing import feature_maps
from spx.models.spatial.module import VAE, SpatialPixelCNN
from spx.models.spatial.prior import Prior
from spx.models.spatial.vae import to_unit
from spxcore import SpxError, engines
from spxcore.engines.torch_feeds import told_places
from spxcore.feeds import axis, scale
from spxcore.heads.log_prob import logistics_log_prob


def tiny(conditioning: str = "spatial", latent: int = 5) -> SpatialPixelCNN:
    torch.manual_seed(0)
    network = {**TINY, "conditioning": conditioning, "latent": latent, "maps": 3, "sizes": [9, 56]}
    vae = {"latent": latent, "filters": [4, 4, 4]} if latent else None
    return SpatialPixelCNN(network=network, vae=vae).eval()


@pytest.mark.parametrize("conditioning, latent", [("spatial", 5), ("paper", 0)])
def test_the_engine_makes_no_difference(conditioning, latent):
    if engines.why_not("cpp"):
        pytest.skip(engines.why_not("cpp"))
    checkpoint, images = tiny(conditioning, latent).checkpoint(), digits(2)[0][:, :14, :14, None]
    plain, native = (bits(checkpoint, images, engine=engine) for engine in (None, engines.get("cpp", threads=1)))
    assert native.bound == pytest.approx(plain.bound, rel=1e-5)
    assert np.allclose(native.pixel_bits, plain.pixel_bits, rtol=1e-3, atol=1e-4)


def test_images_together_are_what_they_are_alone(monkeypatch):
    """Seven images in calls of two, and decoded three at a time; each has a code, and maps, of its own."""
    checkpoint, images, calls = tiny().checkpoint(), digits(7)[0][:, :10, :11, None], []
    monkeypatch.setattr("spx.models.spatial.bits.WINDOWS", 2 * 3 * 4)
    monkeypatch.setattr("spx.models.spatial.codes.VAE_BATCH", 3)
    engine = engines.get("torch", device="cpu")

    def evaluate(network, height, width, inputs, code=None):
        calls.append(len(inputs["x"]) // (3 * 4))
        return engine.evaluate(network, height, width, inputs, code)

    together = bits(checkpoint, images, engine=SimpleNamespace(evaluate=evaluate))
    assert calls == [2, 1, 2, 1, 1]
    monkeypatch.setattr("spx.models.spatial.bits.WINDOWS", 1)
    alone = bits(checkpoint, images, engine=engine)
    np.testing.assert_allclose(together.image_bits, alone.image_bits, rtol=1e-5)
    np.testing.assert_allclose(together.pixel_bits, alone.pixel_bits, rtol=1e-4, atol=1e-5)
    assert len(np.unique(alone.image_bits.round(4))) == 7


@pytest.mark.parametrize("conditioning, latent", [("spatial", 5), ("paper", 5), ("paper", 0)])
def test_it_is_the_mean_over_all_positions(conditioning, latent, monkeypatch):
    """Against the network called on each window alone; here no code is noisy."""
    images = digits(2)[0][:, 8:18, 6:17, None]  # 10 x 11: 3 x 4 positions
    if latent:
        sure = torch.full((1, latent), -40.0)
        monkeypatch.setattr(VAE, "encode", lambda self, x: (torch.ones(len(x), latent), sure.expand(len(x), -1)))
    model = Sampler(tiny(conditioning, latent))
    found = bits(model.checkpoint, images)

    z = np.ones((1, latent), np.float32) if latent else None
    maps = feature_maps(model.checkpoint, z, engines.evaluate) if conditioning == "spatial" else None
    expected = np.zeros((2, 3, 4))
    for n, image in enumerate(images[..., 0]):
        for r in range(3):
            for c in range(4):
                p = probabilities(window_params(model, z, maps, image, r, c))
                pixels = image[r : r + 8, c : c + 8].ravel()
                expected[n, r, c] = -np.log2(p[np.arange(64), pixels]).mean()
    np.testing.assert_allclose(found.image_bits, expected.mean(axis=(1, 2)), rtol=1e-4)
    assert found.pixel_bits.shape == (10, 11) and found.images == 2
    assert found.prior == ("normal" if latent else "none")
    # Each window's mean counts once; weighing the map by how many windows cover a pixel gives the same total.
    cover = np.outer(np.minimum.reduce([np.arange(1, 11), np.arange(10, 0, -1), np.full(10, 3)]),
                     np.minimum.reduce([np.arange(1, 12), np.arange(11, 0, -1), np.full(11, 4)]))  # fmt: skip
    assert (found.pixel_bits * cover).sum() / cover.sum() == pytest.approx(found.given_codes, rel=1e-5)


def window_params(model, z, maps, image, r, c):
    """The network's output at every place of the window at (r, c), [64, P]."""
    config = model.config.network
    y, x = (torch.from_numpy(axis(n)) for n in image.shape)
    rows, columns = (y[r].view(1, 1), y[r + 7].view(1, 1)), (x[c].view(1, 1), x[c + 7].view(1, 1))
    extra = torch.tensor(
        [[[scale(*image.shape, config.sizes)][: config.conditioning == "spatial"]]], dtype=torch.float32
    )
    maps, z = (None if a is None else torch.from_numpy(a) for a in (maps, z))
    window = torch.from_numpy(image[r : r + 8, c : c + 8] / np.float32(127.5) - 1).float()[None, None]
    inputs = {"x": window}
    if config.place_inputs:
        told = told_places(config.resolutions(), rows, columns, extra, maps)
        inputs |= {f"places.{k}": places for k, places in enumerate(told)}
    with torch.no_grad():
        return model.module.network(inputs, z)[0].flatten(1).T.numpy()


def test_every_image_has_its_own_code_and_maps_past_the_250th_too():
    """The VAE takes 250 images at a time. The codes' noise is drawn for all images in a row."""
    module, images = lively(tiny_model()), digits(253)[0][:, 8:17, 6:14]  # 9 x 8: two windows each
    found = bits(module.checkpoint(), images[..., None], seed=5)
    with torch.no_grad():
        x = to_unit(torch.from_numpy(np.ascontiguousarray(images)))[:, None]
        mean, log_variance = (torch.cat(part) for part in zip(*(module.vae.encode(one[None]) for one in x)))
    noise = torch.randn(253, 5, generator=torch.Generator().manual_seed(5))
    z = mean + (0.5 * log_variance).exp() * noise
    some = [0, 1, 249, 250, 251, 252]
    expected = [windows_at_once(module, images[i], z[i : i + 1]).mean() for i in some]
    others = [windows_at_once(module, images[i], z[i - 1 : i]).mean() for i in some[1:]]
    np.testing.assert_allclose(found.image_bits[some], expected, rtol=1e-4)
    assert (abs(np.array(others) / expected[1:] - 1) > 1e-3).all()  # a neighbour's code would be seen
    maps_of, at = module.image_maps, 249
    module.image_maps = lambda z_, decoded=None: maps_of(z[at : at + 1])
    wrong = windows_at_once(module, images[251], z[251:252]).mean()
    assert abs(wrong / expected[4] - 1) > 3e-4  # and so would another image's maps
    # What each code costs: its density under q over that under the prior, in float64, spread over 72 pixels.
    prior, sigma = module.prior, np.exp(0.5 * log_variance.double().numpy())
    for i in some:
        q = -0.5 * (noise[i].double().numpy() ** 2 + np.log(2 * np.pi)).sum() - np.log(sigma[i]).sum()
        parts = []
        for weight, middle, factor in zip(prior.weights, prior.means, prior.cholesky.astype(np.float64)):
            u = np.linalg.solve(factor, z[i].double().numpy() - middle)
            parts.append(np.log(weight) - 0.5 * (u @ u + 5 * np.log(2 * np.pi)) - np.log(np.diag(factor)).sum())
        expected_bits = (q - np.logaddexp.reduce(parts)) / np.log(2) / 72
        assert found.code_bits[i] == pytest.approx(expected_bits, rel=1e-3, abs=1e-4)


def test_colours_count_each():
    """Nats of a window of 8x8 pixels over its 192 numbers, and over log 2."""
    torch.manual_seed(0)
    network = {**TINY, "conditioning": "paper", "latent": 0, "channels": 3}
    model = SpatialPixelCNN(network=network, vae=None).eval()
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    found = bits(model.checkpoint(), images)
    x = to_unit(torch.from_numpy(images)).permute(0, 3, 1, 2)
    ends = torch.full((2, 1), -1.0), torch.full((2, 1), 1.0)
    told = told_places(model.config.network.resolutions(), ends, ends, torch.zeros(2, 1, 0), None)
    with torch.no_grad():
        params = model.network({"x": x} | {f"places.{k}": places for k, places in enumerate(told)}, None)
    nats = -logistics_log_prob(params, x).sum(dim=(1, 2)).numpy()
    np.testing.assert_allclose(found.image_bits, nats / 192 / np.log(2), rtol=1e-4)


def test_seed_refinement_and_sizes():
    checkpoint, images = tiny_model().checkpoint(), digits(3)[0][:, :12, :12, None]
    found, again, seeded, refined = (bits(checkpoint, images, **how) for how in ({}, {}, {"seed": 1}, {"refine": 3}))
    np.testing.assert_array_equal(found.image_bits, again.image_bits)
    assert (found.image_bits != seeded.image_bits).all() and (found.image_bits != refined.image_bits).all()
    for wrong in (images[:, :7], np.repeat(images, 3, axis=3)):
        with pytest.raises(SpxError, match="images: expected"):
            bits(checkpoint, wrong)


def test_kl_of_a_mixture_prior_is_estimated_without_bias():
    """A mixture of one standard normal is N(0, I): the Monte Carlo figure must agree with the closed form."""
    module = tiny()
    mean, log_variance = torch.randn(4000, 5) * 0.5, torch.full((4000, 5), -1.0)
    z = mean + (0.5 * log_variance).exp() * torch.randn(4000, 5)
    closed = kl_to_standard_normal(mean, log_variance).double().numpy()
    assert np.allclose(kl_nats(module.prior, mean, log_variance, z), closed)
    one, means = np.ones(1, np.float32), np.zeros((1, 5), np.float32)
    module.set_prior(Prior(5, one, np.zeros(1, np.int64), means, np.eye(5, dtype=np.float32)[None]))
    estimated = kl_nats(module.prior, mean, log_variance, z)
    error = (estimated - closed).std() / math.sqrt(4000)
    assert abs((estimated - closed).mean()) < 4 * error and (estimated - closed).std() > 0.1
