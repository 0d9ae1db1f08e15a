"""Graphs: taps against PyTorch's convolutions at odd sizes, and how far a place sees against brute force."""

import numpy as np
import pytest
import torch
from helpers import config, network
from torch.nn import functional as F

from spx.models.spatial.config import preset
from spxcore.graph import Taps, Value
from spxcore.plan import plan_at
from spxcore.plan.reach import reach

SIZES = [(1, 1), (2, 3), (3, 2), (7, 5)]
KERNELS = [((2, 3), 1, 1), ((2, 2), 1, 0), ((1, 3), 1, 1), ((2, 1), 0, 0)]


def dense(taps: Taps, size, size_in, weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """What taps compute at a size, weights [outputs, inputs, kh, kw]."""
    out = torch.zeros(x.shape[0], weights.shape[0], size[0] * size[1])
    blocks, x = weights.flatten(2), x.flatten(2)
    for row, at, block in taps.at(size, size_in).tolist():
        out[:, :, row] += x[:, :, at] @ blocks[:, :, block].T
    return out.view(x.shape[0], -1, *size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "left", "right"), KERNELS)
def test_a_convolution(size, stride, kernel, left, right):
    size_in = tuple(stride * s for s in size)
    x, w = torch.randn(2, 3, *size_in), torch.randn(4, 3, *kernel)
    expected = F.conv2d(F.pad(x, (left, right, kernel[0] - 1, 0)), w, stride=stride)
    taps = Taps.convolution(kernel, left, kernel[0] - 1, stride)
    torch.testing.assert_close(dense(taps, size, size_in, w, x), expected)
    if stride == 1:  # moved down and to the right, zeros moving in
        moved = F.pad(expected, (1, 0, 1, 0))[:, :, :-1, :-1]
        taps = Taps.convolution(kernel, left, kernel[0] - 1, shift=(1, 1))
        torch.testing.assert_close(dense(taps, size, size, w, x), moved)


@pytest.mark.parametrize("size", [(2, 2), (4, 6), (8, 2)])
@pytest.mark.parametrize(("kernel", "crop"), [((2, 3), 1), ((2, 2), 0)])
def test_a_transposed_convolution(size, kernel, crop):
    half = tuple(s // 2 for s in size)
    x, w = torch.randn(2, 3, *half), torch.randn(4, 3, *kernel)
    full = F.conv_transpose2d(x, w.transpose(0, 1), stride=2, output_padding=1)
    expected = full[:, :, : size[0], crop : crop + size[1]]
    torch.testing.assert_close(dense(Taps.transposed(kernel, 2, crop), size, half, w, x), expected)


def test_from_and_to_a_code():
    z, w = torch.randn(2, 3, 1, 1), torch.randn(4, 3, 3, 3)
    grown = F.conv_transpose2d(z, w.transpose(0, 1), stride=3)
    torch.testing.assert_close(dense(Taps.from_code(3), (3, 3), (1, 1), w, z), grown)
    torch.testing.assert_close(dense(Taps.to_code(3), (1, 1), (3, 3), w, grown[:, :3]), F.conv2d(grown[:, :3], w))


def test_sizes_of_values():
    for level, expected in ((0, (5, 9)), (1, (3, 5)), (2, (2, 3)), (-1, (10, 18)), (None, (1, 1))):
        assert Value(1, level).size(5, 9) == expected


@pytest.mark.parametrize("size", [(12, 12), (16, 20), (8, 24)])
@pytest.mark.parametrize("name", ["paper-small-8x8", "one layer"])
def test_reach_is_what_places_depend_on(name, size):
    """The reach, which knows no size, against the dependencies of a plan: never less, and the same away from the border."""
    c = (
        config(filters=2, mixtures=1, latent=0, coordinates=False)
        if name == "one layer"
        else preset(name, filters=2, mixtures=1)
    )
    graph, (h, w) = network(c).graph, size
    sees, side = reach(graph), graph.pixels
    assert side == 4
    depends = plan_at(graph, h, w, fold=False).dependencies()
    equal = 0
    for value, phases in sees.items():
        height, width = graph.values[value].size(h, w)
        count = int(len(phases) ** 0.5)
        on = depends[value].reshape(height, width, h, w)
        for y, x in np.ndindex(height, width):
            mine = {
                side * (y // count) + row: min(side * (x // count) + column, w - 1)
                for row, column in phases[y % count, x % count].items()
            }
            mine = {row: column for row, column in mine.items() if 0 <= row < h and column >= 0}
            real = {int(row): int(np.flatnonzero(on[y, x, row])[-1]) for row in np.flatnonzero(on[y, x].any(axis=1))}
            assert all(row in mine and mine[row] >= column for row, column in real.items()), (value, y, x)
            if real:
                equal += max(mine) == max(real) and mine[max(mine)] == real[max(real)]
                inner = min(y, x) >= height // 3 and x < width - width // 3
                assert not inner or max(mine) == max(real)
    assert equal > 0.8 * sum(on.any(axis=1).sum() for on in depends.values())


def test_no_pixel_sees_a_later_one_wherever_it_lies():
    graph = network(config()).graph
    for (y, x), rows in reach(graph)[graph.output].items():
        assert max(rows) <= y and rows.get(y, -1) < x
