"""A job's feeds as a network's inputs in torch: pixels of windows, and what is told at their places. Training uses it too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..drawing import Job
from ..feeds import Pixels, Planes, axis
from ..schedules import Window
from ..schedules.window import window_origin


def place_axis(first: Tensor, last: Tensor, places: int) -> Tensor:
    """Coordinates of a window's places along one axis at one resolution.

    The window's range is resampled linearly to `places` equal steps, ends included (Akoury & Nguyen 2017, section 4.1); a single
    place takes the middle.

    Args:
        first, last: [...] coordinates of each window's first and last pixel.
        places: along this axis at this resolution.

    Returns:
        [..., places].
    """
    step = torch.linspace(0, 1, places, device=first.device) if places > 1 else first.new_tensor([0.5])
    return first[..., None] * (1 - step) + last[..., None] * step


def _between(coordinate: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Where a coordinate in [-1, 1] falls between `count` samples, the outer ones at the ends of the range: sample, fraction."""
    at = ((coordinate + 1) / 2 * (count - 1)).clamp(0, count - 1)
    first = at.detach().long().clamp(max=max(count - 2, 0))
    return first, at - first


def _shares(coordinate: Tensor, count: int) -> Tensor:
    """The share of each of `count` samples in the number at each coordinate, [...] -> [..., count]; each row sums to 1."""
    first, fraction = (v[..., None] for v in _between(coordinate, count))
    place = torch.arange(count, device=coordinate.device)
    second = (first + 1).clamp(max=count - 1)
    return (place == first) * (1 - fraction) + (place == second) * fraction


class _Sampled(torch.autograd.Function):
    """`_bilinear`, with a backward pass that is two matrix products. On a GPU that of `gather` adds by atomics, in an order that
    changes from run to run."""

    @staticmethod
    def forward(ctx, maps: Tensor, y: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(y, x)
        ctx.size, ctx.type = maps.shape[2:], maps.dtype
        return _bilinear(maps, y, x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g: Tensor):
        y, x = ctx.saved_tensors
        down, across = _shares(y, ctx.size[0]), _shares(x, ctx.size[1])  # [N, R, k, h], [N, R, l, w]
        rows = torch.einsum("nrmkl,nrlw->nrkmw", g, across)
        return torch.einsum("nrkh,nrkmw->nmhw", down, rows).to(ctx.type), None, None


def sample_maps(maps: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bilinear samples of each image's feature maps at the places of its windows: along y first, then along x (`csrc/places.h`).

    Differentiable in the maps, not in the coordinates. Gradients are the same to the bit each time, on a GPU too.

    Args:
        maps: [N, M, h, w] over [-1, 1]^2, the outer samples at the ends of the range.
        y, x: [N, R, k], [N, R, l] coordinates of the places' rows and columns, R windows an image.

    Returns:
        [N, R, M, k, l].
    """
    return _Sampled.apply(maps, y, x)


def _bilinear(maps: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The forward pass of `sample_maps`."""
    (n, count, h, w), (_, windows, k), places = maps.shape, y.shape, x.shape[2]

    def lerp(values: Tensor, first: Tensor, fraction: Tensor, size: int) -> Tensor:
        second = (first + 1).clamp(max=size - 1)
        return values.gather(2, first) * (1 - fraction) + values.gather(2, second) * fraction

    first, fraction = (v.reshape(n, 1, windows * k, 1).expand(-1, count, -1, w) for v in _between(y, h))
    rows = lerp(maps, first, fraction, h)  # [N, M, R k, w]
    rows = rows.view(n, count, windows, k, w).permute(0, 2, 4, 1, 3).reshape(n, windows, w, count * k)
    first, fraction = (v[..., None].expand(-1, -1, -1, count * k) for v in _between(x, w))
    return lerp(rows, first, fraction, w).view(n, windows, places, count, k).permute(0, 1, 3, 4, 2)


def told_places(
    sides: Sequence[int],
    rows: tuple[Tensor, Tensor],
    columns: tuple[Tensor, Tensor],
    extra: Tensor,
    maps: Tensor | None,
) -> list[Tensor]:
    """What a network is told at each place of windows, at several resolutions.

    Args:
        sides: places along an axis, of each resolution.
        rows, columns: coordinates in [-1, 1] of each window's first and last row and column, [N, R] each.
        extra: [N, R, E], told at every place.
        maps: [N, M, h, w] feature maps of the N images, or None.

    Returns:
        [N * R, 2 + E + M, side, side] for each side: (y, x, extra ..., maps sampled there).
    """
    result = []
    for side in sides:
        y, x = place_axis(*rows, side), place_axis(*columns, side)
        planes = [
            y[:, :, None, :, None].expand(-1, -1, -1, -1, side),
            x[:, :, None, None, :].expand(-1, -1, -1, side, -1),
            extra[:, :, :, None, None].expand(-1, -1, -1, side, side),
        ]
        if maps is not None:
            planes.append(sample_maps(maps, y, x))
        result.append(torch.cat(planes, dim=2).flatten(0, 1))
    return result


def origin(job: Job, r: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the first place of what the network sees when it draws pixels (r, c) [R]: a window, or the whole image."""
    if isinstance(job.schedule, Window):
        return window_origin(r, c, job.schedule.side)
    return np.zeros_like(r), np.zeros_like(c)


def window_inputs(
    job: Job, pixels: np.ndarray, images: np.ndarray, r: np.ndarray, c: np.ndarray, device: torch.device
) -> tuple[dict[str, Tensor], Tensor | None]:
    """The inputs and codes of the windows that pixels (r, c) of some images are drawn from; of the raster schedule, whole images.

    Args:
        job: with feeds of pixels, and of places for windows or planes for whole images.
        pixels: [N, H, W, C] levels.
        images: [n] indices into the job's images.
        r, c: [R] rows and columns, the same in all these images.

    Returns:
        {input: [n * R, channels, height, width]}, and the codes [n * R, Z] or None.
    """
    n, graph = len(images), job.evaluated.graph
    h, w = (job.schedule.side,) * 2 if isinstance(job.schedule, Window) else (job.height, job.width)
    r0, c0 = origin(job, r, c)

    def tensor(values: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(values, np.float32), device=device)

    def of_images(array: np.ndarray) -> Tensor:  # of N or 1 images
        return tensor(array[images] if len(array) > 1 else np.repeat(array, n, axis=0))

    def of_windows(values: np.ndarray) -> Tensor:  # [R] -> [n, R]
        return tensor(values).expand(n, -1)

    inputs, told = {}, {}
    for name in graph.inputs:
        feed = job.feeds[name]
        if isinstance(feed, Pixels):
            rows, columns = r0[:, None] + np.arange(h), c0[:, None] + np.arange(w)
            levels = pixels[
                images[:, None, None, None], rows[None, :, :, None], columns[None, :, None]
            ]  # [n, R, h, w, C]
            seen = tensor(feed.table[levels]).flatten(0, 1).flatten(3)  # [n R, h, w, C e]
            inputs[name] = seen.permute(0, 3, 1, 2)
        elif isinstance(feed, Planes):
            inputs[name] = of_images(feed.array).permute(0, 3, 1, 2).repeat_interleave(len(r), dim=0)
        else:
            told[name] = graph.values[name].size(h, w)[0]
    if told:
        feed = job.told
        y, x = axis(job.height), axis(job.width)
        extra = tensor(feed.extra).expand(n, len(r), -1)
        maps = None if feed.maps is None else of_images(feed.maps)
        down, across = ((of_windows(a[o]), of_windows(a[o + side - 1])) for a, o, side in ((y, r0, h), (x, c0, w)))
        inputs |= dict(zip(told, told_places(list(told.values()), down, across, extra, maps)))
    code = None if job.code is None else tensor(job.code[images]).repeat_interleave(len(r), dim=0)
    return inputs, code
