"""Numbers into and out of the VAE's networks, for NumPy arrays and torch tensors alike."""

from __future__ import annotations

import numpy as np

from spxcore.heads.logistics import split

# Bounds of q's log-variance.
LOG_VARIANCE = (-12.0, 4.0)


def to_unit(levels):
    """uint8 levels -> float32 in [-1, 1]."""
    return levels / np.float32(127.5) - np.float32(1)


def posterior(encoded):
    """The encoder's numbers [B, 2 latent] -> mean and log-variance of q(z | x), each [B, latent]."""
    latent = encoded.shape[1] // 2
    return encoded[:, :latent], encoded[:, latent:].clip(*LOG_VARIANCE)


def mean_image(params, channels: int, library=np):
    """Mean of the decoder's mixtures. In RGB, green's mean is that for the mean red, and blue's that for the mean red and green.

    Args:
        params: [B, P, ...].
        channels: C.
        library: whose array `params` is: numpy, or torch.

    Returns:
        [B, C, ...] in [-1, 1].
    """
    logits, means, _, coeffs = split(params, channels)
    if channels == 3:
        c, red = library.tanh(coeffs), means[:, 0].clip(-1, 1)
        green = (means[:, 1] + c[:, 0] * red).clip(-1, 1)
        means = library.stack([red, green, means[:, 2] + c[:, 1] * red + c[:, 2] * green], 1)
    weights = library.exp(logits - library.amax(logits, axis=1, keepdims=True))
    weights = weights / library.sum(weights, axis=1, keepdims=True)
    return (weights[:, None] * means.clip(-1, 1)).sum(axis=2)
