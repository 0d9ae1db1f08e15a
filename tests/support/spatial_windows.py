"""Bits of Spatial PixelCNN's windows, each by itself, and a model whose feature maps count."""

from __future__ import annotations

import numpy as np
import torch

from spx.models.spatial.module import SpatialPixelCNN
from spx.models.spatial.patches import Patches
from spxcore.feeds import scale
from spxcore.heads.logistics import MIN_LOG_SCALE, split


def lively(module: SpatialPixelCNN) -> SpatialPixelCNN:
    """The same model with feature maps that change what it draws by more than rounding, as a trained one's do."""
    with torch.no_grad():
        for name, p in module.maps.named_parameters():
            if name.endswith(".g"):
                p.mul_(2.5)
    return module


def windows_at_once(model: SpatialPixelCNN, image: np.ndarray, z: torch.Tensor | None) -> np.ndarray:
    """Bits per dimension of every window of an image uint8 [H, W], each of its pixels: by the forward pass of training, with
    probabilities in float64. [windows, m, m]."""
    c, (height, width) = model.network_config, image.shape
    m = c.patch
    corners = [(r, col) for r in range(height - m + 1) for col in range(width - m + 1)]
    levels = np.stack([image[r : r + m, col : col + m] for r, col in corners])
    x = torch.from_numpy(levels / np.float32(127.5) - 1).float()[:, None]
    rows, columns = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
    edges = ([rows[r] for r, _ in corners], [rows[r + m - 1] for r, _ in corners],
             [columns[col] for _, col in corners], [columns[col + m - 1] for _, col in corners])  # fmt: skip
    ones = torch.ones(len(x))
    patches = Patches(x, x, *(torch.from_numpy(np.array(e)) for e in edges), ones * scale(height, width, c.sizes), ones)
    with torch.no_grad():
        params = model(patches, z).flatten(2).transpose(1, 2).flatten(0, 1).numpy()
    logits, means, log_scales, _ = split(params.astype(np.float64), 1)
    weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    below, above = (np.where(levels.ravel() == end, sign * np.inf, levels.ravel() / 127.5 - 1 + sign / 255)[:, None]
                    for end, sign in ((0, -1), (255, 1)))  # fmt: skip
    steep = np.exp(-log_scales[:, 0].clip(MIN_LOG_SCALE))
    with np.errstate(over="ignore"):
        lower, upper = (1 / (1 + np.exp(-(edge - means[:, 0]) * steep)) for edge in (below, above))
    return -np.log2((weights * (upper - lower)).sum(axis=1)).reshape(levels.shape)
