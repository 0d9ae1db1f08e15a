"""Figures of sets of images: a classifier's confidence, connected pieces, MS-SSIM, contours, distances to other images."""

from __future__ import annotations

import math

import numpy as np
import torch

from .lenet import LeNet
from .metrics import components, contour_length, ms_ssim_pairs

# What is measured, by name; None where there are too few images to say it.
Figures = dict[str, float | None]


def standard_error(values: np.ndarray) -> float | None:
    """Standard error of the mean of values [N]; None for a single value."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def judged(lenet: LeNet, images: np.ndarray, labels: np.ndarray | None = None) -> Figures:
    """The classifier's view of images uint8 [N, H, W, 1]: confidence in percent (paper, section 4.3), accuracy given labels."""
    p = lenet.probabilities(images)
    top = 100 * p.max(axis=1).astype(np.float64)
    result: Figures = {"confidence": float(top.mean()), "confidence_error": standard_error(top)}
    if labels is not None:
        result["accuracy"] = float(100 * (p.argmax(axis=1) == labels).mean())
    return result


def pieces(images: np.ndarray) -> dict[str, float]:
    """Mean number of connected pieces of ink and of ground in images uint8 [N, H, W, 1]."""
    ink, ground = np.mean([components(image) for image in images], axis=0)
    return {"ink_pieces": float(ink), "ground_pieces": float(ground)}


def similarity(images: np.ndarray, device: str = "cpu") -> Figures:
    """MS-SSIM over all pairs of images uint8 [N, H, W, 1], mean and deviation; nothing if there is no pair. device: of torch."""
    if len(images) < 2:
        return {}
    mean, deviation = ms_ssim_pairs(images, device=device)
    return {"ms_ssim": mean, "ms_ssim_deviation": deviation, "ms_ssim_images": len(images)}


def contour_ratios(drawn: np.ndarray, real: np.ndarray) -> Figures:
    """Length of the 50 % contour of reconstructions over that of the real images, both uint8 [N, n, n, 1]: 1 is right.

    Images without a pixel above 50 % have no contour and are left out.
    """
    lengths = [contour_length(image) for image in real]
    ratios = np.array([contour_length(image) / length for image, length in zip(drawn, lengths, strict=True) if length])
    if not len(ratios):
        return {}
    return {
        "contour_ratio": float(ratios.mean()),
        "contour_error": standard_error(ratios),
        "contour_worst": float(ratios.max()),
    }


def nearest(points: np.ndarray, among: np.ndarray, device: str = "cpu") -> np.ndarray:
    """Euclidean distance of each of points [N, D] to the nearest of [M, D]. [N]. device: of torch."""
    p, q = (torch.from_numpy(np.ascontiguousarray(a, np.float32)).to(device) for a in (points, among))
    squares = q.square().sum(dim=1)
    chunks = [(squares - 2 * chunk @ q.T).min(dim=1).values + chunk.square().sum(dim=1) for chunk in p.split(250)]
    return torch.cat(chunks).clamp_min(0).sqrt().cpu().numpy()


def copies(samples: np.ndarray, real: np.ndarray, known: np.ndarray, device: str = "cpu") -> Figures:
    """Whether samples are copies of what is known: they lie nearer to it than as many new real ones do.

    Args:
        samples, real: [N, D].
        known: [M, D], what a model was trained on.
        device: of torch.

    Returns:
        The median and the 1 % quantile of the distance to the nearest of `known`, of samples and of real ones; "nearer", the percentage
        of samples that are nearer than 1 % of the real ones are; and "compared", N.
    """
    ours, theirs = nearest(samples, known, device), nearest(real, known, device)
    edge = np.quantile(theirs, 0.01)
    values = {
        "samples_median": np.median(ours), "samples_closest": np.quantile(ours, 0.01),
        "test_median": np.median(theirs), "test_closest": edge, "nearer": 100 * (ours < edge).mean(),
    }  # fmt: skip
    return {"compared": len(ours), **{name: float(value) for name, value in values.items()}}
