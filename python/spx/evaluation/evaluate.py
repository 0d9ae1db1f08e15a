"""The paper's evaluation (section 4.3): how well a model compresses, how diverse, recognisable and faithful its images are."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from spxcore.engines.torch_precision import full_precision

from ..data import Images
from ..models.likelihood import Likelihood, Progress
from .drawings import Drawings
from .lenet import LeNet
from .measures import Figures, contour_ratios, copies, judged, pieces, similarity, standard_error

# Sizes above this one are drawn in smaller numbers; the paper's counts are for 28 and 56.
LARGE = 56
# One in this many images of the likelihood is also computed with its code as it is, not refined.
_ALONE = 10


@dataclass(frozen=True)
class Amounts:
    """What is measured, and of how many images.

    Attributes:
        sizes: sizes n at which samples and reconstructions are judged.
        contour_sizes: sizes of which there are reconstructions only, for their contours.
        samples, reconstructions: how many of each; 0 leaves that part out.
        pairs_of: images whose pairs MS-SSIM compares, at most `samples`.
        large_pixels: pixels of each kind that are drawn at a size above 56; at least one image.
        subset: test images whose likelihood is computed, spread evenly over the set; None: all; 0: none.
        refine: gradient steps on the code of each of these images, where a model has codes that can be refined. With some, the
            likelihood is also computed by the codes as they are, of every tenth image.
    """

    sizes: tuple[int, ...] = (28, 56)
    contour_sizes: tuple[int, ...] = (112,)
    samples: int = 1000
    reconstructions: int = 1000
    pairs_of: int = 500
    large_pixels: int = 1_000_000
    subset: int | None = None
    refine: int = 0

    def at(self, size: int, count: int, available: int) -> int:
        """How many images are drawn at a size, of `count` that are wanted."""
        return min(count, max(1, self.large_pixels // size**2) if size > LARGE else available)


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` needs.

    Attributes:
        drawings: the model's, of the test images.
        test: test images, the first ones of which are used.
        amounts: what is measured.
        lenet: the classifier; None where it does not fit.
        train: training images, for the check that samples are no copies of them; None leaves it out.
        progress: told of each part.
        device: of torch, where what does not draw is computed: codes, the classifier, MS-SSIM, distances.
    """

    drawings: Drawings
    test: Images
    amounts: Amounts
    lenet: LeNet | None = None
    train: Images | None = None
    progress: Progress | None = None
    device: str = "cpu"

    @property
    def images(self) -> np.ndarray:
        """The test images, uint8 [N, H, W, C]."""
        return self.test.images.transpose(0, 2, 3, 1)

    def tell(self, part: str) -> None:
        """Say that a part has begun."""
        if self.progress:
            self.progress(part, 0)


@full_precision()
def evaluate(e: Evaluation) -> dict:
    """Everything `spx-eval` reports, as plain values."""
    began, amounts = time.perf_counter(), e.amounts
    report: dict[str, Any] = {}
    if amounts.subset != 0:
        report["likelihood"] = {**bits(e), "seconds": _since(began)}
    report["sizes"] = {}
    for size in sorted({*amounts.sizes, *amounts.contour_sizes}):
        started = time.perf_counter()
        report["sizes"][str(size)] = {**at_size(e, size), "seconds": _since(started)}
    if e.train is not None and amounts.samples:
        report["memorisation"] = memorisation(e, e.train)
    report["seconds"] = _since(began)
    return report


def bits(e: Evaluation) -> dict:
    """The likelihood of test images."""
    model, count = e.drawings.model, len(e.test.images)
    family, config, checkpoint = model.family, model.config, model.checkpoint
    wanted = count if e.amounts.subset is None else min(e.amounts.subset, count)
    # Spread over the whole set: the first half of MNIST's test images is easier than the second.
    images = e.images[np.linspace(0, count, wanted, endpoint=False).astype(int)]
    refine = e.amounts.refine if "refine" in family.offers(config) else 0
    how = e.drawings.seed, e.drawings.engine

    def found(of: np.ndarray, steps: int) -> Likelihood:
        return family.bits(checkpoint, of, *how, steps, e.progress)

    whole, dimensions = found(images, refine), images[0].size
    report: dict[str, Any] = {**_figures(whole, dimensions), "prior": whole.prior, "refine": refine}
    report["map"] = whole.pixel_bits.round(4).tolist()
    if refine:
        report["encoder alone"] = _figures(found(images[::_ALONE], 0), dimensions)
    return report


def _figures(found: Likelihood, dimensions: int) -> Figures:
    """A likelihood as plain values. dimensions: numbers of one image."""
    return {
        "patch_bits": found.given_codes,
        "patch_error": standard_error(found.image_bits),
        "kl_bits": found.codes,
        "kl_nats": found.codes * dimensions * math.log(2),
        "bound_bits": found.bound,
        "bound_error": standard_error(found.image_bits + found.code_bits),
        "images": found.images,
    }


def at_size(e: Evaluation, size: int) -> dict:
    """Samples, reconstructions and test images of one size."""
    model, amounts, test = e.drawings.model, e.amounts, e.test
    samples = amounts.at(size, amounts.samples, len(test)) if size in amounts.sizes else 0
    rebuilt = 0
    if "source" in model.family.offers(model.config):
        rebuilt = min(amounts.at(size, amounts.reconstructions, len(test)), len(test))
    shown = model.family.real(model.config, e.images[: max(samples, rebuilt, 1)], size)
    e.tell(f"test images {size}")
    row: dict[str, dict[str, Any]] = {
        "test images": {
            **_described(e, shown, test.labels[: len(shown)]),
            **_similar(shown[: amounts.pairs_of], e.device),
        }
    }
    if samples:
        drawn = e.drawings.samples(size, samples)
        e.tell(f"measuring samples {size}")
        row["samples"] = {**_described(e, drawn), **_similar(drawn[: amounts.pairs_of], e.device)}
    if rebuilt:
        drawn = e.drawings.reconstructions(size, rebuilt)
        e.tell(f"measuring reconstructions {size}")
        row["reconstructions"] = _described(e, drawn, test.labels[:rebuilt])
        if _is_grey(drawn):
            row["reconstructions"] |= contour_ratios(drawn, shown[:rebuilt])
            for what, real in pieces(shown[:rebuilt]).items():
                row["reconstructions"][f"extra_{what}"] = row["reconstructions"][what] - real
    return row


def _is_grey(images: np.ndarray) -> bool:
    return images.shape[3] == 1


def _described(e: Evaluation, images: np.ndarray, labels: np.ndarray | None = None) -> Figures:
    """What is measured of every kind of images uint8 [N, H, W, C]."""
    sure = judged(e.lenet.to(e.device), images, labels) if e.lenet else {}
    return {"images": len(images), **sure, **(pieces(images) if _is_grey(images) else {})}


def _similar(images: np.ndarray, device: str) -> Figures:
    """MS-SSIM of pairs, of grey images."""
    return similarity(images, device) if _is_grey(images) else {}


def memorisation(e: Evaluation, train: Images) -> dict[str, dict]:
    """Whether samples are copies: their distances to the nearest training image, beside those of as many test images.

    A model that has memorised draws nearer to the training set than new real images lie. The same for the codes: those of samples
    beside drawn codes of test images, each to the nearest of the training images' drawn codes.

    Returns:
        "images" (Euclidean distance, pixels in [0, 1]) and, with codes, "codes": see `measures.copies`.
    """
    e.tell("distances to the training images")
    model, seed = e.drawings.model, e.drawings.seed
    drawn = e.drawings.samples(e.images.shape[1], e.amounts.samples)
    count = min(len(drawn), len(e.test))
    real, known = e.images[:count], train.images.transpose(0, 2, 3, 1)

    def flat(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1) / np.float32(255)

    result = {"images": copies(flat(drawn[:count]), flat(real), flat(known), e.device)}
    codes = model.family.drawn_codes(model.checkpoint, count, seed, real, known)
    if codes:
        of_samples, (of_real, of_known) = codes
        result["codes"] = copies(of_samples, of_real, of_known, e.device)
    return result


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 1)
