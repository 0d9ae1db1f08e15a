"""The paper's evaluation (section 4.3): how well a model compresses, how diverse, recognisable and faithful its images are."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from spxcore import engines
from spxcore.engines import Engine
from spxcore.engines.torch_feeds import told_places
from spxcore.errors import require
from spxcore.feeds import axis, scale
from spxcore.heads.log_prob import logistics_log_prob

from .api import Sampler
from .data import Images
from .lenet import LeNet
from .metrics import components, contour_length, ms_ssim_pairs
from .models.parts.gaussian import reparameterise
from .models.spatial import codes, drawing
from .models.spatial.patches import full_image
from .models.spatial.vae import to_unit

# Sizes above this one are drawn in smaller numbers; the paper's counts are for 28 and 56.
LARGE = 56
# Told of each part of an evaluation: its name, its share done (0 to 1).
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Likelihood:
    """Bits per dimension of images under a model.

    Attributes:
        patch: mean over all patch positions of all images, given a code drawn from q(z | x).
        kl: KL(q(z | x) || p(z)) spread over the image's pixels; 0 without latent.
        patch_error, standard_error: of `patch` and of `patch` + `kl`, over images; None for a single one.
        pixel_bits: [H, W] bits of each pixel, the mean over the windows that cover it.
        images: number of images.
    """

    patch: float
    kl: float
    patch_error: float | None
    standard_error: float | None
    pixel_bits: np.ndarray
    images: int

    @property
    def bound(self) -> float:
        """Upper bound on the bits per dimension with the code paid for: `patch` + `kl`."""
        return self.patch + self.kl


def posterior(model: Sampler, images: np.ndarray, refine: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and log-variance of q(z | x) of uint8 [N, H, W, C], each [N, latent]; the mean after so many gradient steps."""
    x = torch.from_numpy(np.array(images.transpose(0, 3, 1, 2)))  # a copy: files are read-only
    vae, prior, patch = model.module.vae, drawing.prior_of(model.checkpoint).distribution(), model.config.network.patch
    mean, log_variance = codes.encode(vae, x)
    return codes.refine(vae, prior, patch, x, mean, log_variance, refine), log_variance


@torch.no_grad()
def likelihood(
    model: Sampler,
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
        engine: runs the network; None: torch, in fp32, on a GPU if there is one.
        progress: see `Progress`.
        refine: gradient steps on the mean of each image's q(z | x), see `codes.refine`; 0 for the encoder's.
    """
    config, network = model.config.network, model.checkpoint.networks["network"]
    m, engine = config.patch, engine or engines.get("torch")
    n, channels, height, width = images.shape
    require(
        channels == config.channels and min(height, width) >= m, "images", f"{config.channels} channels", images.shape
    )
    r0, c0 = (o.ravel() for o in np.meshgrid(np.arange(height - m + 1), np.arange(width - m + 1), indexing="ij"))
    y, x = (torch.from_numpy(axis(size)) for size in (height, width))
    rows, columns = (y[r0][None], y[r0 + m - 1][None]), (x[c0][None], x[c0 + m - 1][None])
    spatial = config.conditioning == "spatial"
    extra = torch.full((1, len(r0), int(spatial)), scale(height, width, config.sizes))
    z, maps, kl = None, None, np.zeros(n)
    if config.latent:
        encoded = posterior(model, images.transpose(0, 2, 3, 1), refine)
        z = reparameterise(*encoded, torch.Generator().manual_seed(seed))
        prior = drawing.prior_of(model.checkpoint)
        kl = codes.kl_nats(prior, *encoded, z) / math.log(2) / (channels * height * width)
    bits, sums, counts = [], np.zeros((height, width)), np.zeros((height, width))
    for index in range(n):
        levels = torch.from_numpy(np.array(images[index]))
        windows = to_unit(levels).unfold(1, m, 1).unfold(2, m, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        inputs = {"x": _flat(windows)}
        if spatial and index % codes.VAE_BATCH == 0:
            maps = model.module.image_maps(z[index : index + codes.VAE_BATCH])
        if config.place_inputs:
            own_maps = None if maps is None else maps[index % codes.VAE_BATCH][None]
            told = told_places(config.resolutions(), rows, columns, extra, own_maps)
            inputs |= {f"places.{k}": _flat(places) for k, places in enumerate(told)}
        code = None if z is None else z[index].expand(len(r0), -1).numpy()
        params = torch.from_numpy(engine.evaluate(network, m, m, inputs, code)).transpose(1, 2)
        nats = -logistics_log_prob(params.unflatten(2, (m, m)), windows)
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


def _flat(maps: torch.Tensor) -> np.ndarray:
    """[B, C, H, W] -> [B, places, C], as engines take it."""
    return maps.flatten(2).transpose(1, 2).contiguous().numpy()


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


def memorisation(model: Sampler, drawn: np.ndarray, test: Images, train: Images, seed: int = 0) -> dict[str, dict]:
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
    if model.config.vae:
        generator = torch.Generator().manual_seed(seed)
        real, known = (reparameterise(*posterior(model, images), generator).numpy() for images in (real, known))
        drawn_codes = drawing.prior_of(model.checkpoint).sample(seed, np.arange(count))
        result["codes"] = compare(drawn_codes, real, known)
    return result


class Drawings:
    """Samples and reconstructions of one seed, each drawn when it is first asked for.

    Image i is the same whatever is drawn with it, so a smaller number of them is the first ones.

    Args:
        model: what draws.
        originals: uint8 [N, H, W, C], what is reconstructed.
        engine, seed, temperature: as of `Sampler`.
        progress: see `Progress`.
    """

    def __init__(
        self,
        model: Sampler,
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
    model: Sampler,
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
        refine: gradient steps on the code of each of these images, see `codes.refine`. With some, the likelihood is also
            computed by the encoder's codes alone, of every tenth of them.
        progress: see `Progress`.
    """

    def tell(part: str, share: float) -> None:
        if progress:
            progress(part, share)

    began, report = time.perf_counter(), {}

    def since(start: float) -> float:
        return round(time.perf_counter() - start, 1)

    side, latent, contrast = test.images.shape[2], model.config.network.latent, model.config.contrast
    if subset != 0:
        # Spread over the whole set: the first half of MNIST's test images is easier than the second.
        count = len(test.images) if subset is None else min(subset, len(test.images))
        images = test.images[np.linspace(0, len(test.images), count, endpoint=False).astype(int)]
        how = drawings.options["seed"], drawings.options["engine"], progress
        refine = refine if latent else 0
        found = likelihood(model, images, *how, refine)
        report["likelihood"] = {
            **_bits(found, test.images[0].size),
            "prior": drawing.prior_of(model.checkpoint).kind if latent else "none",
            "refine": refine,
            "map": found.pixel_bits.round(4).tolist(),
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
