"""PixelCNN++: its network and Spatial's are one, its classes, its scores, its training. `test_conformance.py` has the rest."""

import functools
import json
import math

import numpy as np
import pytest
import torch
from helpers import digits, write_idx
from runs import events
from walks import spread

import spx
from spx.checkpoints import read_checkpoint
from spx.cli.plan import main as plan_main
from spx.cli.score import main as score_main
from spx.models import registry
from spx.models.model import Checkpoint
from spx.models.parts.classes import SHARES, drawn
from spx.models.pixelcnnpp import MODEL
from spx.models.pixelcnnpp.config import NetworkConfig
from spx.models.pixelcnnpp.network import pixelcnnpp
from spx.models.spatial.config import preset as spatial_preset
from spx.training.trainer import Trainer
from spxcore import Network
from spxcore.errors import SpxError
from spxcore.heads.log_prob import log_prob
from spxcore.walk.shapes import shapes_of

TOLD = np.log(np.float32([0.2, 0.5, 0.3]))


def checkpoint(**fields) -> Checkpoint:
    """A small model of random weights that knows three classes of unlike shares."""
    c = NetworkConfig(**{"side": 6, "filters": 4, "layers": 1, "mixtures": 2, "classes": 3, **fields})
    of = spread(functools.partial(pixelcnnpp, c=c))
    tensors = {f"network.{name}": tensor for name, tensor in of.tensors.items()}
    return Checkpoint("pixelcnnpp", c, {**tensors, **({SHARES: TOLD} if c.classes else {})})


def joint(of: Checkpoint, images: np.ndarray) -> np.ndarray:
    """log p(x | y) + log p(y) of images uint8 [N, H, W, C], by the torch module: float64 [N, 3]."""
    levels = torch.from_numpy(images).permute(0, 3, 1, 2)
    result = []
    for y in range(3):
        code = torch.zeros(len(images), 3)
        code[:, y] = 1
        with torch.no_grad():
            params = of.networks["network"].module({"x": levels / 127.5 - 1}, code)
        nats = log_prob(of.config.head, params, levels).double().sum(dim=(1, 2))
        result.append(nats.numpy() + float(TOLD[y]))
    return np.stack(result, axis=1)


def test_it_is_the_baseline_of_spatial_pixelcnn():
    """The same tensors, and the same numbers of a whole image, as Spatial's preset of a window of 28x28."""
    theirs = spatial_preset("pixelcnnpp-small-28x28")
    ours = functools.partial(pixelcnnpp, c=NetworkConfig())
    assert shapes_of(ours) == shapes_of(theirs.walk)
    of = spread(ours)
    x = np.random.default_rng(0).normal(size=(1, 1, 28, 28)).astype(np.float32)
    a, b = (n.module({"x": torch.from_numpy(x)}).numpy() for n in (of, Network(theirs.walk, of.tensors)))
    np.testing.assert_array_equal(a, b)


def test_presets():
    """The paper's large network has 54 million weights (design of Salimans et al. 2017, section 3: 5 layers of 160 filters)."""
    large = MODEL.preset("large")
    c = MODEL.trained(large, 3, 32)
    count = sum(int(np.prod(shape)) for name, shape in MODEL.shapes(c).items() if name.endswith(".v"))
    assert (c.filters, c.layers, c.mixtures, c.channels, c.side, c.dropout) == (160, 5, 10, 3, 32, 0.5)
    assert 53e6 < count < 55e6
    assert (large.schedule, large.lr, large.lr_decay, large.ema) == ("exponential", 1e-3, 0.999995, 0.9995)
    small = MODEL.trained(MODEL.preset("small", classes=10), 1, 28)
    assert (small.filters, small.layers, small.classes, small.dropout) == (25, 2, 10, 0.0)
    assert MODEL.published(small, "mnist")["bits"] == 0.88 and MODEL.published(small, "fashion-mnist") is None
    assert MODEL.published(c, "mnist") is None


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"side": 0}, "side: expected at least 1"), ({"channels": 2}, "channels: expected 1 or 3"),
        ({"filters": 0}, "filters: expected at least 1"), ({"layers": 0}, "layers: expected at least 1"),
        ({"mixtures": 0}, "mixtures: expected 1 to 64"), ({"classes": -1}, "classes: expected 0"),
        ({"dropout": 1.0}, "dropout: expected 0 <= p < 1"), ({"layers": 1 << 40}, "layers"), ({"side": "28"}, "side"),
        ({"classes": True}, "classes"), ({"dropout": float("nan")}, "dropout"), ({"filters": 4097}, "filters"),
    ],
)  # fmt: skip
def test_what_is_no_configuration(fields, message):
    with pytest.raises(SpxError, match=f"^{message}"):
        NetworkConfig(**fields)


# ---- classes ---------------------------------------------------------------------------------------------------------


def test_classes_are_drawn_by_their_shares_and_stay_with_their_image():
    many = drawn(TOLD.astype(np.float64), 7, np.arange(30_000))
    np.testing.assert_allclose(np.bincount(many, minlength=3) / len(many), [0.2, 0.5, 0.3], atol=0.01)
    np.testing.assert_array_equal(drawn(TOLD, 7, np.array([5, 2])), many[[5, 2]])
    assert (drawn(TOLD, 8, np.arange(100)) != many[:100]).any()
    np.testing.assert_array_equal(drawn(np.float64([-1e9, 3.0, -1e9]), 0, np.arange(9)), 1)


def test_a_class_that_is_asked_for_is_told():
    """Images of all classes, one by one, are those of the class drawn for them."""
    sampler = spx.Sampler(checkpoint())
    any_class, labels = sampler.sample(n=6, seed=3), drawn(TOLD, 3, np.arange(6))
    assert len(set(labels)) == 3 and any_class.shape == (6, 6, 6, 1)
    for y in range(3):
        np.testing.assert_array_equal(sampler.sample(n=6, seed=3, digit=y)[labels == y], any_class[labels == y])
    for digit in (-1, 3):
        with pytest.raises(SpxError, match=r"^digit: expected a class of this checkpoint, 0 to 2"):
            sampler.sample(digit=digit)
    with pytest.raises(SpxError, match=r"^digit: this checkpoint's model does not understand it"):
        spx.Sampler(checkpoint(classes=0)).sample(digit=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_score_is_that_of_the_image_whatever_its_class(channels):
    of, g = checkpoint(channels=channels), np.random.default_rng(0)
    images = g.integers(0, 256, (5, 6, 7, channels), np.uint8)
    expected = -np.logaddexp.reduce(joint(of, images), axis=1) / np.log(2) / images[0].size
    np.testing.assert_allclose(spx.Sampler(of).score(images).bits, expected, rtol=1e-5)
    whole = MODEL.bits(of, images)
    assert (whole.prior, whole.bound) == ("none", pytest.approx(expected.mean(), rel=1e-5))  # no upper bound
    plain = checkpoint(classes=0)
    assert plain.model.paid_codes(plain, images, None)[0] is None


def test_a_completion_is_of_the_class_that_its_given_pixels_look_like():
    """The first half is given, so the classes' probabilities are exact: here those of all the images by Bayes' rule."""
    of, n = checkpoint(), 400
    sampler = spx.Sampler(of)
    image = sampler.sample(seed=1, digit=0)
    mask = np.zeros((6, 6), bool)
    mask[:3] = True
    black = np.where(mask[..., None], image, 0)
    levels = torch.from_numpy(black).permute(0, 3, 1, 2)
    half = []
    for y in range(3):
        code = torch.eye(3)[y : y + 1]
        with torch.no_grad():
            params = of.networks["network"].module({"x": levels / 127.5 - 1}, code)
        half.append(float(log_prob(of.config.head, params, levels)[0, :3].double().sum()) + float(TOLD[y]))
    p = np.exp(np.array(half) - np.logaddexp.reduce(half))
    noise = np.where(mask[..., None], image, 200).astype(np.uint8)  # what stands where nothing is given does not count
    request = spx.request.Request(6, n=n, seed=2, given=spx.request.Given(noise, mask))
    found = of.model.drawing(of, request, spx.api.engines.evaluate).rounds[0].code.mean(axis=0)
    np.testing.assert_allclose(found, p, atol=0.08)
    done = sampler.complete(image, mask, n=3, seed=2)
    assert (done[:, :3] == image[0, :3]).all() and len(np.unique(done[:, 3:], axis=0)) == 3


def test_the_command_calls_a_score_exact(tmp_path, capsys):
    of = checkpoint()
    of.write(tmp_path / "of")
    np.save(tmp_path / "two.npy", np.random.default_rng(1).integers(0, 256, (2, 6, 6), np.uint8))
    assert score_main([str(tmp_path / "two.npy"), "--checkpoint", str(tmp_path / "of")]) == 0
    assert "bits per dimension" in (out := capsys.readouterr().out) and "bound" not in out and "code" not in out


def test_the_plan_of_whole_images(tmp_path, capsys):
    """Every weight stands once in the figures. The multiply-adds are counted from the torch module's convolutions, but for the padding."""
    of = checkpoint(side=8, classes=0)
    of.write(tmp_path / "of")
    assert plan_main([str(tmp_path / "of"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    kernels = {
        name: shape for name, shape in shapes_of(MODEL.networks(of.config)["network"]).items() if name.endswith(".v")
    }
    ones = sum(
        kernels[name][0] * kernels[name][2] * kernels[name][3] for name in kernels if "_in" in name.split(".")[0]
    )
    assert figures["weights"] == sum(map(math.prod, kernels.values())) - ones  # on the channel of ones: biases
    assert figures["macs"]["image"] == sum(stage["macs"] for stage in figures["stages"])
    assert figures["macs"]["image"] == figures["macs"]["ahead"] + figures["macs"]["in_rows"]
    assert 0.6 < figures["macs"]["ahead"] / figures["macs"]["image"] < 0.9
    assert plan_main([str(tmp_path / "of")]) == 0
    assert "whole images of 8x8 pixels" in capsys.readouterr().out


# ---- training --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """IDX files of 8x8 images of two classes, three times as many of the first."""
    folder = tmp_path_factory.mktemp("data")
    for prefix, count, seed in (("train", 64, 0), ("t10k", 8, 1)):
        images, labels = digits(count, side=8, classes=4, seed=seed)
        write_idx(folder / f"{prefix}-images-idx3-ubyte", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels == 3)
    return folder


def settings(folder, **replaced):
    quick = dict(
        data="idx", data_dir=str(folder), filters=4, layers=1, mixtures=2, steps=24, batch=12, lr=0.01, warmup=0, ema=0.5,
        log_every=1, validate_every=12, sample_every=24, save_every=100, validation=0.25, classes=2,
    )  # fmt: skip
    return registry.family("pixelcnnpp").preset("small", **{**quick, **replaced})


def test_a_training_tells_the_classes_and_its_checkpoint_scores_what_validation_said(data, tmp_path):
    trainer = Trainer(settings(data), tmp_path / "run", progress=False)
    trainer.train()
    bits = [r["bits_per_dimension"] for r in events(tmp_path / "run", "train")]
    assert len(bits) == 2 and bits[1] < 0.95 * bits[0]
    of = read_checkpoint(tmp_path / "run" / "checkpoint")
    assert np.exp(of.tensors[SHARES]) == pytest.approx([0.75, 0.25], abs=0.1)
    training = trainer.training
    assert torch.bincount(training.classes_of).tolist() == (np.exp(of.tensors[SHARES]) * 48).round().tolist()
    # Validation pays the image's own class. The sum over all classes costs a little less.
    said = events(tmp_path / "run", "validation")[-1]["bits_per_dimension"]
    found = spx.Sampler(of).score(training.validation.permute(0, 2, 3, 1).numpy()).bits.mean()
    assert said - 1 / 64 < found <= said + 1e-5
    images, labels = training.validation, training.validation_classes
    code = torch.eye(2)[labels]
    with torch.no_grad():
        params = of.networks["network"].module({"x": images / 127.5 - 1}, code)
    nats = (
        -log_prob(of.config.head, params, images).double().sum(dim=(1, 2))
        - torch.from_numpy(of.tensors[SHARES])[labels]
    )
    assert said == pytest.approx(float(nats.mean()) / 64 / np.log(2), rel=1e-5)


def test_a_training_without_classes(data, tmp_path):
    trainer = Trainer(
        settings(data, classes=0, steps=2, validate_every=0, sample_every=0), tmp_path / "run", progress=False
    )
    trainer.train()
    of = read_checkpoint(tmp_path / "run" / "checkpoint")
    assert SHARES not in of.tensors and of.config.classes == 0
    assert trainer.training.about()["recipe"]["layers"] == 1


def test_too_few_classes(data, tmp_path):
    with pytest.raises(SpxError, match=r"^classes: expected at least 2, as many as the data has, got 1"):
        Trainer(settings(data, classes=1), tmp_path / "run", progress=False)
