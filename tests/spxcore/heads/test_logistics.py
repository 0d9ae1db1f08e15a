"""The mixture of discretised logistics: its likelihood (torch), its probabilities and its draws (NumPy)."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers import probabilities

from spxcore import rng
from spxcore.feeds import unit_levels
from spxcore.heads import Logistics, Sampling
from spxcore.heads.log_prob import logistics_log_prob as log_prob
from spxcore.heads.logistics import quantise, split
from spxcore.heads.sampling import quantile


def head_of(params: np.ndarray, channels: int) -> Logistics:
    """The head whose parameters these are, [N, P]."""
    return Logistics(channels, params.shape[1] // (3 if channels == 1 else 10))


def draw(params: np.ndarray, words: np.ndarray, channels: int, temperature: float = 1.0, mode: bool = False):
    """Pixels drawn from their mixtures: [N, P], words [N, 4] -> uint8 [N, C]."""
    return head_of(params, channels).draw(params, words, Sampling(temperature, mode))


def grey(logits, means, log_scales) -> np.ndarray:
    """Parameters of one-channel pixels: [N, K] three times -> float32 [N, 3K]."""
    return np.concatenate([np.atleast_2d(a) for a in (logits, means, log_scales)], axis=1).astype(np.float32)


def all_levels(params: np.ndarray, dtype=torch.float32, levels: int = 256) -> np.ndarray:
    """P of every level under each pixel's mixture: [N, 3K] -> [N, levels], by `log_prob`."""
    p = torch.from_numpy(params)[:, :, None, None].expand(-1, -1, 1, levels)
    x = torch.arange(levels, dtype=torch.float64) / ((levels - 1) / 2) - 1
    return log_prob(p, x.to(dtype).view(1, 1, 1, -1).expand(len(params), -1, -1, -1), levels)[:, 0].exp().numpy()


def spread(n: int, components: int = 5, seed: int = 0) -> np.ndarray:
    """Mixtures as trained networks have them and beyond: far means, scales from under the clamp to over the whole range."""
    g = np.random.default_rng(seed)
    return grey(g.normal(0, 2, (n, components)), g.normal(0, 1, (n, components)), g.uniform(-9, 3, (n, components)))


EXTREMES = {
    "ordinary": spread(40),
    "left tail": grey([[0.0]] * 4, [[-1.0], [-1.5], [-5.0], [-1.0]], [[-7.0], [-7.0], [-2.0], [2.0]]),
    "right tail": grey([[0.0]] * 4, [[1.0], [1.5], [5.0], [1.0]], [[-7.0], [-7.0], [-2.0], [2.0]]),
    "narrow, between two levels": grey([[0.0]], [[1 / 255]], [[-7.0]]),
    "narrower than the clamp": grey([[0.0]], [[0.3]], [[-30.0]]),
    "very wide": grey([[0.0]], [[0.0]], [[12.0]]),
    "one component all of it": grey([[80.0, 0.0]], [[0.2, -0.7]], [[-4.0, -4.0]]),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-4), (torch.float64, 2e-6)])
@pytest.mark.parametrize("case", EXTREMES)
def test_levels_sum_to_one(case, dtype, tolerance):
    """float32: the bins' edges lie up to 6e-8 off, 1096 times as much in units of the narrowest scale."""
    p = all_levels(EXTREMES[case], dtype)
    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=tolerance)


@pytest.mark.parametrize("levels", [2, 16, 256])
@pytest.mark.parametrize("case", EXTREMES)
def test_likelihood_equals_probabilities(case, levels):
    params = EXTREMES[case]
    found = all_levels(params, torch.float64, levels)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=2e-6)
    np.testing.assert_allclose(found, probabilities(params, levels), atol=1e-6)


def test_probabilities_from_the_definition():
    """Equation 2 of PixelCNN++ written out, one component after the other, one level after the other."""
    params = spread(6, components=3, seed=4)
    logits, means, log_scales = np.split(params.astype(np.float64), 3, axis=1)

    def sigmoid(a):
        return 0.5 * (1 + math.tanh(a / 2))

    for n, level in itertools.product(range(6), (0, 1, 17, 128, 254, 255)):
        x, total = level / 127.5 - 1, 0.0
        for k in range(3):
            s = math.exp(max(log_scales[n, k], -7))
            above = 1.0 if level == 255 else sigmoid((x + 1 / 255 - means[n, k]) / s)
            below = 0.0 if level == 0 else sigmoid((x - 1 / 255 - means[n, k]) / s)
            total += math.exp(logits[n, k]) / np.exp(logits[n]).sum() * (above - below)
        assert probabilities(params)[n, level] == pytest.approx(total, abs=1e-9)


# ---- RGB -------------------------------------------------------------------------------------------------------------


def rgb(seed: int = 0, components: int = 2, **replaced) -> np.ndarray:
    """Parameters of one RGB pixel, float32 [1, 10 K]; parts to replace: logits, means, log_scales, coeffs."""
    g = np.random.default_rng(seed)
    k = components
    parts = {
        "logits": g.normal(size=k),
        "means": g.uniform(-0.7, 0.7, (3, k)),
        "log_scales": g.uniform(-3, -1, (3, k)),
        "coeffs": g.normal(0, 1, (3, k)),
    }
    parts.update(replaced)
    return np.concatenate([np.ravel(p) for p in parts.values()])[None].astype(np.float32)


def rgb_log_prob(params: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """log P of levels [N, 3] under one RGB pixel's mixture."""
    x = torch.from_numpy(pixels).double().T.reshape(1, 3, 1, -1) / 127.5 - 1
    p = torch.from_numpy(params)[:, :, None, None].expand(-1, -1, 1, len(pixels))
    return log_prob(p, x)[0, 0].numpy()


def rgb_definition(params: np.ndarray, pixel: np.ndarray) -> float:
    """P of one pixel from equations 2 and 3 of PixelCNN++: a product over the channels inside each component."""
    logits, means, log_scales, coeffs = (a[0].astype(np.float64) for a in split(params, 3))
    r, g, _ = pixel / 127.5 - 1
    weights, total = np.exp(logits) / np.exp(logits).sum(), 0.0
    for k in range(len(logits)):
        a, b, c = np.tanh(coeffs[:, k])
        centres = (means[0, k], means[1, k] + a * r, means[2, k] + b * r + c * g)
        p = weights[k]
        for channel, mean in enumerate(centres):
            one = grey([[0.0]], [[0.0]], [[log_scales[channel, k]]]).astype(np.float64)
            one[0, 1] = mean
            p *= probabilities(one)[0, pixel[channel]]
        total += p
    return total


def test_rgb_likelihood_from_the_definition():
    pixels = np.random.default_rng(1).integers(0, 256, (30, 3))
    pixels[:4] = [(0, 0, 0), (255, 255, 255), (0, 128, 255), (255, 0, 128)]
    for seed in range(2):
        params = rgb(seed)
        expected = [rgb_definition(params, pixel) for pixel in pixels]
        np.testing.assert_allclose(np.exp(rgb_log_prob(params, pixels)), expected, rtol=2e-5, atol=1e-30)


def test_rgb_sums_to_one_over_each_channel():
    """Sum over blue = P(red, green), over green and blue = P(red), over all = 1: so each sum over one channel is a marginal
    that the order red, green, blue keeps free of the later channels' parameters."""
    params = rgb(3, components=2)
    every = np.arange(256)
    # The sum over blue does not depend on blue's parameters ...
    given = np.stack([np.full(256, 40), np.full(256, 200), every], axis=1)
    blue_apart = rgb(3, components=2)
    blue_apart[0, [2 + 4, 2 + 5]] += 0.5  # blue's means
    blue_apart[0, 2 + 6 + 4 : 2 + 6 + 6] -= 1  # blue's scales
    red_green = np.exp(rgb_log_prob(params, given)).sum()
    assert red_green == pytest.approx(np.exp(rgb_log_prob(blue_apart, given)).sum(), rel=1e-5)
    # ... and the sum over green and blue is red's own marginal.
    green, blue = (a.ravel() for a in np.meshgrid(every, every))
    red = np.exp(rgb_log_prob(params, np.stack([np.full(256 * 256, 90), green, blue], axis=1))).sum()
    logits, means, log_scales, _ = split(params, 3)
    assert red == pytest.approx(probabilities(grey(logits, means[:, 0], log_scales[:, 0]))[0, 90], rel=1e-5)


def test_rgb_all_of_it_sums_to_one():
    """A narrow mixture, so that 40 x 40 x 40 of the 256^3 colours hold all of the probability."""
    means = np.array([[0.0, 0.02], [0.01, -0.03], [0.02, 0.0]])
    params = rgb(0, means=means, log_scales=np.full((3, 2), -5.5), coeffs=np.full((3, 2), 0.1))
    near = np.arange(108, 148)
    colours = np.stack(np.meshgrid(near, near, near, indexing="ij"), axis=-1).reshape(-1, 3)
    assert np.exp(rgb_log_prob(params, colours)).sum() == pytest.approx(1, abs=1e-4)


def changed_channels(kind: str, part: str, row: int, words: np.ndarray) -> list[bool]:
    """Which channels of draws change when one row (channel or coefficient) of a part of the parameters is moved."""
    start = {"means": 1, "log_scales": 4, "coeffs": 7}[part] + row
    params = np.repeat(rgb(5, components=1), len(words), axis=0)
    moved = params.copy()
    moved[:, start] += 0.7
    before, after = (draw(p, words, 3) for p in (params, moved))
    return (before != after).any(axis=0).tolist()


@pytest.mark.parametrize(
    ("part", "row", "channels"),
    [
        ("means", 0, [True, True, True]),  # red reaches green and blue
        ("means", 1, [False, True, True]),  # green reaches blue, not red
        ("means", 2, [False, False, True]),  # blue reaches nothing else
        ("log_scales", 1, [False, True, True]),
        ("coeffs", 0, [False, True, True]),  # green's on red
        ("coeffs", 1, [False, False, True]),  # blue's on red
        ("coeffs", 2, [False, False, True]),  # blue's on green
    ],
)
def test_rgb_channel_order(part, row, channels):
    words = rng.pixel_words(0, np.arange(400), np.array([0]), np.array([0]))
    assert changed_channels("draw", part, row, words) == channels


def test_rgb_coefficients_use_the_rounded_level_of_the_channels_before():
    """What green sees of red is the pixel's level, not the real number before rounding (the likelihood knows no other)."""
    coeffs = np.array([[0.9], [-0.4], [0.6]])
    params = rgb(0, components=1, means=[[0.1], [0.2], [-0.1]], coeffs=coeffs)
    words = rng.pixel_words(3, np.arange(50), np.array([0]), np.array([0]))
    drawn = draw(params.repeat(50, 0), words, 3, mode=True).astype(np.float64)
    r, g = drawn[:, 0] / 127.5 - 1, drawn[:, 1] / 127.5 - 1
    a, b, c = np.tanh(coeffs[:, 0])
    np.testing.assert_array_equal(drawn[:, 0], math.floor((0.1 + 1) * 127.5 + 0.5))
    np.testing.assert_array_equal(drawn[:, 1], np.floor((0.2 + a * r + 1) * 127.5 + 0.5))
    np.testing.assert_array_equal(drawn[:, 2], np.floor((-0.1 + b * r + c * g + 1) * 127.5 + 0.5))


# ---- draws -----------------------------------------------------------------------------------------------------------


def chi_square(counts: np.ndarray, p: np.ndarray) -> tuple[float, int]:
    """Pearson's statistic and degrees of freedom; levels expected under 5 times are put together with their neighbours."""
    expected, merged, rest = p * counts.sum(), [], np.zeros(2)
    for pair in np.stack([counts, expected], axis=1):
        rest = rest + pair
        if rest[1] >= 5:
            merged.append(rest)
            rest = np.zeros(2)
    merged[-1] = merged[-1] + rest
    got, wanted = np.array(merged).T
    return float(((got - wanted) ** 2 / wanted).sum()), len(merged) - 1


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_follow_the_probabilities(temperature):
    n = 60_000
    logits, means, log_scales = [[0.0, 1.0, -1.0, 0.3]], [[-1.1, 0.0, 0.98, 0.3]], [[-2.0, -3.0, -2.5, -4.5]]
    words = rng.pixel_words(11, np.arange(n), np.array([7]), np.array([0]))
    drawn = draw(grey(logits, means, log_scales).repeat(n, 0), words, 1, temperature)
    counts = np.bincount(drawn[:, 0], minlength=256)
    p = probabilities(grey(logits, means, np.array(log_scales) + math.log(temperature)))[0]
    statistic, freedom = chi_square(counts, p)
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)
    assert counts[0] > 1000 and counts[255] > 500  # both tails took part
    # The comparison would see a shift by one level.
    shifted, freedom = chi_square(np.roll(counts, 1), p)
    assert shifted > 2 * freedom


def test_rgb_draws_follow_the_likelihood():
    """Mean log-probability of the draws = minus the entropy, whichever of the two is asked: here by importance sampling."""
    params = rgb(2, components=2)
    words = rng.pixel_words(1, np.arange(20_000), np.array([0]), np.array([0]))
    drawn = draw(params.repeat(20_000, 0), words, 3)
    uniform = np.random.default_rng(0).integers(0, 256, (400_000, 3))
    p = np.exp(rgb_log_prob(params, uniform))
    entropy = -(p * np.log(p)).sum() * 256.0**3 / len(uniform)
    assert -rgb_log_prob(params, drawn).mean() == pytest.approx(entropy, rel=0.03)


def test_the_tie_rule():
    """The first component whose cumulative weight is strictly greater: on a tie the next one; the last if there is none."""
    equal = np.zeros((1, 4), np.float32)  # cumulative weights 1/4, 1/2, 3/4, 1, all exact
    for u, k in [(0.0, 0), (0.25, 1), (0.5, 2), (0.75, 3), (1.0, 3)]:
        assert quantile(equal, np.float32([u])) == k
    below, above = (np.nextafter(np.float32(0.5), np.float32(side)) for side in (0, 1))
    assert quantile(equal, np.float32([below])) == 1 and quantile(equal, np.float32([above])) == 2


def test_halves_go_up_and_ends_absorb_the_tails():
    levels = np.float32([-1e9, -0.6, -0.5, 0.49, 0.5, 1.5, 2.5, 254.49, 254.5, 255.4, 1e9, np.inf, -np.inf, np.nan])
    assert quantise(levels).tolist() == [0, 0, 0, 0, 1, 2, 3, 254, 255, 255, 255, 255, 0, 0]
    # Every level comes back from the unit interval.
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(quantise((unit_levels(256)[:, 0] + np.float32(1)) * np.float32(127.5)), every)


@pytest.mark.parametrize("channels", [1, 3])
def test_map_takes_the_drawn_components_mean(channels):
    n, k = 500, 3
    g = np.random.default_rng(0)
    share = 3 if channels == 1 else 10
    params = g.normal(size=(n, share * k)).astype(np.float32)
    words = rng.pixel_words(2, np.arange(n), np.array([0]), np.array([0]))
    drawn = draw(params, words, channels, mode=True)
    logits, means, _, _ = split(params, channels)
    chosen = quantile(logits, rng.uniform(words[:, 0]))
    assert len(set(chosen)) == k
    expected = quantise((means[np.arange(n), 0, chosen] + 1) * np.float32(127.5))
    np.testing.assert_array_equal(drawn[:, 0], expected)
    # Neither the scales nor the logistic draws count.
    other = words.copy()
    other[:, 1:] ^= np.uint32(0xFFFFFFFF)
    np.testing.assert_array_equal(draw(params, other, channels, mode=True), drawn)
    # A temperature that goes to zero leaves the same.
    np.testing.assert_array_equal(draw(params, words, channels, temperature=1e-7), drawn)


def test_temperature_scales_the_distance_from_the_mean():
    params, words = spread(300, seed=8), rng.pixel_words(2, np.arange(300), np.array([0]), np.array([0]))
    head = head_of(params, 1)
    mean = head.levels_real(params, words, Sampling(mode=True))
    one, half = (head.levels_real(params, words, Sampling(t)) - mean for t in (1.0, 0.5))
    np.testing.assert_allclose(half, one / 2, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", [1, 3])
def test_draws_are_levels_whatever_the_parameters(channels, poison):
    share = 3 if channels == 1 else 10
    params = np.random.default_rng(0).normal(size=(share * 4, share * 4)).astype(np.float32)
    np.fill_diagonal(params, poison)
    words = rng.pixel_words(0, np.arange(len(params)), np.array([0]), np.array([0]))
    with np.errstate(invalid="ignore", over="ignore"):
        assert draw(params, words, channels).dtype == np.uint8
        assert (draw(np.full_like(params, np.nan), words, channels) == 0).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [1.0, 30.0, 1e3])
def test_gradients_are_finite_for_extreme_parameters(size, channels):
    g = torch.Generator().manual_seed(0)
    share = 3 if channels == 1 else 10
    params = (torch.randn(2, share * 4, 4, 4, generator=g) * size).requires_grad_()
    x = torch.randint(0, 256, (2, channels, 4, 4), generator=g) / 127.5 - 1
    x[0, :, 0, 0], x[0, :, 0, 1] = -1, 1
    nats = log_prob(params, x)
    assert torch.isfinite(nats).all() and (nats <= 1e-5).all()
    nats.sum().backward()
    assert torch.isfinite(params.grad).all()


def test_a_far_narrow_component_still_pulls():
    """Where the plain difference of two sigmoids is 0 and its logarithm lost, the mean's gradient still points to the pixel."""
    params = torch.tensor([[0.0, 0.9, -7.0]])[:, :, None, None].requires_grad_()
    nats = log_prob(params, torch.full((1, 1, 1, 1), -0.5))
    nats.sum().backward()
    assert nats.item() < -1000 and params.grad[0, 1].item() == pytest.approx(-math.exp(7), rel=1e-3)


def test_split_refuses_another_number_of_outputs():
    from spxcore.errors import SpxError

    with pytest.raises(SpxError, match=r"^params: expected a multiple of 10 numbers a pixel, got 12"):
        split(np.zeros((1, 12)), 3)
