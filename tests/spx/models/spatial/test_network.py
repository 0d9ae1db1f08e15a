"""The patch network: what each output may depend on, its size, its layers."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from helpers import config, module
from torch import nn

from spx.models.parts.streams import gated_layers
from spx.models.spatial.config import NetworkConfig, preset
from spxcore.engines.torch_feeds import told_places
from spxcore.errors import SpxError
from spxcore.walk.language import gated_resnet, same
from spxcore.walk.module import Convolution, Module, data_dependent_initialisation
from spxcore.walk.shapes import shapes_of

KINDS = {
    "paper": {},
    "no coordinates": {"coordinates": False},
    "no latent": {"latent": 0},
    "neither": {"coordinates": False, "latent": 0},
    "spatial": {"conditioning": "spatial"},
}


def inputs(c: NetworkConfig, batch: int = 1, seed: int = 0):
    """Random pixels on the grid and what is told at each place, by name; codes."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (batch, c.channels, c.patch, c.patch), generator=g) / 127.5 - 1
    rows, columns = (tuple(torch.rand(batch, 1, generator=g) * 2 - 1 for _ in range(2)) for _ in range(2))
    spatial = c.conditioning == "spatial"
    maps = torch.randn(batch, c.maps, 6, 6, generator=g) if spatial else None
    z = torch.randn(batch, c.latent, generator=g) if c.latent else None
    told = told_places(c.resolutions(), rows, columns, torch.full((batch, 1, int(spatial)), 0.3), maps)
    return {"x": x, **({f"places.{k}": p for k, p in enumerate(told)} if c.place_inputs else {})}, z


def influence(net: nn.Module, c: NetworkConfig) -> np.ndarray:
    """Which pixel reaches which output, by gradients: bool [m m outputs, m m inputs], pixels in raster order.

    The outputs of one place are summed with random weights, so that nothing cancels.
    """
    given, z = inputs(c)
    x = given["x"].requires_grad_()
    out = net(given, z)
    weights = torch.randn(out.shape[1], generator=torch.Generator().manual_seed(1))
    summed = (out * weights[:, None, None]).sum(1).flatten()
    rows = [torch.autograd.grad(s, x, retain_graph=True)[0].abs().sum(1).flatten() for s in summed]
    return (torch.stack(rows) > 0).numpy()


def perturbed(net: nn.Module, c: NetworkConfig) -> np.ndarray:
    """The same by finite changes: a pixel is replaced, all its channels at once."""
    given, z = inputs(c)
    with torch.no_grad():
        before = net(given, z)
        columns = []
        for r in range(c.patch):
            for col in range(c.patch):
                changed = given["x"].clone()
                changed[:, :, r, col] = -changed[:, :, r, col] + 0.3
                columns.append((net({**given, "x": changed}, z) != before).any(1).flatten())
    return torch.stack(columns, dim=1).numpy()


def expected_influence(m: int) -> np.ndarray:
    """Every pixel before it in raster order, and no other: bool [m m outputs, m m inputs]."""
    return np.tri(m * m, k=-1, dtype=bool)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", [4, 8])
def test_no_output_sees_its_own_or_a_later_pixel(m, kind, channels):
    c = config(patch=m, channels=channels, **KINDS[kind])
    reached = influence(module(c), c)
    assert not (reached & ~expected_influence(m)).any()
    # ... and it does see the pixels before: all of the first rows' neighbours, most of the patch at the end.
    assert reached[1, 0] and reached[m, : m - 1].all()
    if m == 8:
        assert reached[-1, : m * m - 1].mean() > 0.95


def test_no_output_sees_its_own_or_a_later_pixel_at_12():
    c = config(patch=12, filters=3, conditioning="spatial")
    reached = influence(module(c), c)
    assert not (reached & ~expected_influence(12)).any() and reached[-1].mean() > 0.9


@pytest.mark.parametrize(("m", "channels"), [(4, 3), (8, 1), (12, 1)])
@pytest.mark.parametrize("conditioning", ["paper", "spatial"])
def test_perturbing_a_pixel_changes_later_outputs_only(m, channels, conditioning):
    """Bit for bit: an output before the pixel is the very same number."""
    c = config(patch=m, channels=channels, conditioning=conditioning)
    changed = perturbed(module(c), c)
    assert not (changed & ~expected_influence(m)).any()
    assert changed[np.arange(1, m * m), np.arange(m * m - 1)].mean() > 0.9  # the pixel just before


@pytest.mark.parametrize(
    ("layer", "pad"),
    [
        ("ul_in_left", (0, 0, 0, 1)),  # sees the row below what it should
        ("u_in", (1, 1, 0, 1)),  # stream u moved one row down the image
    ],
)
def test_the_comparison_finds_a_broken_mask(layer, pad):
    c = config(patch=8)
    net = module(c)
    broken = net.get_submodule(layer)
    broken.kernel = dataclasses.replace(broken.kernel, pad=pad)
    assert (influence(net, c) & ~expected_influence(8)).any()
    assert (perturbed(net, c) & ~expected_influence(8)).any()


@pytest.mark.parametrize("m", [4, 8, 12, 16, 20, 28])
def test_output_shapes(m):
    for channels, numbers in ((1, 9), (3, 30)):
        c = config(patch=m, channels=channels)
        with torch.no_grad():
            assert module(c)(*inputs(c, batch=2)).shape == (2, numbers, m, m)


def test_images_of_a_batch_are_apart():
    c = config(conditioning="spatial")
    net, (given, z) = module(c), inputs(c, batch=3)
    with torch.no_grad():
        together = net(given, z)
        for i in range(3):
            alone = net({name: value[i : i + 1] for name, value in given.items()}, z[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("what", ["z", "coordinates", "maps", "scale"])
def test_the_conditioning_reaches_every_output(what):
    c = config(conditioning="spatial")
    net, (given, z) = module(c), inputs(c)
    with torch.no_grad():
        before = net(given, z)
        channels = {"coordinates": slice(0, 2), "scale": slice(2, 3), "maps": slice(3, None)}
        if what == "z":
            z = z + 1
        else:
            for k in range(3):
                given[f"places.{k}"][:, channels[what]] += 0.5
        assert (net(given, z) != before).any(1).all()


def parameters_by_formula(c: NetworkConfig) -> int:
    """Parameters counted layer by layer from the description of PixelCNN++ and the paper, not from the code."""

    def conv(inputs: int, outputs: int, kernel: int) -> int:  # v, g, bias
        return inputs * outputs * kernel + 2 * outputs

    def gated(kernel: int, aux: int) -> int:
        nin = conv(2 * aux, nf, 1) if aux else 0
        return conv(2 * nf, nf, kernel) + nin + conv(2 * nf, 2 * nf, kernel)

    nf, n = c.filters, c.layers
    u, ul = 2 * 3, 2 * 2
    total = conv(c.channels + 1, nf, u) + conv(c.channels + 1, nf, 3) + conv(c.channels + 1, nf, 2)
    total += 3 * n * (gated(u, 0) + gated(ul, nf))  # down: ul takes u
    total += (3 * n + 2) * (gated(u, nf) + gated(ul, 2 * nf))  # up: u takes a skip, ul takes u and a skip
    total += 4 * (conv(nf, nf, u) + conv(nf, nf, ul))  # two strided and two transposed convolutions of each stream
    share = 3 if c.channels == 1 else 10
    total += conv(nf, share * c.mixtures, 1)
    places = {"spatial": 2 + 1 + c.maps, "paper": 2 * c.coordinates}[c.conditioning]
    gated_layers = 2 * (3 * n + 3 * n + 2)
    return total + gated_layers * 2 * nf * (places + c.latent)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("small-8x8", 699_710),
        ("paper-small-8x8", 681_510),
        ("pixelcnnpp-small-28x28", 594_710),
        ("paper-large-16x16", 42_192_140),
        ("large-8x8", 42_425_100),
    ],
)
def test_parameter_counts(name, count):
    c = preset(name)
    counted = sum(math.prod(shape) for shape in shapes_of(c.walk).values())
    assert counted == parameters_by_formula(c) == count


def test_parameter_counts_of_rgb():
    c = preset("small-8x8", channels=3)
    assert sum(p.numel() for p in Module(c.walk).parameters()) == parameters_by_formula(c)


@pytest.mark.parametrize(("name", "layers_"), [("small-8x8", 28), ("large-16x16", 64)])
def test_layer_counts(name, layers_):
    c = preset(name)
    shapes = shapes_of(c.walk)
    gated = [name.removesuffix(".conv_out.v") for name in shapes if name.endswith(".conv_out.v")]
    assert len(gated) == layers_ == 2 * sum(gated_layers(c.layers, r) for r in range(3))
    for r in range(3):
        assert shapes[f"conditioning.{r}.places"] == (2 * gated_layers(c.layers, r) * 2 * c.filters, c.place_inputs)
    # A skip for every layer going up: the input and every result going down, but for the last, where going up begins.
    for stream in ("u", "ul"):
        up, down = (sum(name.startswith(f"{stream}_{way}.") for name in gated) for way in ("up", "down"))
        assert up == 1 + down + 2 - 1


def test_every_skip_is_consumed_and_every_parameter_used():
    c = config(conditioning="spatial", layers=2)
    net = module(c)
    (net(*inputs(c)) ** 2).sum().backward()
    unused = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert unused == []


def test_initialisation_where_a_stream_sees_nothing():
    """At 4x4 without any conditioning stream u is the same everywhere at the lowest resolution: no spread to divide by."""
    torch.manual_seed(0)
    c = config(patch=4, layers=2, coordinates=False, latent=0)
    net, data = Module(c.walk), inputs(c, batch=64)
    with torch.no_grad(), data_dependent_initialisation(net):
        net(*data)
    gains = torch.cat([layer.g.detach() for layer in net.modules() if isinstance(layer, Convolution)])
    assert gains.abs().max() < 1e3
    net(*data).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_weight_norm_is_folded():
    """weight() has norm g in each output channel, whatever v's, and is what the convolution uses."""
    torch.manual_seed(0)
    layer = Convolution(torch.randn(4, 3, 3, 3), same(3, 3))
    with torch.no_grad():
        layer.g.copy_(torch.tensor([0.5, 1, 2, -3]))
        layer.bias.normal_()
        torch.testing.assert_close(layer.weight().flatten(1).norm(dim=1), layer.g.abs())
        x = torch.randn(2, 3, 6, 6)
        expected = nn.functional.conv2d(x, layer.weight(), layer.bias, padding=1)
        torch.testing.assert_close(layer(x), expected)
        layer.v.mul_(7)
        torch.testing.assert_close(layer(x), expected)


def test_gated_resnet_formula():
    """With an auxiliary input and a code; x + a sigmoid(b), written out."""

    def walk(net):
        (h,) = net.told("h", 1, 6, code=net.code(2))
        return gated_resnet(net, "layer", net.input("x", 3), same(3, 3), (net.input("aux", 2),), h)

    torch.manual_seed(0)
    net, x, aux, z = Module(walk), torch.randn(1, 3, 4, 4), torch.randn(1, 2, 4, 4), torch.randn(1, 2)
    layer = net.layer
    with torch.no_grad():
        h = (net.h.latent @ z[0])[None, :, None, None]

        def both(t):
            return torch.cat([nn.functional.elu(t), nn.functional.elu(-t)], 1)

        y = layer.conv_out(both(layer.conv_in(both(x)) + layer.nin_aux(both(aux)))) + h
        torch.testing.assert_close(net({"x": x, "aux": aux}, z), x + y[:, :3] * torch.sigmoid(y[:, 3:]))


@pytest.mark.parametrize("conditioning", ["paper", "spatial"])
def test_bf16_autocast_is_close(conditioning):
    c = preset("small-8x8") if conditioning == "spatial" else preset("paper-small-8x8")
    torch.manual_seed(0)
    net, data = Module(c.walk).eval(), inputs(c, batch=4)
    with torch.no_grad():
        exact = net(*data)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = net(*data)
    assert rounded.dtype == torch.float32  # the mixture's parameters are computed in fp32
    error = (rounded - exact).abs().max() / exact.abs().max()
    assert 0 < error < 0.02


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch": 8.0}, "patch: expected a whole number"),
        ({"patch": True}, "patch: expected a whole number"),
        ({"patch": 6}, "patch: expected a multiple of 4, at least 4, got 6"),
        ({"patch": 0}, "patch"),
        ({"channels": 2}, "channels: expected 1 or 3, got 2"),
        ({"filters": 0}, "filters"),
        ({"layers": 0}, "layers"),
        ({"mixtures": 65}, "mixtures"),
        ({"latent": -1}, "latent"),
        ({"conditioning": "other"}, "conditioning: expected spatial or paper, got 'other'"),
        ({"dropout": 1.0}, "dropout"),
        ({"sizes": (28,)}, "sizes"),
        ({"sizes": (4, 28)}, "sizes"),
        ({"sizes": (56, 28)}, "sizes"),
        ({"conditioning": "spatial", "coordinates": False}, "coordinates"),
        ({"conditioning": "spatial", "latent": 0}, "latent"),
        ({"conditioning": "spatial", "maps": 0}, "maps"),
    ],
)
def test_configurations_that_cannot_be(fields, message):
    with pytest.raises(SpxError, match=f"^{message}"):
        NetworkConfig(**{"conditioning": "paper", **fields})


@pytest.mark.parametrize("name", ["", "small", "small-8", "small-8x12", "tiny-8x8", "paper_small-8x8", "small-6x6"])
def test_presets_that_are_none(name):
    with pytest.raises(SpxError, match=r"^(preset|patch): expected"):
        preset(name)


def test_numpy_s_numbers_are_plain_ones():
    """In config.json a field is a number, whatever it was made from."""
    c = NetworkConfig(patch=np.uint8(16), filters=np.int64(5))
    assert type(c.patch) is int and type(c.filters) is int and c.patch * c.patch == 256
