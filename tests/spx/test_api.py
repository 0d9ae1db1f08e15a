"""Requests and the Python interface: what is normalised, refused, kept, and what a score is."""

import math
import sys
import types

import numpy as np
import pytest
import torch
from helpers import QUICK, close, digits, tiny_model

import spx
from spx.models import registry
from spx.models.model import Checkpoint, Model
from spx.models.spatial import drawing
from spx.request import Request
from spxcore import Given, Softmax, SpxError, engines
from spxcore import score as core_score
from spxcore.heads.log_prob import logistics_log_prob

PLAIN = {"conditioning": "paper", "latent": 0, "coordinates": False}


@pytest.fixture(scope="module")
def model():
    return spx.Sampler(tiny_model())


def pictures(count: int = 2, side: int = 28) -> np.ndarray:
    return digits(count, side=side)[0][..., None]


# ---- requests --------------------------------------------------------------------------------------------------------


def test_numbers_become_plain_ones():
    """A NumPy size would overflow in the first product: 200 * 200 of uint8 is 64."""
    request = spx.Request(np.uint8(200), np.int16(31), n=np.uint8(3), seed=np.uint64(2**64 - 1), label=np.int64(4))
    values = (request.height, request.width, request.n, request.seed, request.label)
    assert values == (200, 31, 3, 2**64 - 1, 4) and all(type(value) is int for value in values)
    assert spx.Request(np.uint8(9)).width == 9


def test_a_size_of_numpys_is_drawn(model):
    expected = model.sample(9, 12, seed=1, engine=QUICK)
    np.testing.assert_array_equal(model.sample(np.uint8(9), np.int32(12), seed=np.int64(1), engine=QUICK), expected)


CODE = np.zeros((3, 5), np.float32)
REQUESTS = {
    "height": ({"height": 9.0}, "height: expected a whole number, in pixels, got 9.0"),
    "boolean": ({"height": 9, "n": True}, "n: expected a whole number, at least 1, got True"),
    "none": ({"height": 9, "n": 0}, "n: expected a whole number, at least 1, got 0"),
    "seed": ({"height": 9, "seed": -1}, r"seed: expected a whole number, 0 to 2\^64 - 1, got -1"),
    "large seed": ({"height": 9, "seed": 2**64}, "seed: expected a whole number"),
    "digit": ({"height": 9, "label": "3"}, "digit: expected a whole number, a class, got '3'"),
    "refine": ({"height": 9, "refine": -1}, "refine: expected a whole number, 0 steps or more, got -1"),
    "codes": ({"height": 9, "n": 2, "code": CODE}, "n: expected 2 codes or pictures, or one for all, got 3"),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_requests_that_cannot_be(case):
    fields, message = REQUESTS[case]
    with pytest.raises(SpxError, match=message):
        spx.Request(**fields)


def test_a_request_counts_its_images():
    assert spx.Request(9).n == 1 and spx.Request(9, code=CODE).n == 3
    assert spx.Request(28, n=4, source=pictures(1)).n == 4
    assert spx.Request(28, given=Given(pictures(2), np.ones((28, 28), bool))).n == 2


def test_what_a_model_does_not_understand_is_refused_in_one_form():
    plain, images = spx.Sampler(tiny_model(**PLAIN)), pictures()
    for option, ask in (
        ("digit", lambda: plain.sample(8, digit=0)),
        ("reconstruct", lambda: plain.reconstruct(images)),
        ("reconstruct", lambda: plain.encode(images)),
        ("code", lambda: plain.draw(spx.Request(8, code=CODE))),
        ("refine", lambda: plain.draw(spx.Request(8, refine=2))),
    ):
        message = rf"^{option}: this checkpoint's model does not understand it .it understands: complete.$"
        with pytest.raises(SpxError, match=message):
            ask()


@pytest.mark.parametrize(
    "images",
    [pictures()[..., 0], pictures().astype(np.float32), pictures()[:0], pictures().repeat(3, 3), "a.png"],
    ids=["rank", "type", "none", "channels", "name"],
)
def test_images_that_are_none(model, images):
    for ask in (model.reconstruct, model.score, lambda images: model.complete(images, np.ones((28, 28), bool))):
        with pytest.raises(SpxError, match=r"^images: expected uint8 \[N, H, W, 1\], got"):
            ask(images)


def test_the_defaults_size_is_the_datas(model):
    assert model.sample(n=1, engine=QUICK).shape == (1, 28, 28, 1)
    assert spx.Model is spx.Sampler


def test_unknown_options_are_named(model):
    with pytest.raises(TypeError, match="temprature"):
        model.sample(8, temprature=0.5)


# ---- reconstruction and completion -----------------------------------------------------------------------------------


def test_a_code_of_one_image_serves_all(model):
    one = model.reconstruct(pictures(1), 8, engine=QUICK)
    code = model.encode(pictures(1))
    many = model.draw(spx.Request(8, n=3, code=code), engine=QUICK)
    np.testing.assert_array_equal(many[:1], one)
    assert (many[1] != many[0]).any()


@pytest.mark.parametrize("kind", ["latent", "plain"])
def test_given_pixels_are_kept(kind):
    drawer = spx.Sampler(tiny_model(**(PLAIN if kind == "plain" else {})))
    images, mask = pictures(2, side=12), np.zeros((12, 12), bool)
    mask[:5], mask[8, 3:7] = True, True
    found = drawer.complete(images, mask, seed=3, engine=QUICK)
    assert found.shape == images.shape
    np.testing.assert_array_equal(found[:, mask], images[:, mask])
    assert (found[:, ~mask] != images[:, ~mask]).mean() > 0.5
    # What stands where nothing is given does not count.
    other = np.where(mask[..., None], images, np.uint8(77))
    np.testing.assert_array_equal(drawer.complete(other, mask, seed=3, engine=QUICK), found)
    # A mask an image, and several completions of one.
    each = drawer.complete(images, np.stack([mask, mask]), seed=3, engine=QUICK)
    np.testing.assert_array_equal(each, found)
    of_two = np.stack([mask, ~mask])  # and one picture completed from two masks
    found = drawer.complete(images[:1], of_two, n=2, engine=QUICK)
    np.testing.assert_array_equal(found[of_two], images[[0, 0]][of_two])
    three = drawer.complete(images[:1], mask, n=3, seed=3, engine=QUICK)
    np.testing.assert_array_equal(three[:, mask], images[[0, 0, 0]][:, mask])
    assert (three[1] != three[2]).any()


def test_with_nothing_given_it_is_a_sample(model):
    nothing = np.zeros((12, 12), bool)
    found = model.complete(pictures(1, side=12), nothing, seed=5, digit=3, engine=QUICK)
    np.testing.assert_array_equal(found, model.sample(12, seed=5, digit=3, engine=QUICK))


def test_with_all_given_the_guessed_code_is_the_encoders(model):
    given = Given(pictures(2), np.ones((28, 28), bool))
    guessed = drawing.guessed(model.checkpoint, given, np.ones((2, 5), np.float32), engines.evaluate)
    assert close(guessed, model.encode(pictures(2)), 1e-5)


def test_a_guess_sees_given_pixels_only(model):
    mask = np.zeros((28, 28), bool)
    mask[:14] = True
    images = pictures(2)
    below = np.where(mask[..., None], images, np.uint8(255))
    a, b = (
        drawing.guessed(model.checkpoint, Given(i, mask), np.ones((2, 5), np.float32), engines.evaluate)
        for i in (images, below)
    )
    np.testing.assert_array_equal(a, b)
    assert not np.allclose(a[0], a[1]) and not np.allclose(a, model.encode(images))


@pytest.mark.fault("wrong", "completions of one picture all had the same code")
def test_completions_of_a_picture_have_codes_of_their_own():
    """Begun from the prior's draws, by seed and image number; a completion is the same whatever is drawn beside it."""
    model, mask, picture = spx.load("mnist-8x8"), np.zeros((28, 28), bool), pictures(1)
    mask[:14] = True
    asked = [Request(28, n=n, seed=seed, given=Given(picture, mask)) for n, seed in ((3, 0), (2, 0), (2, 1))]
    three, two, other = (model.drawing(r).rounds[0].code for r in asked)
    np.testing.assert_allclose(two, three[:2], rtol=1e-3, atol=1e-4)
    starts = model.checkpoint.module().prior.sample(0, np.arange(3))
    again = drawing.guessed(model.checkpoint, asked[0].given, starts, engines.evaluate)
    np.testing.assert_allclose(three, again, rtol=1e-3, atol=1e-4)
    for a, b in ((three[0], three[1]), (three[1], three[2]), (two[0], other[0])):
        assert np.sqrt(np.mean((a - b) ** 2)) > 0.1  # an encoder's codes are 0.9 apart


def test_masks_that_do_not_fit(model):
    with pytest.raises(SpxError, match=r"^mask: expected \[28, 28\], or one for each of 1 images, got \[28, 27\]"):
        model.complete(pictures(1), np.ones((28, 27), bool))


# ---- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["torch", "cpp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_score_is_the_windows_likelihood(engine, channels):
    """Of an image of exactly one window the network is called once, and so it is here, by hand."""
    if engines.why_not(engine):
        pytest.skip(engines.why_not(engine))
    module = tiny_model(channels=channels, **PLAIN)
    images = digits(3, side=8, channels=channels)[0].reshape(3, 8, 8, channels)
    found = spx.Sampler(module).score(images, engine=engine)
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        nats = logistics_log_prob(module.network({"x": x}), x).numpy()
    np.testing.assert_allclose(found.pixel_bits, -nats / math.log(2) / channels, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.bits, -nats.sum((1, 2)) / math.log(2) / (64 * channels), rtol=1e-5)
    assert (found.code_bits == 0).all()


def test_a_score_pays_for_the_code(model):
    images = pictures(3)
    found = model.score(images, seed=4, engine=QUICK)
    mean = found.pixel_bits.mean(axis=(1, 2), dtype=np.float64)
    np.testing.assert_allclose(found.bits, mean + found.code_bits, rtol=1e-6)
    z, nats = model.family.paid_codes(model.checkpoint, images, engines.evaluate, seed=4)
    np.testing.assert_allclose(found.code_bits, nats / 784 / math.log(2))
    q_mean, q_log_variance = drawing.encode(model.checkpoint, images, engines.evaluate)
    q = torch.distributions.Normal(
        *(torch.from_numpy(np.array(a)).double() for a in (q_mean, np.exp(q_log_variance / 2)))
    )
    prior = model.module.prior.distribution(torch.float64)
    z = torch.from_numpy(z).double()
    expected = q.log_prob(z).sum(1) - prior.log_prob(z)
    np.testing.assert_allclose(nats, expected.numpy(), rtol=1e-6)
    # The noise is the seed's and the image's, whatever is scored beside it.
    again, other = (model.score(images[::-1], seed=seed, engine=QUICK) for seed in (4, 5))
    np.testing.assert_allclose(again.bits[::-1], found.bits, rtol=1e-6)
    assert (other.code_bits[::-1] != found.code_bits).all()


def test_a_sampler_compiles_once(model, monkeypatch):
    """Images that are drawn in a loop, and their scores, by one engine, which keeps what it has compiled."""
    made, get = [], engines.get
    monkeypatch.setattr(engines, "get", lambda name, *more: made.append(name) or get(name, *more))
    sampler = spx.Sampler(model.checkpoint)
    first, second = (sampler.sample(9, seed=3, engine="torch") for _ in range(2))
    sampler.score(first, engine="torch")
    sampler.sample(9, engine=QUICK)
    assert made == ["torch", *([QUICK] if QUICK != "torch" else [])]
    np.testing.assert_array_equal(first, second)


def test_what_is_drawn_comes_with_its_log_probability(model):
    """Of both methods that draw new pixels; of a completion, that of the drawn half. A score computes it in another way."""
    images, found = model.sample(9, n=2, seed=3, engine=QUICK, return_log_prob=True)
    np.testing.assert_array_equal(images, model.sample(9, n=2, seed=3, engine=QUICK))
    drawing = model.drawing(Request(9, n=2, seed=3))
    nats = core_score(drawing, {"image": images}, QUICK)["image"]
    np.testing.assert_allclose(found, nats.sum((1, 2)), rtol=1e-5)
    mask = np.arange(81).reshape(9, 9) < 40
    done, found = model.complete(images[:1], mask, n=3, engine=QUICK, return_log_prob=True)
    nats = core_score(model.drawing(Request(9, n=3, given=Given(images[:1], mask))), {"image": done}, QUICK)["image"]
    np.testing.assert_allclose(found, nats.sum((1, 2), where=~mask), rtol=1e-5)


# ---- families --------------------------------------------------------------------------------------------------------


class Config:
    """Of `Noise`."""

    def __init__(self, side: int = 3):
        self.side = side


class Noise(Model):
    """A family without a drawn thing learnt: one convolution that sees the row above."""

    name, Config = "noise", Config

    def networks(self, config):
        from spxcore.walk.language import down

        return {"network": lambda net: net.conv("a", net.input("x", 1, drawn=True), 4, down(1, 3).shifted(down=1))}

    def extras(self, config):
        return {"said": (2,)}

    def head(self, config):
        return Softmax(4)

    def fields(self, config):
        return {"side": config.side}


@pytest.fixture
def noise(monkeypatch):
    """The family, registered as one's own module; and a checkpoint of it."""
    module = types.ModuleType("noise_family")
    module.MODEL = Noise()
    monkeypatch.setitem(sys.modules, "noise_family", module)
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))
    registry.register("noise", "noise_family")
    g = np.random.default_rng(0)
    shapes = module.MODEL.shapes(Config())
    tensors = {name: g.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return Checkpoint("noise", Config(), tensors, {"data": "none"})


def test_a_registered_family_has_every_command(noise, tmp_path, monkeypatch, capsys):
    from spx.cli.sample import main

    assert registry.names() == sorted({*registry._FAMILIES}) and registry.family("noise").name == "noise"
    assert set(noise.tensors) == {"network.a.v", "network.a.g", "network.a.bias", "said"}
    noise.write(tmp_path / "noise")
    again = Checkpoint.read(tmp_path / "noise")
    assert again.family == "noise" and again.config.side == 3 and again.about == noise.about
    for name, tensor in noise.tensors.items():
        np.testing.assert_array_equal(again.tensors[name], tensor)
    state = again.module().state_dict()
    assert {name: tuple(t.shape) for name, t in state.items()} == noise.model.shapes(noise.config)
    monkeypatch.chdir(tmp_path)
    assert main(["--checkpoint=noise", "--engine=torch", "--size=3x5", "--n=2", "--seed=1", "--out=a.npy"]) == 0
    images = np.load("a.npy")
    np.testing.assert_array_equal(images, spx.load("noise").sample(3, 5, n=2, seed=1, engine="torch"))
    assert images.shape == (2, 3, 5, 1) and images.max() <= 3
    assert main(["--checkpoint=noise", "--digit=1"]) == 2
    assert "digit: this checkpoint's model does not understand it" in capsys.readouterr().err


def test_families_of_other_packages_are_entry_points(noise, monkeypatch):
    entry = types.SimpleNamespace(name="other", value="noise_family")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry] if group == "spx.models" else [])
    assert registry.family("other") is registry.family("noise") and "other" in registry.names()


def test_families_that_are_none(noise):
    assert {"noise", "spatial"} <= set(registry.names())
    with pytest.raises(SpxError, match=rf"^family: expected {' or '.join(registry.names())}, got 'nobody'"):
        registry.family("nobody")
    with pytest.raises(SpxError, match=r"^family noise: expected a name that is free"):
        registry.register("noise", "another_module")
    registry.register("lost", "no_such_module")
    with pytest.raises(SpxError, match=r"^family lost: expected a module no_such_module with a MODEL"):
        registry.family("lost")
