"""Training patches: what they show, where they are, and what they weigh."""

import numpy as np
import pytest
import torch
from helpers import config, digits

from spx.models.spatial import patches
from spx.models.spatial.vae import to_unit
from spxcore import feeds
from spxcore.engines.torch_feeds import place_axis

MIXED = {"conditioning": "spatial", "sizes": (28, 1400)}


def some_images(count: int = 1, repeat: int = 1, channels: int = 1) -> torch.Tensor:
    """[count * repeat, C, 28, 28] in [-1, 1], a little noise in them so that a patch is known by its pixels."""
    images, _ = digits(count, channels=channels)
    noisy = np.clip(images.astype(int) + np.random.default_rng(3).integers(0, 40, images.shape), 0, 255)
    images = torch.from_numpy(noisy.astype(np.uint8).reshape(count, 28, 28, channels)).permute(0, 3, 1, 2)
    return to_unit(images).repeat_interleave(repeat, dim=0)


def drawn(images, seed: int = 0, config_=None, **options) -> patches.Patches:
    return patches.sample_patches(images, config_ or config(**MIXED), torch.Generator().manual_seed(seed), **options)


def origins(p: patches.Patches, n: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the patches' first pixels in an n x n image, from their coordinates."""
    return tuple(((t.double().numpy() + 1) * (n - 1) / 2).round().astype(int) for t in (p.y0, p.x0))


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_at_the_datas_size_are_pieces_of_the_image(channels):
    images = some_images(20, channels=channels)
    p = drawn(images, config_=config(channels=channels))
    assert p.x.shape == (20, channels, 8, 8)
    for image, x, r, c in zip(images, p.x, *origins(p, 28)):
        assert torch.equal(x, image[:, r : r + 8, c : c + 8])
    assert (p.weight == 1).all() and (p.scale == 0).all()


def test_every_position_is_as_likely_at_a_single_size():
    r, c = origins(drawn(some_images(1, 21 * 21 * 30), config_=config()), 28)
    counts = np.bincount(r * 21 + c, minlength=441)
    assert len(counts) == 441
    assert ((counts - 30) ** 2 / 30).sum() < 440 + 4 * np.sqrt(880)


@pytest.mark.parametrize("size", [28, 57, 300])
def test_coordinates_are_the_samplers(size):
    p = drawn(some_images(1, 200), config_=config(sizes=(size, size)))
    axis = feeds.axis(size)
    for first, last, start in zip((p.y0, p.x0), (p.y1, p.x1), origins(p, size)):
        assert start.min() >= 0 and start.max() <= size - 8
        np.testing.assert_allclose(first, axis[start], atol=1e-6)
        np.testing.assert_allclose(last, axis[start + 7], atol=1e-6)


def test_mixed_sizes():
    """A third at the data's size, the others log-uniform up to the largest; coordinates and scale tell the same size."""
    p = drawn(some_images(1, 6000))
    n = 1 + 7 * 2 / (p.y1 - p.y0).double()
    torch.testing.assert_close(n, 1 + 7 * 2 / (p.x1 - p.x0).double(), rtol=1e-2, atol=0)
    native = p.scale == -1
    assert abs(native.float().mean() - 1 / 3) < 0.03
    middle = (2 * torch.log(n / 28) / np.log(50) - 1).clamp(-1, 1)
    torch.testing.assert_close(p.scale.double(), middle, atol=2e-2, rtol=0)
    others = p.scale[~native]
    assert abs(others.mean()) < 0.05 and abs((others < 0).float().mean() - 0.5) < 0.04  # uniform in the logarithm
    for a, b in ((p.y0, p.y1), (p.x0, p.x1)):
        assert (a >= -1 - 1e-5).all() and (b <= 1 + 1e-5).all()


@pytest.mark.parametrize("n", [28, 29, 100, 1400])
def test_scale_is_the_samplers(n):
    p = drawn(some_images(1, 50), config_=config(conditioning="spatial", sizes=(28, 1400)), native_share=0.0)
    sizes = (1 + 14 / (p.y1 - p.y0).double()).round()
    for size, scale in zip(sizes.tolist(), p.scale.tolist()):
        if size < 300:  # beyond, rounding of the coordinates hides the size
            assert scale == pytest.approx(feeds.scale(size, size, (28, 1400)), abs=1e-5)
    assert feeds.scale(n, n, (28, 1400)) == pytest.approx(2 * np.log(n / 28) / np.log(50) - 1)


def test_pixels_are_on_the_grid():
    x = drawn(some_images(4, 100), contrast_strength=0.25).x
    levels = (x.double() + 1) * 127.5
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    assert x.min() == -1 and x.max() == 1


def test_large_patches_are_the_image_resampled():
    """A patch at size n is a piece of the whole image at size n, as `full_image` shows it."""
    n, image = 90, some_images(1)
    whole = patches.full_image(image, n, 0.25)[0]
    assert whole.shape == (1, n, n)
    p = drawn(image.repeat(30, 1, 1, 1), config_=config(sizes=(n, n)), contrast_strength=0.25)
    for x, r, c in zip(p.x, *origins(p, n)):
        torch.testing.assert_close(x, whole[:, r : r + 8, c : c + 8], atol=1.01 / 127.5, rtol=0)
    # Bicubic interpolation goes through the image's own pixels.
    assert torch.equal(patches.full_image(image, 28, 0.25), image)
    finer = patches.full_image(image, 55, 0.0)
    torch.testing.assert_close(finer[..., ::2, ::2], image, atol=1.01 / 127.5, rtol=0)


def test_contrast():
    assert patches.contrast(28, 28, 0.25) == 1
    assert patches.contrast(56, 28, 0.25) == 1.25
    assert patches.contrast(1400, 28, 0.0) == 1
    image = some_images(1) * 0.2
    torch.testing.assert_close(
        patches.full_image(image, 55, 1.0)[..., ::2, ::2], image * (1 + 27 / 28), atol=0.01, rtol=0
    )


def test_the_generator_decides():
    images = some_images(8)
    a, b, c = (vars(drawn(images, seed)) for seed in (5, 5, 6))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


# Functions of a patch whose mean over uniform positions is known by counting: where it is, and what it shows.
FUNCTIONS = {
    "one": lambda y, x, pixels: np.ones(len(y)),
    "row": lambda y, x, pixels: y,
    "at the border": lambda y, x, pixels: (np.minimum(y, x) < -0.75) * 1.0,
    "in the middle": lambda y, x, pixels: (np.maximum(abs(y + 0.25), abs(x + 0.25)) < 0.2) * 1.0,
    "ink": lambda y, x, pixels: pixels.mean(axis=(1, 2)),
    "edge": lambda y, x, pixels: np.ptp(pixels, axis=(1, 2)),
}


@pytest.mark.parametrize("n", [29, 112])
def test_importance_weights_leave_the_mean_unbiased(n, monkeypatch):
    """Half of the patches aimed at edges, each weighted: the mean of any function is the uniform mean over all positions."""
    count, image = 15_000, some_images(1)
    # All patches at size n: the draw of the size is replaced, whatever else is random stays.
    c = config(conditioning="spatial", sizes=(28, 28))
    monkeypatch.setattr(patches, "_scales", lambda low, high, device: torch.zeros(2))
    object.__setattr__(c, "sizes", (n - 1e-3, n))  # two sizes, so that patches are aimed, that round to one
    p = drawn(image.expand(count, -1, -1, -1), config_=c, native_share=0.0)
    r, col = origins(p, n)
    assert r.max() <= n - 8 and col.max() <= n - 8
    uniform = drawn(image.expand(count, -1, -1, -1), seed=1, config_=config(sizes=(n, n)))
    assert len(np.unique(p.weight)) > 20
    for name, function in FUNCTIONS.items():
        values = function(p.y0.numpy(), p.x0.numpy(), p.x[:, 0].numpy()) * p.weight.numpy()
        plain = function(uniform.y0.numpy(), uniform.x0.numpy(), uniform.x[:, 0].numpy())
        error = np.hypot(values.std(), plain.std()) / np.sqrt(count)
        assert abs(values.mean() - plain.mean()) < 4.5 * error + 1e-6, (name, values.mean(), plain.mean(), error)


def test_patches_are_aimed_at_edges():
    image = some_images(1)
    flat = {}
    for share in (0.0, 1.0):
        p = drawn(image.expand(3000, -1, -1, -1), native_share=0.0, aimed_share=share)
        flat[share] = ((p.x.amax((1, 2, 3)) - p.x.amin((1, 2, 3))) < 0.5).float().mean()
    assert flat[1.0] < flat[0.0] - 0.1


@pytest.mark.fault("unseen", "contrast that only some of the targets have")
def test_contrast_of_decoded_targets_and_of_images_that_are_judged():
    """Of an image of one level: at size n it is the level times the contrast there."""
    level, strength = -0.2, 0.25
    image = patches.on_grid(torch.full((1, 1, 28, 28), level))
    for n in (28, 56, 112):
        wanted = float(image[0, 0, 0, 0]) * (1 + strength * (n / 28 - 1))
        p = drawn(image, config_=config(sizes=(n, n)), contrast_strength=strength)
        found = patches.decoded_targets(p, image, image, strength).x
        assert (found - wanted).abs().max() <= 0.51 / 127.5
        levels = ((image + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        judged = patches.full_images(levels, n, strength)
        assert judged.shape == (1, n, n, 1) and np.abs(judged / 127.5 - 1 - wanted).max() <= 0.51 / 127.5


def test_spoilt_contexts():
    """Only the patches asked for are changed, in one rectangle each, and what is to be predicted stays."""
    g = torch.Generator().manual_seed(0)
    x = torch.linspace(-1, 1, 64 * 64).reshape(64, 1, 8, 8)
    which = torch.arange(64) % 2 == 0
    spoilt = patches.spoil(x, which, g)
    assert torch.equal(spoilt[~which], x[~which])
    sizes = set()
    for changed in (spoilt != x)[which][:, 0]:
        rows, columns = changed.any(1), changed.any(0)
        assert torch.equal(changed, rows[:, None] & columns[None])
        sizes.add((int(rows.sum()), int(columns.sum())))
    assert len(sizes) > 10 and min(min(s) for s in sizes) <= 1
    # Half of the pieces are of the patch before, the others of one level.
    pieces = [(x[i - 1], spoilt[i], (spoilt != x)[i]) for i in range(64) if which[i]]
    others = sum(bool(m.any()) and torch.equal(s[m], other[m]) and s[m].unique().numel() > 1 for other, s, m in pieces)
    assert all(bool(m.any()) for _, _, m in pieces) and 5 < others < 27
    assert all(s[m].unique().numel() == 1 or torch.equal(s[m], other[m]) for other, s, m in pieces)
    mixed = config(sizes=(28, 1400))
    found = patches.sample_patches(x.new_zeros(64, 1, 28, 28), mixed, g, spoilt_share=1.0)
    native = found.scale == -1
    assert torch.equal(found.context[native], found.x[native]) and found.x.unique().numel() == 1
    assert (found.context != found.x).any()


def test_decoded_targets_fade_from_the_image_to_the_decoded_one():
    """At the data's size nothing changes; at 56 a pixel is the mean of both images; at 1400 it is all but the decoded one."""
    image, decoded = (
        some_images(2),
        to_unit(torch.randint(0, 256, (2, 1, 28, 28), generator=torch.Generator().manual_seed(5))),
    )
    for n, share in ((28, 1.0), (56, 0.5), (1400, 0.02)):
        p = drawn(image.repeat_interleave(30, 0), config_=config(sizes=(n, n)))
        found = patches.decoded_targets(p, image, decoded, 0.0).x
        mixed = patches.on_grid(share * image + (1 - share) * decoded).repeat_interleave(30, 0)
        if n == 28:
            assert torch.equal(found, p.x)
            continue
        rows, columns = place_axis(p.y0, p.y1, 8), place_axis(p.x0, p.x1, 8)
        wanted = patches.resample(mixed, rows, columns, torch.ones(60))
        assert (found - wanted).abs().max() < 3 / 127.5  # the mixture was rounded to a level, then bicubic weights


def test_decoded_targets_leave_spoilt_pieces_as_they_are():
    image = some_images(4)
    p = drawn(image.repeat_interleave(50, 0), config_=config(**MIXED), contrast_strength=0.25, spoilt_share=0.5)
    found = patches.decoded_targets(p, image, -image, 0.25)
    spoilt = p.context != p.x
    assert spoilt.any() and torch.equal(found.context[spoilt], p.context[spoilt])
    assert torch.equal(found.context[~spoilt], found.x[~spoilt])
    native = p.scale == -1
    assert torch.equal(found.x[native], p.x[native]) and not torch.equal(found.x[~native], p.x[~native])
