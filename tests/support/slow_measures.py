"""The figures of an evaluation computed slowly and apart: loops over pixels, pairs and cells, in float64."""

from __future__ import annotations

import itertools

import numpy as np


def ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Multi-scale structural similarity of two images [H, W] in [0, 1] (Wang et al. 2003, equations 7 to 10, with C3 = C2 / 2)."""
    result, weights = 1.0, (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    for scale, weight in enumerate(weights):
        side = min(11, *a.shape)
        t = np.arange(side) - (side - 1) / 2
        line = np.exp(-(t**2) / (2 * (1.5 * side / 11) ** 2))
        kernel = np.outer(line, line) / line.sum() ** 2
        terms = []
        for r, c in itertools.product(range(a.shape[0] - side + 1), range(a.shape[1] - side + 1)):
            p, q = a[r : r + side, c : c + side], b[r : r + side, c : c + side]
            mean_p, mean_q = (kernel * p).sum(), (kernel * q).sum()
            var_p, var_q = (kernel * (p - mean_p) ** 2).sum(), (kernel * (q - mean_q) ** 2).sum()
            both = (kernel * (p - mean_p) * (q - mean_q)).sum()
            term = (2 * both + 0.03**2) / (var_p + var_q + 0.03**2)
            if scale == 4:
                term *= (2 * mean_p * mean_q + 0.01**2) / (mean_p**2 + mean_q**2 + 0.01**2)
            terms.append(term)
        mean = np.mean(terms)
        result *= np.sign(mean) * abs(mean) ** weight
        a, b = halved(a), halved(b)
    return result


def halved(image: np.ndarray) -> np.ndarray:
    """Means of 2x2 pixels; an odd last row or column counts twice."""
    h, w = image.shape
    rows, columns = -(-h // 2), -(-w // 2)
    result = np.empty((rows, columns))
    for r, c in itertools.product(range(rows), range(columns)):
        y, x = (2 * r, min(2 * r + 1, h - 1)), (2 * c, min(2 * c + 1, w - 1))
        result[r, c] = np.mean([image[i, j] for i in y for j in x])
    return result


def pieces(mask: np.ndarray, corners: bool) -> int:
    """Connected pieces of true pixels [H, W], those that touch at corners too if told so: by filling them one after the other."""
    left, count = {tuple(place) for place in np.argwhere(mask)}, 0
    while left:
        count += 1
        front = [left.pop()]
        while front:
            y, x = front.pop()
            for dy, dx in itertools.product((-1, 0, 1), repeat=2):
                near = (y + dy, x + dx)
                if near in left and (corners or 0 in (dy, dx)):
                    left.remove(near)
                    front.append(near)
    return count


def ink_and_ground(image: np.ndarray) -> tuple[int, int]:
    """Pieces of ink, which hold together at corners, and of ground, of an image uint8 [H, W] with ground around it."""
    ink = np.pad(image > 127, 1)
    return pieces(ink, True), pieces(~ink, False)


def contour(image: np.ndarray, level: float = 127.5) -> float:
    """Length of the contour of an image uint8 [H, W] with ground around it, in image heights: by marching squares."""
    x, total = np.pad(image.astype(np.float64), 1), 0.0
    for r, c in itertools.product(range(x.shape[0] - 1), range(x.shape[1] - 1)):
        corners = [(r, c), (r, c + 1), (r + 1, c + 1), (r + 1, c)]  # clockwise
        cuts = {}
        for k in range(4):
            a, b = corners[k], corners[(k + 1) % 4]
            if (x[a] > level) != (x[b] > level):
                share = (level - x[a]) / (x[b] - x[a])
                cuts[k] = np.array(a) + share * (np.array(b) - np.array(a))
        if len(cuts) == 2:
            one, two = cuts.values()
            total += np.linalg.norm(one - two)
        elif cuts:  # a saddle: each corner above the level is cut off
            for k in range(4):
                if x[corners[k]] > level:
                    total += np.linalg.norm(cuts[k] - cuts[(k - 1) % 4])
    return total / image.shape[0]


def area_mean(image: np.ndarray, side: int = 28) -> np.ndarray:
    """An image [H, W] at another size: of each new pixel the mean over the old ones that it touches. [side, side]."""
    n, result = len(image), np.empty((side, side))
    for r, c in itertools.product(range(side), range(side)):
        (top, bottom), (left, right) = ((k * n // side, -(-(k + 1) * n // side)) for k in (r, c))
        result[r, c] = image[top:bottom, left:right].mean()
    return result


def nearest(points: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Euclidean distance of each of points [N, D] to the nearest of [M, D]. [N]."""
    return np.array([min(np.sqrt(((p - q) ** 2).sum()) for q in among) for p in points.astype(np.float64)])


def standard_error(values) -> float:
    """Of the mean."""
    values = np.asarray(values, np.float64)
    return float(np.sqrt(((values - values.mean()) ** 2).sum() / (len(values) - 1) / len(values)))
