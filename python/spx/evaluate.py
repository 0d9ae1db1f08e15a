"""The paper's evaluation (section 4.3): how well a model compresses, how diverse, recognisable and faithful its images are."""

from __future__ import annotations

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
from .vae import kl_to_standard_normal

# Told of each part of an evaluation: its name, its share done (0 to 1).
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Likelihood:
    """Bits per dimension of images under a model.

    Attributes:
        patch: mean over all patch positions of all images, given a code drawn from q(z | x).
        kl: KL(q(z | x) || p(z)) spread over the image's pixels; 0 without latent.
        standard_error: of `patch` + `kl`, over images.
        map: [H, W] bits of each pixel, the mean over the windows that cover it.
        images: number of images.
    """

    patch: float
    kl: float
    standard_error: float
    map: np.ndarray
    images: int

    @property
    def bound(self) -> float:
        """Upper bound on the bits per dimension with the code paid for: `patch` + `kl`."""
        return self.patch + self.kl


def kl_nats(model: Model, mean: torch.Tensor, log_variance: torch.Tensor, z: torch.Tensor) -> np.ndarray:
    """KL(q(z | x) || p(z)) of each image, in nats: in closed form for N(0, I), by the one drawn z for a mixture. [B]."""
    prior = model.module.prior
    if prior.kind == "normal":
        return kl_to_standard_normal(mean, log_variance).double().numpy()
    q = torch.distributions.Normal(mean.double(), (0.5 * log_variance).exp().double()).log_prob(z.double()).sum(dim=1)
    return q.numpy() - prior.log_density(z.numpy())


@torch.no_grad()
def likelihood(
    model: Model, images: np.ndarray, seed: int = 0, engine: Engine | None = None, progress: Progress | None = None
) -> Likelihood:
    """Bits per dimension over every patch position of every image (paper, section 4.2).

    Args:
        model: the model.
        images: uint8 [N, C, H, W], of the size the model was trained at.
        seed: of the codes' noise.
        engine: runs the network if it has `whole_windows` (cpp); otherwise, and for None, torch does, in fp32.
        progress: see `Progress`.
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
    generator = torch.Generator().manual_seed(seed)
    bits, codes, sums, counts = [], [], np.zeros((height, width)), np.zeros((height, width))
    for index in range(n):
        image = to_unit(torch.from_numpy(np.array(images[index : index + 1])))
        z, maps = None, None
        if config.latent:
            mean, log_variance = model.module.vae.encode(image)
            z = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=generator)
            codes.append(float(kl_nats(model, mean, log_variance, z)[0]))
            maps = model.module.image_maps(z)
            z = z.expand(len(r0), -1)
        windows = image[0].unfold(1, m, 1).unfold(2, m, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        places = place_inputs(config, rows, columns, scales, maps)
        nats = -log_prob(_window_params(model, engine, windows, places, z), windows)
        pixel_bits = nats.numpy() / math.log(2) / channels  # [windows, m, m]
        bits.append(float(pixel_bits.mean(dtype=np.float64)))
        for window, r, c in zip(pixel_bits, r0, c0, strict=True):
            sums[r : r + m, c : c + m] += window
            counts[r : r + m, c : c + m] += 1
        if progress:
            progress("likelihood", (index + 1) / n)
    kl = np.array(codes or [0.0]) / math.log(2) / (channels * height * width)
    total = np.array(bits) + kl
    error = float(total.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return Likelihood(float(np.mean(bits)), float(kl.mean()), error, sums / counts, n)


def _window_params(model: Model, engine: Engine | None, windows, places, z) -> torch.Tensor:
    """The network's output for whole windows [B, C, m, m] given places and z as `PixelCNN.forward` takes them: [B, P, m, m]."""
    if not hasattr(engine, "whole_windows"):
        return model.module.network(windows, places, z)

    def flat(t: torch.Tensor) -> np.ndarray:  # [B, channels, side, side] -> [B, places, channels]
        return np.ascontiguousarray(t.flatten(2).transpose(1, 2).numpy())

    conditioning = [flat(p) for p in places if p is not None]
    codes = None if z is None else np.ascontiguousarray(z.numpy())
    params = engine.whole_windows(model.weights, flat(windows), conditioning, codes)
    return torch.from_numpy(params).transpose(1, 2).unflatten(2, windows.shape[2:])


def judged(lenet: LeNet, images: np.ndarray, labels: np.ndarray | None = None) -> dict[str, float]:
    """The classifier's view of images uint8 [N, H, W, 1]: confidence in percent (paper, section 4.3), accuracy given labels."""
    p = lenet.probabilities(images)
    top = 100 * p.max(axis=1).astype(np.float64)
    result = {"confidence": float(top.mean()), "confidence_error": float(top.std(ddof=1) / math.sqrt(len(top)))}
    if labels is not None:
        result["accuracy"] = float(100 * (p.argmax(axis=1) == labels).mean())
    return result


def reconstruction_shape(model: Model, test: Images, size: int, count: int, **drawing) -> dict[str, float]:
    """Contours and pieces of reconstructions at one size, against the real images resampled to it.

    Returns:
        "contour_ratio" (mean over images; 1 is right), "contour_worst" (the largest), "extra_ink" and "extra_ground" (mean number
        of connected pieces more than the real image has: specks and holes).
    """
    originals = test.images[:count].transpose(0, 2, 3, 1)
    drawn = model.reconstruct(originals, size, **drawing)
    ratios, ink, ground = [], [], []
    for index in range(count):
        unit = to_unit(torch.from_numpy(np.array(test.images[index : index + 1])))
        real = ((full_image(unit, size, model.module.contrast)[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        ratios.append(contour_length(drawn[index]) / contour_length(real))
        pieces, expected = components(drawn[index]), components(real)
        ink.append(pieces[0] - expected[0])
        ground.append(pieces[1] - expected[1])
    return {
        "contour_ratio": float(np.mean(ratios)),
        "contour_worst": float(np.max(ratios)),
        "extra_ink": float(np.mean(ink)),
        "extra_ground": float(np.mean(ground)),
    }


def evaluate(
    model: Model,
    test: Images,
    lenet: LeNet,
    engine: Engine,
    *,
    sizes: tuple[int, ...] = (28, 56),
    samples: int = 1000,
    reconstructions: int = 1000,
    pairs_of: int = 500,
    subset: int | None = None,
    contour_sizes: tuple[int, ...] = (112,),
    contour_images: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict:
    """Everything `spx-eval` reports, as plain values.

    Args:
        model: what to evaluate.
        test: test images, the first ones of which are used.
        lenet: the classifier.
        engine: what draws.
        sizes: sizes n at which samples and reconstructions are judged.
        samples, reconstructions: how many of each; 0 leaves that part out.
        pairs_of: images whose pairs MS-SSIM compares, at most `samples`.
        subset: images of the likelihood; None for all, 0 leaves it out.
        contour_sizes, contour_images: sizes and number of the reconstructions whose contours are measured.
        seed: of the samples.
        progress: see `Progress`.
    """

    def tell(part: str, share: float) -> None:
        if progress:
            progress(part, share)

    began, report = time.perf_counter(), {}
    if subset != 0:
        images = test.images if subset is None else test.images[:subset]
        found = likelihood(model, images, seed, engine, progress)
        report["likelihood"] = {
            "patch_bits": found.patch,
            "kl_bits": found.kl,
            "bound_bits": found.bound,
            "bound_error": found.standard_error,
            "images": found.images,
            "prior": model.module.prior.kind,
            "map": found.map.round(4).tolist(),
        }
    real = test.images[: max(reconstructions, samples, pairs_of)].transpose(0, 2, 3, 1)
    report["sizes"] = {}
    for size in sizes:
        row: dict[str, dict] = {"test images": {}, "samples": {}, "reconstructions": {}}
        unit = to_unit(torch.from_numpy(np.array(real.transpose(0, 3, 1, 2))))
        shown = real
        if size != real.shape[1]:
            shown = torch.cat([full_image(chunk, size, model.module.contrast) for chunk in unit.split(100)])
            shown = ((shown + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        row["test images"] = judged(lenet, shown, test.labels[: len(shown)])
        compared = min(pairs_of, samples)
        if compared >= 2:
            tell(f"MS-SSIM {size}, test images", 0)
            row["test images"]["ms_ssim"], row["test images"]["ms_ssim_deviation"] = ms_ssim_pairs(shown[:compared])
        if samples:
            count = _counter(progress, f"samples {size}", samples * size * size)
            drawn = model.sample(size, n=samples, seed=seed, engine=engine, progress=count)
            row["samples"] = judged(lenet, drawn)
            if compared >= 2:
                tell(f"MS-SSIM {size}, samples", 0)
                row["samples"]["ms_ssim"], row["samples"]["ms_ssim_deviation"] = ms_ssim_pairs(drawn[:compared])
        if reconstructions and model.config.latent:
            count = _counter(progress, f"reconstructions {size}", reconstructions * size * size)
            drawn = model.reconstruct(real[:reconstructions], size, seed=seed, engine=engine, progress=count)
            row["reconstructions"] = judged(lenet, drawn, test.labels[:reconstructions])
        report["sizes"][str(size)] = row
    report["contours"] = {}
    for size in contour_sizes if model.config.latent else ():
        count = _counter(progress, f"contours {size}", contour_images * size * size)
        shape = reconstruction_shape(model, test, size, contour_images, engine=engine, progress=count)
        report["contours"][str(size)] = {**shape, "images": contour_images}
    report["seconds"] = round(time.perf_counter() - began, 1)
    return report


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
