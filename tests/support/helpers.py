"""What several test files share: tiny data, tiny models, jobs, and the comparison of images that two engines drew."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from spx.models.spatial.config import NetworkConfig, preset
from spxcore import Canvas, Job, Network, Sampling, engines
from spxcore.compare import first_difference
from spxcore.feeds import Pixels, Places, scale, unit_levels
from spxcore.heads.logistics import MIN_LOG_SCALE, split
from spxcore.schedules import Window
from spxcore.walk.module import Module

# How far from a bin edge a draw may lie and still fall on either side: levels, or shares of the component weights' sum. Measured:
# batches of 1 and of 512 give parameters up to 2e-6 apart (networks of `network`), which is 127.5 times as much in levels.
EDGE = 1e-3


def idx_bytes(array: np.ndarray) -> bytes:
    """A uint8 array as an IDX file."""
    array = np.asarray(array, np.uint8)
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_idx(path: Path, array: np.ndarray) -> Path:
    """Write an IDX file, packed if the name ends in .gz."""
    raw = idx_bytes(array)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def digits(count: int, side: int = 28, channels: int = 1, classes: int = 2, seed: int = 0):
    """Something like digits: a bar (class 0), a square (1) ... somewhere. uint8 [N, H, W(, 3)], labels uint8 [N]."""
    g = np.random.default_rng(seed)
    images = np.zeros((count, side, side), np.uint8)
    labels = (np.arange(count) % classes).astype(np.uint8)
    for image, label in zip(images, labels):
        y, x = g.integers(side // 7, side // 3, 2)
        image[y : y + side // 2, x : x + side // 7 * (1 + 2 * int(label))] = g.integers(160, 256)
    if channels == 3:
        images = np.stack([images, images // 2, 255 - images], axis=3)
    return images, labels


def write_dataset(folder: Path, train: int = 64, test: int = 16, **options) -> Path:
    """The four files of a tiny data set (spx.data name "idx")."""
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count, seed in (("train", train, 0), ("t10k", test, 1)):
        images, labels = digits(count, seed=seed, **options)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels)
    return folder


# What draws where a test is not about an engine: compiled code, in milliseconds.
QUICK = "cpp" if engines.why_not("cpp") is None else "torch"

TINY = {"filters": 6, "layers": 1, "mixtures": 3}


def config(**fields) -> NetworkConfig:
    """A small network's configuration: 8x8, 6 filters, one layer a block unless told otherwise."""
    fields = {**TINY, "latent": 5, "maps": 3, "conditioning": "paper", **fields}
    if fields["conditioning"] == "paper":
        fields.setdefault("sizes", (28, 28))
    return NetworkConfig(**fields)


def module(configuration: NetworkConfig, seed: int = 0) -> Module:
    """A module whose outputs are spread like a trained one's: every weight drawn anew, nothing at its neutral value."""
    g = torch.Generator().manual_seed(seed)
    result = Module(configuration.walk).eval()
    with torch.no_grad():
        for name, p in sorted(result.named_parameters()):
            # A bright or dark mean, a scale of a few levels to a few dozen: images with structure and with noise.
            spread = {"g": (1.0, 0.3), "bias": (0.0, 0.2)}.get(name.rsplit(".", 1)[-1], (0.0, 0.3))
            p.copy_(spread[0] + spread[1] * torch.randn(p.shape, generator=g))
        k, c = configuration.mixtures, configuration.channels
        result.nin_out.bias[k * (1 + c) : k * (1 + 2 * c)] -= 2.5
    return result


def network(configuration: NetworkConfig, seed: int = 0) -> Network:
    """The network of such a module."""
    return Network.of(module(configuration, seed))


def job(
    configuration: NetworkConfig, height: int, width: int, images: int = 1, seed: int = 7, of: Network | None = None,
    **options,
) -> Job:  # fmt: skip
    """A job with random codes and maps for a network; `of`: the network, None for `network(configuration)`."""
    g = np.random.default_rng(seed)
    code = g.normal(size=(images, configuration.latent)).astype(np.float32) if configuration.latent else None
    feeds = {"x": Pixels(unit_levels(256))}
    if configuration.place_inputs:
        maps, extra = None, np.zeros(0, np.float32)
        if configuration.conditioning == "spatial":
            maps = g.normal(size=(images, configuration.maps, 6, 6)).astype(np.float32)
            extra = np.float32([scale(height, width, configuration.sizes)])
        feeds |= dict.fromkeys((f"places.{k}" for k in range(3)), Places(maps, extra))
    sampling = Sampling(**{name: options.pop(name) for name in ("temperature", "mode") if name in options})
    return Job(
        of or network(configuration), configuration.head, Window(configuration.patch), feeds, height, width,
        np.arange(images), code, seed, sampling=sampling, **options,
    ).check()  # fmt: skip


def drawn(engine, task: Job, given=None, report=None, keep: bool = False) -> Canvas:
    """The canvas on which an engine, by name or itself, has drawn a job."""
    canvas = task.canvas(given, keep=keep)
    (engines.get(engine, threads=1) if isinstance(engine, str) else engine).draw(task, canvas, report)
    return canvas


# Network, height, width, images: what the GPU engines draw on a GPU, and what takes too long without one.
FOR_A_GPU = [
    ("small-8x8", 28, 28, 64),
    ("large-8x8", 28, 28, 64),
    ("paper-large-4x4", 9, 14, 3),
    ("paper-small-8x8", 56, 57, 3),
    ("small-16x16", 31, 45, 3),
    ({"channels": 3, "filters": 25, "layers": 2, "mixtures": 10, "conditioning": "spatial"}, 56, 56, 1),
    ("small-8x8", 12, 1400, 1),
]

_EXPECTED = {}


def expected_images(network_of: str | dict, height: int, width: int, images: int) -> tuple[Job, np.ndarray]:
    """A job of a network (a preset, or fields of `config`), and what the reference draws; each drawn once.

    Of more than 150 pixels the wavefront in torch draws them, which tests of its own compare with the reference.
    """
    key = str(network_of), height, width, images
    if key not in _EXPECTED:
        c = preset(network_of) if isinstance(network_of, str) else config(**network_of)
        task = job(c, height, width, images)
        _EXPECTED[key] = task, drawn("reference" if height * width * images <= 150 else "torch", task).pixels
    return _EXPECTED[key]


def close(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    """Whether the largest difference is within `tolerance` of the largest number; false for a NaN, a zero, another shape."""
    largest = np.abs(b).max()
    return a.shape == b.shape and bool(largest > 0) and bool(np.abs(a - b).max() <= tolerance * largest)


def probabilities(params: np.ndarray, levels: int = 256) -> np.ndarray:
    """Probability of each level of one-channel pixels under their mixtures, float64 [N, levels]; rows sum to 1.

    Args:
        params: [N, 3K] network outputs.
        levels: how many.
    """
    logits, means, log_scales, _ = split(np.asarray(params, np.float64), 1)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    edges = (np.arange(1, levels) - 0.5) / ((levels - 1) / 2) - 1  # upper edges of all levels but the last
    inv_s = np.exp(-np.maximum(log_scales[:, 0], MIN_LOG_SCALE))
    with np.errstate(over="ignore"):
        cdf = 1 / (1 + np.exp(-(edges[None, None] - means[:, 0, :, None]) * inv_s[:, :, None]))
    cdf = np.concatenate([np.zeros_like(cdf[..., :1]), cdf, np.ones_like(cdf[..., :1])], axis=-1)
    return (weights[..., None] * np.diff(cdf, axis=-1)).sum(axis=1)


def windows(configuration, batch: int = 2, seed: int = 0):
    """Random inputs of a network: as a module takes them ({name: tensor}, code), and as a plan does ({name: array}, code)."""
    g, m = torch.Generator().manual_seed(seed), configuration.patch
    maps = {"x": torch.randint(0, 256, (batch, configuration.channels, m, m), generator=g) / 127.5 - 1}
    if configuration.place_inputs:
        for k in range(3):
            maps[f"places.{k}"] = torch.randn(batch, configuration.place_inputs, m >> k, m >> k, generator=g)
    code = torch.randn(batch, configuration.latent, generator=g) if configuration.latent else None
    return (maps, code), {name: flat(v) for name, v in maps.items()}, None if code is None else code.numpy()


def flat(x: torch.Tensor) -> np.ndarray:
    """[B, C, H, W] -> [B, places, C]."""
    return np.ascontiguousarray(x.flatten(2).transpose(1, 2).numpy())


def double(inputs: dict) -> dict:
    return {name: value.astype(np.float64) for name, value in inputs.items()}


def same_images(task: Job, a: np.ndarray, b: np.ndarray, edge: float = EDGE) -> None:
    """Assert that two drawings of a job are the same, or part at a draw that lies within rounding of a bin edge.

    From such a pixel on the two images are two different ones, so each image of the job is looked at by itself.
    """
    assert a.shape == b.shape and a.dtype == b.dtype
    for n in range(len(a)):
        only = np.zeros_like(a)
        only[n] = 1
        difference = first_difference(task, a, np.where(only, b, a))
        assert difference is None or difference.edge_distance <= edge, difference


def tiny_model(channels: int = 1, conditioning: str = "spatial", prior: bool = True, seed: int = 0, **fields):
    """A whole model of 8x8 patches with a mixture prior of two classes, 3 and 5, all of it random."""
    from spx.models.spatial.module import SpatialPixelCNN

    torch.manual_seed(seed)
    latent = fields.get("latent", 5)
    fields = {
        **TINY,
        "patch": 8,
        "channels": channels,
        "latent": latent,
        "maps": 3,
        "conditioning": conditioning,
        **fields,
    }
    if conditioning == "paper":
        fields.setdefault("sizes", [28, 28])
    vae = {"size": 28, "channels": channels, "filters": [4, 4, 8], "mixtures": 2, "latent": latent} if latent else None
    model = SpatialPixelCNN(network=fields, vae=vae)
    if prior and latent:
        model.set_prior(tiny_prior(latent))
    return model.eval()


def sign(folder: Path) -> None:
    """Put the checksum of a checkpoint's changed weights into its config.json."""
    config = json.loads((folder / "config.json").read_text())
    config["weights_sha256"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))


def tiny_prior(latent: int = 5):
    """Two components of class 3 and one of class 5, well apart."""
    from spx.models.spatial.prior import Prior

    means = np.zeros((3, latent), np.float32)
    means[:, 0] = (-9, -6, 9)
    cholesky = np.stack([np.eye(latent, dtype=np.float32) * s for s in (0.5, 0.25, 1.0)])
    cholesky[:, 1, 0] = 0.2
    return Prior(latent, np.float32([0.25, 0.25, 0.5]), np.array([3, 3, 5]), means, cholesky)


# ---- what holds of every engine of native code ------------------------------------------------------------------------


class Enough(Exception):
    """What `stops_when_told` stops a drawing with."""


def stops_when_told(engine, task: Job) -> None:
    """What report raises stops the drawing and is passed on; what was drawn before is there, the last row is not."""

    def stop(count):
        raise Enough

    canvas = task.canvas()
    with pytest.raises(Enough):
        engine.draw(task, canvas, stop)
    assert canvas.pixels[0, :2].any() and not canvas.pixels[0, -1].any()


def lets_python_threads_run(engine, task: Job) -> None:
    """Other Python threads run while it draws."""
    turns, over = [0], threading.Event()

    def count():
        while not over.is_set():
            turns[0] += 1
            over.wait(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    drawn(engine, task)
    over.set()
    thread.join()
    assert turns[0] >= 2
