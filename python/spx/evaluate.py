"""The paper's evaluation (section 4.3): how well a model compresses, how diverse, recognisable and faithful its images are."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from spxcore.coords import axis, scale
from spxcore.engines import Engine
from spxcore.errors import require
from spxcore.likelihood import log_prob
from spxcore.network import place_inputs

from .api import Model
from .data import Images
from .lenet import LeNet
from .metrics import components, contour_length, ms_ssim_pairs
from .patches import full_image, to_unit
from .vae import kl_to_standard_normal, reparameterise

# Sizes above this one are drawn in smaller numbers; the paper's counts are for 28 and 56.
LARGE = 56
# Images that the VAE sees at once.
_CHUNK = 250

# Told of each part of an evaluation: its name, its share done (0 to 1).
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Likelihood:
    """Bits per dimension of images under a model.

    Attributes:
        patch: mean over all patch positions of all images, given a code drawn from q(z | x).
        kl: KL(q(z | x) || p(z)) spread over the image's pixels; 0 without latent.
        patch_error, standard_error: of `patch` and of `patch` + `kl`, over images; None for a single one.
        map: [H, W] bits of each pixel, the mean over the windows that cover it.
        images: number of images.
    """

    patch: float
    kl: float
    patch_error: float | None
    standard_error: float | None
    map: np.ndarray
    images: int

    @property
    def bound(self) -> float:
        """Upper bound on the bits per dimension with the code paid for: `patch` + `kl`."""
        return self.patch + self.kl


def kl_nats(model: Model, mean: torch.Tensor, log_variance: torch.Tensor, z: torch.Tensor) -> np.ndarray:
    """KL(q(z | x) || p(z)) of each image, in nats: in closed form for N(0, I), by the one drawn z for a mixture. [B]."""
    prior = model.prior
    if prior.kind == "normal":
        return kl_to_standard_normal(mean, log_variance).double().numpy()
    q = torch.distributions.Normal(mean.double(), (0.5 * log_variance).exp().double()).log_prob(z.double()).sum(dim=1)
    return q.numpy() - prior.log_density(z.numpy())


@torch.no_grad()
def likelihood(
    model: Model,
    images: np.ndarray,
    seed: int = 0,
    engine: Engine | None = None,
    progress: Progress | None = None,
    refine: int = 0,
) -> Likelihood:
    """Bits per dimension over every patch position of every image (paper, section 4.2).

    Args:
        model: the model.
        images: uint8 [N, C, H, W], of the size the model was trained at.
        seed: of the codes' noise.
        engine: runs the network if it has `whole_windows` (cpp); otherwise, and for None, torch does, in fp32, on a GPU if there is one.
        progress: see `Progress`.
        refine: gradient steps on the mean of each image's q(z | x), see `spx.inference.refine`; 0 for the encoder's.
    """
    config, m = model.config, model.patch
    n, channels, height, width = images.shape
    require(
        channels == config.channels and min(height, width) >= m, "images", f"{config.channels} channels", images.shape
    )
    r0, c0 = (o.ravel() for o in np.meshgrid(np.arange(height - m + 1), np.arange(width - m + 1), indexing="ij"))
    y, x = (torch.from_numpy(axis(size)) for size in (height, width))
    rows, columns = (y[r0][None], y[r0 + m - 1][None]), (x[c0][None], x[c0 + m - 1][None])
    scales = torch.full((1, len(r0)), scale(height, width, config.sizes))
    params = _whole_windows(model, engine)
    z, maps, kl = None, None, np.zeros(n)
    if config.latent:
        encoded = model.posterior(images.transpose(0, 2, 3, 1), refine)
        z = reparameterise(*encoded, torch.Generator().manual_seed(seed))
        kl = kl_nats(model, *encoded, z) / math.log(2) / (channels * height * width)
    bits, sums, counts = [], np.zeros((height, width)), np.zeros((height, width))
    for index in range(n):
        image = to_unit(torch.from_numpy(np.array(images[index])))
        windows = image.unfold(1, m, 1).unfold(2, m, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        if z is not None and index % _CHUNK == 0:
            maps = model.module.image_maps(z[index : index + _CHUNK])
        own_maps = None if maps is None else maps[index % _CHUNK][None]
        codes = None if z is None else z[index].expand(len(r0), -1)
        places = place_inputs(config, rows, columns, scales, own_maps)
        nats = -log_prob(params(windows, places, codes), windows)
        pixel_bits = nats.numpy() / math.log(2) / channels  # [windows, m, m]
        bits.append(float(pixel_bits.mean(dtype=np.float64)))
        for window, r, c in zip(pixel_bits, r0, c0, strict=True):
            sums[r : r + m, c : c + m] += window
            counts[r : r + m, c : c + m] += 1
        if progress:
            progress("likelihood", (index + 1) / n)
    bits = np.array(bits)
    errors = standard_error(bits), standard_error(bits + kl)
    return Likelihood(float(bits.mean()), float(kl.mean()), *errors, sums / counts, n)


def _whole_windows(model: Model, engine: Engine | None) -> Callable[..., torch.Tensor]:
    """What computes the network's output for whole windows, on the CPU.

    It takes windows [B, C, m, m], places and z as `PixelCNN.forward` does and gives [B, P, m, m]. The engine if it can; otherwise torch,
    on a GPU if there is one.
    """
    if not hasattr(engine, "whole_windows"):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = model.module.network
        network = network if device.type == "cpu" else copy.deepcopy(network).to(device)

        def there(t: torch.Tensor | None) -> torch.Tensor | None:
            return None if t is None else t.to(device)

        return lambda windows, places, z: network(there(windows), [there(p) for p in places], there(z)).cpu()

    def flat(t: torch.Tensor) -> np.ndarray:  # [B, channels, side, side] -> [B, places, channels]
        return np.ascontiguousarray(t.flatten(2).transpose(1, 2).numpy())

    def native(windows, places, z):
        conditioning = [flat(p) for p in places if p is not None]
        codes = None if z is None else np.ascontiguousarray(z.numpy())
        params = engine.whole_windows(model.weights, flat(windows), conditioning, codes)
        return torch.from_numpy(params).transpose(1, 2).unflatten(2, windows.shape[2:])

    return native


def judged(lenet: LeNet, images: np.ndarray, labels: np.ndarray | None = None) -> dict[str, float]:
    """The classifier's view of images uint8 [N, H, W, 1]: confidence in percent (paper, section 4.3), accuracy given labels."""
    p = lenet.probabilities(images)
    top = 100 * p.max(axis=1).astype(np.float64)
    result = {"confidence": float(top.mean()), "confidence_error": standard_error(top)}
    if labels is not None:
        result["accuracy"] = float(100 * (p.argmax(axis=1) == labels).mean())
    return result


def standard_error(values: np.ndarray) -> float | None:
    """Of the mean of values [N]; None for a single one."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def pieces(images: np.ndarray) -> dict[str, float]:
    """Mean number of connected pieces of ink and of ground in images uint8 [N, H, W, 1]."""
    ink, ground = np.mean([components(image) for image in images], axis=0)
    return {"ink_pieces": float(ink), "ground_pieces": float(ground)}


def contour_ratios(drawn: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Length of the 50 % contour of reconstructions over that of the real images, both uint8 [N, n, n, 1]: 1 is right.

    Images without a pixel above 50 % have no contour and are left out.
    """
    lengths = [contour_length(image) for image in real]
    ratios = np.array([contour_length(image) / length for image, length in zip(drawn, lengths, strict=True) if length])
    if not len(ratios):
        return {}
    return {
        "contour_ratio": float(ratios.mean()),
        "contour_error": standard_error(ratios),
        "contour_worst": float(ratios.max()),
    }


def real_images(images: np.ndarray, size: int, contrast: float) -> np.ndarray:
    """Images uint8 [N, C, H, H] as training sees them at another size: uint8 [N, size, size, C]."""
    if size == images.shape[2]:
        return images.transpose(0, 2, 3, 1)
    unit = to_unit(torch.from_numpy(np.array(images)))
    chunks = [((full_image(chunk, size, contrast) + 1) * 127.5).round().byte() for chunk in unit.split(50)]
    return torch.cat(chunks).permute(0, 2, 3, 1).numpy()


def nearest(points: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Euclidean distance of each of points [N, D] to the nearest of [M, D]. [N]."""
    points, among = (torch.from_numpy(np.ascontiguousarray(a, np.float32)) for a in (points, among))
    squares = among.square().sum(dim=1)
    chunks = [
        (squares - 2 * chunk @ among.T).min(dim=1).values + chunk.square().sum(dim=1) for chunk in points.split(250)
    ]
    return torch.cat(chunks).clamp_min(0).sqrt().numpy()


def memorisation(model: Model, drawn: np.ndarray, test: Images, train: Images, seed: int = 0) -> dict[str, dict]:
    """Whether samples are copies: their distances to the nearest training image, beside those of as many test images.

    A model that has memorised draws nearer to the training set than new real images lie. The same for the codes: draws of the
    prior beside draws of q(z | x) of test images, each to the nearest of the training images' drawn codes.

    Args:
        model: what drew.
        drawn: uint8 [N, H, W, C] samples at the data's own size, image i from code i of the seed.
        test, train: real images; the first N of the test images are compared.
        seed: of the samples.

    Returns:
        "images" (Euclidean distance, pixels in [0, 1]) and, with latent, "codes": each the median and the 1 % quantile of samples
        and of test images, and "nearer", the percentage of samples that are nearer than 1 % of the test images are.
    """

    def compare(samples: np.ndarray, real: np.ndarray, known: np.ndarray) -> dict[str, float]:
        ours, theirs = nearest(samples, known), nearest(real, known)
        edge = np.quantile(theirs, 0.01)
        values = {
            "samples_median": np.median(ours), "samples_closest": np.quantile(ours, 0.01),
            "test_median": np.median(theirs), "test_closest": edge, "nearer": 100 * (ours < edge).mean(),
        }  # fmt: skip
        return {"compared": len(ours), **{name: float(value) for name, value in values.items()}}

    def flat(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1) / np.float32(255)

    count = min(len(drawn), len(test))
    real, known = (images.transpose(0, 2, 3, 1) for images in (test.images[:count], train.images))
    result = {"images": compare(flat(drawn[:count]), flat(real), flat(known))}
    if model.config.latent:
        generator = torch.Generator().manual_seed(seed)
        real, known = (reparameterise(*model.posterior(images), generator).numpy() for images in (real, known))
        result["codes"] = compare(model.prior.sample(seed, np.arange(count)), real, known)
    return result


class Drawings:
    """Samples and reconstructions of one seed, each drawn when it is first asked for.

    Image i is the same whatever is drawn with it, so a smaller number of them is the first ones.

    Args:
        model: what draws.
        originals: uint8 [N, H, W, C], what is reconstructed.
        engine, seed, temperature: as of `Model.sample`.
        progress: see `Progress`.
    """

    def __init__(
        self,
        model: Model,
        originals: np.ndarray,
        engine: Engine,
        seed: int = 0,
        temperature: float = 1.0,
        progress: Progress | None = None,
    ):
        self.model, self.originals, self.progress = model, originals, progress
        self.options = {"seed": seed, "temperature": temperature, "engine": engine}
        self._known: dict[tuple[str, int], np.ndarray] = {}

    def samples(self, size: int, count: int) -> np.ndarray:
        """Samples 0 to count - 1, uint8 [count, size, size, C]."""
        return self._drawn("samples", size, count, lambda **how: self.model.sample(size, n=count, **how))

    def reconstructions(self, size: int, count: int) -> np.ndarray:
        """The first `count` originals drawn anew, uint8 [count, size, size, C]."""
        originals = self.originals[:count]
        return self._drawn(
            "reconstructions", size, len(originals), lambda **how: self.model.reconstruct(originals, size, **how)
        )

    def _drawn(self, what: str, size: int, count: int, draw: Callable[..., np.ndarray]) -> np.ndarray:
        if len(self._known.get((what, size), ())) < count:
            counter = _counter(self.progress, f"{what} {size}", count * size * size)
            self._known[what, size] = draw(progress=counter, **self.options)
        return self._known[what, size][:count]


def evaluate(
    model: Model,
    test: Images,
    lenet: LeNet,
    drawings: Drawings,
    *,
    train: Images | None = None,
    sizes: tuple[int, ...] = (28, 56),
    contour_sizes: tuple[int, ...] = (112,),
    samples: int = 1000,
    reconstructions: int = 1000,
    pairs_of: int = 500,
    large_pixels: int = 1_000_000,
    subset: int | None = None,
    refine: int = 0,
    progress: Progress | None = None,
) -> dict:
    """Everything `spx-eval` reports, as plain values.

    Args:
        model: what to evaluate.
        test: test images, the first ones of which are used.
        lenet: the classifier.
        drawings: the model's, of these test images.
        train: training images, for the check that samples are no copies of them; None leaves it out.
        sizes: sizes n at which samples and reconstructions are judged.
        contour_sizes: sizes of which there are reconstructions only, for their contours.
        samples, reconstructions: how many of each; 0 leaves that part out.
        pairs_of: images whose pairs MS-SSIM compares, at most `samples`.
        large_pixels: pixels drawn of each kind at a size above 56: fewer images, at least one.
        subset: images of the likelihood, spread evenly over the test set; None for all, 0 leaves it out.
        refine: gradient steps on the code of each of these images, see `spx.inference`. With some, the likelihood is also
            computed by the encoder's codes alone, of every tenth of them.
        progress: see `Progress`.
    """

    def tell(part: str, share: float) -> None:
        if progress:
            progress(part, share)

    began, report = time.perf_counter(), {}

    def since(start: float) -> float:
        return round(time.perf_counter() - start, 1)

    side, latent, contrast = test.images.shape[2], model.config.latent, model.module.contrast
    if subset != 0:
        # Spread over the whole set: the first half of MNIST's test images is easier than the second.
        count = len(test.images) if subset is None else min(subset, len(test.images))
        images = test.images[np.linspace(0, len(test.images), count, endpoint=False).astype(int)]
        how = drawings.options["seed"], drawings.options["engine"], progress
        refine = refine if latent else 0
        found = likelihood(model, images, *how, refine)
        report["likelihood"] = {
            **_bits(found, test.images[0].size),
            "prior": model.prior.kind if latent else "none",
            "refine": refine,
            "map": found.map.round(4).tolist(),
        }
        if refine:
            report["likelihood"]["encoder alone"] = _bits(likelihood(model, images[::10], *how), test.images[0].size)
        report["likelihood"]["seconds"] = since(began)
    report["sizes"] = {}
    for size in sorted({*sizes, *contour_sizes}):
        started = time.perf_counter()
        most = max(1, large_pixels // size**2) if size > LARGE else len(test)
        drawn_samples = min(samples, most) if size in sizes else 0
        rebuilt = min(reconstructions, most, len(test)) if latent else 0
        shown = real_images(test.images[: max(drawn_samples, rebuilt, 1)], size, contrast)
        row: dict[str, dict] = {"test images": _described(lenet, shown, test.labels[: len(shown)])}
        tell(f"test images {size}", 0)
        _compare_pairs(row["test images"], shown[:pairs_of])
        if drawn_samples:
            drawn = drawings.samples(size, drawn_samples)
            tell(f"measuring samples {size}", 0)
            row["samples"] = _described(lenet, drawn)
            _compare_pairs(row["samples"], drawn[:pairs_of])
        if rebuilt:
            drawn = drawings.reconstructions(size, rebuilt)
            tell(f"measuring reconstructions {size}", 0)
            row["reconstructions"] = {
                **_described(lenet, drawn, test.labels[:rebuilt]),
                **contour_ratios(drawn, shown[:rebuilt]),
            }
            real = pieces(shown[:rebuilt])
            for what in ("ink_pieces", "ground_pieces"):
                row["reconstructions"][f"extra_{what}"] = row["reconstructions"][what] - real[what]
        report["sizes"][str(size)] = {**row, "seconds": since(started)}
    if train is not None and samples:
        tell("distances to the training images", 0)
        drawn = drawings.samples(side, samples)
        report["memorisation"] = memorisation(model, drawn, test, train, drawings.options["seed"])
    report["seconds"] = since(began)
    return report


def _bits(found: Likelihood, dimensions: int) -> dict[str, float]:
    return {
        "patch_bits": found.patch,
        "patch_error": found.patch_error,
        "kl_bits": found.kl,
        "kl_nats": found.kl * dimensions * math.log(2),
        "bound_bits": found.bound,
        "bound_error": found.standard_error,
        "images": found.images,
    }


def _described(lenet: LeNet, images: np.ndarray, labels: np.ndarray | None = None) -> dict[str, float]:
    return {"images": len(images), **judged(lenet, images, labels), **pieces(images)}


def _compare_pairs(figures: dict, images: np.ndarray) -> None:
    """Add MS-SSIM over the pairs of images to a row's figures, if there is a pair."""
    if len(images) >= 2:
        figures["ms_ssim"], figures["ms_ssim_deviation"] = ms_ssim_pairs(images)
        figures["ms_ssim_images"] = len(images)


def _counter(progress: Progress | None, part: str, pixels: int) -> Callable[[int], None] | None:
    """A pixel counter for an engine that reports shares of a part."""
    if progress is None:
        return None
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(part, done / pixels)

    return count
