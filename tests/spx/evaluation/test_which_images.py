"""Which images each figure of spx-eval is of, among hundreds: images carry their number, and what measures them is a table."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import slow_measures as slow
import torch
from helpers import digits
from torch.nn import functional as F

from spx.data import Images
from spx.evaluation import evaluate, figures, lenet
from spx.evaluation.evaluate import Amounts, Evaluation
from spx.evaluation.report import markdown
from spx.models.likelihood import Likelihood

COUNT, TRAIN = 1203, 30


def numbered(numbers, side: int = 28) -> np.ndarray:
    """Images uint8 [N, side, side, 1] that carry a number each, and their side."""
    images, numbers = np.zeros((len(numbers), side, side, 1), np.uint8), np.asarray(numbers)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = numbers % 256, numbers // 256
    return images


def numbers(images: np.ndarray) -> np.ndarray:
    return images[:, 0, 0, 0] + 256.0 * images[:, 0, 1, 0]


class Family:
    """What an evaluation asks of a model's family: here every answer tells the images it is of."""

    def __init__(self, *offers):
        self.offered, self.asked = set(offers), []

    def offers(self, config):
        return self.offered

    def bits(self, checkpoint, images, seed, engine, refine, progress):
        self.asked.append((seed, engine, refine))
        n = numbers(images)
        return Likelihood(n + refine, n**2 / 1e4 + seed, np.arange(6.0).reshape(2, 3) / 7, "mixture")

    def real(self, config, images, size):
        return numbered(numbers(images).astype(int) + size, size)

    def decoded(self, checkpoint, images):
        return images + np.uint8(1)

    def drawn_codes(self, checkpoint, count, seed, real, known):
        return (count, seed), (numbers(real), numbers(known))


class Drawn:
    """Drawings: samples carry the numbers from 10000 on, reconstructions from 20000 on, each with the size."""

    seed, engine = 5, "an engine"

    def __init__(self, *offers):
        self.model = SimpleNamespace(family=Family(*offers), config="config", checkpoint="checkpoint")
        self.originals = numbered(np.arange(COUNT))

    def samples(self, size, count):
        return numbered(10000 + size + np.arange(count), size)

    def reconstructions(self, size, count):
        return numbered(20000 + size + np.arange(count), size)


class Judge:
    """A classifier whose certainty and class follow from an image's number."""

    def to(self, device):
        return self

    def probabilities(self, images):
        p = np.full((len(images), 10), 0.01)
        p[np.arange(len(images)), (numbers(images) % 10).astype(int)] = 0.3 + numbers(images) % 7 / 10
        return p


def labels_of(n: np.ndarray) -> np.ndarray:
    """Labels of test images: at 57 pixels the judge is right about the first hundred, and so wrong about any others' labels."""
    return np.where(n < 100, (n + 57) % 10, 9)


def evaluation(amounts: Amounts, *offers, count: int = COUNT, **more) -> Evaluation:
    test = Images(numbered(np.arange(count)).transpose(0, 3, 1, 2), labels_of(np.arange(count)))
    return Evaluation(Drawn(*offers), test, amounts, **more)


@pytest.mark.fault("unseen", "a likelihood of other images than said; the encoder alone refined too")
@pytest.mark.parametrize("offers", [("source", "refine"), ("source",)])
@pytest.mark.parametrize("subset, wanted", [(None, COUNT), (700, 700), (COUNT + 9, COUNT), (11, 11)])
def test_the_likelihood_is_of_images_spread_over_all(subset, wanted, offers):
    e = evaluation(Amounts(subset=subset, refine=3), *offers)
    found, steps = evaluate.bits(e), 3 if "refine" in offers else 0
    chosen = np.array([k * COUNT // wanted for k in range(wanted)], float)
    parts = {"": (chosen, steps)} | ({"encoder alone": (chosen[::10], 0)} if steps else {})
    assert e.drawings.model.family.asked == [(5, "an engine", steps) for _, steps in parts.values()]
    assert ("encoder alone" in found) == bool(steps) and (found["refine"], found["prior"]) == (steps, "mixture")
    for name, (of, steps) in parts.items():
        own, image, code = found[name] if name else found, of + steps, of**2 / 1e4 + 5
        assert own["images"] == len(of)
        assert own["patch_bits"] == pytest.approx(image.mean()) and own["kl_bits"] == pytest.approx(code.mean())
        assert own["bound_bits"] == pytest.approx((image + code).mean())
        assert own["kl_nats"] == pytest.approx(code.mean() * 784 * np.log(2))
        if len(of) > 1:
            assert own["patch_error"] == pytest.approx(slow.standard_error(image))
            assert own["bound_error"] == pytest.approx(slow.standard_error(image + code))
    np.testing.assert_allclose(found["map"], np.arange(6.0).reshape(2, 3) / 7, atol=6e-5)


@pytest.mark.parametrize("size, count, pixels, expected", [
    (28, 1000, 1, 300), (28, 200, 1, 200), (56, 1000, 1, 300), (57, 1000, 57**2 * 7, 7), (57, 5, 57**2 * 7, 5), (1400, 9, 10, 1),
    (57, 400, 57**2 * 350, 350),
])  # fmt: skip
def test_how_many_images_of_a_size(size, count, pixels, expected):
    """Up to 56 pixels as many as there are test images; above, as many as the pixels make."""
    assert Amounts(large_pixels=pixels).at(size, count, 300) == expected


@pytest.mark.fault("unseen", "a figure of other images, or labels of others, from some number on")
@pytest.mark.parametrize("size", [28, 56, 57])
def test_the_figures_of_a_size_are_of_the_first_images(size, monkeypatch):
    measured = {
        "pieces": lambda images: {"ink_pieces": numbers(images).mean(), "ground_pieces": (numbers(images) ** 2).mean()},
        "similarity": lambda images, device: {"ms_ssim": numbers(images).sum(), "ms_ssim_images": len(images)},
        "contour_ratios": lambda drawn, real: {"contour_ratio": (numbers(drawn) * numbers(real)).mean()},
    }
    for name, measure in measured.items():
        monkeypatch.setattr(evaluate, name, measure)
    amounts = Amounts(sizes=(28, 56, 57), samples=330, reconstructions=310, pairs_of=270, large_pixels=57**2 * 260)
    e = evaluation(amounts, "source", count=300, lenet=Judge())
    row = evaluate.at_size(e, size)
    samples, rebuilt, real = (260, 260, 260) if size == 57 else (300, 300, 300)
    of = {
        "samples": 10000 + size + np.arange(samples), "reconstructions": 20000 + size + np.arange(rebuilt),
        "test images": size + np.arange(real),
    }  # fmt: skip
    assert row.keys() == of.keys()
    for kind, n in of.items():
        found, pairs = row[kind], n[:270]
        assert found["images"] == len(n) and found["ink_pieces"] == pytest.approx(n.mean())
        assert found["ground_pieces"] == pytest.approx((n.astype(float) ** 2).mean())
        top = 100 * (0.3 + n % 7 / 10)
        assert found["confidence"] == pytest.approx(top.mean())
        assert found["confidence_error"] == pytest.approx(slow.standard_error(top))
        if kind == "samples":
            assert "accuracy" not in found
        else:
            right = n % 10 == labels_of(np.arange(len(n)))
            assert found["accuracy"] == pytest.approx(100 * np.mean(right))
        if kind == "reconstructions":
            assert "ms_ssim" not in found
            assert found["contour_ratio"] == pytest.approx((n.astype(float) * of["test images"]).mean())
            assert found["extra_ink_pieces"] == pytest.approx((n - of["test images"]).mean())
        else:
            assert (found["ms_ssim"], found["ms_ssim_images"]) == (pytest.approx(pairs.sum()), len(pairs))


@pytest.mark.fault("unseen", "distances to the test images, or of other samples")
@pytest.mark.parametrize("samples, count", [(290, 290), (400, 300)])
def test_what_is_compared_with_the_training_images(samples, count, monkeypatch):
    seen = []
    monkeypatch.setattr(evaluate, "copies", lambda *sets: seen.append(sets[:3]) or {"compared": len(sets[0])})
    train = Images(numbered(500 + np.arange(TRAIN)).transpose(0, 3, 1, 2), np.zeros(TRAIN, int))
    # Sizes that are judged do not matter: the samples are of the data's own size.
    found = evaluate.memorisation(evaluation(Amounts(sizes=(56,), samples=samples), count=300), train)
    assert found == {"images": {"compared": count}, "codes": {"compared": 2}}
    ours, unseen, known = (x.reshape(-1, 28, 28, 1) * 255 for x in seen[0])
    for images, expected in (
        (ours, 10028 + np.arange(count)),
        (unseen, np.arange(count)),
        (known, 500 + np.arange(TRAIN)),
    ):
        np.testing.assert_allclose(numbers(images.round()), expected)
    codes, of_test, of_train = seen[1]
    assert codes == (count, 5)
    np.testing.assert_array_equal(of_test, np.arange(count))
    np.testing.assert_array_equal(of_train, 500 + np.arange(TRAIN))


@pytest.mark.fault("unseen", "a picture of other drawings, or of more or fewer, than the figures are said to show")
def test_the_figures_show_the_first_images(tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(figures, "grid", lambda images, columns: (numbers(images).astype(int).tolist(), columns))
    monkeypatch.setattr(figures, "_save", lambda picture, path: shown.update({path.name: picture}) or path)
    monkeypatch.setattr(figures, "likelihood_map", lambda bits, folder: shown.update(map=bits) or folder / "map")
    sizes = {str(n): {"samples": {"images": k}} for n, k in ((28, 400), (56, 13), (224, 30), (225, 30))} | {"112": {}}
    report = {"sizes": sizes, "likelihood": {"map": [[1.0, 2.0]]}}
    written = figures.paper_figures(Drawn("source"), report, (28, 224, 225), tmp_path)
    expected = {
        f"samples-{n}.png": ([10000 + n + k for k in range(count)], 10)
        for n, count in ((28, 20), (56, 13), (224, 20), (225, 1))
    }
    expected |= {
        f"reconstructions-{n}.png": ([20000 + n + k for k in range(count)], 10)
        for n, count in ((28, 10), (224, 10), (225, 1))
    }
    expected["originals.png"] = ([*range(10), *(k + 257 for k in range(10))], 10)  # decoded: 1 more in both digits
    assert shown.pop("map").tolist() == [[1.0, 2.0]] and shown == expected
    assert len(written) == len(expected) + 1
    shown.clear()
    figures.paper_figures(Drawn(), {"sizes": {"28": {}}}, (28,), tmp_path)
    assert shown == {}


@pytest.mark.fault("unseen", "a cell of the report that shows another figure")
@pytest.mark.parametrize("paper", [True, False])
@pytest.mark.parametrize("alone", [True, False])
def test_every_cell_of_the_report(alone, paper):
    """Every number is another one, so each cell is known by what stands in it."""
    number = iter(range(1, 1000))

    def bits(**more):
        names = ("patch_bits", "patch_error", "kl_bits", "kl_nats", "bound_bits", "bound_error", "images")
        return {name: next(number) for name in names} | more

    def images(**more):
        names = ("images", "confidence", "confidence_error", "accuracy", "ink_pieces", "ground_pieces", "ms_ssim", "ms_ssim_deviation",
                 "ms_ssim_images", "contour_ratio", "contour_error", "contour_worst")  # fmt: skip
        return {name: next(number) for name in names} | more

    b = bits(prior="mixture", refine=7, seconds=900)
    b |= {"encoder alone": bits()} if alone else {}
    one, two = ({kind: images() for kind in ("test images", "samples", "reconstructions")} for _ in range(2))
    row, known = {**one, "seconds": 901}, {}
    if paper:
        known = {
            "network": "x",
            "bits": 0.5,
            "ms_ssim": {"28": (0.1, 0.2)},
            "confidence": {"28": (91, 2)},
            "accuracy": {"56": 97.5},
        }
    codes = {
        name: next(number)
        for name in ("compared", "samples_median", "samples_closest", "test_median", "test_closest", "nearer")
    }
    report = {
        "paper": known or None, "engine": "cpp", "likelihood": b, "sizes": {"28": row, "56": {**two, "seconds": 902}},
        "memorisation": {"codes": codes}, "seconds": 903,
    }  # fmt: skip
    theirs = "<= 0.5" if paper else ""
    expected = [
        f"| bits per dimension, {b['images']} test images | this checkpoint | paper |", "|---|---|---|",
        f"| patch likelihood alone | {b['patch_bits']}.0000 +- {b['patch_error']}.0000 | |",
        f"| KL to the mixture prior that samples are drawn from | {b['kl_bits']}.0000 ({b['kl_nats']}.0 nats) | |",
    ]  # fmt: skip
    name = "bound, codes refined by 7 gradient steps" if alone else "bound"
    expected.append(f"| {name} | <= {b['bound_bits']}.0000 +- {b['bound_error']}.0000 | {'' if alone else theirs} |")
    if alone:
        a = b["encoder alone"]
        cell = f"<= {a['bound_bits']}.0000 +- {a['bound_error']}.0000"
        expected.append(f"| bound, the encoder's codes ({a['images']} images) | {cell} | {theirs} |")
    expected += ["", "| size | | images | this checkpoint | test images | paper |", "|---|---|---|---|---|---|"]
    for size, of in (("28", one), ("56", two)):
        t, s, r = of["test images"], of["samples"], of["reconstructions"]
        beside = {"28": ("0.1 +- 0.2", "91 +- 2", ""), "56": ("", "", "97.5")}[size] if paper else ("", "", "")

        def sure(x):
            return f"{x['confidence']}.0 +- {x['confidence_error']}.0"

        def pieces(x):
            return f"{x['ink_pieces']}.00 / {x['ground_pieces']}.00"

        def similar(x):
            return f"{x['ms_ssim']}.000 +- {x['ms_ssim_deviation']}.00"

        ratio = f"{r['contour_ratio']}.000 +- {r['contour_error']}.000 (worst {r['contour_worst']}.000)"
        expected += [
            f"| {size} | MS-SSIM of samples | {s['ms_ssim_images']} | {similar(s)} | {similar(t)} | {beside[0]} |",
            f"| {size} | confidence of samples | {s['images']} | {sure(s)} | {sure(t)} | {beside[1]} |",
            f"| {size} | pieces of ink / ground, samples | {s['images']} | {pieces(s)} | {pieces(t)} |  |",
            f"| {size} | accuracy of reconstructions | {r['images']} | {r['accuracy']}.0 | {t['accuracy']}.0 | {beside[2]} |",
            f"| {size} | contour ratio of reconstructions | {r['images']} | {ratio} | 1 |  |",
            f"| {size} | pieces of ink / ground, reconstructions | {r['images']} | {pieces(r)} | {pieces(t)} |  |",
        ]
    c = codes
    expected += [
        "", "| distance to the nearest training image's | | median | closest 1 % | nearer than 1 % of the test images' |",
        "|---|---|---|---|---|",
        f"| codes | {c['compared']} samples | {c['samples_median']}.00 | {c['samples_closest']}.00 | {c['nearer']}.0 % |",
        f"| codes | as many test images | {c['test_median']}.00 | {c['test_closest']}.00 | 1 % |",
        "", "Took 903 s (bits 900 s, 28x28 901 s, 56x56 902 s), cpp engine.",
    ]  # fmt: skip
    assert markdown(report).splitlines() == expected


@pytest.mark.fault("unseen", "the classifier in training mode, or blind from the 257th image on")
@pytest.mark.parametrize("count", [1, 257, 600])
def test_the_classifier_sees_every_image(count):
    torch.manual_seed(0)
    model, images = lenet.LeNet(4).train(), np.random.default_rng(count).integers(0, 256, (count, 30, 30, 1), np.uint8)
    found = model.probabilities(images)
    some = sorted({0, count // 2, 255 % count, 256 % count, count - 1})
    small = np.stack([slow.area_mean(images[i, ..., 0] / 255) for i in some])
    with torch.no_grad():
        expected = torch.softmax(model.eval()(torch.from_numpy(small).float()[:, None]), dim=1)
    assert found.shape == (count, 4)
    np.testing.assert_allclose(found[some], expected, rtol=1e-4)


@pytest.mark.fault(
    "unseen", "a classifier trained without shifts, order, dropout or schedule, or judged on its training images"
)
def test_the_classifiers_training_by_hand():
    """Two epochs of one step in a few lines of torch: the same weights, and the accuracy of the test images."""
    (images, labels), (unseen, classes) = digits(130, classes=3), digits(40, classes=3, seed=1)
    noise = np.random.default_rng(2).integers(0, 2, 40).astype(bool)  # so that the accuracies of the two sets differ
    classes = np.where(noise, (classes + 1) % 3, classes)
    found, accuracy = lenet.train_lenet(
        Images(images[:, None], labels), Images(unseen[:, None], classes), epochs=2, seed=4
    )
    torch.manual_seed(4)
    g, model = np.random.default_rng(4), lenet.LeNet(3).train()
    x, y = torch.from_numpy(images).float()[:, None] / 255, torch.from_numpy(labels.astype(int))
    adam = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=1e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(adam, 3e-3, 2)
    for _ in range(2):
        some = g.permutation(130)[:128]
        down, right = (int(k) for k in g.integers(-2, 3, 2))
        adam.zero_grad()
        F.cross_entropy(model(x[some].roll(down, 2).roll(right, 3)), y[some]).backward()
        adam.step()
        rate.step()
    for (name, ours), theirs in zip(found.named_parameters(), model.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)
    with torch.no_grad():
        predicted = model.eval()(torch.from_numpy(unseen).float()[:, None] / 255).argmax(1).numpy()
    assert accuracy == pytest.approx((predicted == classes).mean()) and not found.training


def test_a_classifier_of_other_classes_is_read(tmp_path):
    lenet.save_lenet(lenet.LeNet(3), Path(tmp_path), {})
    assert lenet.load_lenet(tmp_path).classes == 3
