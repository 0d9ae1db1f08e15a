"""Training patches: a random m x m piece of each image, seen at a random size, with its coordinates."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spxcore.engines.torch_feeds import place_axis
from spxcore.feeds import scale

from .config import NetworkConfig
from .vae import to_unit


@dataclass(frozen=True)
class Patches:
    """A batch of patches.

    Attributes:
        x: [B, C, m, m] pixels in [-1, 1] on the 256-level grid: what is to be predicted.
        context: [B, C, m, m] the pixels the network is shown, x but for the spoilt pieces (`spoil`).
        y0, y1, x0, x1: [B] coordinates in [-1, 1] of each patch's first and last row and column.
        scale: [B] scale input, `spxcore.feeds.scale`.
        weight: [B] importance weight of the patch in the loss.
    """

    x: Tensor
    context: Tensor
    y0: Tensor
    y1: Tensor
    x0: Tensor
    x1: Tensor
    scale: Tensor
    weight: Tensor


def on_grid(x: Tensor) -> Tensor:
    """Reals -> the nearest of the 256 levels in [-1, 1]."""
    return ((x.clamp(-1, 1) + 1) * 127.5 + 0.5).floor() / 127.5 - 1


def to_levels(images: Tensor) -> np.ndarray:
    """Images [B, C, H, W] in [-1, 1], what is beyond cut off, as levels: uint8 [B, H, W, C]."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def contrast(n: Tensor | float, native: int, strength: float):
    """Factor on pixel values around mid-grey at image size n: 1 + strength (n / native - 1); 1 at the data's own size."""
    return 1 + strength * (n / native - 1)


def resample(images: Tensor, y: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    """Images seen at larger sizes: bicubic values at given coordinates, contrast raised, quantised to 256 levels.

    Args:
        images: [B, C, H, W] in [-1, 1].
        y, x: [B, k], [B, l] coordinates of the rows and columns wanted, in [-1, 1].
        factor: [B] contrast factors; with 1 and the image's own coordinates the image comes back unchanged.

    Returns:
        [B, C, k, l].
    """
    return on_grid(_bicubic(images, y, x) * factor[:, None, None, None])


def _bicubic(images: Tensor, y: Tensor, x: Tensor) -> Tensor:
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=True)


def full_image(images: Tensor, n: int, strength: float) -> Tensor:
    """Images [B, C, H, H] in [-1, 1] as training sees them at size n, [B, C, n, n] (what a sample at n should look like)."""
    axis = torch.linspace(-1, 1, n).expand(len(images), n)
    return resample(images, axis, axis, torch.full((len(images),), contrast(n, images.shape[-1], strength)))


def full_images(images: np.ndarray, n: int, strength: float) -> np.ndarray:
    """The same of levels: uint8 [B, H, H, C] -> uint8 [B, n, n, C]."""
    unit = to_unit(torch.from_numpy(np.array(images.transpose(0, 3, 1, 2))))
    return np.concatenate([to_levels(full_image(chunk, n, strength)) for chunk in unit.split(50)])


def _edge_density(images: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H*W], a density over pixels that favours those on edges; sums to 1."""
    grey = images.mean(dim=1, keepdim=True)
    spread = F.max_pool2d(grey, 3, 1, 1) + F.max_pool2d(-grey, 3, 1, 1)  # maximum minus minimum of the neighbourhood
    spread = spread.flatten(1) + 1e-6
    return spread / spread.sum(dim=1, keepdim=True)


def spoil(x: Tensor, which: Tensor, generator: torch.Generator) -> Tensor:
    """Patches with a random rectangle replaced by another patch's pixels or by one level.

    A large image has millions of draws, so some are bad luck; the network has to find back from what it has not seen in any
    true image. Shown such contexts it learns to trust the conditioning over them.

    Args:
        x: [B, C, m, m] patches.
        which: bool [B], the patches to spoil.
        generator: source of all randomness.

    Returns:
        [B, C, m, m].
    """
    batch, _, m, _ = x.shape

    def uniform() -> Tensor:
        return torch.rand(batch, generator=generator, device=x.device)

    def stretch() -> Tensor:  # [B, m], a random interval of random length, thin ones as often as wide ones
        length = torch.floor(m ** uniform()).clamp(1, m)
        first = torch.floor(uniform() * (m - length + 1))
        place = torch.arange(m, device=x.device)
        return (place >= first[:, None]) & (place < (first + length)[:, None])

    inside = stretch()[:, :, None] & stretch()[:, None, :] & which[:, None, None]
    level = on_grid((uniform() * 4 - 2).clamp(-1, 1))[:, None, None, None].expand_as(x)
    other = torch.where((uniform() < 0.5)[:, None, None, None], x.roll(1, 0), level)
    return torch.where(inside[:, None], other, x)


def decoded_targets(patches: Patches, images: Tensor, decoded: Tensor, contrast_strength: float) -> Patches:
    """The same patches, faded into the decoder's mean image. The larger the size they are seen at, the more.

    The code z leaves some things open, such as where exactly an edge runs. The drawing guesses them. At the data's own
    size a window sees enough of its surroundings to guess once and be consistent. At 50 times that size every window of m pixels
    would guess for itself, and each guess would be a tooth on an edge. So at size n a share H / n of the target is the training
    image and the rest the mean image that the decoder makes of z, which z determines: what is left to guess about an
    edge's place stays under a pixel at every size. At the data's own size nothing changes.

    Args:
        patches: of `images`, patches.x's B = p * B' of p patches an image in a row.
        images: [B', C, H, H] in [-1, 1], the training images.
        decoded: [B', C, h, h] in [-1, 1], the means of the VAE's decoder for their codes; h as the VAE sees images.
        contrast_strength: see `contrast`.
    """
    m, side, repeats = patches.x.shape[-1], images.shape[-1], len(patches.x) // len(images)
    images, decoded = images.repeat_interleave(repeats, dim=0), decoded.repeat_interleave(repeats, dim=0)
    n = (1 + 2 * (m - 1) / (patches.y1 - patches.y0)).round()
    rows, columns = place_axis(patches.y0, patches.y1, m), place_axis(patches.x0, patches.x1, m)
    share = (1 - side / n)[:, None, None, None]
    seen = torch.lerp(_bicubic(images, rows, columns), _bicubic(decoded, rows, columns), share)
    seen = on_grid(seen * contrast(n, side, contrast_strength)[:, None, None, None])
    x = torch.where(share > 0, seen, patches.x)
    context = torch.where(patches.context == patches.x, x, patches.context)  # spoilt pieces stay as they are
    return replace(patches, x=x, context=context)


@functools.lru_cache(maxsize=4)
def _scales(low: int, high: int, device: torch.device) -> Tensor:
    """The scale input of each size from `low` to `high`, on a device: a step then need not wait for one to tell its sizes."""
    return torch.tensor([scale(n, n, (low, high)) for n in range(low, high + 1)], device=device)


def sample_patches(
    images: Tensor,
    config: NetworkConfig,
    generator: torch.Generator,
    contrast_strength: float = 0.0,
    native_share: float = 1 / 3,
    aimed_share: float = 1 / 2,
    spoilt_share: float = 0.0,
) -> Patches:
    """One random patch of each image.

    At a single size the patch's position is uniform. On mixed sizes a share `native_share` of the patches is at the
    smallest size, uniform; the others are at log-uniform sizes n up to the largest, a share `aimed_share` of *these*
    aimed at edges. Aimed and unaimed positions together are a known density q over pixels, so each patch carries the
    importance weight p / q: the loss stays the unbiased mean over uniform positions, with more of the work spent on edges
    (without it, edges would be expected too often, and specks be drawn).

    Args:
        images: [B, C, H, H] in [-1, 1].
        config: network the patches are for; its `patch` and `sizes`.
        generator: source of all randomness.
        contrast_strength: see `contrast`.
        native_share, aimed_share: as above, in [0, 1].
        spoilt_share: share of the patches above the smallest size whose context is spoilt, see `spoil`.
    """
    batch, side, m = len(images), images.shape[-1], config.patch
    low, high = config.sizes

    def uniform() -> Tensor:
        return torch.rand(batch, generator=generator, device=images.device)

    n = (low * (high / low) ** uniform()).round().clamp(low, high)
    native = uniform() < (native_share if high > low else 1.0)
    n = torch.where(native, torch.full_like(n, low), n)

    # A uniform origin, or a patch centred somewhere in a pixel drawn from the edge density.
    limit, to_n = n - m, (n - 1) / (side - 1)
    density = _edge_density(images)
    pixel = torch.multinomial(density, 1, generator=generator)[:, 0]
    aimed = (uniform() < aimed_share) & ~native

    def origin(index: Tensor) -> Tensor:
        anywhere = (uniform() * (limit + 1)).floor()
        at_edge = ((index + uniform() - 0.5) * to_n - (m - 1) / 2).round()
        return torch.where(aimed, at_edge, anywhere).clamp_min(0).minimum(limit)

    y, x = origin(torch.div(pixel, side, rounding_mode="floor")), origin(pixel % side)

    # p / q exactly: the chance that this origin is aimed at, summed over the pixels it may have been aimed from, relative to
    # the uniform one. Clamping puts more origins at the image's border than an edge density at the patch's centre would tell.
    def aimed_from(origin: Tensor) -> Tensor:  # [B] -> [B, side]
        ends = (torch.arange(side + 1, device=images.device) - 0.5) * to_n[:, None] - (m - 1) / 2
        low = torch.where(origin > 0, origin - 0.5, -math.inf)[:, None]
        high = torch.where(origin < limit, origin + 0.5, math.inf)[:, None]
        return (ends[:, 1:].minimum(high) - ends[:, :-1].maximum(low)).clamp_min(0) / to_n[:, None]

    chance = torch.einsum("bi,bij,bj->b", aimed_from(y), density.view(batch, side, side), aimed_from(x))
    relative = chance * (limit + 1) ** 2
    weight = torch.where(native, torch.ones_like(n), 1 / (1 - aimed_share + aimed_share * relative))

    step = 2 / (n - 1)
    y0, x0 = y * step - 1, x * step - 1
    y1, x1 = (y + m - 1) * step - 1, (x + m - 1) * step - 1
    place = torch.arange(m, dtype=torch.float32, device=images.device)
    rows, columns = (y[:, None] + place) * step[:, None] - 1, (x[:, None] + place) * step[:, None] - 1
    pixels = resample(images, rows, columns, contrast(n, side, contrast_strength))
    scales = _scales(low, high, images.device)[(n - low).long()]
    context = spoil(pixels, (uniform() < spoilt_share) & (n > low), generator) if spoilt_share else pixels
    return Patches(pixels, context, y0, y1, x0, x1, scales, weight)
