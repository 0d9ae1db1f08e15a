"""q(z | x): the encoder's, and the refined one."""

import numpy as np
import torch
from helpers import tiny_model
from torch.nn import functional as F

from spx.api import Sampler
from spx.models.parts.gaussian import reparameterise
from spx.models.spatial.codes import coverage, encode, posterior, refine
from spx.models.spatial.vae import to_unit
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
