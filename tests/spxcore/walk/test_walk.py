"""A walk's three readers agree: names and shapes, the graph by the plan's meaning, and the torch module."""

import functools

import numpy as np
import pytest
import torch
from helpers import close, config, double, flat, module, network, windows
from torch.nn import functional as F
from walks import relu_net, spread

from spx.models.spatial.config import preset
from spxcore import Network, SpxError
from spxcore.graph import FORMS
from spxcore.plan import execute, plan_at
from spxcore.plan.execute import seen_as
from spxcore.walk.language import down, down_right, from_code, same, to_code
from spxcore.walk.module import Module, data_dependent_initialisation
from spxcore.walk.shapes import shapes_of

SPATIAL = {"conditioning": "spatial"}
NETWORKS = {
    "4x4": {"patch": 4},
    "8x8 spatial": {"patch": 8, **SPATIAL},
    "8x8 rgb spatial": {"patch": 8, "channels": 3, **SPATIAL},
    "8x8 two layers": {"patch": 8, "layers": 2, "filters": 7},
    "8x8 without coordinates": {"patch": 8, "coordinates": False},
    "8x8 without latent": {"patch": 8, "latent": 0},
    "8x8 rgb, neither": {"patch": 8, "channels": 3, "coordinates": False, "latent": 0},
    "12x12 rgb": {"patch": 12, "channels": 3},
    "16x16 spatial": {"patch": 16, **SPATIAL},
    "28x28 spatial": {"patch": 28, "filters": 2, "mixtures": 1, **SPATIAL},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_module_and_plan_agree(name):
    c = config(**NETWORKS[name])
    of = module(c)
    assert {n: tuple(t.shape) for n, t in of.state_dict().items()} == shapes_of(c.walk)
    (maps, code), inputs, z = windows(c)
    with torch.no_grad():
        expected = flat(of(maps, code))
    graph = Network.of(of).graph
    for fold in (False, True):
        plan = plan_at(graph, c.patch, c.patch, fold)
        assert close(execute(plan, double(inputs), z)[plan.output], expected, 1e-5)  # measured: 3e-7 to 2e-6


@pytest.mark.parametrize("name", ["pixelcnnpp-small-8x8", "large-4x4"])
def test_presets(name):
    c = preset(name, dropout=0.0)
    (maps, code), inputs, z = windows(c, batch=1)
    of = network(c)
    with torch.no_grad():
        expected = flat(of.module(maps, code))
    plan = plan_at(of.graph, c.patch, c.patch)
    # Hundreds of filters with weights of this size lose digits in fp32; the large network is deep: measured 3e-6.
    assert close(execute(plan, double(inputs), z)[plan.output], expected, 2e-5)


def words(net, channels=2):
    """Every word, and the ways to combine them that no model has yet."""
    x, z = net.input("x", channels, ones=True), net.code(3)
    side, h = net.input("side", 2, 1), iter(net.told("told", 3, 8, code=z))
    a = net.conv("a", x, 4, down(2, 3).shifted(down=1)) + net.conv("b", x, 4, down_right(1, 2).shifted(right=1))
    b = net.conv("c", net.relu(a), 4, same(3, 3)) + net.conv("d", net.elu(a), 4) + a  # a residual without a gate
    b = net.gate("e", None, net.conv("e.in", net.concat_elu(a, b), 8, down(2, 3)), next(h))  # a gate without one
    c = net.conv("f", b, 4, down_right(2, 2).halved()) + net.conv("g", side, 4)
    d = net.gate("h", c, net.conv("h.in", net.dropout(net.concat_elu(c), 0.5), 8), next(h))
    d = net.conv("i", d, 4, down(2, 3).doubled(crop=1)) + net.conv("j", z, 4, from_code(6, 0))
    s = net.conv("n", net.relu(d), 8, down(2, 3)) + next(h)  # told by +, read as it is and gated
    d = net.conv("o", net.tanh_gate(s), 4, down_right(1, 2)) + net.conv("p", s, 4) + d
    return net.conv("k", net.relu(d), 5) + net.conv("l", net.conv("m", d, 3, to_code(6)), 5, from_code(6, 0))


def test_every_word():
    torch.manual_seed(0)
    of = Module(words).eval()
    with torch.no_grad():
        for p in of.parameters():
            p.copy_(torch.randn(p.shape) * 0.5)
    assert {n: tuple(t.shape) for n, t in of.state_dict().items()} == shapes_of(words)
    x, side, z = torch.randn(2, 2, 6, 6), torch.randn(2, 2, 3, 3), torch.randn(2, 3)
    with torch.no_grad():
        expected = flat(of({"x": x, "side": side}, z))
    graph = Network.of(of).graph
    assert set(graph.inputs) == {"x", "side", "z"} and graph.code == 3 and graph.moments == ()
    given = {"x": flat(x), "side": flat(side), "z": z.numpy()[:, None]}
    for fold in (False, True):
        plan = plan_at(graph, 6, 6, fold)
        assert close(execute(plan, double(given), z.numpy().astype(float))[plan.output], expected, 1e-5)


def test_forms():
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    t = torch.from_numpy(x)
    expected = {"raw": t, "elu": F.elu(t), "concat_elu": F.elu(torch.cat([t, -t], dim=1)), "relu": F.relu(t)}
    expected["tanh_gate"] = torch.tanh(t[:, :2]) / (1 + torch.exp(-t[:, 2:]))
    assert set(expected) == set(FORMS)
    for form, value in expected.items():
        np.testing.assert_allclose(seen_as(x, form), value.numpy(), rtol=1e-6, atol=1e-7)


def twice(net):
    x = net.input("x", 1)
    return net.conv("a", net.conv("a", x, 1), 1)


def added_twice(net):
    x = net.input("x", 1)
    a = net.conv("a", x, 1)
    return net.conv("b", net.relu(a), 1) + a + x


def gated_with_a_value(net):
    a = net.conv("a", net.input("x", 1), 2)
    return net.gate("c", None, net.conv("b", net.relu(a), 2) + a)


def values_alone(net):
    x = net.input("x", 1)
    return x + net.input("y", 1)


def another_map(net):
    x = net.input("x", 1)
    return net.conv("a", x, 1) + net.conv("b", x, 1, same(3, 3).halved())


FAULTY = {
    twice: "got a.v twice",
    added_twice: "b: expected at most one value",
    gated_with_a_value: "b: expected a gate on convolutions alone",
    values_alone: "add a 1x1 convolution",
    another_map: "values of the same map",
}


@pytest.mark.parametrize("walk", FAULTY)
def test_a_faulty_walk_is_refused(walk):
    tensors = {}
    for name, outputs in (("a", 2 if walk is gated_with_a_value else 1), ("b", 2 if walk is gated_with_a_value else 1)):
        side = 3 if walk is another_map and name == "b" else 1
        tensors |= {
            f"{name}.v": np.ones((outputs, 1, side, side)),
            f"{name}.g": np.ones(outputs),
            f"{name}.bias": np.ones(outputs),
        }
    with pytest.raises((SpxError, ValueError), match=FAULTY[walk]):
        shapes_of(walk)
        assert Network(walk, tensors).graph.output


def test_missing_weights_are_named():
    with pytest.raises(SpxError, match=r"weights: conditioning\.0\.places: expected a tensor"):
        assert Network(config().walk, {}).graph


# ---- the module ------------------------------------------------------------------------------------------------------


@pytest.mark.fault("crash", "at an odd side the result of a transposed convolution was a row and a column too large")
@pytest.mark.parametrize("size", [(5, 7), (6, 5), (9, 4), (1, 1), (1, 2), (11, 13)])
def test_a_module_means_what_its_plan_means_at_any_size(size):
    """Whole images whose sides are no multiples of the coarsest level's four pixels."""
    for of, level in (
        (spread(config(conditioning="paper", coordinates=False, latent=0).walk), 2),
        (spread(relu_net), 1),
    ):
        g = np.random.default_rng(0)
        x = g.normal(size=(2, size[0] * size[1], 1)).astype(np.float32)
        expected = execute(plan_at(of.graph, *size), {"x": x.astype(np.float64)})[of.graph.output]
        with torch.no_grad():
            found = of.module({"x": torch.from_numpy(x).transpose(1, 2).unflatten(2, size)}, None)
        assert of.graph.pixels == 1 << level and found.shape[2:] == size
        assert close(found.flatten(2).transpose(1, 2).numpy(), expected, 1e-5)


def test_initial_weights_depend_on_seed_and_name_alone():
    def walk(net, names):
        x = net.input("x", 1)
        return functools.reduce(lambda a, b: a + b, [net.conv(name, x, 2) for name in names])

    def module_of(seed, names):
        torch.manual_seed(seed)
        return Module(functools.partial(walk, names=names))

    a, b, c = module_of(0, "ab"), module_of(0, "ba"), module_of(1, "ab")
    for name in ("a.v", "b.v"):
        assert torch.equal(a.state_dict()[name], b.state_dict()[name])
        assert not torch.equal(a.state_dict()[name], c.state_dict()[name])
    assert not torch.equal(a.state_dict()["a.v"], a.state_dict()["b.v"])


def test_data_dependent_initialisation():
    """Every convolution's result has mean 0 and the deviation it asks for on that batch (Salimans & Kingma 2016, equation 5)."""
    c = config(filters=5)
    torch.manual_seed(3)
    of = Module(c.walk)
    (maps, code), _, _ = windows(c, batch=64)
    seen = {}
    for name, layer in of.named_modules():
        if hasattr(layer, "init_scale"):
            layer.register_forward_hook(lambda m, i, y, name=name: seen.update({name: (y, m.init_scale)}))
    with data_dependent_initialisation(of), torch.no_grad():
        of(maps, code)
    assert len(seen) > 30
    for name, (y, scale) in seen.items():
        deviation = y.std(dim=(0, 2, 3))
        assert y.mean(dim=(0, 2, 3)).abs().max() < 1e-4 * (1 + scale), name
        lives = deviation > 1e-4
        torch.testing.assert_close(deviation[lives], torch.full_like(deviation[lives], scale), rtol=1e-3, atol=0)


def test_dropout_stands_in_the_gated_layers():
    c = config(dropout=0.5)
    of, ((maps, code), _, _) = module(c), windows(c)
    a, b = of(maps, code), of(maps, code)
    assert torch.equal(a, b)
    of.train()
    torch.manual_seed(0)
    assert not torch.equal(of(maps, code), of(maps, code))


def test_exact_layers_are_fp32_under_autocast():
    c = config()
    of, ((maps, code), _, _) = module(c), windows(c)
    types = {}
    for name in ("u_in", "nin_out", "u_down.0.0.conv_in"):
        of.get_submodule(name).register_forward_hook(lambda m, i, y, name=name: types.update({name: y.dtype}))
    with torch.autocast("cpu", torch.bfloat16):
        of(maps, code)
    assert types == {"u_in": torch.float32, "nin_out": torch.float32, "u_down.0.0.conv_in": torch.bfloat16}


def test_a_submodule_that_was_replaced_is_used():
    c = config()
    of, ((maps, code), _, _) = module(c), windows(c)
    before = of(maps, code)
    of.nin_out = torch.nn.Sequential(of.nin_out, torch.nn.Threshold(1e9, 7.0))
    assert not torch.equal(of(maps, code), before) and (of(maps, code) == 7.0).all()


def test_torch_compile_sees_one_graph():
    c = config(**SPATIAL, dropout=0.5)
    of, ((maps, code), _, _) = module(c), windows(c)
    found = torch._dynamo.explain(of)(maps, code)
    assert (found.graph_count, found.graph_break_count) == (1, 0)
