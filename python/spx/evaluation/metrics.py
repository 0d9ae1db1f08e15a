"""Image metrics: MS-SSIM of the paper (section 4.3), and two of ours that see its samples' faults, striations and specks."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spxcore.errors import require

# Weights of the five scales (Wang et al. 2003, section 3.2).
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def _gaussian_window(side: int) -> Tensor:
    """Separable 11-tap window with sigma 1.5, made smaller with the image as in the TensorFlow models' MS-SSIM. [side]."""
    size = min(11, side)
    offset = torch.arange(size) - (size - 1) / 2
    window = torch.exp(-offset.square() / (2 * (size * 1.5 / 11) ** 2))
    return window / window.sum()


def _blur(x: Tensor, window: Tensor) -> Tensor:
    return F.conv2d(F.conv2d(x, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))


def _halve(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, (0, 1, 0, 1), mode="replicate"), 2, 1)[:, :, ::2, ::2]


def ms_ssim_pairs(
    images: np.ndarray, batch: int = 1000, progress: Callable[[int], None] | None = None, device: str = "cpu"
) -> tuple[float, float]:
    """Multi-scale structural similarity of all unique pairs (Wang et al. 2003): the lower the mean, the more diverse the images.

    Five scales; the window shrinks with the image (28, 14, 7, 4, 2 pixels), as in the implementation of the field's GAN papers
    (Odena et al. 2016), and a negative term keeps its sign through its power. With these two choices 500 MNIST test images give
    the paper's 0.16 +- 0.27; common libraries' fewer scales give 0.20 +- 0.15.

    Args:
        images: uint8 [N, H, W, 1], N >= 2.
        batch: pairs at once.
        progress: called with the number of pairs done since the last call.
        device: of torch, where it is computed.

    Returns:
        Mean and standard deviation over the N (N - 1) / 2 pairs.
    """
    good = images.ndim == 4 and images.shape[3] == 1 and len(images) >= 2
    require(good, "images", "[N, H, W, 1], at least two", list(images.shape))
    x = torch.from_numpy(np.array(images[..., 0])).to(device).float()[:, None] / 255
    c1, c2 = 0.01**2, 0.03**2
    # What depends on one image only, once an image and scale.
    scales = []
    for _ in _SCALE_WEIGHTS:
        window = _gaussian_window(min(x.shape[-2:])).to(device)
        mean = _blur(x, window)
        scales.append((x, window, mean, _blur(x * x, window) - mean * mean))
        x = _halve(x)
    first, second = (torch.from_numpy(index).to(device) for index in np.triu_indices(len(images), 1))
    total = squares = 0.0
    for i, j in zip(first.split(batch), second.split(batch), strict=True):
        result = torch.ones(len(i), dtype=torch.float64, device=device)
        for scale, (weight, (x, window, mean, variance)) in enumerate(zip(_SCALE_WEIGHTS, scales, strict=True)):
            covariance = _blur(x[i] * x[j], window) - mean[i] * mean[j]
            term = (2 * covariance + c2) / (variance[i] + variance[j] + c2)
            if scale == len(scales) - 1:
                term = term * (2 * mean[i] * mean[j] + c1) / (mean[i].square() + mean[j].square() + c1)
            term = term.mean(dim=(1, 2, 3)).double()
            result *= term.sign() * term.abs() ** weight
        total, squares = total + float(result.sum()), squares + float(result.square().sum())
        if progress:
            progress(len(i))
    pairs = len(first)
    average = total / pairs
    return average, math.sqrt(max(0.0, squares / pairs - average**2))


def why_no_contours() -> str | None:
    """Why contours and pieces cannot be measured here; None if they can."""
    try:
        import skimage.measure  # noqa: F401
    except ImportError as error:
        return f"need scikit-image ({error}): pip install 'spx[eval]'"
    return None


def contour_length(image: np.ndarray) -> float:
    """Length of the 50 % contour of an image uint8 [H, W, 1], in image heights. Stripes and blotches raise it."""
    from skimage.measure import find_contours

    padded = np.pad(image[..., 0].astype(np.float32), 1)
    length = sum(np.linalg.norm(np.diff(contour, axis=0), axis=1).sum() for contour in find_contours(padded, 127.5))
    return float(length / image.shape[0])


def components(image: np.ndarray) -> tuple[int, int]:
    """Connected pieces of ink and of ground in an image uint8 [H, W, 1], at 50 %. Specks and holes raise them."""
    from skimage.measure import label

    ink = np.pad(image[..., 0] > 127, 1)
    return int(label(ink, connectivity=2, return_num=True)[1]), int(label(~ink, connectivity=1, return_num=True)[1])
