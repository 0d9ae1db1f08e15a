"""spx-eval: every figure against a slow computation apart, every option by what it changes, and a model that it does not know."""

from __future__ import annotations

import itertools
import json

import numpy as np
import plain
import pytest
import slow_measures as slow
import torch
from helpers import digits, tiny_model, write_dataset
from spatial_windows import lively, windows_at_once

from spx.api import Sampler
from spx.checkpoints import save_checkpoint
from spx.cli.evaluate import main
from spx.cli.lenet import main as train_lenet_main
from spx.data import load
from spx.evaluation.drawings import Drawings
from spx.evaluation.lenet import LeNet, load_lenet, save_lenet
from spx.evaluation.report import markdown
from spx.models import registry
from spx.models.model import Checkpoint
from spx.models.parts.paper import ROWS, published, row_of
from spx.models.spatial.codes import refine
from spx.models.spatial.config import NetworkConfig, preset
from spx.models.spatial.drawing import prior_of
from spx.models.spatial.module import SpatialPixelCNN
from spx.models.spatial.patches import full_image
from spx.models.spatial.vae import to_unit
from spxcore import engines

pytest.importorskip("skimage")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny data set, a checkpoint and a trained classifier."""
    root = tmp_path_factory.mktemp("evaluate")
    write_dataset(root / "data", train=256, test=12)
    module = lively(tiny_model())
    module.contrast = 0.25
    save_checkpoint(module, root / "checkpoint")
    arguments = ["--data", "idx", "--data-dir", str(root / "data"), "--out", str(root / "lenet"), "--epochs", "6"]
    assert train_lenet_main(arguments) == 0
    return root


def evaluated(folder, *arguments) -> int:
    common = ["--data", "idx", "--data-dir", str(folder / "data"), "--checkpoint", str(folder / "checkpoint")]
    return main([*common, "--lenet", str(folder / "lenet"), *arguments])


def test_the_classifier_learns(folder):
    config = json.loads((folder / "lenet" / "config.json").read_text())
    assert config["about"]["test_accuracy"] > 0.9


def test_the_classifiers_options(folder, tmp_path, monkeypatch):
    """Seed and epochs change its weights, and what is written tells them; threads are torch's."""
    threads, made = [], {}
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    for name, options in {
        "a": [],
        "again": [],
        "seed": ["--seed", "1"],
        "epochs": ["--epochs", "2"],
        "t": ["--threads", "3"],
    }.items():
        data = ["--data", "idx", "--data-dir", str(folder / "data"), "--out", str(tmp_path / name)]
        assert train_lenet_main([*data, "--epochs", "1", *options]) == 0
        made[name] = load_lenet(tmp_path / name).conv_1.weight
    assert torch.equal(made["a"], made["again"]) and torch.equal(made["a"], made["t"]) and threads == [3]
    assert not torch.equal(made["a"], made["seed"]) and not torch.equal(made["a"], made["epochs"])
    about = json.loads((tmp_path / "epochs" / "config.json").read_text())["about"]
    assert (about["epochs"], about["seed"], about["data"]) == (2, 0, "idx")


# ---- every figure -----------------------------------------------------------------------------------------------------

SEED, TEMPERATURE, REFINE, SIZE = 3, 0.8, 2, 57


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """The report of a run on ten images, its folder, and what it is about."""
    out = tmp_path_factory.mktemp("report")
    arguments = [
        "--res",
        "28",
        str(SIZE),
        "--samples",
        "10",
        "--reconstructions",
        "8",
        "--pairs-of",
        "5",
        "--subset",
        "10",
    ]
    arguments += [
        "--contours",
        "30",
        "--large-pixels",
        str(4 * SIZE**2),
        "--seed",
        str(SEED),
        "--temperature",
        str(TEMPERATURE),
    ]
    arguments += ["--refine", str(REFINE), "--figures", "28", "--threads", "1", "--out", str(out)]
    assert evaluated(folder, *arguments) == 0
    report = json.loads((out / "report.json").read_text())
    return report, out, Sampler.load(folder / "checkpoint"), load("idx", folder / "data", "test")


def real(test, size: int, count: int) -> np.ndarray:
    """Test images as training sees them at a size, one by one, uint8 [count, size, size, 1]."""
    if size == 28:
        return test.images[:count].transpose(0, 2, 3, 1)
    unit = [
        full_image(to_unit(torch.from_numpy(image[None].copy())), size, 0.25)[0, 0] for image in test.images[:count]
    ]
    return np.stack([((x.numpy() + 1) * 127.5).round().astype(np.uint8)[..., None] for x in unit])


def test_the_likelihood(run):
    report, _, model, test = run
    found, module = report["likelihood"], model.module
    chosen = [int(k * 1.2) for k in range(10)]  # ten of twelve, spread evenly
    x = torch.from_numpy(test.images[chosen].copy())
    prior = prior_of(model.checkpoint)
    with torch.no_grad():
        mean, log_variance = module.vae.encode(to_unit(x))
    refined = refine(module.vae, prior.distribution(), 8, x, (mean, log_variance), REFINE)
    for figures, middle, some in ((found, refined, slice(0, 10)), (found["encoder alone"], mean, slice(0, 1))):
        middle, deviation = middle[some], (0.5 * log_variance).exp()[some]
        noise = torch.randn(middle.shape, generator=torch.Generator().manual_seed(SEED))
        z, sigma = middle + deviation * noise, deviation.double().numpy()
        pixels = [windows_at_once(module, image[0], z[i : i + 1]) for i, image in enumerate(test.images[chosen][some])]
        bits = np.array([one.mean() for one in pixels])
        q = (-0.5 * noise.double().numpy() ** 2 - np.log(sigma) - 0.5 * np.log(2 * np.pi)).sum(axis=1)
        nats = q - prior.distribution().log_prob(z).double().numpy()
        assert figures["images"] == len(bits)
        assert figures["patch_bits"] == pytest.approx(bits.mean(), rel=1e-4)
        assert figures["kl_nats"] == pytest.approx(nats.mean(), rel=1e-3, abs=1e-3)
        assert figures["kl_bits"] == pytest.approx(nats.mean() / np.log(2) / 784, rel=1e-3, abs=1e-5)
        assert figures["bound_bits"] == pytest.approx(figures["patch_bits"] + figures["kl_bits"])
        if len(bits) > 1:
            assert figures["patch_error"] == pytest.approx(slow.standard_error(bits), rel=1e-3)
            both = bits + nats / np.log(2) / 784
            assert figures["bound_error"] == pytest.approx(slow.standard_error(both), rel=1e-3)
            sums, counts = np.zeros((28, 28)), np.zeros((28, 28))
            for k, (r, c) in enumerate(itertools.product(range(21), repeat=2)):
                sums[r : r + 8, c : c + 8] += np.mean([one[k] for one in pixels], axis=0)
                counts[r : r + 8, c : c + 8] += 1
            np.testing.assert_allclose(figures["map"], sums / counts, atol=2e-4, rtol=1e-3)
        else:
            assert figures["patch_error"] is figures["bound_error"] is None
    assert found["refine"] == REFINE and found["prior"] == "mixture"
    assert abs(found["encoder alone"]["kl_nats"] - found["kl_nats"]) > 1e-3


@pytest.mark.parametrize("size, samples, rebuilt", [(28, 10, 8), (SIZE, 4, 4), (30, 0, 8)])
def test_the_figures_of_a_size(run, folder, size, samples, rebuilt):
    report, _, model, test = run
    row, how = report["sizes"][str(size)], {"seed": SEED, "temperature": TEMPERATURE}
    shown = real(test, size, max(samples, rebuilt))
    kinds = {"test images": shown, "reconstructions": model.reconstruct(shown_of(test, rebuilt), size, **how)}
    if samples:
        kinds["samples"] = model.sample(size, n=samples, **how)
    assert set(row) == {*kinds, "seconds"}
    lenet = load_lenet(folder / "lenet")
    for kind, images in kinds.items():
        found, x = row[kind], images[..., 0]
        assert found["images"] == len(images)
        small = np.stack([slow.area_mean(image / 255) for image in x])
        with torch.no_grad():
            p = torch.softmax(lenet(torch.from_numpy(small).float()[:, None]), dim=1).double().numpy()
        assert found["confidence"] == pytest.approx(100 * p.max(axis=1).mean(), rel=1e-4)
        assert found["confidence_error"] == pytest.approx(slow.standard_error(100 * p.max(axis=1)), rel=1e-3)
        if kind == "samples":
            assert "accuracy" not in found
        else:
            assert found["accuracy"] == pytest.approx(100 * (p.argmax(axis=1) == test.labels[: len(x)]).mean())
        ink, ground = np.mean([slow.ink_and_ground(image) for image in x], axis=0)
        assert (found["ink_pieces"], found["ground_pieces"]) == (pytest.approx(ink), pytest.approx(ground))
        if kind == "reconstructions":
            ratios = [slow.contour(a) / slow.contour(b[..., 0]) for a, b in zip(x, shown)]
            assert found["contour_ratio"] == pytest.approx(np.mean(ratios), rel=1e-5)
            assert found["contour_error"] == pytest.approx(slow.standard_error(ratios), rel=1e-4)
            assert found["contour_worst"] == pytest.approx(max(ratios), rel=1e-5)
            theirs = np.mean([slow.ink_and_ground(image[..., 0]) for image in shown[: len(x)]], axis=0)
            assert found["extra_ink_pieces"] == pytest.approx(ink - theirs[0])
            assert found["extra_ground_pieces"] == pytest.approx(ground - theirs[1])
        else:
            pairs = [slow.ms_ssim(a / 255, b / 255) for a, b in itertools.combinations(x[:5].astype(np.float64), 2)]
            assert found["ms_ssim_images"] == min(5, len(x))
            assert found["ms_ssim"] == pytest.approx(np.mean(pairs), abs=1e-4)
            assert found["ms_ssim_deviation"] == pytest.approx(np.std(pairs), abs=1e-4)


def shown_of(test, count: int) -> np.ndarray:
    return test.images[:count].transpose(0, 2, 3, 1)


def test_memorisation(run, folder):
    """Samples beside as many test images, and their codes, each to the nearest of the training set."""
    report, _, model, test = run
    train, g = load("idx", folder / "data", "train"), torch.Generator().manual_seed(SEED)
    drawn = model.sample(28, n=10, seed=SEED, temperature=TEMPERATURE)
    codes = []
    for of in (test.images[:10], train.images):
        with torch.no_grad():
            mean, log_variance = model.module.vae.encode(to_unit(torch.from_numpy(of.copy())))
        codes.append((mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=g)).numpy())
    sets = {
        "images": [x.reshape(len(x), -1) / 255 for x in (drawn, shown_of(test, 10), train.images)],
        "codes": [prior_of(model.checkpoint).sample(SEED, np.arange(10)), *codes],
    }
    for what, (samples, unseen, known) in sets.items():
        found, ours, theirs = report["memorisation"][what], slow.nearest(samples, known), slow.nearest(unseen, known)
        assert found["compared"] == 10
        assert found["samples_median"] == pytest.approx(np.median(ours), rel=1e-3)
        assert found["samples_closest"] == pytest.approx(np.quantile(ours, 0.01), rel=1e-3)
        assert found["test_median"] == pytest.approx(np.median(theirs), abs=2e-3)
        assert found["test_closest"] == pytest.approx(np.quantile(theirs, 0.01), abs=2e-3)
        assert found["nearer"] == pytest.approx(100 * (ours < np.quantile(theirs, 0.01)).mean())


def test_files_and_text(run):
    report, out, model, test = run
    text = markdown(report)
    assert (out / "report.md").read_text() == text
    assert f"<= {report['likelihood']['bound_bits']:.4f}" in text and "KL to the mixture prior" in text
    pictures = {"samples-28.png", f"samples-{SIZE}.png", "originals.png", "reconstructions-28.png", "likelihood.png"}
    assert {path.name for path in out.glob("*.png")} == pictures
    from PIL import Image

    sheet = np.asarray(Image.open(out / "reconstructions-28.png"))
    drawn = model.reconstruct(shown_of(test, 10), 28, seed=SEED, temperature=TEMPERATURE)
    np.testing.assert_array_equal(sheet[:28, :28], drawn[0, ..., 0])
    np.testing.assert_array_equal(sheet[:28, -28:], drawn[9, ..., 0])
    sheet = np.asarray(Image.open(out / "originals.png"))
    np.testing.assert_array_equal(sheet[:28, :28], test.images[0, 0])
    with torch.no_grad():
        mean = model.module.vae.encode(to_unit(torch.from_numpy(test.images[:1].copy())))[0]
    decoded = ((model.module.decoded(mean)[0, 0] + 1) * 127.5).round().byte().numpy()
    assert abs(sheet[-28:, :28].astype(int) - decoded).max() <= 1


# ---- every option -----------------------------------------------------------------------------------------------------

BASE = ("--res", "28", "--samples", "4", "--reconstructions", "2", "--subset", "2", "--contours", "--no-nearest",
        "--refine", "0", "--engine", "cpp")  # fmt: skip
# Option and value, what of the report it changes, and what it leaves. A name of the report is a path.
LIKELIHOOD, SAMPLES, REBUILT = "likelihood", "sizes/28/samples", "sizes/28/reconstructions"
CHANGES = {
    "seed": (["--seed", "1"], [LIKELIHOOD, SAMPLES, REBUILT, "seed"], ["sizes/28/test images"]),
    "temperature": (["--temperature", "0.5"], [SAMPLES, REBUILT, "temperature"], [LIKELIHOOD, "sizes/28/test images"]),
    "pairs-of": (["--pairs-of", "3"], [f"{SAMPLES}/ms_ssim", f"{SAMPLES}/ms_ssim_images"], [f"{SAMPLES}/confidence", LIKELIHOOD]),
    "subset": (["--subset", "3"], [LIKELIHOOD, "likelihood/images"], [SAMPLES, REBUILT]),
    "refine": (["--refine", "3"], [LIKELIHOOD, "likelihood/refine", "likelihood/encoder alone"], [SAMPLES, REBUILT]),
    "samples": (["--samples", "3"], [SAMPLES], [REBUILT, LIKELIHOOD]),
    "reconstructions": (["--reconstructions", "3"], [REBUILT], [SAMPLES, LIKELIHOOD]),
    "res": (["--res", "28", "29"], ["sizes/29"], ["sizes/28"]),
    "contours": (["--contours", "31"], ["sizes/31/reconstructions"], ["sizes/31/samples", "sizes/28"]),
    "no subset": (["--subset", "0"], [LIKELIHOOD], [SAMPLES, REBUILT]),
    "engine": (["--engine", "torch", "--samples", "0", "--reconstructions", "0"], ["engine"], ["sizes/28/test images/accuracy"]),
}  # fmt: skip


def at(report: dict, path: str):
    """What a report holds at a path, without times."""
    found = report
    for name in path.split("/"):
        found = found.get(name, {}) if isinstance(found, dict) else {}
    return {k: v for k, v in found.items() if k != "seconds"} if isinstance(found, dict) else found


@pytest.fixture(scope="module")
def reported(folder):
    """Reports of the base run with further arguments, each made once."""
    if engines.why_not("cpp"):
        pytest.skip(engines.why_not("cpp"))
    made = {}

    def report(*arguments) -> dict:
        if arguments not in made:
            out = folder / f"report-{len(made)}"
            assert evaluated(folder, *BASE, "--figures", "--out", str(out), *arguments) == 0
            made[arguments] = json.loads((out / "report.json").read_text())
        return made[arguments]

    return report


@pytest.mark.parametrize("name", CHANGES)
def test_an_option_changes_what_it_says(reported, name):
    arguments, changes, leaves = CHANGES[name]
    base, found = reported(), reported(*arguments)
    for path in changes:
        assert at(found, path) != at(base, path), path
    for path in leaves:
        assert at(found, path) == at(base, path), path


def test_the_seed_is_that_of_each_part(reported, folder):
    """Likelihood, samples and reconstructions change one by one: a seed that reached only some would be seen."""
    base, found, model = reported(), reported("--seed", "1"), Sampler.load(folder / "checkpoint")
    assert found["likelihood"]["patch_bits"] != base["likelihood"]["patch_bits"]
    test = load("idx", folder / "data", "test")
    lenet = load_lenet(folder / "lenet")
    for report, seed in ((base, 0), (found, 1)):
        drawn = model.reconstruct(shown_of(test, 2), 28, seed=seed), model.sample(28, n=4, seed=seed)
        for kind, images in zip(("reconstructions", "samples"), drawn):
            sure = 100 * lenet.probabilities(images).max(axis=1).mean()
            assert report["sizes"]["28"][kind]["confidence"] == pytest.approx(sure, rel=1e-5)


def test_large_pixels_and_nearest(folder, tmp_path):
    def sizes(*arguments) -> tuple[dict, dict]:
        common = ["--res", "57", "--samples", "3", "--reconstructions", "3", "--subset", "0", "--contours", "--figures"]
        assert evaluated(folder, *common, *arguments, "--out", str(tmp_path)) == 0
        report = json.loads((tmp_path / "report.json").read_text())
        return {kind: report["sizes"]["57"][kind]["images"] for kind in ("samples", "reconstructions")}, report

    two, report = sizes("--large-pixels", str(2 * 57**2))
    assert two == {"samples": 2, "reconstructions": 2} and set(report["memorisation"]) == {"images", "codes"}
    one, report = sizes("--large-pixels", "1", "--no-nearest")
    assert one == {"samples": 1, "reconstructions": 1} and "memorisation" not in report


def test_threads_precision_and_engine_reach_the_engine(folder, monkeypatch, capsys):
    asked, get = [], engines.get

    def told(name="auto", job=None, **options):
        asked.append((name, options))
        return get("torch")

    monkeypatch.setattr(engines, "get", told)
    common = [
        "--res",
        "28",
        "--samples",
        "0",
        "--reconstructions",
        "0",
        "--subset",
        "0",
        "--contours",
        "--no-nearest",
        "--json",
    ]
    assert evaluated(folder, *common, "--threads", "2", "--precision", "bf16", "--engine", "cpp") == 0
    assert ("cpp", {"precision": "bf16", "threads": 2, "device": None}) in asked
    assert json.loads(capsys.readouterr().out)["precision"] == "bf16"


def test_bf16_draws_other_figures(reported):
    try:
        engines.get("cpp", precision="bf16", threads=1)
    except Exception as error:
        pytest.skip(str(error))
    assert at(reported("--precision", "bf16"), LIKELIHOOD) != at(reported(), LIKELIHOOD)


def test_json_and_figures(folder, tmp_path, capsys):
    out = tmp_path / "report"
    arguments = [
        "--res",
        "28",
        "--samples",
        "2",
        "--reconstructions",
        "2",
        "--subset",
        "0",
        "--contours",
        "--no-nearest",
    ]
    assert evaluated(folder, *arguments, "--figures", "29", "--json", "--out", str(out)) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((out / "report.json").read_text())
    assert {path.name for path in out.glob("*.png")} == {"samples-28.png", "originals.png", "reconstructions-29.png"}


def test_fewer_drawings_are_the_first_ones():
    model, originals = Sampler(tiny_model()), digits(3)[0][..., None]
    told = []
    drawings = Drawings(model, originals, "torch", seed=4, progress=lambda part, share: told.append((part, share)))
    four = drawings.samples(9, 4)
    count = len(told)
    assert told[-1] == ("samples 9", 1.0)
    assert np.array_equal(drawings.samples(9, 2), four[:2]) and len(told) == count  # nothing was drawn again
    assert np.array_equal(four[:2], model.sample(9, n=2, seed=4, engine="torch"))
    assert drawings.reconstructions(9, 10).shape == (3, 9, 9, 1)  # there are no more originals


# ---- beside the paper -------------------------------------------------------------------------------------------------


def test_a_report_stands_beside_the_papers_row():
    figures = {"confidence": 99.0, "confidence_error": 0.1, "images": 5, "ms_ssim": 0.2, "ms_ssim_deviation": 0.3,
               "ms_ssim_images": 5}  # fmt: skip
    bits = {"patch_bits": 1.5, "patch_error": None, "kl_bits": 0.1, "kl_nats": 54.3, "bound_bits": 1.6, "bound_error": 0.01,
            "images": 9, "prior": "mixture", "seconds": 60.2}  # fmt: skip
    sizes = {"28": {"samples": figures, "test images": figures, "seconds": 3.4}}
    paper = published(row_of(NetworkConfig()))
    report = {"paper": paper, "engine": "cpp", "sizes": sizes, "likelihood": bits, "seconds": 65.0}
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
    family, config = registry.family("spatial"), SpatialPixelCNN(NetworkConfig().__dict__, {"latent": 60}).config
    assert family.published(config, "mnist")["bits"] == 1.67 and family.published(config, "fashion-mnist") is None


# ---- a model that the evaluation does not know ------------------------------------------------------------------------


@pytest.fixture
def plain_checkpoint(monkeypatch, tmp_path):
    """A folder with a model of that family of a side and so many levels."""
    monkeypatch.setitem(registry._FAMILIES, "plain", "plain")

    def made(side: int, levels: int = 256):
        g, config = np.random.default_rng(0), plain.Config(side, levels)
        tensors = {n: g.normal(0, 0.5, s).astype(np.float32) for n, s in plain.MODEL.shapes(config).items()}
        save_checkpoint(Checkpoint("plain", config, tensors), tmp_path / "plain")
        return Sampler.load(tmp_path / "plain")

    return made


def evaluate_plain(tmp_path, *arguments) -> tuple[int, dict]:
    out = tmp_path / "out"
    common = [
        "--checkpoint",
        str(tmp_path / "plain"),
        "--data",
        "idx",
        "--data-dir",
        str(tmp_path / "data"),
        "--out",
        str(out),
    ]
    code = main([*common, *arguments])
    return code, json.loads((out / "report.json").read_text()) if code == 0 else {}


def test_a_plain_model_is_evaluated(plain_checkpoint, tmp_path, capsys):
    """Bits are its score; samples are judged as they fit; there are no codes, no reconstructions and no paper."""
    write_dataset(tmp_path / "data", train=8, test=5)
    torch.manual_seed(0)
    save_lenet(LeNet(10), tmp_path / "lenet", {})
    model, lenet = plain_checkpoint(28), ["--lenet", str(tmp_path / "lenet")]
    code, report = evaluate_plain(tmp_path, *lenet, "--res", "28", "--samples", "3", "--subset", "4", "--seed", "2")
    assert code == 0, capsys.readouterr().err
    images = shown_of(load("idx", tmp_path / "data", "test"), 5)[[0, 1, 2, 3]]  # 0, 1.25, 2.5, 3.75
    bits, found = model.score(images).bits, report["likelihood"]
    assert found["patch_bits"] == found["bound_bits"] == pytest.approx(bits.mean()) and found["kl_bits"] == 0
    assert found["bound_error"] == pytest.approx(slow.standard_error(bits)) and found["prior"] == "none"
    assert found["refine"] == 0 and "encoder alone" not in found
    np.testing.assert_allclose(found["map"], model.score(images).pixel_bits.mean(axis=0), atol=1e-4)
    assert set(report["sizes"]) == {"28"} and set(report["sizes"]["28"]) == {"test images", "samples", "seconds"}
    sure = 100 * load_lenet(tmp_path / "lenet").probabilities(model.sample(28, n=3, seed=2)).max(axis=1).mean()
    assert report["sizes"]["28"]["samples"]["confidence"] == pytest.approx(sure, rel=1e-5)
    assert set(report["memorisation"]) == {"images"} and report["paper"] is None
    assert "| all | " in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"samples-28.png", "likelihood.png"}


def test_a_plain_model_without_a_classifier(plain_checkpoint, tmp_path, capsys):
    """Images of 8 pixels and 16 levels are none of the classifier's, and everything else is measured."""
    write_dataset(tmp_path / "data", train=8, test=4, side=8)
    for path in (tmp_path / "data").glob("*images*"):
        path.unlink()
    from helpers import write_idx

    for prefix, count in (("train", 8), ("t10k", 4)):
        write_idx(tmp_path / "data" / f"{prefix}-images-idx3-ubyte", digits(count, side=8)[0] // 16)
    model = plain_checkpoint(8, 16)
    code, report = evaluate_plain(tmp_path, "--samples", "3", "--no-nearest")
    assert code == 0, capsys.readouterr().err
    assert report["likelihood"]["bound_bits"] == pytest.approx(
        model.score(digits(4, side=8)[0][..., None] // 16).bits.mean()
    )
    assert list(report["sizes"]) == ["8", "16"] and "confidence" not in report["sizes"]["8"]["samples"]
    assert report["sizes"]["16"]["samples"]["images"] == 3
    write_idx(tmp_path / "data" / "t10k-images-idx3-ubyte", digits(4, side=8)[0])
    for arguments, sentence in (
        ([], "data: expected levels 0 to 15"),
        (["--contours", "9"], "contours: expected a model that can"),
    ):
        if arguments:
            write_idx(tmp_path / "data" / "t10k-images-idx3-ubyte", digits(4, side=8)[0] // 16)
        assert evaluate_plain(tmp_path, *arguments)[0] == 2 and sentence in capsys.readouterr().err


def test_a_score_does_not_depend_on_its_batches(plain_checkpoint, monkeypatch):
    from spx.models import model as models

    model, images = plain_checkpoint(8), digits(5, side=8)[0][..., None]
    whole, told = model.score(images), []
    monkeypatch.setattr(models, "_BATCH", 2)
    found = model.family.score(model.checkpoint, images, progress=lambda part, share: told.append(share))
    np.testing.assert_allclose(found.bits, whole.bits, rtol=1e-6)
    np.testing.assert_allclose(found.pixel_bits, whole.pixel_bits, rtol=1e-4, atol=1e-5)
    assert told == [0.4, 0.8, 1.0]
    coded, images = (
        Sampler(tiny_model()),
        digits(5, side=9)[0][..., None],
    )  # each image has a code of its own, and pays for it
    found = coded.score(images)
    monkeypatch.setattr(models, "_BATCH", 100)
    whole = coded.score(images)
    np.testing.assert_allclose(found.bits, whole.bits, rtol=1e-5)
    without = whole.pixel_bits.mean(axis=(1, 2)) + whole.code_bits
    np.testing.assert_allclose(whole.bits, without, rtol=1e-5)
    assert abs(whole.code_bits).min() > 1e-3


# ---- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--samples", "-1"], "samples: expected a whole number, 0 to 4294967296, got -1"),
        (["--res", "20"], "res: expected sizes of at least 28"),
        (["--threads", "0"], "threads: expected a whole number, 1 to 65536"),
        (["--temperature", "0"], "temperature: expected more than 0"),
        (["--figures", "9"], "figures: expected sizes of at least 28"),
        (["--lenet", "/nowhere"], "expected a checkpoint"),
        (["--checkpoint", "no-such"], "checkpoint: expected"),
        (["--out", "/proc/x"], "cannot be written"),
    ],
)
def test_refusals(folder, capsys, arguments, sentence):
    few = ["--samples", "0", "--reconstructions", "0", "--subset", "0", "--res", "28", "--no-nearest", "--contours"]
    assert evaluated(folder, *few, *arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error


def test_other_data_is_judged_by_a_classifier_of_its_own_or_by_none(folder, capsys):
    data = [
        "--data",
        "idx",
        "--data-dir",
        str(folder / "data"),
        "--checkpoint",
        str(folder / "checkpoint"),
        "--no-nearest",
    ]
    few = ["--contours", "--res", "28", "--samples", "2", "--reconstructions", "2", "--subset", "2"]
    assert main([*data, *few]) == 0
    without = capsys.readouterr().out
    assert main([*data, *few, "--lenet", str(folder / "lenet")]) == 0
    assert "confidence" not in without and "confidence" in capsys.readouterr().out


def test_colour_is_refused_before_hours_of_work(folder, tmp_path, capsys):
    """By a grey model, and by the classifier; without it a model of colour has its bits."""
    write_dataset(tmp_path / "data", train=4, test=4, channels=3)
    data = ["--data", "idx", "--data-dir", str(tmp_path / "data")]
    assert main([*data, "--lenet", str(folder / "lenet"), "--checkpoint", str(folder / "checkpoint")]) == 2
    assert "data: expected images of 1 channels" in capsys.readouterr().err
    save_checkpoint(tiny_model(channels=3), tmp_path / "colour")
    colour = [
        "--checkpoint",
        str(tmp_path / "colour"),
        "--samples",
        "2",
        "--reconstructions",
        "2",
        "--subset",
        "1",
        "--refine",
        "0",
    ]
    assert main([*data, *colour, "--lenet", str(folder / "lenet")]) == 2
    assert "data: expected grey images" in capsys.readouterr().err
    assert main([*data, *colour, "--res", "28", "--contours", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["sizes"]["28"]
    assert {kind: row[kind]["images"] for kind in ("samples", "reconstructions")} == {
        "samples": 2,
        "reconstructions": 2,
    }
    assert "confidence" not in row["samples"] and "contour_ratio" not in row["reconstructions"]
