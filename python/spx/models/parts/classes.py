"""The classes that a model of whole images is told: as codes, drawn, guessed from pixels, and what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spxcore.canvas import Given
from spxcore.errors import require
from spxcore.feeds import unit_levels
from spxcore.rng import CODE_DRAW, pixel_words, uniform

from ...request import Request

if TYPE_CHECKING:
    from ..model import Checkpoint, Evaluate

# Tensor of a checkpoint: the logarithm of each class' share of the training images, [classes].
SHARES = "class_log_shares"

# Images that are evaluated at once.
_BATCH = 64


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """Classes [N] as codes, float32 [N, classes]."""
    return np.eye(classes, dtype=np.float32)[labels]


def log_prior(checkpoint: Checkpoint) -> np.ndarray:
    """log p(y) of each class y, float64 [classes]."""
    shares = checkpoint.tensors[SHARES].astype(np.float64)
    return shares - np.logaddexp.reduce(shares)


def drawn(log_probabilities: np.ndarray, seed: int, images: np.ndarray) -> np.ndarray:
    """A class for each numbered image, [N]; image i gets the same one whatever else is drawn with it.

    Args:
        log_probabilities: [classes], or [N, classes] for each image its own; they need not sum to 1.
        seed: 0 <= seed < 2^64.
        images: [N] image numbers.
    """
    u = uniform(pixel_words(seed, np.zeros_like(images), np.zeros_like(images), images, CODE_DRAW)[:, 0])
    weights = np.exp(log_probabilities - log_probabilities.max(axis=-1, keepdims=True))
    cumulative = np.broadcast_to(np.cumsum(weights, axis=-1), (len(images), weights.shape[-1]))
    return (cumulative <= u[:, None] * cumulative[:, -1:]).sum(axis=1)


def joint(checkpoint: Checkpoint, images: np.ndarray, evaluate: Evaluate, mask: np.ndarray | None = None) -> np.ndarray:
    """log p(x, y) of images and every class y, in nats, float64 [N, classes].

    Args:
        checkpoint: of a model with classes.
        images: levels [N, H, W, C].
        evaluate: runs the network.
        mask: bool [N, H, W], the pixels that count. All others are seen as level 0. That is exact if all that count are drawn first.
    """
    import torch

    from spxcore.heads.log_prob import log_prob

    network, (n, height, width, channels) = checkpoint.networks["network"], images.shape
    head, count = checkpoint.model.head(checkpoint.config), checkpoint.config.classes
    if mask is not None:
        images = np.where(mask[..., None], images, 0)
    seen, result = unit_levels(head.levels), np.tile(log_prior(checkpoint), (n, 1))
    for start in range(0, n, _BATCH):
        levels = images[start : start + _BATCH]
        x = seen[levels].reshape(len(levels), -1, channels)
        planes = torch.from_numpy(levels).permute(0, 3, 1, 2)
        for y in range(count):
            code = one_hot(np.full(len(levels), y), count)
            params = evaluate(network, height, width, {"x": x}, code).reshape(len(levels), height, width, -1)
            nats = log_prob(head, torch.from_numpy(params).permute(0, 3, 1, 2), planes).double().numpy()
            counted = nats if mask is None else np.where(mask[start : start + _BATCH], nats, 0)
            result[start : start + _BATCH, y] += counted.sum(axis=(1, 2))
    return result


def codes(checkpoint: Checkpoint, request: Request, evaluate: Evaluate) -> np.ndarray:
    """The code of each image of a request, [n, classes]: told; of a class; of what the given pixels look like; or of any class.

    Raises:
        SpxError: for a class that the model does not know.
    """
    classes, images = checkpoint.config.classes, np.arange(request.n)
    if request.code is not None:
        return np.asarray(request.code, np.float32)
    if request.label is not None:
        known = 0 <= request.label < classes
        require(known, "digit", f"a class of this checkpoint, 0 to {classes - 1}", request.label)
        return one_hot(np.full(request.n, request.label), classes)
    log_probabilities = log_prior(checkpoint)
    if request.given is not None:
        log_probabilities = _looked_at(checkpoint, request.given, evaluate)
    return one_hot(drawn(log_probabilities, request.seed, images), classes)


def _looked_at(checkpoint: Checkpoint, given: Given, evaluate: Evaluate) -> np.ndarray:
    """log p(y, given pixels) of every class, [N or 1, classes]; a picture that is given many times is looked at once."""
    pixels, mask = given.pixels, given.mask if given.mask.ndim == 3 else given.mask[None]
    n = max(len(pixels), len(mask))
    pairs = np.concatenate([np.broadcast_to(a.reshape(len(a), -1), (n, a[0].size)) for a in (pixels, mask)], axis=1)
    _, first, back = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
    some, known = (np.broadcast_to(a, (n, *a.shape[1:]))[first] for a in (pixels, mask))
    return joint(checkpoint, some, evaluate, known)[back.reshape(-1)]
