"""Gated PixelCNN: what its pixels see, its parameters, its configuration. `test_conformance.py` has the rest."""

import functools

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from walks import spread

from spx.models.gated import MODEL
from spx.models.gated.config import NetworkConfig
from spx.models.gated.network import gated_pixelcnn
from spxcore import SpxError
from spxcore.walk.language import down, down_right

SIDE = 9


def of(**fields):
    """A small network of random weights."""
    c = NetworkConfig(**{"side": SIDE, "levels": 4, "filters": 4, "layers": 4, "first": 5, "head": 6, **fields})
    return spread(functools.partial(gated_pixelcnn, c=c))


def masked(net, layers=4, n=3):
    """A plain masked PixelCNN (van den Oord, Kalchbrenner & Kavukcuoglu 2016), which has a blind spot."""
    h = net.input("x", 1, drawn=True)
    for i in range(layers):
        own = int(i > 0)
        left = down_right(1, n // 2 + own)
        h = net.conv(f"{i}.above", h, 4, down(n // 2, n).shifted(down=1)) + net.conv(
            f"{i}.left", h, 4, left if own else left.shifted(right=1)
        )
        h = net.relu(h)
    return net.conv("logits", h, 4)


def seen(network, row: int, column: int) -> np.ndarray:
    """The pixels whose gradient reaches the parameters of pixel (row, column), bool [SIDE, SIDE]; of several random images, so that no
    ReLU hides one."""
    x = torch.randn(8, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    network.module({"x": x})[:, :, row, column].square().sum().backward()
    return (x.grad.abs().amax(dim=(0, 1)) > 0).numpy()


def test_every_pixel_sees_all_that_its_kernels_reach_before_it_and_nothing_after():
    """Five layers' kernels, 5x5 and three of 3x3, reach 2 + 3 rows up and 2 + 3 columns to each side."""
    network, reach = of(), 2 + 3
    y, x = np.indices((SIDE, SIDE))
    for row in range(SIDE):
        for column in range(SIDE):
            before = (y < row) | ((y == row) & (x < column))
            expected = before & (row - y <= reach) & (abs(x - column) <= reach)
            np.testing.assert_array_equal(seen(network, row, column), expected, f"pixel {row}, {column}")


def test_a_plain_masked_network_has_the_blind_spot():
    """The same test sees it there: pixels above and to the right are missed (section 2.2 and figure 1)."""
    found = seen(spread(masked), 6, 3)
    assert found[5, 4] and found[4, 5] and not found[5, 5] and not found[5, 6] and not found[4, 6]
    assert seen(of(first=3), 6, 3)[5, 5:7].all()


def by_hand(tensors, x, code, c):
    """The network from the paper's equations, convolution by convolution, on a padded image; [B, K, H, W]."""

    def conv(name, x, pad=(0, 0, 0, 0)):
        v, g, bias = (torch.from_numpy(tensors[f"{name}.{part}"]) for part in ("v", "g", "bias"))
        return F.conv2d(F.pad(x, pad), v * (g / v.flatten(1).norm(dim=1)).view(-1, 1, 1, 1), bias)

    def gate(y):
        a, b = y.chunk(2, dim=1)
        return torch.tanh(a) * torch.sigmoid(b)

    v = h = torch.cat([x, torch.ones_like(x)], dim=1)
    told = (code @ torch.from_numpy(tensors["classes.latent"]).T)[:, :, None, None].chunk(2 * c.layers, dim=1)
    skips = 0
    for i in range(c.layers):
        n = c.first if i == 0 else c.kernel
        r = n // 2
        if i == 0:  # the result is moved down, or to the right: what moves in is zero
            v_sum = F.pad(conv("0.v", v, (r, r, r - 1, 0))[:, :, :-1], (0, 0, 1, 0))
            h_sum = F.pad(conv("0.h", h, (r - 1, 0, 0, 0))[:, :, :, :-1], (1, 0))
        else:
            v_sum, h_sum = conv(f"{i}.v", v, (r, r, r, 0)), conv(f"{i}.h", h, (r, 0, 0, 0))
        v_sum = v_sum + told[2 * i]
        h_sum = h_sum + conv(f"{i}.v_to_h", v_sum) + told[2 * i + 1]
        v = gate(v_sum)
        if i < c.layers - 1:
            h = conv(f"{i}.out", gate(h_sum)) + (h if i else 0)
        skips = skips + conv(f"{i}.skip", gate(h_sum))
    return conv("logits", F.relu(conv("head", F.relu(skips))))


def test_it_computes_what_the_paper_says():
    c = NetworkConfig(side=6, levels=5, filters=3, layers=3, first=5, kernel=3, head=4, classes=3)
    network = spread(functools.partial(gated_pixelcnn, c=c))
    x, code = torch.randn(2, 1, 6, 7, generator=torch.Generator().manual_seed(1)), torch.eye(3)[:2]
    with torch.no_grad():
        got, expected = network.module({"x": x}, code), by_hand(network.tensors, x, code, c)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"side": 0}, "side: expected at least 1"), ({"levels": 1}, "levels: expected 2 to 256"),
        ({"levels": 257}, "levels"), ({"filters": 0}, "filters: expected at least 1"), ({"layers": 0}, "layers"),
        ({"kernel": 4}, "kernel: expected an odd number"), ({"first": 1}, "first: expected an odd number"),
        ({"head": 0}, "head"), ({"classes": -1}, "classes: expected 0"), ({"kernel": "3"}, "kernel"),
    ],
)  # fmt: skip
def test_what_is_no_configuration(fields, message):
    with pytest.raises(SpxError, match=f"^{message}"):
        NetworkConfig(**fields)


def test_what_each_setting_changes():
    """Shapes of tensors: a layer has 2 p outputs, and a kernel the rows above and the columns to the left of its own place."""
    given = {"filters": 5, "layers": 2, "first": 9, "kernel": 5, "head": 7, "classes": 3}
    shapes = MODEL.shapes(MODEL.trained(MODEL.preset("small", **given), 1, 28))
    assert shapes["network.0.v.v"] == (10, 2, 4, 9) and shapes["network.0.h.v"] == (10, 2, 1, 4)
    assert shapes["network.1.v.v"] == (10, 5, 3, 5) and shapes["network.1.h.v"] == (10, 5, 1, 3)
    assert shapes["network.head.v"] == (7, 7, 1, 1) and shapes["network.logits.v"] == (256, 7, 1, 1)
    assert shapes["network.classes.latent"] == (2 * 2 * 10, 3) and not any(n.startswith("network.2.") for n in shapes)


def test_the_preset():
    c = MODEL.trained(MODEL.preset("small", classes=10), 1, 28)
    assert c == NetworkConfig(side=28, levels=256, filters=32, layers=12, first=7, kernel=3, head=64, classes=10)
