"""Priors of the latent code: N(0, I) of the paper, or Gaussian mixtures fitted to the training set's codes, one set a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spxcore.errors import SpxError, require
from spxcore.rng import philox4x32, uniform

if TYPE_CHECKING:
    import torch
    from torch.distributions import Distribution

# Draw numbers (fourth counter word) that no pixel uses: pixels draw with 0.
_LATENT_DRAW = 1


def _normals(seed: int, image: int, count: int) -> tuple[np.ndarray, float, float]:
    """`count` standard normals and two uniforms of one image, by Box-Muller on Philox words: the same on every machine.

    Counter = (i, 0, image, 1), so no draw of a pixel is used twice.
    """
    blocks = np.arange((count + 3) // 4 + 1, dtype=np.uint32)
    zeros = np.zeros_like(blocks)
    u = uniform(
        philox4x32(seed, np.stack([blocks, zeros, zeros + np.uint32(image), zeros + np.uint32(_LATENT_DRAW)], 1))
    )
    u = u.astype(np.float64)
    radius = np.sqrt(-2 * np.log(u[1:, 0::2]))
    angle = 2 * np.pi * u[1:, 1::2]
    normals = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()[:count]
    return normals, float(u[0, 0]), float(u[0, 1])


@dataclass(frozen=True)
class Prior:
    """A distribution over codes z [L]; without components the standard normal.

    Attributes:
        latent: L, length of a code.
        weights: [G] share of each component, summing to 1; or None.
        classes: [G] the class label each component belongs to.
        means: [G, L].
        cholesky: [G, L, L] lower-triangular factors of the covariances.
    """

    latent: int
    weights: np.ndarray | None = None
    classes: np.ndarray | None = None
    means: np.ndarray | None = None
    cholesky: np.ndarray | None = None

    @property
    def kind(self) -> str:
        return "normal" if self.weights is None else "mixture"

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
            if self.weights is None:
                raise SpxError("digit: this checkpoint's prior is N(0, I) and knows no classes; leave --digit out")
            known = sorted(set(self.classes.tolist()))
            require(label in known, "digit", f"a class of this checkpoint, {known[0]} to {known[-1]}", label)
        codes = np.empty((len(images), self.latent), np.float32)
        for row, image in enumerate(images):
            eps, u, _ = _normals(seed, int(image), self.latent)
            if self.weights is None:
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

        where = {"dtype": dtype or torch.float32, "device": device}
        if self.weights is None:
            zeros = torch.zeros(self.latent, **where)
            return d.Independent(d.Normal(zeros, zeros + 1), 1)
        weights, means, factors = (
            torch.from_numpy(np.array(values)).to(**where) for values in (self.weights, self.means, self.cholesky)
        )
        return d.MixtureSameFamily(d.Categorical(weights), d.MultivariateNormal(means, scale_tril=factors))

    def log_density(self, z: np.ndarray) -> np.ndarray:
        """log p(z) in nats, [N, L] -> float64 [N]."""
        import torch

        chunks = torch.from_numpy(np.array(z, np.float64)).split(1000)
        p = self.distribution(torch.float64)
        return torch.cat([p.log_prob(chunk) for chunk in chunks]).numpy()


def fit_mixture(
    codes: np.ndarray, labels: np.ndarray, components: int = 20, spread: float = 1.0, seed: int = 0
) -> Prior:
    """Gaussian mixtures of the codes, `components` a class: k-means clusters with Ledoit-Wolf shrunk full covariances.

    Args:
        codes: [N, L] codes of the training set, one draw from q(z | x) each, so that the mixture fits the aggregate posterior.
        labels: [N] classes.
        components: clusters of each class; fewer where a class has under 3 L codes a cluster.
        spread: factor on every cluster's standard deviations. A Gaussian's shell in 60 dimensions reaches beyond the codes of real
            images; a little under 1 draws fewer broken digits at next to no cost in held-out density.
        seed: of the k-means initialisation.
    """
    from sklearn.cluster import KMeans
    from sklearn.covariance import ledoit_wolf

    weights, classes, means, factors = [], [], [], []
    for label in np.unique(labels):
        own = np.asarray(codes[labels == label], np.float64)
        clusters = int(np.clip(len(own) // (3 * codes.shape[1]), 1, components))
        assigned = KMeans(clusters, n_init=3, random_state=seed).fit_predict(own)
        for cluster in range(clusters):
            members = own[assigned == cluster]
            covariance, _ = ledoit_wolf(members)
            weights.append(len(members) / len(codes))
            classes.append(label)
            means.append(members.mean(axis=0))
            factors.append(spread * np.linalg.cholesky(covariance + 1e-6 * np.eye(codes.shape[1])))
    return Prior(
        codes.shape[1],
        np.array(weights, np.float32),
        np.array(classes, np.int64),
        np.array(means, np.float32),
        np.array(factors, np.float32),
    )
