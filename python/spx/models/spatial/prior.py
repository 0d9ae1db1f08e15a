"""Priors of the latent code: N(0, I) of the paper, or Gaussian mixtures fitted to the training set's codes, one set a class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from spxcore.errors import SpxError, require
from spxcore.rng import CODE_DRAW, philox4x32, uniform

if TYPE_CHECKING:
    import torch
    from torch.distributions import Distribution

    from ..model import Checkpoint

# Share of the class' mean covariance in each cluster's: the one that gave held-out codes the highest density on MNIST.
_SHRINKAGE = 0.2

# Arrays of a mixture, as `Prior` and, after "prior_", a checkpoint call them.
PARTS = ("weights", "classes", "means", "cholesky")


def normals(seed: int, image: int, count: int) -> tuple[np.ndarray, float, float]:
    """`count` standard normals and two uniforms of one image, by Box-Muller on Philox words: the same on every machine.

    Counter = (i, 0, image, CODE_DRAW), so no draw of a pixel is used twice.
    """
    blocks = np.arange((count + 3) // 4 + 1, dtype=np.uint32)
    zeros = np.zeros_like(blocks)
    counters = np.stack([blocks, zeros, zeros + np.uint32(image), zeros + np.uint32(CODE_DRAW)], axis=1)
    u = uniform(philox4x32(seed, counters)).astype(np.float64)
    radius = np.sqrt(-2 * np.log(u[1:, 0::2]))
    angle = 2 * np.pi * u[1:, 1::2]
    drawn = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()[:count]
    return drawn, float(u[0, 0]), float(u[0, 1])


def _none() -> np.ndarray:
    return np.zeros(0, np.float32)


@dataclass(frozen=True)
class Prior:
    """A distribution over codes z [L]: a mixture of G Gaussians; the standard normal if G is 0.

    Attributes:
        latent: L, length of a code.
        weights: [G] share of each component, summing to 1.
        classes: [G] the class label each component belongs to.
        means: [G, L].
        cholesky: [G, L, L] lower-triangular factors of the covariances.
    """

    latent: int
    weights: np.ndarray = field(default_factory=_none)
    classes: np.ndarray = field(default_factory=_none)
    means: np.ndarray = field(default_factory=_none)
    cholesky: np.ndarray = field(default_factory=_none)

    @property
    def kind(self) -> str:
        return "mixture" if len(self.weights) else "normal"

    def sample(self, seed: int, images: np.ndarray, label: int | None = None) -> np.ndarray:
        """Codes of numbered images.

        Args:
            seed: 0 <= seed < 2^64.
            images: [N] image numbers; image i gets the same code whatever else is drawn with it.
            label: class to draw from, or None for any.

        Returns:
            float32 [N, L].

        Raises:
            SpxError: for a class the prior does not know.
        """
        if label is not None:
            if self.kind == "normal":
                raise SpxError("digit: this checkpoint's prior is N(0, I) and knows no classes; leave --digit out")
            known = sorted(set(self.classes.tolist()))
            require(label in known, "digit", f"a class of this checkpoint, {known[0]} to {known[-1]}", label)
        codes = np.empty((len(images), self.latent), np.float32)
        for row, image in enumerate(images):
            eps, u, _ = normals(seed, int(image), self.latent)
            if self.kind == "normal":
                codes[row] = eps
                continue
            weights = self.weights.astype(np.float64) * (1.0 if label is None else self.classes == label)
            cumulative = np.cumsum(weights)
            g = int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))
            codes[row] = self.means[g] + self.cholesky[g] @ eps
        return codes

    def distribution(self, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Distribution:
        """The same in PyTorch, where log p(z) has a gradient. Its dtype: float32 unless told."""
        import torch
        from torch import distributions as d

        dtype = dtype or torch.float32
        if self.kind == "normal":
            zeros = torch.zeros(self.latent, dtype=dtype, device=device)
            return d.Independent(d.Normal(zeros, zeros + 1), 1)
        weights, means, factors = (
            torch.from_numpy(np.array(values)).to(device, dtype) for values in (self.weights, self.means, self.cholesky)
        )
        return d.MixtureSameFamily(d.Categorical(weights), d.MultivariateNormal(means, scale_tril=factors))

    def log_density(self, z: np.ndarray) -> np.ndarray:
        """log p(z) in nats, [N, L] -> float64 [N]."""
        import torch

        chunks = torch.from_numpy(np.array(z, np.float64)).split(1000)
        p = self.distribution(torch.float64)
        return torch.cat([p.log_prob(chunk) for chunk in chunks]).numpy()


def fit_mixture(
    means: np.ndarray,
    variances: np.ndarray,
    labels: np.ndarray,
    components: int = 40,
    spread: float = 0.75,
    seed: int = 0,
) -> Prior:
    """A Gaussian mixture of the aggregate posterior, the mean of q(z | x) over the training set, `components` a class.

    The means are clustered by k-means. A cluster's covariance is that of its means, plus the mean of its variances. This is the
    covariance of infinitely many draws from each q(z | x). 150 images estimate 60 dimensions poorly, so each cluster's covariance
    is shrunk by 20 % towards its class' mean covariance.

    Args:
        means, variances: [N, L] of q(z | x) of each training image.
        labels: [N] classes.
        components: clusters of each class; fewer where a class has under 2 L images a cluster.
        spread: factor on the standard deviations of each cluster's means. A Gaussian's shell in 60 dimensions reaches beyond the codes
            of real images; a little under 1 draws fewer broken digits. q's own variance, which no image shows, stays, so that the
            KL to the prior grows little.
        seed: of the k-means initialisation.
    """
    from sklearn.cluster import KMeans

    latent = means.shape[1]
    found: list[tuple] = []  # weight, class, mean, covariance of the means, variance of q
    within = {}
    for label in np.unique(labels):
        own, noise = (np.asarray(a[labels == label], np.float64) for a in (means, variances))
        clusters = int(np.clip(len(own) // (2 * latent), 1, components))
        assigned = KMeans(clusters, n_init=1, random_state=seed % (1 << 32)).fit_predict(own)
        within[label] = np.zeros((latent, latent))
        for cluster in range(clusters):
            members = own[assigned == cluster]
            centre = members.mean(axis=0)
            covariance = (members - centre).T @ (members - centre) / max(1, len(members) - 1)
            within[label] += covariance * len(members) / len(own)
            found.append(
                (len(members) / len(means), label, centre, covariance, noise[assigned == cluster].mean(axis=0))
            )

    def factor(label: int, covariance: np.ndarray, noise: np.ndarray) -> np.ndarray:
        shrunk = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * within[label]
        return np.linalg.cholesky(spread**2 * shrunk + np.diag(noise + 1e-6))

    return Prior(
        latent,
        np.array([weight for weight, *_ in found], np.float32),
        np.array([label for _, label, *_ in found], np.int64),
        np.array([centre for _, _, centre, *_ in found], np.float32),
        np.array([factor(label, *rest) for _, label, _, *rest in found], np.float32),
    )


def prior_of(checkpoint: Checkpoint) -> Prior:
    """The prior over codes."""
    config = checkpoint.config
    parts = {name: checkpoint.tensors[f"prior_{name}"] for name in PARTS} if config.components else {}
    return Prior(config.network.latent, **parts)
