"""What every engine is given and gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..config import NetworkConfig
from ..coords import axis, scale
from ..errors import require
from ..schedule import check_size

if TYPE_CHECKING:
    import torch

    from ..network import PixelCNN


class Weights:
    """A trained network: its configuration and its tensors, as NumPy arrays so that no engine needs torch to read them.

    Args:
        config: the network's hyperparameters.
        tensors: float32 arrays by the names of `PixelCNN.state_dict()`.
    """

    def __init__(self, config: NetworkConfig, tensors: dict[str, np.ndarray]):
        self.config, self.tensors = config, tensors

    @classmethod
    def of(cls, network: PixelCNN) -> Weights:
        """The weights of a torch module."""
        return cls(network.config, {name: t.detach().float().cpu().numpy() for name, t in network.state_dict().items()})

    @cached_property
    def module(self) -> PixelCNN:
        """The torch module with these weights, in evaluation mode, on the CPU."""
        import torch

        from ..network import PixelCNN

        network = PixelCNN(self.config)
        network.load_state_dict({name: torch.from_numpy(np.array(t, np.float32)) for name, t in self.tensors.items()})
        return network.eval().requires_grad_(False)


@dataclass(frozen=True)
class Job:
    """Images to draw: what a sample is, but for the network.

    Attributes:
        height, width: H, W in pixels, at least the patch size.
        seed: 0 <= seed < 2^64.
        images: [N] image numbers; the third word of every pixel's Philox counter.
        z: float32 [N, latent] codes, or None for a network without latent.
        maps: float32 [N, M, h, w] feature maps, or None without spatial conditioning.
        temperature: factor on the scales of the logistics, > 0.
        map: draw the mean of the chosen component instead of a value from it (MAP sampling).
    """

    height: int
    width: int
    seed: int = 0
    images: np.ndarray = field(default_factory=lambda: np.arange(1))
    z: np.ndarray | None = None
    maps: np.ndarray | None = None
    temperature: float = 1.0
    map: bool = False

    def check(self, config: NetworkConfig) -> Job:
        """Raise an `SpxError` unless the job fits the network; returns it with contiguous arrays of the right types."""
        check_size(self.height, self.width, config.patch)
        require(0 <= self.seed < 1 << 64, "seed", "0 to 2^64 - 1", self.seed)
        require(self.temperature > 0 and np.isfinite(self.temperature), "temperature", "more than 0", self.temperature)
        images = np.asarray(self.images)
        good = images.ndim == 1 and len(images) >= 1 and images.min() >= 0 and images.max() < 1 << 32
        require(good, "images", "at least one image number, 0 to 2^32 - 1", images)

        def array(name: str, wanted: bool, rank: int, shape: tuple) -> np.ndarray | None:
            value = getattr(self, name)
            if not wanted:
                require(value is None, name, "None for this network", f"shape {np.shape(value)}")
                return None
            require(value is not None, name, f"shape {list(shape)}", None)
            value = np.ascontiguousarray(value, np.float32)
            fits = value.ndim == rank and value.shape[: len(shape)] == shape
            require(fits, name, f"shape starting {list(shape)} of rank {rank}", value.shape)
            require(bool(np.isfinite(value).all()), name, "finite numbers", "NaN or infinity")
            return value

        n = len(images)
        z = array("z", config.latent > 0, 2, (n, config.latent))
        maps = array("maps", config.conditioning == "spatial", 4, (n, config.maps))
        return replace(self, images=images.astype(np.uint32), z=z, maps=maps)

    def coordinates(self, config: NetworkConfig) -> tuple[np.ndarray, np.ndarray, float]:
        """Coordinates of the rows [H] and the columns [W], and the scale input of a network."""
        return axis(self.height), axis(self.width), scale(self.height, self.width, config.sizes)

    def empty(self, config: NetworkConfig) -> np.ndarray:
        """Room for the result, black: uint8 [N, H, W, C]."""
        return np.zeros((len(self.images), self.height, self.width, config.channels), np.uint8)


class Engine(Protocol):
    """A way to draw pixels. Every engine draws the same ones, up to draws within float rounding of a bin edge."""

    name: str

    def sample(
        self,
        weights: Weights,
        job: Job,
        progress: Callable[[int], None] | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Draw the job's images.

        Args:
            weights: the network.
            job: what to draw.
            progress: called now and then with the number of pixels drawn since the last call; what it raises stops the
                drawing and is passed on.
            out: uint8 [N, H, W, C] to draw into, from `job.empty`; what was drawn before a stop is in it.

        Returns:
            `out`, uint8 [N, H, W, C].
        """
        ...


@contextmanager
def in_one_piece(out: np.ndarray) -> Iterator[np.ndarray]:
    """Room for native code, which writes bytes one after the other: `out`, or for another layout a copy that fills it at the end."""
    levels = out if out.flags.c_contiguous else np.ascontiguousarray(out)
    try:
        yield levels
    finally:
        if levels is not out:
            out[...] = levels


def torch_device(device: str | None) -> torch.device:
    """The torch device of that name, or the best one for None.

    Raises:
        SpxError: for a device that is not there.
    """
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = found is not None and (found.type == "cpu" or (found.type == "cuda" and (found.index or 0) < count))
    gpus = f", cuda, or cuda:0 to cuda:{count - 1}" if count else " (this machine has no GPU torch can use)"
    require(there, "device", "cpu" + gpus, repr(device))
    return found
