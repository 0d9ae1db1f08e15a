"""q(z | x) of given images in torch: the encoder's, and a better one by gradient steps on the bound (semi-amortised inference).

An encoder is optimal for no single image. The loss it causes in the bound is the amortisation gap (Cremer, Li & Duvenaud 2018,
"Inference Suboptimality in Variational Autoencoders"). Any q gives a valid bound, so each image's q may be improved (Kim et al.
2018, "Semi-Amortized Variational Autoencoders").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Normal
from torch.nn import functional as F

from spxcore.engines.torch_precision import full_precision
from spxcore.heads.log_prob import logistics_log_prob

from ..parts.gaussian import kl_to_standard_normal, reparameterise
from .module import VAE, module_of
from .prior import Prior, prior_of
from .vae import to_unit

if TYPE_CHECKING:
    from ..model import Checkpoint

# Images that the VAE sees at once.
VAE_BATCH = 250
# Adam on the mean in units of q's standard deviations: step and decays that got furthest in ten steps on MNIST.
_STEP, _DECAYS = 0.8, (0.7, 0.9)


@torch.no_grad()
@full_precision()
def encode(vae: VAE, images: Tensor) -> tuple[Tensor, Tensor]:
    """The encoder's q(z | x) of uint8 [N, C, H, W]: mean and log-variance, each [N, latent]."""
    chunks = [vae.encode(to_unit(chunk)) for chunk in images.split(VAE_BATCH)]
    mean, log_variance = (torch.cat(part) for part in zip(*chunks, strict=True))
    return mean, log_variance


def posterior(checkpoint: Checkpoint, images: np.ndarray, steps: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of q(z | x) of uint8 [N, H, W, C], each [N, latent]. `steps` gradient steps refine the mean.

    They are computed on the checkpoint's device, and come back to the CPU.
    """
    x = torch.from_numpy(np.array(images.transpose(0, 3, 1, 2)))  # a copy: files are read-only
    x = x.to(checkpoint.device)
    vae, prior, patch = (
        module_of(checkpoint).coder,
        prior_of(checkpoint).distribution(device=checkpoint.device),
        checkpoint.config.network.patch,
    )
    q = encode(vae, x)
    return refine(vae, prior, patch, x, q, steps).cpu(), q[1].cpu()


@full_precision()
def refine(
    vae: VAE,
    prior: Distribution,
    patch: int,
    images: Tensor,
    posterior: tuple[Tensor, Tensor],
    steps: int,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Means of q(z | x) with a better bound: steps of Adam raise log p(x | z) + log p(z) at the mean.

    p(x | z) is the VAE decoder's, a stand-in for the patch network, each pixel counted as often as windows of the patch network
    cover it. The standard deviations stay the encoder's and are the unit of the steps. Nothing is random.

    Args:
        vae: the VAE.
        prior: p(z), the prior that samples are drawn from (`Prior.distribution`).
        patch: side m of the windows.
        images: uint8 [N, C, H, W].
        posterior: mean and log-variance, each [N, latent], where to start.
        steps: 0 or more; 0 gives `mean` back.
        progress: told of each number of images done.

    Returns:
        [N, latent].
    """
    mean, log_variance = posterior
    if not steps:
        return mean
    weight = coverage(vae.config.size, patch).to(mean)
    found = []
    for chunk, start, log_v in zip(*(t.split(VAE_BATCH) for t in (images, mean, log_variance)), strict=True):
        target, deviation = vae.resample(to_unit(chunk)), (0.5 * log_v).exp()
        moved = torch.zeros_like(start, requires_grad=True)
        adam = torch.optim.Adam([moved], lr=_STEP, betas=_DECAYS)
        fall = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
        with torch.enable_grad():
            for _ in range(steps):
                z = start + deviation * moved
                gain = (weight * logistics_log_prob(vae.decode(z), target)).sum() + prior.log_prob(z).sum()
                (moved.grad,) = torch.autograd.grad(-gain, moved)
                adam.step()
                fall.step()
        found.append((start + deviation * moved).detach())
        if progress:
            progress(len(chunk))
    return torch.cat(found)


def coverage(side: int, patch: int) -> Tensor:
    """How often the windows of side `patch` in a square of `side` pixels cover each, over the mean. [side, side]."""
    windows = torch.ones(1, 1, side - patch + 1, side - patch + 1)
    counts = F.conv_transpose2d(windows, torch.ones(1, 1, patch, patch))[0, 0]
    return counts / counts.mean()


def kl_nats(prior: Prior, mean: Tensor, log_variance: Tensor, z: Tensor) -> np.ndarray:
    """KL(q(z | x) || p(z)) of each image, in nats: in closed form for N(0, I), by the one drawn z for a mixture. [B]."""
    if prior.kind == "normal":
        return kl_to_standard_normal(mean, log_variance).double().numpy()
    q = Normal(mean.double(), (0.5 * log_variance).exp().double()).log_prob(z.double()).sum(dim=1)
    return q.numpy() - prior.log_density(z.numpy())


def draws(checkpoint: Checkpoint, n: int, seed: int, sets: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """See `Model.drawn_codes`."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [reparameterise(*posterior(checkpoint, images), generator).numpy() for images in sets]
    return prior_of(checkpoint).sample(seed, np.arange(n)), drawn
