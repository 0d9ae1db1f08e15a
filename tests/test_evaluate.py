"""The evaluation: each figure against a value known otherwise, and the command."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from helpers import TINY, digits, probabilities, write_dataset

from spx.api import Sampler
from spx.checkpoints import save_checkpoint
from spx.cli.evaluate import main, markdown, paper_row
from spx.cli.lenet import main as train_lenet_main
from spx.data import Images
from spx.evaluate import Drawings, contour_ratios, likelihood, memorisation, nearest
from spx.lenet import LeNet, load_lenet, save_lenet
from spx.metrics import components, contour_length, ms_ssim_pairs
from spx.models.parts.gaussian import kl_to_standard_normal
from spx.models.spatial.codes import kl_nats
from spx.models.spatial.config import NetworkConfig, preset
from spx.models.spatial.drawing import feature_maps
from spx.models.spatial.module import SpatialPixelCNN
from spx.models.spatial.paper import ROWS, row_of
from spx.models.spatial.prior import Prior
from spxcore import SpxError, engines
from spxcore.engines.torch_feeds import told_places
from spxcore.feeds import axis, scale


def tiny(conditioning: str = "spatial", latent: int = 5) -> SpatialPixelCNN:
    torch.manual_seed(0)
    network = {**TINY, "conditioning": conditioning, "latent": latent, "maps": 3, "sizes": [28, 56]}
    vae = {"latent": latent, "filters": [4, 4, 4]} if latent else None
    return SpatialPixelCNN(network=network, vae=vae).eval()


@pytest.mark.parametrize("conditioning, latent", [("spatial", 5), ("paper", 0)])
def test_likelihood_on_the_engine(conditioning, latent):
    if engines.why_not("cpp"):
        pytest.skip(engines.why_not("cpp"))
    model, images = Sampler(tiny(conditioning, latent)), digits(2)[0][:, None]
    plain, native = (likelihood(model, images, engine=engine) for engine in (None, engines.get("cpp", threads=1)))
    assert native.bound == pytest.approx(plain.bound, rel=1e-5)
    assert np.allclose(native.pixel_bits, plain.pixel_bits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("conditioning, latent", [("spatial", 5), ("paper", 5), ("paper", 0)])
def test_likelihood_is_the_mean_over_all_positions(conditioning, latent):
    """Against the network called on each window alone; here the code's noise is the same since the seed is."""
    module = tiny(conditioning, latent)
    images = digits(2)[0][:, None, 8:18, 6:17]  # 10 x 11: 3 x 4 positions
    if latent:
        module.vae.encode = lambda x: (torch.ones(len(x), latent), torch.full((len(x), latent), -40.0))  # sigma = 0
    model = Sampler(module)
    found = likelihood(model, images)

    z = np.ones((1, latent), np.float32) if latent else None
    maps = feature_maps(model.checkpoint, z, engines.evaluate) if conditioning == "spatial" else None
    expected = np.zeros((2, 3, 4))
    for n, image in enumerate(images[:, 0]):
        for r in range(3):
            for c in range(4):
                p = probabilities(window_params(model, z, maps, image, r, c))
                pixels = image[r : r + 8, c : c + 8].ravel()
                expected[n, r, c] = -np.log2(p[np.arange(64), pixels]).mean()
    assert found.patch == pytest.approx(expected.mean(), rel=1e-4)
    assert found.pixel_bits.shape == (10, 11) and found.images == 2
    # Each window's mean counts once; weighing the map by how many windows cover a pixel gives the same total.
    cover = np.outer(np.minimum.reduce([np.arange(1, 11), np.arange(10, 0, -1), np.full(10, 3)]),
                     np.minimum.reduce([np.arange(1, 12), np.arange(11, 0, -1), np.full(11, 4)]))  # fmt: skip
    assert (found.pixel_bits * cover).sum() / cover.sum() == pytest.approx(found.patch, rel=1e-5)


def window_params(model, z, maps, image, r, c):
    """The network's output at every place of the window at (r, c), [64, P]."""
    config = model.config.network
    y, x = (torch.from_numpy(axis(n)) for n in image.shape)
    rows, columns = (y[r].view(1, 1), y[r + 7].view(1, 1)), (x[c].view(1, 1), x[c + 7].view(1, 1))
    extra = torch.tensor(
        [[[scale(*image.shape, config.sizes)][: config.conditioning == "spatial"]]], dtype=torch.float32
    )
    maps, z = (None if a is None else torch.from_numpy(a) for a in (maps, z))
    window = torch.from_numpy(image[r : r + 8, c : c + 8] / np.float32(127.5) - 1).float()[None, None]
    inputs = {"x": window}
    if config.place_inputs:
        told = told_places(config.resolutions(), rows, columns, extra, maps)
        inputs |= {f"places.{k}": places for k, places in enumerate(told)}
    with torch.no_grad():
        return model.module.network(inputs, z)[0].flatten(1).T.numpy()


def test_kl_of_a_mixture_prior_is_estimated_without_bias():
    """A mixture of one standard normal is N(0, I): the Monte Carlo figure must agree with the closed form."""
    module = tiny()
    mean, log_variance = torch.randn(4000, 5) * 0.5, torch.full((4000, 5), -1.0)
    z = mean + (0.5 * log_variance).exp() * torch.randn(4000, 5)
    closed = kl_to_standard_normal(mean, log_variance).double().numpy()
    assert np.allclose(kl_nats(module.prior, mean, log_variance, z), closed)
    module.set_prior(
        Prior(
            5,
            np.ones(1, np.float32),
            np.zeros(1, np.int64),
            np.zeros((1, 5), np.float32),
            np.eye(5, dtype=np.float32)[None],
        )
    )
    estimated = kl_nats(module.prior, mean, log_variance, z)
    error = (estimated - closed).std() / math.sqrt(4000)
    assert abs((estimated - closed).mean()) < 4 * error and (estimated - closed).std() > 0.1


def test_ms_ssim():
    images = digits(6)[0][..., None]
    same = np.repeat(images[:1], 3, axis=0)
    assert ms_ssim_pairs(same) == (pytest.approx(1, abs=1e-5), pytest.approx(0, abs=1e-3))
    mean, deviation = ms_ssim_pairs(images, batch=4)
    assert ms_ssim_pairs(images) == (pytest.approx(mean), pytest.approx(deviation))
    noise = np.random.default_rng(0).integers(0, 256, (6, 28, 28, 1)).astype(np.uint8)
    assert ms_ssim_pairs(noise)[0] < mean < 1
    with pytest.raises(SpxError, match="images: expected"):
        ms_ssim_pairs(images[:1])


def test_contours_and_components():
    square = np.zeros((40, 40, 1), np.uint8)
    square[10:30, 10:30] = 255
    assert contour_length(square) == pytest.approx(4 * 20 / 40, rel=0.05)
    assert components(square) == (1, 1)
    striped = square.copy()
    striped[10:30, 12:30:4] = 0
    assert contour_length(striped) > 3 * contour_length(square)
    specks = square.copy()
    specks[2, 2] = specks[5, 35] = 255
    specks[20, 20] = 0
    assert components(specks) == (3, 2)
    y, x = np.mgrid[:9, :9]
    diamond = np.where(abs(y - 4) + abs(x - 4) == 3, 255, 0).astype(np.uint8)[..., None]
    assert components(diamond) == (1, 2)  # ink holds together at corners, ground does not


def test_lenet_round_trip_and_sizes(tmp_path):
    model = LeNet(10).eval()
    save_lenet(model, tmp_path / "lenet", {})
    images = digits(5)[0][..., None]
    again = load_lenet(tmp_path / "lenet")
    assert np.array_equal(again.probabilities(images), model.probabilities(images))
    doubled = images.repeat(2, axis=1).repeat(2, axis=2)  # averaging over areas takes it back exactly
    assert np.allclose(again.probabilities(doubled), model.probabilities(images), atol=1e-6)
    with pytest.raises(SpxError, match="at least 28"):
        model.probabilities(images[:, :20])
    (tmp_path / "lenet" / "config.json").write_text("{}")
    with pytest.raises(SpxError, match='expected an object with "classes"'):
        load_lenet(tmp_path / "lenet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny data set, a checkpoint and a trained classifier."""
    root = tmp_path_factory.mktemp("evaluate")
    write_dataset(root / "data", train=256, test=12)
    save_checkpoint(tiny(), root / "checkpoint")
    arguments = ["--data", "idx", "--data-dir", str(root / "data"), "--out", str(root / "lenet"), "--epochs", "6"]
    assert train_lenet_main(arguments) == 0
    return root


def test_the_classifier_learns(folder):
    config = json.loads((folder / "lenet" / "config.json").read_text())
    assert config["about"]["test_accuracy"] > 0.9


def evaluated(folder, *arguments) -> int:
    common = ["--data", "idx", "--data-dir", str(folder / "data"), "--checkpoint", str(folder / "checkpoint")]
    return main([*common, "--lenet", str(folder / "lenet"), *arguments])


def test_the_command(folder, tmp_path, capsys):
    pytest.importorskip("skimage")
    pytest.importorskip("matplotlib")
    arguments = ["--res", "28", "57", "--samples", "3", "--reconstructions", "2", "--subset", "2", "--contours", "30"]
    out = tmp_path / "report"
    assert evaluated(folder, *arguments, "--large-pixels", "4000", "--figures", "28", "--json", "--out", str(out)) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((out / "report.json").read_text())
    found = report["likelihood"]
    assert found["bound_bits"] == pytest.approx(found["patch_bits"] + found["kl_bits"]) and found["images"] == 2
    assert found["kl_bits"] == pytest.approx(found["kl_nats"] / 784 / math.log(2))
    assert found["refine"] == 10 and found["encoder alone"]["images"] == 1
    row = report["sizes"]["28"]
    assert row["test images"]["accuracy"] > 90 and 0 <= row["reconstructions"]["accuracy"] <= 100
    assert -1 <= row["samples"]["ms_ssim"] <= 1 and row["samples"]["images"] == row["samples"]["ms_ssim_images"] == 3
    assert row["reconstructions"]["contour_ratio"] <= row["reconstructions"]["contour_worst"]
    assert row["test images"]["ink_pieces"] == 1 and row["samples"]["ink_pieces"] > 0
    large, only = report["sizes"]["57"], report["sizes"]["30"]
    assert large["samples"]["images"] == large["reconstructions"]["images"] == 1 and "samples" not in only
    assert set(report["memorisation"]) == {"images", "codes"}
    text = markdown(report)
    assert (out / "report.md").read_text() == text and f"<= {found['bound_bits']:.4f}" in text
    pictures = {"samples-28.png", "samples-57.png", "originals.png", "reconstructions-28.png", "likelihood.png"}
    assert {path.name for path in out.glob("*.png")} == pictures


def test_a_report_stands_beside_the_papers_row():
    figures = {"confidence": 99.0, "confidence_error": 0.1, "images": 5, "ms_ssim": 0.2, "ms_ssim_deviation": 0.3,
               "ms_ssim_images": 5}  # fmt: skip
    bits = {"patch_bits": 1.5, "patch_error": None, "kl_bits": 0.1, "kl_nats": 54.3, "bound_bits": 1.6, "bound_error": 0.01,
            "images": 9, "prior": "mixture", "seconds": 60.2}  # fmt: skip
    sizes = {"28": {"samples": figures, "test images": figures, "seconds": 3.4}}
    report = {"paper": paper_row(NetworkConfig()), "engine": "cpp", "sizes": sizes, "likelihood": bits, "seconds": 65.0}
    text = markdown(json.loads(json.dumps(report)))
    assert text.endswith("Took 65 s (bits 60 s, 28x28 3 s), cpp engine.\n")
    assert "| bound | <= 1.6000 +- 0.0100 | <= 1.67 |" in text and "95.1 +- 1.3" in text and "0.18 +- 0.27" in text


def test_the_papers_rows():
    assert len(ROWS) == 14 and sum(row.latent for row in ROWS) == 4
    assert row_of(preset("small-8x8")).accuracy == {28: 96.2, 56: 95.3}
    assert row_of(preset("paper-large-16x16")).bits == 1.39
    assert row_of(preset("pixelcnnpp-small-28x28")).bits == 0.88
    assert row_of(preset("paper-small-16x16", latent=0)).bits == 1.65
    assert row_of(preset("large-8x8")) is None


def test_contour_ratios():
    square = np.zeros((40, 40, 1), np.uint8)
    square[10:30, 10:30] = 255
    striped, dark = square.copy(), np.zeros_like(square)
    striped[10:30, 12:30:4] = 0
    found = contour_ratios(np.stack([square, striped, square]), np.stack([square, square, dark]))
    assert found["contour_ratio"] == pytest.approx((1 + found["contour_worst"]) / 2) and found["contour_worst"] > 3
    assert contour_ratios(square[None], dark[None]) == {}


def test_nearest():
    g = np.random.default_rng(0)
    points, among = g.normal(size=(300, 7)), g.normal(size=(40, 7))
    expected = np.linalg.norm(points[:, None] - among[None], axis=2).min(axis=1)
    np.testing.assert_allclose(nearest(points, among), expected, atol=1e-3)


def test_copies_are_found():
    """Samples that are training images lie nearer to the training set than test images do; test images themselves do not."""
    train, test = (Images(digits(200, seed=seed)[0][:, None], np.zeros(200, np.uint8)) for seed in (0, 1))
    noise = np.random.default_rng(2).integers(0, 20, test.images.shape)
    test = Images((test.images // 2 + noise).astype(np.uint8), test.labels)
    model = Sampler(tiny())
    copied = memorisation(model, train.images[:50].transpose(0, 2, 3, 1), test, train)["images"]
    assert copied["nearer"] == 100 and copied["samples_median"] < 0.01 < copied["test_median"]
    honest = memorisation(model, test.images[:50].transpose(0, 2, 3, 1), test, train)
    assert honest["images"]["nearer"] <= 2 and honest["images"]["compared"] == 50
    assert honest["images"]["samples_median"] == honest["images"]["test_median"] and "codes" in honest


def test_fewer_drawings_are_the_first_ones():
    model, originals = Sampler(tiny()), digits(3)[0][..., None]
    told = []
    drawings = Drawings(model, originals, "torch", seed=4, progress=lambda part, share: told.append(part))
    four = drawings.samples(9, 4)
    count = len(told)
    assert np.array_equal(drawings.samples(9, 2), four[:2]) and len(told) == count  # nothing was drawn again
    assert np.array_equal(four[:2], model.sample(9, n=2, seed=4, engine="torch"))
    assert drawings.reconstructions(9, 10).shape == (3, 9, 9, 1)  # there are no more originals


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--samples", "-1"], "samples: expected 0 or more, got -1"),
        (["--res", "20"], "res: expected sizes of at least 28"),
        (["--threads", "0"], "threads: expected at least 1"),
        (["--temperature", "0"], "temperature: expected more than 0"),
        (["--figures", "9"], "figures: expected sizes of at least 28"),
        (["--lenet", "/nowhere"], "expected a checkpoint"),
        (["--checkpoint", "no-such"], "checkpoint: expected"),
    ],
)
def test_refusals(folder, capsys, arguments, sentence):
    assert evaluated(folder, "--contours", *arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error


def test_other_data_needs_a_classifier_of_its_own(folder, capsys):
    arguments = ["--data", "idx", "--data-dir", str(folder / "data"), "--checkpoint", str(folder / "checkpoint")]
    assert main([*arguments, "--contours"]) == 2
    assert "lenet: expected" in capsys.readouterr().err


def test_colour_is_refused_before_hours_of_work(folder, tmp_path, capsys):
    write_dataset(tmp_path / "data", train=4, test=4, channels=3)
    arguments = ["--data", "idx", "--data-dir", str(tmp_path / "data"), "--lenet", str(folder / "lenet")]
    assert main([*arguments, "--checkpoint", str(folder / "checkpoint")]) == 2
    assert "data: expected grey images" in capsys.readouterr().err
