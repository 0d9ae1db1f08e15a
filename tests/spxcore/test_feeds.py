"""Coordinates, and what the network is told at each place."""

import math

import numpy as np
import pytest
import torch

from spxcore import feeds
from spxcore.engines import torch_feeds


@pytest.mark.parametrize("n", [2, 4, 28, 1400])
def test_axis(n):
    axis = feeds.axis(n)
    assert axis.dtype == np.float32 and axis.shape == (n,)
    assert axis[0] == -1 and axis[-1] == 1
    np.testing.assert_allclose(np.diff(axis), 2 / (n - 1), atol=1e-6)
    np.testing.assert_allclose(axis, -axis[::-1], atol=1e-7)


@pytest.mark.parametrize("places", [1, 2, 4, 8])
def test_place_axis_resamples_the_windows_range(places):
    first, last = np.float32([-1, -0.25, 0.5]), np.float32([-0.5, 0.25, 1.0])
    got = torch_feeds.place_axis(torch.from_numpy(first), torch.from_numpy(last), places)
    assert got.dtype == torch.float32 and got.shape == (3, places)
    expected = [np.linspace(a, b, places) if places > 1 else [(a + b) / 2] for a, b in zip(first, last)]
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)


def test_places_at_full_resolution_are_the_pixels():
    axis = feeds.axis(45)
    for start in (0, 17, 37):
        got = torch_feeds.place_axis(*(torch.from_numpy(axis[[i]]) for i in (start, start + 7)), 8)[0].numpy()
        np.testing.assert_allclose(got, axis[start : start + 8], atol=1e-6)


def test_scale():
    sizes = (28, 1400)
    assert feeds.scale(28, 28, sizes) == -1
    assert feeds.scale(1400, 1400, sizes) == pytest.approx(1)
    assert feeds.scale(198, 198, sizes) == pytest.approx(0, abs=2e-3)  # the geometric middle, 197.99
    assert feeds.scale(100, 400, sizes) == feeds.scale(200, 200, sizes)
    assert feeds.scale(56, 56, sizes) == pytest.approx(2 * math.log(2) / math.log(50) - 1)
    assert feeds.scale(8, 8, sizes) == -1 and feeds.scale(5000, 5000, sizes) == 1
    assert feeds.scale(500, 500, (28, 28)) == 0


@pytest.mark.fault("wrong", "the gradient of sampled maps was added by atomics on a GPU")
@pytest.mark.parametrize("size", [(5, 7), (1, 2), (2, 1)])
def test_sampled_maps_are_those_of_grid_sample(size):
    """Values and gradients, places outside the range and at its ends among them; and the maps' gradient by differences."""
    g = torch.Generator().manual_seed(1)
    ours = torch.randn(2, 3, *size, generator=g, dtype=torch.float64, requires_grad=True)
    y, x = (torch.rand(2, 4, k, generator=g, dtype=torch.float64) * 2.4 - 1.2 for k in (3, 2))
    y[:, 0, 0], x[:, 0, 0], y[:, 0, 1] = 1, -1, 0
    found = torch_feeds.sample_maps(ours, y, x)
    grid = torch.stack(torch.broadcast_tensors(x[:, :, None, :], y[:, :, :, None]), dim=-1)
    theirs = ours.detach().clone().requires_grad_()
    samples = [
        torch.nn.functional.grid_sample(theirs, grid[:, r], mode="bilinear", padding_mode="border", align_corners=True)
        for r in range(4)
    ]
    expected = torch.stack(samples, dim=1)
    torch.testing.assert_close(found, expected)
    weight = torch.randn(found.shape, generator=g, dtype=torch.float64)
    for result in (found, expected):
        (result * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert torch.autograd.gradcheck(lambda maps: torch_feeds.sample_maps(maps, y, x), [ours.detach().requires_grad_()])


def bilinear(maps: np.ndarray, y: float, x: float) -> np.ndarray:
    """Maps [M, h, w] over [-1, 1]^2 at one point, from the definition."""
    _, h, w = maps.shape
    i, j = np.clip((y + 1) / 2 * (h - 1), 0, h - 1), np.clip((x + 1) / 2 * (w - 1), 0, w - 1)
    i0, j0 = min(int(i), h - 2), min(int(j), w - 2)
    a, b = i - i0, j - j0
    top = maps[:, i0, j0] * (1 - b) + maps[:, i0, j0 + 1] * b
    bottom = maps[:, i0 + 1, j0] * (1 - b) + maps[:, i0 + 1, j0 + 1] * b
    return top * (1 - a) + bottom * a


def test_sample_maps_is_bilinear():
    g = np.random.default_rng(0)
    maps = g.normal(size=(2, 3, 5, 7)).astype(np.float32)
    y, x = g.uniform(-1, 1, (2, 4, 2)).astype(np.float32), g.uniform(-1, 1, (2, 4, 3)).astype(np.float32)
    y[0, 0], x[0, 0] = (-1, 1), (-1, 0, 1)  # the ends of the range are the outer samples
    got = torch_feeds.sample_maps(*(torch.from_numpy(a) for a in (maps, y, x))).numpy()
    assert got.shape == (2, 4, 3, 2, 3)
    expected = [[[[bilinear(maps[n], v, u) for u in x[n, r]] for v in y[n, r]] for r in range(4)] for n in range(2)]
    np.testing.assert_allclose(got, np.moveaxis(np.array(expected), -1, 2), atol=1e-5)
    np.testing.assert_allclose(got[0, 0, :, 0, 0], maps[0, :, 0, 0], atol=1e-6)
    np.testing.assert_allclose(got[0, 0, :, 1, 2], maps[0, :, -1, -1], atol=1e-6)


@pytest.mark.parametrize("spatial", [False, True])
def test_told_places(spatial):
    """Two windows of each of two images: (y, x) or (y, x, scale, maps), rows down and columns across, images apart."""
    rows = torch.tensor([[-1.0, 0.0], [0.2, 0.3]]), torch.tensor([[-0.5, 0.5], [0.6, 0.9]])
    columns = torch.tensor([[0.1, 0.3], [-0.9, -0.3]]), torch.tensor([[0.4, 1.0], [-0.2, 0.0]])
    scale, maps = torch.tensor([[0.5, 0.5], [-0.5, -0.5]])[..., None], torch.randn(2, 3, 6, 6)
    extra = scale if spatial else scale[..., :0]
    got = torch_feeds.told_places((8, 4, 2), rows, columns, extra, maps if spatial else None)
    assert [tuple(g.shape) for g in got] == [(4, 6 if spatial else 2, side, side) for side in (8, 4, 2)]
    for side, planes in zip((8, 4, 2), got):
        for n in range(2):
            for r in range(2):
                y = np.linspace(rows[0][n, r].item(), rows[1][n, r].item(), side)
                x = np.linspace(columns[0][n, r].item(), columns[1][n, r].item(), side)
                window = planes[2 * n + r].numpy()
                np.testing.assert_allclose(window[0], np.repeat(y[:, None], side, 1), atol=1e-6)
                np.testing.assert_allclose(window[1], np.repeat(x[None], side, 0), atol=1e-6)
                if spatial:
                    assert (window[2] == scale[n, r].item()).all()
                    expected = [[bilinear(maps[n].numpy(), v, u) for u in x] for v in y]
                    np.testing.assert_allclose(window[3:], np.moveaxis(np.array(expected), -1, 0), atol=1e-5)
